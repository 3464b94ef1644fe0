"""What there is to skip in published RT-DETRs and D-FINEs: gates, and multiply-adds at both ends.

    python benchmarks/anydepth_sizes.py
    python benchmarks/anydepth_sizes.py --networks d-fine-x rt-detr-r50

Of their any-depth forms at 640 x 640, from the shapes alone: there are no weights. Skipping is a
share of what is computed, never yet of accuracy, which only training tells.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from anydepth_deploy.console import giga, print_table
from anydepth_deploy.families.registry import find_family
from anydepth_deploy.families.shared.macs import count_macs

NETWORKS = (
    *(f"rt-detr-{size}" for size in ("r18", "r34", "r50-m", "r50", "r101")),
    *(f"rt-detr-v2-hgnetv2-{size}" for size in "lxh"),
    *(f"d-fine-{size}" for size in "nsmlx"),
)
FAMILIES = ("rt-detr", "d-fine")
SIZE = (640, 640)


def row(network: str) -> list[Any]:
    """Gates, base and its share of super, of one network."""
    name = next(family for family in FAMILIES if network.startswith(f"{family}-"))
    family = find_family(name)
    config = family.sizes[network.removeprefix(f"{name}-")].deepened(family.sizes)
    with torch.device("meta"):
        model = family.build(config)
    macs = count_macs(model, SIZE)
    top, base = (macs.at(depth) for depth in (model.space.super, model.space.base))
    gates = [gate.name.removeprefix("backbone.") for gate in model.space.gates]
    return [
        network,
        ", ".join(gates[:-1]),
        str(model.space.super),
        giga(top["total"]),
        str(model.space.base),
        giga(base["total"]),
        f"{top['total'] / base['total']:.2f}",
        *(f"{giga(top[part])} / {giga(base[part])}" for part in ("backbone", "encoder", "decoder")),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    chosen = parser.parse_args().networks
    columns = [
        "network",
        "gates",
        "super",
        "",
        "base",
        "",
        "ratio",
        "backbone",
        "encoder",
        "decoder",
    ]
    print_table("multiply-adds of any-depth forms", columns, [row(network) for network in chosen])


if __name__ == "__main__":
    main()
