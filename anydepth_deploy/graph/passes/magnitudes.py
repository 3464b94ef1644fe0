"""What FP16 cannot hold: constants of a node, and how large what it computes is because of them.

FP16 ends at 65504, and below 6.1e-5 it loses a bit with every halving, until nothing is left at
3e-8. A factor (a weight, a scale) beyond either end makes sense only beside something else that is
beyond it as well: a norm 200,000 times too large goes with a convolution 200,000 times too small,
and what is between the two is as large as FP16 cannot hold either. So the size of what such a node
computes is estimated, and of what is computed from that, until it is an ordinary number again.

Estimates take what comes in for 1. A sum of k products of independent numbers of size 1 with
weights w is about the root of the sum of their squares. What is added (a bias) and vanishes in FP16
is lost in what it is added to, and is no reason for anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from anydepth_deploy.graph.passes.fold import constant

__all__ = [
    "LARGEST",
    "NORMS",
    "SMALLEST_NORMAL",
    "Size",
    "estimate",
    "fits",
    "largest_of",
    "out_of_bounds",
    "overflows",
    "reads_misfit",
    "weight_path",
]

Floats = NDArray[np.float64]

SMALLEST_NORMAL = 2.0**-14
"""The smallest FP16 number with all its bits (6.1e-5)."""

LARGEST = float(np.finfo(np.float16).max)

LOST = 2.0**-11
"""Relative error (root mean square) of rounded factors above which they do not fit: rounding makes
no more of numbers with all their bits."""

HIGH = 64.0
"""Sizes above this are not ordinary: values ten bits above their usual size would not fit."""

LOW = SMALLEST_NORMAL
"""Nor those below: rounded, they have an error that is not relative any more."""

BOUNDS = {"Clip": (1, 2)}
"""Inputs that bind nothing where they are beyond FP16: all it holds is on one side of them."""

FACTORS = {
    "BatchNormalization": (1,),
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Div": (0, 1),
    "Gemm": (0, 1),
    "InstanceNormalization": (1,),
    "LayerNormalization": (1,),
    "MatMul": (0, 1),
    "Mul": (0, 1),
    "PRelu": (1,),
}
"""Inputs that multiply."""

NORMS = frozenset({"InstanceNormalization", "LayerNormalization"})
"""Nodes whose results have the size of their scales."""

LIMITING = frozenset(
    {
        "Equal",
        "Erf",
        "Greater",
        "GreaterOrEqual",
        "HardSigmoid",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "Sigmoid",
        "Softmax",
        "Tanh",
    }
)
"""Operators whose results are no larger than 1, however large their inputs."""

CHANNELWISE = frozenset(
    {
        "Abs",
        "AveragePool",
        "Cast",
        "Clip",
        "Identity",
        "LeakyRelu",
        "MaxPool",
        "Neg",
        "PRelu",
        "Relu",
        "Resize",
    }
)
"""Operators whose results have the channels of their data."""

MOVED = frozenset({"Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that a weight may pass on its way to its reader."""


@dataclass(frozen=True)
class Size:
    """How large the numbers of a tensor usually are. ``peak``: by channel of an NCHW tensor,
    float64 [C], or of the largest ones, [1]. ``level``: root mean square over all."""

    peak: Floats
    level: float

    @property
    def ordinary(self) -> bool:
        return bool(self.peak.max() <= HIGH and self.level >= LOW)


ONE = Size(np.ones(1), 1.0)


def fits(array: np.ndarray, *, factor: bool) -> bool:
    """Whether FP16 holds the finite values of ``array``; what does not multiply may vanish."""
    values = _finite(array)
    largest = float(np.abs(values).max(initial=0.0))
    if largest > LARGEST:
        return False
    if not factor or largest == 0:
        return True
    rounded = values.astype(np.float16).astype(np.float64)
    # Over the largest, so that no square vanishes.
    error, norm = (float(np.linalg.norm(part / largest)) for part in (values - rounded, values))
    return error <= LOST * norm


