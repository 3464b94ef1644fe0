"""A network at one depth as functions of tensors, in FP32 or half precision: what torch runs fast.

Gates, size and device are decided once, so that what is left can be compiled or captured. Half
precision is torch's autocast with the weights cast ahead: convolutions and products compute in it,
and what is sensitive stays float32 (softmax, anchors, positions, decoding of boxes). Raw outputs
are float32 again, and detections are made from those.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anydepth_deploy.depth import Depth
from anydepth_deploy.families.shared.stages import (
    DETECTIONS,
    POSTPROCESS,
    AnyDepthModel,
    Size,
    Stage,
)
from anydepth_deploy.torch_runtime.precisions import Precision

__all__ = ["DTYPES", "Function", "Network", "Precision", "model_for", "network_at"]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

Function = Callable[..., tuple[Tensor, ...]]
"""From tensors to tensors, by position."""

Step = tuple[nn.Module, tuple[str, ...], tuple[str, ...]]
"""What runs, and the tensors of the flow that it reads and binds."""


@dataclass(frozen=True)
class Network:
    """A network at one depth, for one input size, on one device.

    ``body``: images [N, 3, H, W] to the tensors of the flow that are called ``names``, floating
    point ones in float32. ``ending``: those of them at ``reads`` to ``labels`` int64 [N, K],
    ``boxes`` float32 [N, K, 4] and ``scores`` float32 [N, K]. ``suppresses``: the ending is
    non-maximum suppression, a loop on the host, which takes tensors there.
    """

    body: Function
    ending: Function
    names: tuple[str, ...]
    reads: tuple[int, ...]
    suppresses: bool


def model_for(model: AnyDepthModel, device: str, precision: Precision) -> AnyDepthModel:
    """``model`` as it is run: on ``device``, weights of convolutions and products in ``precision``.

    A copy, unless that is what ``model`` is already; it is not changed.
    """
    here = all(value.device.type == device for value in model.state_dict().values())
    if precision == "fp32" and here and not model.training:
        return model
    copied = copy.deepcopy(model).eval()
    if precision != "fp32":
        _narrow(copied, DTYPES[precision])
    return copied.to(device)


def _narrow(model: AnyDepthModel, dtype: torch.dtype) -> None:
    """Cast what autocast would cast at every call: it keeps no copies of weights that need no
    gradient."""
    for weight in model.product_weights():
        weight.data = weight.data.to(dtype)


def network_at(
    model: AnyDepthModel, depth: Depth, size: Size, device: str, precision: Precision
) -> Network:
    """The functions of ``model``, which :func:`model_for` gave, at ``depth``.

    Raises :class:`InputError` for a size that the network cannot take.
    """
    stages = model.stages(size, device)
    steps = _steps((stage for stage in stages if stage.name != POSTPROCESS), depth)
    ((last, reads, binds),) = _steps(
        (stage for stage in stages if stage.name == POSTPROCESS), depth
    )
    names = tuple(dict.fromkeys([*model.raw_outputs.values(), *reads]))
    half, dtype = precision != "fp32", DTYPES[precision]
    order = [binds.index(name) for name in DETECTIONS.values()]

    def body(images: Tensor) -> tuple[Tensor, ...]:
        tensors = {"images": images}
        # Without its cache, which must not outlive a recording.
        with torch.autocast(device, dtype if half else None, enabled=half, cache_enabled=False):
            _run(steps, tensors)
        return tuple(_widened(tensors[name]) for name in names)

    def ending(*inputs: Tensor) -> tuple[Tensor, ...]:
        found = last(*inputs)
        return tuple(found[place] for place in order)

    places = tuple(names.index(name) for name in reads)
    return Network(body, ending, names, places, model.suppression is not None)


def _steps(stages: Iterable[Stage], depth: Depth) -> list[Step]:
    """What runs at ``depth``, in order."""
    chosen = [(stage, stage.variant(depth)) for stage in stages]
    return [
        (stage.variants[variant], stage.inputs, stage.outputs)
        for stage, variant in chosen
        if variant is not None
    ]


def _run(steps: Sequence[Step], tensors: dict[str, Tensor]) -> None:
    for module, reads, binds in steps:
        found = module(*[tensors[name] for name in reads])
        outputs = (found,) if isinstance(found, Tensor) else found
        tensors.update(zip(binds, outputs, strict=True))


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
