"""Write a checkpoint with random weights in the authors' format.

    python benchmarks/random_checkpoint.py r50 r50-random.pth
    python benchmarks/random_checkpoint.py yolo-s yolo-s-random.pth

Latency, file size and parity do not depend on what a network has learned; accuracy does, so such
a checkpoint must not be evaluated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from anydepth_deploy.families.registry import find_family, names
from anydepth_deploy.families.shared.randomise import randomise
from anydepth_deploy.families.shared.stages import AnyDepthModel

NETWORKS = {
    listed: (family, size)
    for family in names()
    for listed, size in find_family(family).size_names.items()
}
"""Family and size by the name used here."""


def random_network(name: str, seed: int = 0) -> AnyDepthModel:
    """A network of :data:`NETWORKS` with random weights."""
    family, size = NETWORKS[name]
    found = find_family(family)
    return randomise(found.build(found.sizes[size]), seed)


def write_random_checkpoint(name: str, path: Path, seed: int = 0) -> Path:
    """Random weights of the network ``name``, as ``ema`` of a training dictionary."""
    model = random_network(name, seed)
    torch.save({"ema": {"module": model.state_dict(), "updates": 0}, "last_epoch": -1}, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(write_random_checkpoint(options.network, options.out, options.seed))


if __name__ == "__main__":
    main()
