"""Any-depth RT-DETRs and D-FINEs with random weights, and the oracle at their depths."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from oracle_static import State, Told, run_static
from static_detrs import static_detr
from torch import Tensor

from anydepth_deploy.depth import Depth
from anydepth_deploy.families.dfine.config import CONFIGS as DFINE
from anydepth_deploy.families.registry import find_family
from anydepth_deploy.families.rtdetr.config import CONFIGS as RTDETR
from anydepth_deploy.families.shared.detr.backbones import ResNetConfig
from anydepth_deploy.families.shared.randomise import randomise

BOTTLENECKS = ResNetConfig((3, 2, 4, 1), (8, 8, 16, 16), True, (8, 16), frozen=True)

TINY_HGNET = DFINE["tiny"].backbone
WITHOUT_AFFINE = dataclasses.replace(TINY_HGNET, affine=False, frozen=True)

SILU = {"decoder_activation": "silu"}

NETWORKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "basic": ("rt-detr", "tiny", {}),
    "bottleneck": ("rt-detr", "tiny", {"backbone": BOTTLENECKS, "csp_channels": 64, **SILU}),
    "hgnetv2": ("rt-detr", "tiny-hgnetv2", {"decoder_layers": 4}),
    "fine": ("rt-detr", "tiny-fine", {}),
    "d-fine": ("d-fine", "tiny", {"csp_blocks": 2}),
    "d-fine wide": (
        "d-fine",
        "tiny",
        {"backbone": WITHOUT_AFFINE, "csp_blocks": 3, "hidden": 96, "decoder_layers": 4},
    ),
    "d-fine lean": ("d-fine", "tiny", {"points": (6, 6), **SILU}),
}
"""Families, sizes, and what is changed of them: every backbone, with and without projections in the
decoder; the last has one gate before its decoder."""

DEPTHS = {
    "basic": 12,
    "bottleneck": 48,
    "hgnetv2": 16,
    "fine": 12,
    "d-fine": 12,
    "d-fine wide": 16,
    "d-fine lean": 6,
}


def static_config(name: str) -> Any:
    family, size, changes = NETWORKS[name]
    sizes: Any = RTDETR if family == "rt-detr" else DFINE
    return sizes[size].replace(**changes)


def static_network(name: str, seed: int = 0) -> Any:
    family, size, changes = NETWORKS[name]
    return static_detr(family, size, seed, **changes)


def deepened(name: str) -> Any:
    """The any-depth configuration."""
    family = NETWORKS[name][0]
    return static_config(name).deepened(find_family(family).sizes)


def anydepth_network(name: str, seed: int = 0) -> Any:
    """Every set of norms with random weights of its own."""
    family = find_family(NETWORKS[name][0])
    return randomise(family.build(deepened(name)), seed)  # type: ignore[type-var]


def oracle(name: str, state: State, images: Tensor, depth: Depth) -> dict[str, Tensor]:
    """What the network ``name`` with these weights gives at ``depth``. Which stages and blocks that
    skips is spelt out here."""
    config = static_config(name)
    blocks = config.backbone.blocks if hasattr(config.backbone, "widths") else None
    if blocks is None:
        essential, counts = (1, 1, 1, 1), tuple(stage.blocks for stage in config.backbone.stages)
    else:
        counts = blocks
        essential = tuple({1: 1, 2: 1, 3: 2, 4: 2}[count] for count in blocks)
    *flags, layers = depth.settings
    stages = [count > 1 and bool(flags.pop(0)) for count in counts]
    skip = bool(flags.pop(0)) if flags else False
    assert not flags
    activation = F.silu if config.decoder_activation == "silu" else F.relu
    told = Told(essential, config.points, config.queries, activation)
    return run_static(state, images, told, tuple(stages), skip, layers)


def by_token(raw: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same in the order of the tokens that queries come from."""
    order = raw["queries"].argsort(1)
    return {
        key: value.gather(1, order if value.dim() == 2 else order[..., None].expand_as(value))
        for key, value in raw.items()
    }


def filled(name: str, static: Any, seed: int | None = None) -> Any:
    """The any-depth network with the weights of the ``static`` one, second sets as copies."""
    from anydepth_deploy.families.shared.second_sets import with_second_sets

    model = find_family(NETWORKS[name][0]).build(deepened(name))
    state = with_second_sets(static.state_dict(), model.state_dict())
    model.load_state_dict(state)
    return model.eval()


def images_of(array: Any) -> Tensor:
    return torch.from_numpy(array)
