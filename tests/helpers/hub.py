"""A small model hub on the loopback interface: repositories are folders, and it can be made to fall silent."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit


class Hub:
    """What is published (``owner/name`` → folder), what was fetched of it, and whether anybody answers."""

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        self.fetched: list[str] = []
        self.answers = True
        self.address = ""

    def environment(self, home: Path) -> dict[str, str]:
        """For a process that knows this hub alone, with its cache in ``home``."""
        own = {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        return {**kept, **own, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def commit(self, name: str) -> str:
        return hashlib.sha1(name.encode()).hexdigest()

    def files(self, name: str) -> list[str]:
        folder = self.repositories[name]
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Run the hub in a thread."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            if path.startswith("_/"):  # the tests' own switch
                hub.answers = path == "_/on"
                return self._send(b"")
            if not hub.answers:
                self.close_connection = True
                self.connection.close()
                return None
            words = path.split("/")
            if words[:2] == ["api", "models"] and "/".join(words[2:4]) in hub.repositories:
                return self._describe("/".join(words[2:4]), words[4:])
            name = "/".join(words[:2])
            if name in hub.repositories and words[2:3] == ["resolve"]:
                file = hub.repositories[name] / "/".join(words[4:])
                if file.is_file():
                    return self._file(name, file)
            return self._send(b"{}", status=200 if not path else 404, **{"X-Error-Code": "EntryNotFound"})

        def _describe(self, name: str, words: list[str]) -> None:
            files = hub.files(name)
            if words[:1] == ["tree"]:
                sizes = {file: (hub.repositories[name] / file).stat().st_size for file in files}
                tree = [{"type": "file", "path": file, "size": sizes[file], "oid": "0" * 40} for file in files]
                return self._send(json.dumps(tree).encode())
            siblings = [{"rfilename": file} for file in files]
            said = {"id": name, "modelId": name, "sha": hub.commit(name), "siblings": siblings, "tags": []}
            return self._send(json.dumps({**said, "private": False, "downloads": 0, "likes": 0}).encode())

        def _file(self, name: str, file: Path) -> None:
            content = file.read_bytes()
            tag = hashlib.sha1(content).hexdigest()
            if self.command == "GET":
                hub.fetched.append(f"{name}/{file.relative_to(hub.repositories[name]).as_posix()}")
            return self._send(content, **{"ETag": f'"{tag}"', "X-Repo-Commit": hub.commit(name)})

        def _send(self, content: bytes, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
