"""ONNX Runtime: the embedded default, on any CPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.errors import BundleError, InputError, MissingExtraError
from anydepth_deploy.manifest import RAW_METADATA
from anydepth_deploy.runtimes import Arrays, Engine, EngineOptions

__all__ = ["OnnxRuntimeEngine", "open_engine"]


HALF_SCALES = ["WeightBiasQuantization"]
"""An optimisation that goes wrong where scales are FP16 (ONNX Runtime 1.31)."""


class OnnxRuntimeEngine:
    """An inference session on the CPU; ONNX Runtime sessions may be shared between threads."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        ort = _onnxruntime()
        settings = ort.SessionOptions()
        settings.log_severity_level = 4  # errors reach the caller as exceptions; no second copy
        # Of 8-bit kernels for x86 CPUs without VNNI, take those that cannot overflow.
        settings.add_session_config_entry("session.x64quantprecision", "1")
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        model: str | bytes = str(path)
        if options.raw:
            model = _with_raw_outputs(path)
        try:
            self._session: Any = ort.InferenceSession(
                model,
                settings,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=HALF_SCALES if options.target == "tensorrt" else None,
            )
        except Exception as error:  # ONNX Runtime has no public root for its exceptions
            raise BundleError(
                f"ONNX Runtime {ort.__version__} cannot load {path}: {_first_line(error)}"
            ) from None
        self.path = path
        self.inputs: Sequence[str] = [value.name for value in self._session.get_inputs()]
        self.outputs: Sequence[str] = [value.name for value in self._session.get_outputs()]

    def run(self, feeds: Arrays, outputs: Sequence[str]) -> dict[str, NDArray[np.generic]]:
        try:
            found = self._session.run(list(outputs), dict(feeds))
        except Exception as error:
            raise InputError(f"{self.path.name}: {_first_line(error)}") from None
        return dict(zip(outputs, found, strict=True))


def open_engine(path: Path, options: EngineOptions) -> Engine:
    """Open an ONNX file. Raises :class:`MissingExtraError` and :class:`BundleError`."""
    return OnnxRuntimeEngine(path, options)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "onnxruntime", "running an ONNX artifact") from None
    return onnxruntime


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _with_raw_outputs(path: Path) -> str | bytes:
    """The model with the heads' raw outputs exposed under ``raw_*``; nothing else changes.

    So parity is checked on the very graph that is deployed, also when its raw outputs were not
    asked for at export.
    """
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("onnx", "export", "reading raw outputs of this artifact") from None
    model = onnx.load(str(path))
    present = {value.name for value in model.graph.output}
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    tensors = json.loads(metadata.get(RAW_METADATA, "{}"))
    if not tensors:
        raise BundleError(f"{path} does not say where its raw outputs are: export it again")
    if all(f"raw_{public}" in present for public in tensors):
        return str(path)
    for public, tensor in tensors.items():
        name = f"raw_{public}"
        model.graph.node.append(onnx.helper.make_node("Identity", [tensor], [name], name=name))
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    # Types are inferred from the nodes; a value without a type is legal for ONNX Runtime.
    return bytes(model.SerializeToString())