def reads_misfit(node: ir.Node, index: int) -> bool:
    """Whether input ``index`` of ``node`` is a constant that FP16 does not hold."""
    array = _operand(node, index)
    if array is None or array.dtype != np.float32 or index in BOUNDS.get(node.op_type, ()):
        return False
    if node.op_type == "DequantizeLinear":
        return index == 1 and _dequantised(node) > LARGEST
    if node.op_type in ("Max", "Min") and _binds_nothing(node.op_type, array):
        return False
    return not fits(array, factor=index in FACTORS.get(node.op_type, ()))


def weight_path(node: ir.Node, index: int) -> list[ir.Node]:
    """The nodes that a constant passes before ``node`` reads it; none where it does so directly."""
    path: list[ir.Node] = []
    value = node.inputs[index]
    while value is not None and (producer := value.producer()) is not None:
        if producer.op_type not in MOVED:
            return []
        path.append(producer)
        value = producer.inputs[0]
    return path if constant(value) is not None else []


def overflows(node: ir.Node) -> bool:
    """Whether ``node``, a layer with constants, makes numbers so large of some of size 1 that such
    as are :data:`HIGH` times as large do not fit."""
    found = _linear(node, ONE)
    return found is not None and bool(found.peak.max() * HIGH > LARGEST)


def out_of_bounds(node: ir.Node) -> bool:
    """Whether some channel of what ``node``, a layer with constants, computes from numbers of size
    1 is beyond what is ordinary; channels of nothing but zeros are not."""
    found = _linear(node, ONE)
    if found is None:
        return False
    channels = found.peak[found.peak > 0]
    return bool(np.any((channels < LOW) | (channels > HIGH)))


def estimate(node: ir.Node, given: Mapping[int, Size]) -> Size:
    """The size of what ``node`` computes; ``given``: of its inputs that are not ordinary, by
    index."""
    kind = node.op_type
    if kind == "DequantizeLinear":
        reach = _dequantised(node)
        return Size(np.full(1, reach), reach)
    if kind in NORMS:
        return _added(_multiplied(ONE, _input(node, 1, {})), _input(node, 2, {}))
    if kind in LIMITING:
        return ONE
    if kind in ("Mul", "Div"):
        one, other = _input(node, 0, given), _input(node, 1, given)
        return _multiplied(one, other if kind == "Mul" else _inverse(other))
    if kind in ("Add", "Sub"):
        return _added(_input(node, 0, given), _input(node, 1, given))
    data = given.get(1 - _weight(node) if kind in ("Gemm", "MatMul") else 0, ONE)
    found = _linear(node, data)
    if found is not None:
        return found
    if kind in ("Gemm", "MatMul"):
        return _multiplied(*(_whole(given.get(index, ONE)) for index in (0, 1)))
    if kind in CHANNELWISE and list(given) == [0]:
        return data
    constants = [i for i in range(len(node.inputs)) if i not in given and reads_misfit(node, i)]
    return largest_of([*given.values(), *(_input(node, index, {}) for index in constants)])


def largest_of(sizes: Sequence[Size]) -> Size:
    """Of a tensor that is put together from such, or is one of them."""
    peak = max(float(size.peak.max()) for size in sizes)
    return Size(np.full(1, peak), min(size.level for size in sizes))


def _linear(node: ir.Node, data: Size) -> Size | None:
    """Of a layer that multiplies ``data`` with its own constants and adds others; None where they
    are computed."""
    kind = node.op_type
    if kind == "BatchNormalization":  # mean 0, variance 1: see half.py
        return _added(_multiplied(data, _input(node, 1, {})), _input(node, 2, {}))
    if kind not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return None
    index = _weight(node)
    weight = _operand(node, index)
    if weight is None:
        return None
    squares = np.nan_to_num(weight.astype(np.float64), posinf=0.0, neginf=0.0) ** 2
    if kind == "Conv":
        peak = _convolved(squares, data.peak)
    else:
        axes = _summed(node, index, squares.ndim)
        peak = np.sqrt(squares.sum(axis=axes)).reshape(-1) * data.peak.max()
    gain = np.sqrt(squares.sum() / max(1, peak.size))
    found = Size(peak if kind == "Conv" else peak.max(keepdims=True), float(gain * data.level))
    bias = _input(node, 2, {}) if _operand(node, 2) is not None else None
    return found if bias is None else _added(found, bias)


