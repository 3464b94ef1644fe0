"""Layers: convolutions, matrix products, norms, pools, resizing and sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anydepth_deploy.graph.aten.builder import Builder, Operand, Unsupported, torch_type
from anydepth_deploy.graph.aten.table import axis_of, dims_of, translates

__all__: list[str] = []

aten: Any = torch.ops.aten

SAMPLING = ("bilinear", "nearest", "bicubic")
PADDING = ("zeros", "border", "reflection")
"""As torch numbers them."""


@translates(aten.convolution.default)
def _conv2d(
    b: Builder,
    x: Operand,
    weight: Operand,
    bias: Operand | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Operand:
    if transposed or len(dims_of(weight)) != 4:
        raise Unsupported("a convolution that is transposed or not of pictures")
    return b.add(
        "Conv",
        [x, weight, *([] if bias is None else [bias])],
        kernel_shape=_whole(dims_of(weight)[2:]),
        strides=_pair(stride),
        pads=_pair(padding) * 2,
        dilations=_pair(dilation),
        group=groups,
    )


@translates(aten.linear.default)
def _linear(b: Builder, x: Operand, weight: Operand, bias: Operand | None = None) -> Operand:
    """A product with the transposed weight, which is transposed here: some runtimes would not."""
    if isinstance(weight, Tensor):
        turned: Operand = b.derived(weight, "T", lambda array: array.T)
    else:
        turned = b.add("Transpose", [weight], "weight", shape=dims_of(weight)[::-1], perm=[1, 0])
    if bias is None:
        return b.add("MatMul", [x, turned])
    return b.add("Add", [b.add("MatMul", [x, turned], "matmul"), bias])


@translates(aten.matmul.default, aten.bmm.default, aten.mm.default)
def _matmul(b: Builder, x: Operand, other: Operand) -> Operand:
    return b.add("MatMul", [x, other])


@translates(aten.native_batch_norm.default)
def _batch_norm(
    b: Builder,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    mean: Operand | None,
    variance: Operand | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Operand:
    if training or mean is None or variance is None:
        raise Unsupported("a batch norm that takes its statistics from the batch")
    ones = torch.ones(_whole(dims_of(mean)), dtype=torch_type(mean))
    scale = ones if weight is None else weight
    offset = torch.zeros_like(ones) if bias is None else bias
    return b.add("BatchNormalization", [x, scale, offset, mean, variance], epsilon=float(eps))


@translates(aten._native_batch_norm_legit_no_training.default)
def _batch_norm_at_rest(b: Builder, x: Operand, *given: Any) -> Operand:
    *parameters, momentum, eps = given
    weight, bias, mean, variance = parameters
    return _batch_norm(b, x, weight, bias, mean, variance, False, momentum, eps)


@translates(aten.native_layer_norm.default)
def _layer_norm(
    b: Builder,
    x: Operand,
    shape: Sequence[int],
    weight: Operand | None,
    bias: Operand | None,
    eps: float,
) -> Operand:
    scale = torch.ones(list(shape), dtype=torch_type(x)) if weight is None else weight
    inputs = [x, scale, *([] if bias is None else [bias])]
    return b.add("LayerNormalization", inputs, axis=-len(shape), epsilon=float(eps))


@translates(aten._softmax.default)
def _softmax(b: Builder, x: Operand, dim: int, half_to_float: bool) -> Operand:
    axis = axis_of(x, dim)
    return b.add("Softmax", [x], axis=-1 if axis == len(dims_of(x)) - 1 else axis)


@translates(aten.max_pool2d_with_indices.default)
def _max_pool2d(
    b: Builder,
    x: Operand,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Operand:
    return b.add(
        "MaxPool",
        [x],
        kernel_shape=_pair(kernel),
        strides=_pair(stride or kernel),
        pads=_pair(padding) * 2,
        dilations=_pair(dilation),
        ceil_mode=int(ceil_mode),
    )


@translates(aten.avg_pool2d.default)
def _avg_pool2d(
    b: Builder,
    x: Operand,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Operand:
    if divisor is not None:
        raise Unsupported("an average over a number of its own")
    if ceil_mode:  # runtimes disagree about what lies beyond the edge
        raise Unsupported("an average pool that is rounded up")
    return b.add(
        "AveragePool",
        [x],
        kernel_shape=_pair(kernel),
        strides=_pair(stride or kernel),
        pads=_pair(padding) * 2,
        ceil_mode=0,
        count_include_pad=int(count_include_pad),
    )


@translates(aten._adaptive_avg_pool2d.default)
def _adaptive_avg_pool2d(b: Builder, x: Operand, size: Sequence[int]) -> Operand:
    if _pair(size) != [1, 1]:
        raise Unsupported(f"an adaptive pool to {size}")
    return b.add("GlobalAveragePool", [x])


@translates(aten.upsample_nearest2d.default)
def _upsample_nearest(
    b: Builder, x: Operand, size: Sequence[int], *scales: float | None
) -> Operand:
    return b.add(
        "Resize",
        [x, None, _scales(x, size, scales)],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


@translates(aten.upsample_bilinear2d.default)
def _upsample_bilinear(
    b: Builder, x: Operand, size: Sequence[int], align_corners: bool, *scales: float | None
) -> Operand:
    mode = "align_corners" if align_corners else "half_pixel"
    return b.add(
        "Resize",
        [x, None, _scales(x, size, scales)],
        mode="linear",
        coordinate_transformation_mode=mode,
    )


@translates(aten.grid_sampler_2d.default)
def _grid_sampler(
    b: Builder, x: Operand, grid: Operand, mode: int, padding: int, align_corners: bool
) -> Operand:
    if mode > 1 or len(dims_of(x)) != 4:
        raise Unsupported("samples that are not bilinear or nearest, or not of pictures")
    return b.add(
        "GridSample",
        [x, grid],
        mode=SAMPLING[mode],
        padding_mode=PADDING[padding],
        align_corners=int(align_corners),
    )


@translates(aten.constant_pad_nd.default)
def _pad(b: Builder, x: Operand, pad: Sequence[int], value: float = 0) -> Operand:
    """torch names the last axis first, low and high side by side."""
    rank = len(dims_of(x))
    before, after = [0] * rank, [0] * rank
    for index in range(len(pad) // 2):
        before[rank - 1 - index], after[rank - 1 - index] = pad[2 * index], pad[2 * index + 1]
    filled = torch.tensor(value, dtype=torch_type(x))
    return b.add("Pad", [x, b.numbers(*before, *after), filled])


def _scales(x: Operand, size: Sequence[int], scales: Sequence[float | None]) -> Tensor:
    """Of all four axes: as given, else from the sizes, which must then be multiples."""
    before = _whole(dims_of(x)[2:])
    found = [
        after / was if scale is None else scale
        for after, was, scale in zip(size, before, scales or (None, None), strict=True)
    ]
    if any(scale is None for scale in scales) and any(scale != int(scale) for scale in found):
        raise Unsupported(f"resizing {before} to {list(size)}")
    return torch.tensor([1.0, 1.0, *found], dtype=torch.float32)


def _pair(given: Sequence[int]) -> list[int]:
    found = [int(number) for number in given]
    return found * 2 if len(found) == 1 else found


def _whole(shape: Sequence[int | str | None]) -> list[int]:
    found = [size for size in shape if isinstance(size, int)]
    if len(found) != len(shape):
        raise Unsupported(f"a shape that is not fixed ({shape})")
    return found
