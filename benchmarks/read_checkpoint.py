"""What reading a checkpoint costs: seconds and memory, against the size of the file.

    python benchmarks/read_checkpoint.py

The file is written as the authors write theirs, a network object in half precision with random
weights. Each run is a process of its own, which has imported everything before it starts to count;
memory is the peak that the system counted, over what the process had before. To load the model is
to read the file and to widen its weights to float32.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine, write
from random_checkpoint import NETWORKS, random_network
from rich.console import Console
from rich.table import Table

from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint

TESTS = Path(__file__).resolve().parent.parent / "tests" / "support"
CASES = {"read_checkpoint": "read", "load_model": "load"}
MIB = 1 << 20


def write_file(name: str, path: Path) -> Path:
    """A network with random weights, saved as an object as the authors do."""
    sys.path.insert(0, str(TESTS))  # the writer is the tests' own
    from fork_checkpoint import write_fork_checkpoint

    network = random_network(name)
    names = {index: f"thing {index}" for index in range(network.config.classes)}
    return write_fork_checkpoint(path, network, names=names)


def measure(case: str, path: Path, runs: int) -> dict[str, float]:
    """Median seconds and largest memory of ``runs`` processes."""
    command = [sys.executable, __file__, "--child", case, "--file", str(path)]
    found = [json.loads(subprocess.check_output(command)) for _ in range(runs)]
    size = path.stat().st_size
    memory = max(run["bytes"] for run in found)
    return {
        "seconds": round(statistics.median(run["seconds"] for run in found), 2),
        "slowest_seconds": round(max(run["seconds"] for run in found), 2),
        "memory_mib": round(memory / MIB, 1),
        "memory_over_file": round(memory / size, 2),
    }


def child(case: str, path: Path) -> dict[str, float]:
    """One run, in this process."""
    _forget_peak()
    before = _peak()
    began = time.perf_counter()
    checkpoint = read_checkpoint(path)
    model = load_model(checkpoint) if case == "load" else None
    seconds = time.perf_counter() - began
    found = {"seconds": seconds, "bytes": _peak() - before}
    del checkpoint, model  # in use until here
    return found


def _forget_peak() -> None:
    """Let the peak begin anew at what is in use, where the system can (Linux)."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5", encoding="ascii")


def _peak() -> float:
    """Peak resident bytes of this process."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # macOS: in bytes
    lines = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines())
    return float(lines["VmHWM"].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=sorted(NETWORKS), default="yolo-l")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--child", choices=sorted(CASES.values()), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child, options.file)))
        return
    found = machine("torch", "numpy")
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(options.network, Path(folder) / "fork.pt")
        size = path.stat().st_size
        rows = {name: measure(case, path, options.runs) for name, case in CASES.items()}
    table = Table(
        title=f"{options.network}, half precision, {size / MIB:.1f} MiB, {options.runs} processes",
        title_justify="left",
    )
    for column in ("up to", "seconds", "slowest", "MiB", "of the file"):
        table.add_column(column, justify="left" if column == "up to" else "right")
    for case, row in rows.items():
        table.add_row(case, *(str(value) for value in row.values()))
    Console(width=100).print(table)
    if options.record:
        content: dict[str, Any] = {"machine": found, "network": options.network, "file_bytes": size}
        content |= {"runs": options.runs, "rows": rows}
        print(write(f"read-checkpoint-{options.network}", content))


if __name__ == "__main__":
    main()
