"""What an export costs: seconds and peak memory of the whole process, R50 at 640 x 640.

    python benchmarks/export_cost.py
    python benchmarks/export_cost.py --network yolo-s

Each export is a process of its own (a command that a user types), its memory the peak that the
system counted for it. Ours of all depths, of one and of the ladder, and what others would do with
the same network: ``torch.onnx.export`` of one depth, up to the heads' raw outputs, by torch's
exporter of today and by the older one (``dynamo=False``). Rounds in turn; the seconds are medians,
the ratios those of a round's pairs, of seconds and of processor seconds (``cpu_ratio``), which
others on the machine change less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from machine import machine, write
from random_checkpoint import write_random_checkpoint
from rich.console import Console
from rich.table import Table

OURS = {
    "all depths, one gated graph": ["--depth", "all"],
    "one depth, static": ["--depth", "super"],
    "the ladder's depths, static each": ["--depth", "all", "--layout", "set"],
}
PLAIN = {"torch.onnx.export of one depth": True, "torch.onnx.export, dynamo=False": False}
REFERENCE = "torch.onnx.export of one depth"


def measure(command: list[str]) -> dict[str, float]:
    """Wall and processor seconds and peak resident memory of one export."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"export failed: {command}\n{said[-2000:]}")
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_gib": usage.ru_maxrss / 2**20,
    }


def export_plainly(checkpoint: Path, out: Path, *, dynamo: bool, depth: str = "super") -> None:
    """One depth as anyone would export it: its raw outputs, any number of images."""
    import torch

    from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint

    warnings.simplefilter("ignore")
    model = load_model(read_checkpoint(checkpoint)).eval()

    class OneDepth(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.model(images, depth).values())

    images = torch.zeros(2, 3, *model.config.input_size)
    batch = torch.export.Dim("batch")
    shapes = (
        {"dynamic_shapes": ({0: batch},), "external_data": False}
        if dynamo
        else {"dynamic_axes": {"images": {0: "N"}}}
    )
    with torch.no_grad():
        torch.onnx.export(
            OneDepth().eval(),
            (images,),
            str(out),
            input_names=["images"],
            opset_version=18,
            dynamo=dynamo,
            verbose=False,
            **shapes,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="r50")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--plainly", nargs=3, metavar=("CHECKPOINT", "OUT", "DYNAMO"))
    options = parser.parse_args()
    if options.plainly:
        checkpoint, out, dynamo = options.plainly
        export_plainly(Path(checkpoint), Path(out), dynamo=dynamo == "True")
        return
    found = machine("torch", "onnx", "onnx-ir", "onnxscript", "numpy")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in (*OURS, *PLAIN)}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_random_checkpoint(options.network, Path(folder) / "random.pth")
        for index in range(options.rounds):
            for name, words in OURS.items():
                out = Path(folder) / f"{index}-{len(words)}-{words[1]}"
                command = ["-m", "anydepth_deploy", "export", str(checkpoint), "--out", str(out)]
                runs[name].append(measure([*command, *words, "--json"]))
            for name, dynamo in PLAIN.items():
                given = [str(checkpoint), f"{folder}/{index}-{dynamo}.onnx", str(dynamo)]
                runs[name].append(measure([__file__, "--plainly", *given]))
    rows = {
        name: {
            **{key: round(statistics.median(run[key] for run in of), 2) for key in of[0]},
            **{
                word: round(
                    statistics.median(
                        run[key] / plain[key]
                        for run, plain in zip(of, runs[REFERENCE], strict=True)
                    ),
                    3,
                )
                for word, key in (("ratio", "seconds"), ("cpu_ratio", "cpu_seconds"))
            },
        }
        for name, of in runs.items()
    }
    table = Table(title=f"export, {options.network}, 640 x 640", title_justify="left")
    for column in ("export", "seconds", "processor s", "peak GiB", "of torch's", "processor"):
        table.add_column(column, justify="left" if column == "export" else "right")
    for name, row in rows.items():
        table.add_row(name, *(f"{value:.2f}" for value in row.values()))
    Console(width=100).print(table)
    if options.record:
        content = {"machine": found, "rounds": options.rounds, "rows": rows}
        print(write(f"export-cost-{options.network}", content))


if __name__ == "__main__":
    main()
