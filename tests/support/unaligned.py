"""Trained networks whose features do not fit together at mixed depths, as without alignment.

Where one stage is skipped, its output is larger by a constant factor, and the next one expects that
where it is skipped itself: at base and at super they compute what they computed, nearly so at base
of AnyDepth-YOLO. All of it is in the norms' second sets.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from trained_networks import CHECKPOINTS

from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.families.yolo.blocks import C3k2, Conv
from anydepth_deploy.families.yolo.model import AnyDepthYOLO
from anydepth_deploy.pictures.shapes import render_many

__all__ = ["FACTOR", "STAGES", "write_unaligned"]

FACTOR = 4.0
STAGES = {
    "anydepth-detr": ("backbone.layer1", "backbone.layer2"),
    "anydepth-yolo": ("layer2", "layer4"),
}
"""The gates that no longer fit, the first two of each family."""
PICTURES = 32
"""Generated training pictures that the YOLO's norm is fitted on."""


def write_unaligned(family: str, file: Path) -> Path:
    """Write the trained checkpoint of ``family`` with that change."""
    found = read_checkpoint(CHECKPOINTS[family])
    state = CHANGES[family](dict(found.state))
    torch.save({"model": state, "class_names": found.class_names}, file)
    return file


def _detr(state: dict[str, Tensor]) -> dict[str, Tensor]:
    # Shortcuts and the decoder's projections get a second set where they have none, which is the
    # first one still: files have both or neither.
    copies = {
        f"backbone.layer{stage}.0.downsample.{1 if stage == 1 else 2}": (
            f"backbone.layer{stage}.0.downsample_skip"
        )
        for stage in range(1, 5)
    }
    for level in range(3):
        first = f"decoder.input_proj.{level}.norm"
        copies[first] = f"{first}_skippable"
    for one, other in copies.items():
        for name in ("weight", "bias", "running_mean", "running_var"):
            state.setdefault(f"{other}.{name}", state[f"{one}.{name}"].clone())
    for path in ("bn3_skip", "downsample_skip"):  # relu(a x) = a relu(x)
        for name in ("weight", "bias"):
            key = f"backbone.layer1.0.{path}.{name}"
            state[key] = FACTOR * state[key]
    for path in ("bn1_skip", "downsample_skip"):
        mean, variance = (f"backbone.layer2.0.{path}.running_{name}" for name in ("mean", "var"))
        state[mean] = FACTOR * state[mean]
        state[variance] = FACTOR**2 * state[variance]
    return state


def _yolo(state: dict[str, Tensor]) -> dict[str, Tensor]:
    # silu(a x) is nearly a silu(x); what is left of the difference, the norm behind takes in the
    # sense of least squares, channel by channel.
    model = load_model(read_checkpoint(CHECKPOINTS["anydepth-yolo"])).eval()
    assert isinstance(model, AnyDepthYOLO)
    block, behind = model.model["2"], model.model["3"]
    assert isinstance(block, C3k2)
    assert isinstance(behind, Conv)
    last, norm = (conv.get_submodule("bn_skip") for conv in (block.cv2, behind))
    assert isinstance(last, nn.BatchNorm2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    images = torch.from_numpy(render_many(PICTURES, 0).images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():

        def flow() -> Tensor:
            maps = behind.conv(block(model.model["1"](model.model["0"](images)), skip=True))
            return torch.as_tensor(maps.transpose(0, 1).flatten(1).double())

        scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        wanted = scale[:, None] * (flow() - norm.running_mean[:, None]) + norm.bias[:, None]
        for parameter in (last.weight, last.bias):
            parameter.mul_(FACTOR)
        found = flow()
        mean, variance = found.mean(1, keepdim=True), found.var(1, correction=0)
        middle = wanted.mean(1, keepdim=True)
        slope = ((found - mean) * (wanted - middle)).mean(1) / variance
        fitted = {
            "running_mean": mean[:, 0],
            "running_var": variance,
            "weight": slope * torch.sqrt(variance + norm.eps),
            "bias": middle[:, 0],
        }
    for name in ("weight", "bias"):
        state[f"model.2.cv2.bn_skip.{name}"] = last.get_parameter(name).detach()
    for name, value in fitted.items():
        state[f"model.3.bn_skip.{name}"] = value.float()
    return state


CHANGES: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "anydepth-detr": _detr,
    "anydepth-yolo": _yolo,
}
