"""Any-depth RT-DETRs and D-FINEs with random weights, and the oracle at their depths."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch.nn.functional as F
from oracle_detr import State
from oracle_static import Told, run_static
from static_detrs import static_detr
from torch import Tensor

from anydepth_deploy.depth import Depth
from anydepth_deploy.families.dfine.config import CONFIGS as DFINE
from anydepth_deploy.families.registry import find_family
from anydepth_deploy.families.shared.detr.backbones import ResNetConfig
from anydepth_deploy.families.shared.randomise import randomise
from anydepth_deploy.families.shared.second_sets import with_second_sets

BOTTLENECKS = ResNetConfig((3, 2, 4, 1), (8, 8, 16, 16), True, (8, 16), frozen=True)

WITHOUT_AFFINE = dataclasses.replace(DFINE["tiny"].backbone, affine=False, frozen=True)

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


def family_of(name: str) -> Any:
    return find_family(NETWORKS[name][0])


def static_config(name: str) -> Any:
    _, size, changes = NETWORKS[name]
    return family_of(name).sizes[size].replace(**changes)


def static_network(name: str) -> Any:
    family, size, changes = NETWORKS[name]
    return static_detr(family, size, **changes)


def deepened(name: str) -> Any:
    """The any-depth configuration."""
    return static_config(name).deepened(family_of(name).sizes)


def anydepth_network(name: str) -> Any:
    """Every set of norms with random weights of its own."""
    return randomise(family_of(name).build(deepened(name)))


def filled(name: str, static: Any) -> Any:
    """The any-depth network with the weights of the ``static`` one, second sets as copies."""
    model = family_of(name).build(deepened(name))
    model.load_state_dict(with_second_sets(static.state_dict(), model.state_dict()))
    return model.eval()


def oracle(name: str, state: State, images: Tensor, depth: Depth) -> dict[str, Tensor]:
    """What the network ``name`` with these weights gives at ``depth``. How many blocks a stage
    always runs is spelt out here."""
    config = static_config(name)
    if isinstance(config.backbone, ResNetConfig):
        counts = config.backbone.blocks
        essential = tuple({1: 1, 2: 1, 3: 2, 4: 2}[count] for count in counts)
    else:
        counts = tuple(stage.blocks for stage in config.backbone.stages)
        essential = (1, 1, 1, 1)
    *flags, layers = map(int, depth.settings)
    stages = tuple(count > 1 and bool(flags.pop(0)) for count in counts)
    skip = bool(flags.pop(0)) if flags else False
    assert not flags
    activation = F.silu if config.decoder_activation == "silu" else F.relu
    told = Told(essential, config.points, config.queries, activation)
    return run_static(state, images, told, stages, skip, layers)


def by_token(raw: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same in the order of the tokens that queries come from."""
    order = raw["queries"].argsort(1)
    return {
        key: value.gather(1, order if value.dim() == 2 else order[..., None].expand_as(value))
        for key, value in raw.items()
    }
