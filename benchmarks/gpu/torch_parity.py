"""A checkpoint on the GPU against the same one on the CPU, both in torch.

    python -m benchmarks.gpu.torch_parity anydepth_deploy/trained/anydepth-yolo-tiny-shapes.pth

``bench`` compares what it times with torch in FP32 on the same device; here the device itself is
looked at: every rung, batches of one and of three, and a size that is not square. Scores have to
agree within :data:`anydepth_deploy.torch_runtime.runner.LIMITS`; the largest differences of raw
outputs are printed beside them. ``--device cpu`` tries this file where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.errors import AnyDepthError, CheckFailedError
from anydepth_deploy.pictures.images import Preprocess
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.torch_runtime.runner import TorchRunner, check_runner, open_torch_runner


def compare(model: Any, size: tuple[int, int], mode: Any, device: Any, precision: Any) -> Any:
    """Rows of one mode: by depth, largest absolute differences of raw outputs, and the error."""
    batches = verification_batches(Preprocess.of(model.resize, size))
    shared: dict[str, Any] = {"threads": None, "transfers": True}
    cpu = open_torch_runner(model, mode="eager", device="cpu", precision="fp32", **shared)
    runner = open_torch_runner(model, mode=mode, device=device, precision=precision, **shared)
    what = {"mode": mode, "precision": precision, "size": list(size)}
    rows = []
    for depth in model.table.ladder:
        row: dict[str, Any] = {**what, "depth": str(depth), "error": None}
        try:
            row["raw"] = _largest(runner, cpu, batches, depth)
            check_runner(runner, cpu, batches, depth)
        except (AnyDepthError, CheckFailedError) as error:
            row["error"] = str(error)
        rows.append(row)
    runner.close()
    cpu.close()
    return rows


def _largest(runner: TorchRunner, cpu: TorchRunner, batches: Any, depth: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for images in batches:
        mine, theirs = runner.run_raw(images, depth), cpu.run_raw(images, depth)
        for name in theirs:
            apart = float(np.max(np.abs(mine[name].astype(float) - theirs[name].astype(float))))
            found[name] = max(found.get(name, 0.0), apart)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--modes", nargs="+", default=["eager", "cudagraph"])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16", "bf16"])
    options = parser.parse_args()
    model = load_model(read_checkpoint(options.checkpoint))
    height, width = model.config.input_size
    rows = [
        row
        for mode in options.modes
        for precision in options.precisions
        for size in ((height, width), (height, width + 2 * model.size_multiple))
        for row in compare(model, size, mode, options.device, precision)
    ]
    print(json.dumps(rows))
    failed = [row for row in rows if row["error"]]
    if failed:
        print(f"error: {len(failed)} of {len(rows)}: {failed[0]['error']}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