def _weight(node: ir.Node) -> int:
    """Which input of a layer is its weight, if any is."""
    either = node.op_type in ("Gemm", "MatMul") and _operand(node, 1) is None
    return 0 if either else 1


def _convolved(squares: Floats, peak: Floats) -> Floats:
    """By output channel, from weights [O, I / groups, ...] and sizes of the input's channels."""
    by_input = squares.reshape(len(squares), squares.shape[1], -1).sum(axis=2)
    groups, rest = divmod(len(peak), by_input.shape[1])
    if len(peak) == 1 or rest or len(by_input) % max(1, groups):
        return np.asarray(np.sqrt(by_input.sum(axis=1)) * peak.max())
    sizes = np.repeat(peak.reshape(groups, -1) ** 2, len(by_input) // groups, axis=0)
    return np.asarray(np.sqrt((by_input * sizes).sum(axis=1)))


def _summed(node: ir.Node, index: int, rank: int) -> tuple[int, ...]:
    """The axes of a weight that are summed over, but for those of a kernel."""
    if node.op_type == "ConvTranspose":  # [I, O, ...]
        return (0, *range(2, rank))
    swapped = node.attributes.get("transA" if index == 0 else "transB")
    first = (index == 1) != bool(swapped is not None and swapped.as_int())
    return (max(0, rank - 2) if first else rank - 1,)


def _operand(node: ir.Node, index: int) -> np.ndarray | None:
    """The constant that ``node`` reads there, if need be through what only moves it."""
    if index >= len(node.inputs):
        return None
    path = weight_path(node, index)
    return constant(path[-1].inputs[0] if path else node.inputs[index])


def _input(node: ir.Node, index: int, given: Mapping[int, Size]) -> Size:
    """The size of an input: as given, that of a constant, or 1."""
    if index in given:
        return given[index]
    array = _operand(node, index)
    if array is None or array.dtype != np.float32:
        return ONE
    values = _finite(array)
    level = float(np.sqrt(np.mean(values**2))) if values.size else 0.0
    by_channel = values.size == array.size > 1 and (
        array.shape[-3:-2] == (array.size,) or node.op_type in ("BatchNormalization", "Conv")
    )
    sizes = np.abs(values).reshape(-1)
    return Size(sizes if by_channel else sizes.max(keepdims=True, initial=0.0), level)


def _multiplied(one: Size, other: Size) -> Size:
    return Size(np.multiply(*_together(one, other)), one.level * other.level)


def _added(one: Size, other: Size) -> Size:
    return Size(np.add(*_together(one, other)), max(one.level, other.level))


def _inverse(size: Size) -> Size:
    tiny = np.finfo(np.float64).tiny
    return Size(1 / np.maximum(size.peak, tiny), 1 / max(size.level, tiny))


def _whole(size: Size) -> Size:
    return Size(size.peak.max(keepdims=True), size.level)


def _together(one: Size, other: Size) -> tuple[Floats, Floats]:
    """The peaks of two tensors that meet element by element."""
    if 1 in (len(one.peak), len(other.peak)) or len(one.peak) == len(other.peak):
        return one.peak, other.peak
    return _whole(one).peak, _whole(other).peak


def _dequantised(node: ir.Node) -> float:
    """The largest number that a DequantizeLinear can give, of constants that it does."""
    scale, levels = constant(node.inputs[1]), constant(node.inputs[0])
    if scale is None:
        return 1.0
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if levels is None:
        low, high = (0, 255) if zero is None or zero.dtype == np.uint8 else (-128, 127)
        offset = 0.0 if zero is None else float(np.mean(zero))
        steps = max(high - offset, offset - low)
    else:
        offset = 0.0 if zero is None else float(np.mean(zero))
        steps = float(np.abs(levels.astype(np.float64) - offset).max(initial=0.0))
    return steps * float(np.abs(scale.astype(np.float64)).max(initial=0.0))


def _binds_nothing(kind: str, array: np.ndarray) -> bool:
    values = _finite(array)
    return bool(np.all(values <= -LARGEST) if kind == "Max" else np.all(values >= LARGEST))


def _finite(array: np.ndarray) -> Floats:
    values = np.asarray(array, np.float64)
    return values[np.isfinite(values)]
