"""ONNX Runtime: the embedded default, on any CPU."""

from __future__ import annotations

import functools
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.errors import BundleError, InputError, MissingExtraError
from anydepth_deploy.manifest import RAW_METADATA
from anydepth_deploy.runtimes import Arrays, Engine, EngineOptions
from anydepth_deploy.runtimes.rounding import KEEP_ROUNDING, round_to_half

__all__ = ["OnnxRuntimeEngine", "open_engine"]


HALF_SCALES = ["WeightBiasQuantization"]
"""An optimisation that goes wrong where scales are FP16 (ONNX Runtime 1.31)."""


class OnnxRuntimeEngine:
    """An inference session on the CPU; ONNX Runtime sessions may be shared between threads."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        ort = _onnxruntime()
        settings = ort.SessionOptions()
        settings.log_severity_level = 4  # errors reach the caller as exceptions; no second copy
        if _saturates():
            settings.add_session_config_entry("session.x64quantprecision", "1")
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        model: str | bytes = str(path)
        if options.raw or options.rounded:
            model = _edited(path, options)
        disabled = HALF_SCALES if options.target == "tensorrt" else []
        try:
            self._session: Any = ort.InferenceSession(
                model,
                settings,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=[*disabled, *KEEP_ROUNDING] if options.rounded else disabled,
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


@functools.cache
def _saturates() -> bool:
    """Whether this CPU may multiply 8-bit numbers with sums that saturate: x86 without VNNI, or
    x86 of which nothing is known. ONNX Runtime has kernels that do not; they take half as long
    again where there is no need for them."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return True
    return "avx512_vnni" not in flags and "avx_vnni" not in flags


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _edited(path: Path, options: EngineOptions) -> bytes:
    """The model as ``options`` want it, in memory; the file stays as it is."""
    try:
        import onnx
    except ImportError:
        purpose = "looking into this artifact"
        raise MissingExtraError("onnx", "tensorrt", purpose) from None
    model = onnx.load(str(path))
    if options.raw:
        _add_raw_outputs(model, path)
    if options.rounded:
        round_to_half(model)
    return bytes(model.SerializeToString())


def _add_raw_outputs(model: Any, path: Path) -> None:
    """Expose the heads' raw outputs under ``raw_*``, where they are not; nothing else changes.

    So parity is checked on the very graph that is deployed, also when its raw outputs were not
    asked for at export.
    """
    import onnx

    present = {value.name for value in model.graph.output}
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    tensors = json.loads(metadata.get(RAW_METADATA, "{}"))
    if not tensors:
        raise BundleError(f"{path} does not say where its raw outputs are: export it again")
    for public, tensor in tensors.items():
        name = f"raw_{public}"
        if name not in present:
            node = onnx.helper.make_node("Identity", [tensor], [name], name=name)
            model.graph.node.append(node)
            # Types are inferred from the nodes; a value without one is legal for ONNX Runtime.
            model.graph.output.append(onnx.ValueInfoProto(name=name))
