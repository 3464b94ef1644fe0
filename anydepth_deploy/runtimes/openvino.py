"""OpenVINO: Intel's runtime for CPUs, in FP32 or BF16.

Five of its habits decide how it is used here:

- If nodes cost it a tenth to a half of a call, and with a batch that is left dynamic they give
  wrong results: their memory is not right when the batch changes, or at the first run (OpenVINO
  2025.0 and 2026.4, both weight layouts, no error raised). An If whose predicate is a constant it
  resolves when it compiles. So a gated graph is compiled once for each depth that is run, with the
  row of the depth as a constant, for any batch size; the depths used last are kept.
- The precision it computes FP32 graphs in is its own choice unless it is told, and BF16 on every
  CPU that has the instructions. So it is always told.
- INT8 graphs are computed with sums that saturate on x86 CPUs without VNNI, so they are refused
  there.
- FP16 graphs are computed in FP32, their weights stored in half the memory.
- Gather gives zeros for a row past the end of a table, which is a depth nobody asked for. So the
  row is checked before each run.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.documents import utf8_path
from anydepth_deploy.errors import (
    AnyDepthError,
    BundleError,
    InputError,
    MissingExtraError,
    UsageError,
)
from anydepth_deploy.manifest import RAW_METADATA, TABLE_METADATA
from anydepth_deploy.runtimes.engine import Arrays, Compute, Engine, EngineOptions
from anydepth_deploy.runtimes.kept_depths import KeptDepths, row_fed
from anydepth_deploy.runtimes.vnni import why_no_int8

__all__ = ["KEPT_DEPTHS", "OpenVinoEngine", "computes_here", "open_engine"]


KEPT_DEPTHS = 8
"""Depths of a gated graph that stay compiled, the latest used, where nothing else is asked for:
each holds the weights of its convolutions in an order of its own."""

DEVICE = "CPU"
HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoEngine:
    """A graph compiled once for each depth; may be called from several threads.

    Runs of the same depth wait for each other: a compiled model computes one at a time. Who runs a
    depth that is compiled does not wait for the compilation of another.
    """

    def __init__(self, path: Path, options: EngineOptions) -> None:
        self._ov = _openvino()
        self.path = path
        self._core = _core()
        self._settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": HINTS[options.compute],
            "NUM_STREAMS": 1,
        }
        if options.threads is not None:
            self._settings["INFERENCE_NUM_THREADS"] = options.threads
        self._check_compute(options.compute)
        if options.target is not None and (reason := why_no_int8(path.name)):
            raise UsageError(reason)
        self._depths: KeptDepths[_Compiled] = KeptDepths(options.kept_depths or KEPT_DEPTHS)
        try:
            self._model = self._read()
            self.inputs: Sequence[str] = [port.any_name for port in self._model.inputs]
            self.outputs: Sequence[str] = [_output_name(port) for port in self._model.outputs]
            if options.raw:
                self.outputs = [*self.outputs, *self._add_raw_outputs()]
            self._batched = [name for name in self.inputs if name != "depth"]
            if not self._batched:
                raise RuntimeError("the graph takes no images")  # reported below
            self._rows, super_row = self._count_rows()
            # Compiled now, so that what cannot be compiled shows here and not in the first run.
            self._at(super_row)
        except AnyDepthError:
            raise
        except Exception as error:  # OpenVINO has no root for its exceptions
            raise BundleError(
                f"OpenVINO {self._ov.__version__} cannot load {path}: {_reason(error)}"
            ) from None

    def run(self, feeds: Arrays, outputs: Sequence[str]) -> dict[str, NDArray[np.generic]]:
        """Execute once; arrays come back as copies.

        Raises :class:`InputError` for a row that the graph's table does not have, and when the run
        fails, the compilation of a depth included.
        """
        if set(feeds) != set(self.inputs):
            raise InputError(
                f"{self.path.name}: expected the inputs {', '.join(self.inputs)}; found "
                f"{', '.join(feeds) or 'none'}"
            )
        given = dict(feeds)
        row = 0 if self._rows is None else row_fed(given.pop("depth"), self._rows, self.path.name)
        sizes = {np.shape(feeds[name])[:1] for name in self._batched}
        if len(sizes) != 1 or () in sizes:
            raise InputError(f"{self.path.name}: its inputs are of different batch sizes")
        try:
            return self._at(row).run(given, outputs)
        except AnyDepthError:
            raise
        except Exception as error:
            raise InputError(f"{self.path.name}: {_reason(error)}") from None

    def _check_compute(self, compute: str) -> None:
        if compute not in computes_here():
            raise UsageError("this CPU has no BF16 instructions for OpenVINO: use compute fp32")

    def _read(self) -> Any:
        # The reader is named: OpenVINO would try those of all formats on a damaged file.
        from openvino.frontend import FrontEndManager

        if not self.path.is_file():
            raise BundleError(f"{self.path} does not exist: expected an ONNX file")
        reader = FrontEndManager().load_by_framework("onnx")
        with utf8_path(self.path) as path:
            return reader.convert(reader.load(str(path)))

    def _metadata(self, key: str) -> Any:
        """An entry of the file's metadata, which is JSON; None when there is none."""
        entry = ["framework", key]
        return (
            json.loads(self._model.get_rt_info(entry).astype(str))
            if self._model.has_rt_info(entry)
            else None
        )

    def _add_raw_outputs(self) -> list[str]:
        """Expose the heads' raw outputs where export was not asked to; return their names."""
        tensors = self._metadata(RAW_METADATA)
        if not tensors:
            raise BundleError(
                f"{self.path} does not say where its raw outputs are: export it again"
            )
        missing = {f"raw_{public}": tensor for public, tensor in tensors.items()}
        missing = {name: tensor for name, tensor in missing.items() if name not in self.outputs}
        if missing:
            self._model.add_outputs(list(missing.values()))
        return list(missing)

    def prepare(self, feeds: Arrays) -> None:
        """Compile the depth of ``feeds``, instead of when it is run first."""
        row = 0 if self._rows is None else row_fed(feeds["depth"], self._rows, self.path.name)
        self._at(row)

    @property
    def compiled(self) -> tuple[int, ...]:
        """Rows of the depths that are compiled, the latest used last; 0 for a static graph."""
        return self._depths.rows

    def _count_rows(self) -> tuple[int | None, int]:
        """Rows of the depth table, None for a static graph; and the row of ``super``."""
        if "depth" not in self.inputs:
            return None, 0
        table = self._metadata(TABLE_METADATA)
        if not table:
            raise BundleError(f"{self.path} does not say which depths it holds: export it again")
        return len(table["rows"]), int(table["levels"]) - 1

    def _at(self, row: int) -> _Compiled:
        """The model compiled for this depth."""
        return self._depths.at(row, self._compile)

    def _compile(self, row: int) -> _Compiled:
        model = self._model.clone()
        if self._rows is not None:
            self._fix_depth(model, row)
        compiled = self._core.compile_model(model, DEVICE, self._settings)
        wanted = self._settings["INFERENCE_PRECISION_HINT"]
        found = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if found != wanted:
            raise UsageError(
                f"OpenVINO {self._ov.__version__} computes {self.path.name} in {found} although "
                f"{wanted} was asked for: choose another precision or runtime"
            )
        kinds = {
            node.get_rt_info()["layerType"].astype(str)
            for node in compiled.get_runtime_model().get_ops()
        }
        if "If" in kinds:  # with any batch size it would give wrong results
            raise UsageError(
                f"OpenVINO {self._ov.__version__} does not resolve the depths of "
                f"{self.path.name}: export the bundle with --layout set, or use another version"
            )
        return _Compiled(compiled, self.outputs)

    def _fix_depth(self, model: Any, row: int) -> None:
        """Make the input ``depth`` a constant, after which the model is of this depth alone."""
        depth = next(p for p in model.get_parameters() if p.get_friendly_name() == "depth")
        constant = self._ov.op.Constant(np.asarray(row, np.int64))
        depth.output(0).replace(constant.output(0))
        model.remove_parameter(depth)


