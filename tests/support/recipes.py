"""Networks of the DETRs to train, small pictures, and objects: square or not, with or without."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from anydepth_deploy.families.registry import find_family, find_training
from anydepth_deploy.families.shared.recipe import RecipeSettings
from anydepth_deploy.families.shared.targets import Targets

DETRS = {
    "anydepth-detr": ("anydepth-detr", "tiny", {}),
    "rt-detr": ("rt-detr", "tiny", {}),
    "rt-detr-deim": ("rt-detr", "tiny", {"release": "deim", "decoder_activation": "silu"}),
    "rt-detr-hgnetv2": ("rt-detr", "tiny-hgnetv2", {}),
    "rt-detr-fine": ("rt-detr", "tiny-fine", {}),
    "d-fine": ("d-fine", "tiny", {}),
    "rt-detr-v4": ("d-fine", "tiny", {"release": "v4", "decoder_activation": "silu"}),
}
"""Family, size and changes of its configuration: one of each kind of decoder, backbone and loss."""

HEIGHT, WIDTH = 64, 96


def fresh(name: str, **changes: Any) -> Any:
    """The network of :data:`DETRS` with weights to train from nothing, always the same."""
    family, size, own = DETRS[name]
    found = find_family(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = found.build(replace(found.sizes[size], **own, **changes))
        find_training(family).initialise(model)
    return model


def recipe_of(name: str, settings: RecipeSettings | None = None, **changes: Any) -> Any:
    model = fresh(name, **changes)
    return find_training(model.family).recipe(model, settings or RecipeSettings(denoising=8))


def pictures(count: int = 2) -> Tensor:
    """Noise, float32 [count, 3, 64, 96] in 0..1."""
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, 3, HEIGHT, WIDTH, generator=generator)


def objects(*counts: int, classes: int = 8, seed: int = 3) -> Targets:
    """So many objects for each picture."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.full((len(counts), max(*counts, 1)), -1)
    for row, count in enumerate(counts):
        labels[row, :count] = torch.randint(classes, (count,), generator=generator)
    return Targets(labels, random_boxes(*labels.shape, generator=generator))


def random_boxes(*shape: int, generator: torch.Generator) -> Tensor:
    """Boxes as cx, cy, w, h in 0..1."""
    centre = torch.rand(*shape, 2, generator=generator) * 0.6 + 0.2
    return torch.cat([centre, torch.rand(*shape, 2, generator=generator) * 0.35 + 0.05], dim=-1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
