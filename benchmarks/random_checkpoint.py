"""Write a checkpoint with random weights in the authors' format.

    python benchmarks/random_checkpoint.py r50 r50-random.pth

Latency, file size and parity do not depend on what a network has learned; accuracy does, so such
a checkpoint must not be evaluated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from anydepth_deploy.models.detr import CONFIGS, AnyDepthDETR
from anydepth_deploy.models.randomise import randomise


def write_random_checkpoint(name: str, path: Path, seed: int = 0) -> Path:
    """Random weights of the configuration ``name``, as ``ema`` of a training dictionary."""
    model = randomise(AnyDepthDETR(CONFIGS[name]), seed)
    torch.save({"ema": {"module": model.state_dict(), "updates": 0}, "last_epoch": -1}, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", choices=sorted(CONFIGS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(write_random_checkpoint(options.config, options.out, options.seed))


if __name__ == "__main__":
    main()