class _Compiled:
    """A compiled model and the one request that runs it."""

    def __init__(self, compiled: Any, outputs: Sequence[str]) -> None:
        self._request = compiled.create_infer_request()
        self._ports = dict(zip(outputs, compiled.outputs, strict=True))
        self._lock = threading.Lock()

    def run(self, feeds: Arrays, outputs: Sequence[str]) -> dict[str, NDArray[np.generic]]:
        with self._lock:
            self._request.infer(dict(feeds), share_inputs=True, share_outputs=True)
            return {name: self._output(name) for name in outputs}

    def _output(self, name: str) -> NDArray[np.generic]:
        """A copy: the next run writes into the same memory."""
        found: NDArray[np.generic] = np.array(self._request.get_tensor(self._ports[name]).data)
        # OpenVINO may compute in int32 what the file declares as int64.
        return found.astype(np.int64) if found.dtype == np.int32 else found


def open_engine(path: Path, options: EngineOptions) -> Engine:
    """Open an ONNX file.

    Raises :class:`MissingExtraError`, :class:`BundleError`, and :class:`UsageError` for a
    precision that this CPU or this version does not deliver.
    """
    return OpenVinoEngine(path, options)


def computes_here() -> tuple[Compute, ...]:
    """What this machine can compute FP32 graphs in. Raises :class:`MissingExtraError`."""
    capabilities = _core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    return ("fp32", "bf16") if "BF16" in capabilities else ("fp32",)


@functools.cache
def _core() -> Any:
    """One for the life of the process.

    OpenVINO's plugin for CPUs gives the thread that first uses it another stack for signals, and
    takes the memory back with the last user of its ``Core``: where two of them end in the order in
    which they were made, or one ends in another thread, the thread is left with a stack that is
    gone, and the next signal, Ctrl-C for one, is a segmentation fault (2026.4).
    """
    return _openvino().Core()


def _openvino() -> Any:
    try:
        import openvino
    except ImportError:
        raise MissingExtraError("openvino", "openvino", "running with OpenVINO") from None
    return openvino


def _output_name(port: Any) -> str:
    """The name of an output as the file has it; the tensor itself may go by several."""
    return str(port.node.get_friendly_name().removesuffix("/sink_port_0"))


def _reason(error: Exception) -> str:
    """The line of an OpenVINO error that says what happened; the others say where in its code."""
    places = ("Exception from ", "Check '", "FrontEnd API failed", "While ")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith(places)), (lines or ["unknown"])[0])
