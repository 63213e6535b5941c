"""Memory and time of a CSV of concepts: 1,000, 10,000 and 100,000 rows on the embedded world.

    python -m benchmarks.many_rows [--rows 1000 10000 100000] [--output FOLDER]

Each size runs in a process of its own; the peak is that process's largest resident set.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

EPOCHS = 4
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "orange", "purple")
PATTERNS = ("a {}", "{} on a table", "one {} and nothing else", "a photo of a {}", "two of them: {}", "{}")


def write_rows(path: Path, rows: int) -> None:
    """Distinct prompts made of the catalogue's names."""
    from rece_lightning.emoji.catalog import load_catalog

    names = list(load_catalog().names)
    made = (
        f"{pattern.format(name)} {colour} {turn}"
        for turn in itertools.count()
        for pattern, colour, name in itertools.product(PATTERNS, COLOURS, names)
    )
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["prompt", "target"])
        table.writerows([prompt, "thing"] for prompt in itertools.islice(made, rows))


def peak() -> float:
    """Largest resident set of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(path: Path) -> dict[str, float]:
    """Fit in this process."""
    import torch
    from lightning.pytorch import Callback, Trainer

    from rece_lightning import RECE, ConceptData, Method
    from rece_lightning.core import UCE

    torch.set_num_threads(1)
    times: dict[str, float] = {}

    class Marks(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: object) -> None:
            times["encode"] = time.perf_counter()

        def on_train_epoch_end(self, trainer: Trainer, pl_module: object) -> None:
            times.setdefault("encoded", time.perf_counter())
            times["end"] = time.perf_counter()

    ConceptData(["bomb"])  # everything is imported
    begin, base = time.perf_counter(), peak()
    data = ConceptData(str(path), preserve=[" ", "rocket"], batch_size=256)
    read, after_reading = time.perf_counter(), peak()
    # λ₂ grows with the moments: with a small one, ten thousand concepts leave a map that is singular to rounding.
    module = RECE("emoji", method=Method(UCE(lamb=10.0 * len(data.concepts))))
    trainer = Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Marks()],
    )  # fmt: skip
    trainer.fit(module, data)
    return {
        "rows": len(data.concepts),
        "seconds_checking": read - begin,
        "seconds_epoch_0": times["encoded"] - times["encode"],
        "seconds_later_epochs": times["end"] - times["encoded"],
        "mib_before": base,
        "mib_checked": after_reading,
        "mib_peak": peak(),
    }


def page(results: list[dict[str, float]], command: str) -> list[str]:
    """The lines of the page."""
    lines = [
        "# Many rows",
        "",
        "A CSV of concepts, each row encoded once and added to the moments; four epochs on the embedded world (width "
        "128, 16 positions), one thread, λ₂ = 10 times the number of rows.",
        "",
        f"    {command}",
        "",
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}. *Before* is the process "
        "with everything imported, *peak* its largest resident set in the whole run. "
        f"{os.cpu_count()} cores, {os.getloadavg()[1]:.0f} processes at work on them while it was measured.",
        "",
        "| rows | checking the file, s | epoch 0 (encoding), s | ms a row | epochs 1-3, s | before, MiB | "
        "file checked, MiB | peak, MiB |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in results:
        lines.append(
            f"| {int(row['rows']):,} | {row['seconds_checking']:.1f} | {row['seconds_epoch_0']:.1f} | "
            f"{1e3 * row['seconds_epoch_0'] / row['rows']:.2f} | {row['seconds_later_epochs']:.1f} | "
            f"{row['mib_before']:.0f} | {row['mib_checked']:.0f} | {row['mib_peak']:.0f} |"
        )
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Run and write the table."""
    if argv is None and "--one" in sys.argv:
        print("measured", json.dumps(measure(Path(sys.argv[-1]))))
        return
    from benchmarks import harness

    parser = harness.plain_parser("many_rows", __doc__, "many_rows.md")
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    with harness.command(parser, argv) as options, tempfile.TemporaryDirectory() as folder:
        results = []
        for rows in options.rows:
            path = Path(folder) / f"{rows}.csv"
            write_rows(path, rows)
            # In a process that imports no more than a fit does, so that its memory is a fit's.
            command = [sys.executable, "-m", "benchmarks.many_rows", "--one", str(path)]
            printed = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
            line = next(line for line in printed.splitlines() if line.startswith("measured "))
            results.append(json.loads(line.removeprefix("measured ")))
            print(results[-1])
        asked = "python -m benchmarks.many_rows --rows " + " ".join(map(str, options.rows))
        print(harness.write_page(options.output, "many_rows", page(results, asked)).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
