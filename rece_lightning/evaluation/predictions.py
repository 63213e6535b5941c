"""The folder that ``predict`` fills: ``settings.json`` from the start, one PNG a picture, ``index.csv`` at the end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rece_lightning.core.embedding_map import map_from, tensors_of
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.evaluation.drawing import guidance_of
from rece_lightning.evaluation.folders import INDEX
from rece_lightning.evaluation.png import metadata_of
from rece_lightning.evaluation.results.tables import write_rows
from rece_lightning.files import check_writable, discard_temporaries, write_text
from rece_lightning.models.adapter import open_adapter
from rece_lightning.models.sampling import Sampling
from rece_lightning.version import __version__

SETTINGS = "settings.json"


class PictureFolder:
    """Pictures by their number among prompts and seeds, each with what it is in its metadata.

    ``rows`` hold a prompt a picture, with its seed; ``plan`` is what decides them, see :func:`plan_of`.
    """

    def __init__(
        self, place: Path, rows: Sequence[EvaluationPrompt], sampling: Sampling, plan: Mapping[str, Any]
    ) -> None:
        self.place, self.rows, self._sampling, self._plan = place, list(rows), sampling, dict(plan)
        self._known = {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in plan["settings"].items()
            if key != "fingerprint"
        }

    def prepare(self) -> None:
        """Make the folder, with the plan in it.

        Raises:
            ConfigurationError: if it holds pictures of other settings, or cannot be written.
        """
        place = self.place
        check_writable("PictureWriter.folder", place)
        found = plan_in(place)
        if found is None and any(place.glob("*.png")):
            raise ConfigurationError(f"PictureWriter: {place} holds other pictures; choose another folder.")
        if found is not None and found != self._plan:
            raise ConfigurationError(
                f"PictureWriter: {place} holds pictures of other prompts or settings (see {SETTINGS} there); "
                "choose another folder, or move them away."
            )
        discard_temporaries(place)
        content = json.dumps(self._plan, indent=1, ensure_ascii=False)
        write_text(place / SETTINGS, content)

    def left(self) -> list[int]:
        """Numbers of the pictures that are still to be made, those of one guidance next to each other."""
        left = [number for number, row in enumerate(self.rows) if metadata_of(self.file(number)) != self.metadata(row)]
        return sorted(left, key=lambda number: (guidance_of(self.rows[number], self._sampling), number))

    def missing(self) -> int:
        """How many pictures are not there."""
        return sum(not self.file(number).is_file() for number in range(len(self.rows)))

    def file(self, number: int) -> Path:
        """Of a picture."""
        return self.place / f"{number:05d}.png"

    def metadata(self, row: EvaluationPrompt) -> dict[str, str]:
        """What a picture says of itself."""
        guidance = f"{guidance_of(row, self._sampling):g}"
        return {"prompt": row.prompt, "seed": str(row.seed), "guidance_scale": guidance, **self._known}

    def write_index(self) -> None:
        """Say that all pictures are there, and what each is."""
        rows = [
            (self.file(number).name, row.prompt, row.concept, row.kind, row.seed, self.metadata(row)["guidance_scale"])
            for number, row in enumerate(self.rows)
        ]
        write_rows(self.place / INDEX, ("file", "prompt", "concept", "kind", "seed", "guidance_scale"), rows)


def plan_of(
    session: ErasureSession,
    adapter: str | None,
    rows: Sequence[EvaluationPrompt],
    sampling: Sampling,
    state: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What decides pictures: settings in plain words, and a hash of the rows, which hold a prompt a picture.

    ``state`` is ``rece`` of the checkpoint, ``None`` where nothing was edited.
    """
    asked = [[row.prompt, row.seed, guidance_of(row, sampling)] for row in rows]
    stored = [] if state is None else [tensors_of(map_from(one)) for one in state["erasers"].values()]
    maps = [tensor.cpu().contiguous().numpy() for one in stored for tensor in one.values()]
    return {
        "settings": {
            "base": session.base.published,
            "fingerprint": session.loaded.fingerprint,
            "adapter": "" if adapter is None else open_adapter(adapter).digest()[:16],
            "concepts": [] if state is None else [pair["prompt"] for pair in state["concepts"]["erased"]],
            "erasure": _hash(b"".join(matrix.tobytes() for matrix in maps)) if maps else "",
            "steps": sampling.steps,
            "scheduler": sampling.scheduler or "",
            **({"guard": sampling.guard.title} if sampling.guard is not None else {}),
            "version": __version__,
        },
        "pictures": len(rows),
        "prompts": _hash(json.dumps(asked).encode()),
    }


def is_stopped(place: Path) -> bool:
    """Whether a folder was begun and not finished."""
    return (place / SETTINGS).is_file() and not (place / INDEX).exists()


def plan_in(place: Path) -> Any:
    """The plan that a folder was begun with; ``None`` where there is none."""
    try:
        return json.loads((place / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def state_of(session: ErasureSession) -> dict[str, Any] | None:
    """What a checkpoint would say of an erasure; ``None`` where nothing was edited."""
    if not session.history:
        return None
    return {
        "erasers": {name: tensors_of(maps) for name, maps in session.maps.items()},
        "concepts": session.concepts,
    }


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
