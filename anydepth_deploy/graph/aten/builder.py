"""A graph while it grows: constants, nodes, and nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

__all__ = [
    "BATCH",
    "Builder",
    "Computed",
    "Operand",
    "Unsupported",
    "onnx_type",
    "sizes",
    "torch_type",
]

BATCH = "N"
"""Name of the batch dimension in every exported graph."""

Operand = ir.Value | Tensor
"""What an operator reads: something that is computed, or a constant."""

TYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.float64: ir.DataType.DOUBLE,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.int8: ir.DataType.INT8,
    torch.int32: ir.DataType.INT32,
    torch.int64: ir.DataType.INT64,
    torch.uint8: ir.DataType.UINT8,
    torch.bool: ir.DataType.BOOL,
}

SMALL = 4096
"""Bytes of a constant that is compared by content; larger ones are weights, each held once."""


@dataclass(frozen=True, eq=False)
class Computed:
    """A tensor that hangs on the inputs: its shape, ``N`` standing for the number of pictures
    (``8*N``), and its type."""

    shape: tuple[int | str, ...]
    dtype: torch.dtype


class Unsupported(Exception):  # noqa: N818 (not an error: another way is taken)
    """There is no translation for this; the message says of what."""


def onnx_type(kind: torch.dtype) -> ir.DataType:
    """The element type in ONNX. Raises :class:`Unsupported`."""
    if kind not in TYPES:
        raise Unsupported(f"numbers of type {kind}")
    return TYPES[kind]


def torch_type(operand: Operand) -> torch.dtype:
    """The element type of an operand, as torch calls it."""
    if isinstance(operand, Tensor):
        return operand.dtype
    return next(kind for kind, number in TYPES.items() if number == operand.dtype)


class Builder:
    """The nodes and constants of one graph.

    Translations add nodes with :meth:`add` and constants with :meth:`constant`. Names come from
    operators and their number (``conv2d_3``, ``linear_1/matmul``), so they hang on the network
    alone, not on the version of torch.
    """

    def __init__(self, names: Mapping[int, str] | None = None) -> None:
        """``names``: of weights, by the ``id`` of their tensor."""
        self.nodes: list[ir.Node] = []
        self.constants: dict[str, ir.Value] = {}
        self.result: Computed | None = None
        self._names = dict(names or {})
        self._counts: Counter[str] = Counter()
        self._operator = ""
        self._made: dict[Any, tuple[ir.Value, ...]] = {}
        self._held: dict[Any, ir.Value] = {}
        self._alive: list[Tensor] = []

    def begin(self, operator: str, result: Computed) -> None:
        """What is added from now on belongs to ``operator``, which gives ``result``."""
        count = self._counts[operator]
        self._counts[operator] += 1
        self._operator = f"{operator}_{count}" if count else operator
        self.result = result

    @property
    def shape(self) -> list[int | str]:
        """Of the result of the operator."""
        assert self.result is not None
        return list(self.result.shape)

    @property
    def kind(self) -> torch.dtype:
        """Of the result of the operator."""
        assert self.result is not None
        return self.result.dtype

    def add(
        self,
        op_type: str,
        inputs: Sequence[Operand | None],
        part: str = "",
        *,
        shape: Sequence[int | str | None] | None = None,
        kind: torch.dtype | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """A node with one output.

        ``part``: what the output is called behind the name of the operator, where it is not its
        result. Shape and type are those of the result, but for what ``shape`` and ``kind`` say.
        """
        given = self.shape if shape is None else shape
        return self.add_several(op_type, inputs, [(part, given, kind or self.kind)], **attributes)[
            0
        ]

    def add_several(
        self,
        op_type: str,
        inputs: Sequence[Operand | None],
        outputs: Sequence[tuple[str, Sequence[int | str | None], torch.dtype]],
        **attributes: Any,
    ) -> tuple[ir.Value, ...]:
        """A node with any number of outputs, each given as part of its name, shape and type."""
        values = [None if item is None else self.value(item) for item in inputs]
        key = (
            op_type,
            tuple(id(value) for value in values),
            tuple((name, repr(item)) for name, item in sorted(attributes.items())),
            len(outputs),
        )
        made = self._made.get(key)
        if made is not None:
            return made
        node = ir.Node(
            "",
            op_type,
            values,
            ir.convenience.convert_attributes(attributes),
            num_outputs=len(outputs),
        )
        for value, (part, shape, kind) in zip(node.outputs, outputs, strict=True):
            value.name = self._operator + (f"/{part}" if part else "")
            value.type = ir.TensorType(onnx_type(kind))
            value.shape = ir.Shape(shape)
        self.nodes.append(node)
        self._made[key] = tuple(node.outputs)
        return tuple(node.outputs)

    def copy(self, value: ir.Value) -> ir.Value:
        """The same under another name, whatever there is already."""
        node = ir.Node("", "Identity", [value])
        copied = node.outputs[0]
        copied.name, copied.type, copied.shape = f"copy_{len(self.nodes)}", value.type, value.shape
        self.nodes.append(node)
        return copied

    def value(self, operand: Operand) -> ir.Value:
        """``operand`` as a node can read it."""
        return operand if isinstance(operand, ir.Value) else self.constant(operand)

    def constant(self, tensor: Tensor) -> ir.Value:
        """A constant; equal ones are one."""
        name = self._names.get(id(tensor))
        array = _numpy(tensor)
        key: Any = ("is", id(tensor))
        if name is None and array.nbytes <= SMALL:
            key = (str(tensor.dtype), array.shape, array.tobytes())
        if key in self._held:
            return self._held[key]
        if name is None or name in self.constants:
            name = f"constant_{len(self.constants)}"
        held = ir.Tensor(array, dtype=onnx_type(tensor.dtype), name=name)
        value = ir.val(name, held.dtype, list(array.shape), const_value=held)
        self.constants[name] = value
        self._held[key] = value
        self._alive.append(tensor)  # or another could get its id
        return value

    def derived(self, tensor: Tensor, how: str, change: Callable[[Tensor], Tensor]) -> ir.Value:
        """A constant that is computed from a weight, once: named after it and ``how``."""
        key = ("from", id(tensor), how)
        if key not in self._held:
            changed = change(tensor)
            name = self._names.get(id(tensor))
            if name is not None:
                self._names[id(changed)] = f"{name}.{how}"
            self._held[key] = self.constant(changed)
            self._alive.append(tensor)
        return self._held[key]

    def numbers(self, *numbers: int) -> ir.Value:
        """A list of whole numbers, as axes, sizes and steps are given."""
        return self.constant(torch.tensor(numbers, dtype=torch.int64))

    def cast(self, operand: Operand, kind: torch.dtype) -> Operand:
        """``operand`` with elements of another type."""
        if isinstance(operand, Tensor):
            return operand.to(kind)
        if operand.dtype == onnx_type(kind):
            return operand
        assert operand.shape is not None
        number = int(onnx_type(kind))
        return self.add("Cast", [operand], "cast", shape=sizes(operand), kind=kind, to=number)

    def operand(self, given: Any, kind: torch.dtype) -> Operand:
        """A tensor or a number, with elements of this type."""
        if isinstance(given, bool | int | float):
            return torch.tensor(given, dtype=kind)
        if not isinstance(given, ir.Value | Tensor):
            raise Unsupported(f"{type(given).__name__} where a number is expected")
        return self.cast(given, kind)


def sizes(value: ir.Value) -> list[int | str | None]:
    """The shape of a value as :meth:`Builder.add` takes it."""
    assert value.shape is not None
    return [item if isinstance(item, int) else item.value for item in value.shape]


def _numpy(tensor: Tensor) -> np.ndarray:
    found = tensor.detach().contiguous()
    if found.dtype == torch.bfloat16:
        raise Unsupported("constants of type bfloat16")
    return found.numpy()
