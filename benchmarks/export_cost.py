"""What an export costs: seconds and peak memory of the whole process, R50 at 640 x 640.

    python benchmarks/export_cost.py

Each export is a process of its own (the command a user types), its memory the peak that the
system counted for it. Three are compared: the gated graph (192 depths), one static graph, and
the ladder's static graphs. Pieces, not depths, decide what the first costs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine, write
from random_checkpoint import write_random_checkpoint
from rich.console import Console
from rich.table import Table

CASES = {
    "gated, shared: all 192 depths": ["--depth", "all"],
    "static: 1 depth": ["--depth", "super"],
    "static: the ladder's 5 depths": ["--depth", "all", "--layout", "set"],
}


def measure(checkpoint: Path, out: Path, options: list[str]) -> dict[str, float]:
    """Wall and processor seconds and peak resident memory of one export."""
    command = [sys.executable, "-m", "anydepth_deploy", "export", str(checkpoint), "--out"]
    began = time.perf_counter()
    process = subprocess.Popen([*command, str(out), *options, "--json"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"export failed: {options}")
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="r50")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    found = machine("torch", "onnx", "onnx-ir", "onnxscript", "numpy")
    table = Table(
        title=f"anydepth-deploy export, {options.network}, 640 x 640", title_justify="left"
    )
    for column in ("export", "seconds", "processor s", "peak GiB"):
        table.add_column(column, justify="left" if column == "export" else "right")
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_random_checkpoint(options.network, Path(folder) / "random.pth")
        for index, (name, arguments) in enumerate(CASES.items()):
            rows[name] = measure(checkpoint, Path(folder) / str(index), arguments)
            table.add_row(name, *(str(value) for value in rows[name].values()))
    Console(width=100).print(table)
    if options.record:
        print(write(f"export-cost-{options.network}", {"machine": found, "rows": rows}))


if __name__ == "__main__":
    main()
