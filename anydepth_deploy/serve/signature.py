"""Inputs and outputs of an ONNX file: names, types and dimensions, as Triton calls them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anydepth_deploy.errors import BundleError, missing_extra

__all__ = ["Signature", "Tensor", "read_signature"]

DATATYPES = {
    "BFLOAT16": "BF16",
    "BOOL": "BOOL",
    "DOUBLE": "FP64",
    "FLOAT": "FP32",
    "FLOAT16": "FP16",
    "INT16": "INT16",
    "INT32": "INT32",
    "INT64": "INT64",
    "INT8": "INT8",
    "STRING": "STRING",
    "UINT16": "UINT16",
    "UINT32": "UINT32",
    "UINT64": "UINT64",
    "UINT8": "UINT8",
}
"""Triton's names of ONNX's element types."""


@dataclass(frozen=True)
class Tensor:
    """``dims``: all of them, the batch included; -1 where any number goes, empty for a scalar."""

    name: str
    datatype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def output(self, name: str) -> Tensor | None:
        return next((tensor for tensor in self.outputs if tensor.name == name), None)


def read_signature(path: Path) -> Signature:
    """What the ONNX file ``path`` takes and gives.

    Raises :class:`BundleError` for a file that is no ONNX graph, :class:`MissingExtraError` where
    ``onnx`` is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise missing_extra(error, "a Triton repository", extra="triton") or error from None
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except (OSError, DecodeError) as error:
        raise BundleError(f"{path} cannot be read as an ONNX graph: {error}") from None
    if not graph.output:  # what any bytes may pass for
        raise BundleError(f"{path} is no ONNX graph: it has no outputs; export it again")
    constants = {item.name for item in graph.initializer}
    return Signature(
        tuple(_tensor(item) for item in graph.input if item.name not in constants),
        tuple(_tensor(item) for item in graph.output),
    )


def _tensor(value: Any) -> Tensor:
    import onnx

    kind = value.type.tensor_type
    element = onnx.TensorProto.DataType.Name(kind.elem_type)
    return Tensor(
        value.name,
        DATATYPES.get(element, element),
        tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim),
    )
