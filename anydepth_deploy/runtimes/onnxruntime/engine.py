"""ONNX Runtime: the embedded default, on any CPU; and what its providers for GPUs share.

ONNX Runtime goes on without a provider that it cannot start, and says so nowhere that a program
would look. An engine here has the providers it was asked for, or is not opened.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.documents import utf8_path
from anydepth_deploy.errors import (
    AnyDepthError,
    BundleError,
    DeviceError,
    InputError,
    MissingExtraError,
    UsageError,
    first_line,
    shorten,
)
from anydepth_deploy.manifest import RAW_METADATA, TABLE_METADATA
from anydepth_deploy.runtimes.engine import Arrays, Engine, EngineOptions
from anydepth_deploy.runtimes.kept_depths import KeptDepths, row_fed
from anydepth_deploy.runtimes.onnx_file import read_onnx_file
from anydepth_deploy.runtimes.onnxruntime.fixed_depth import fix_depth
from anydepth_deploy.runtimes.onnxruntime.raw_outputs import appended_outputs
from anydepth_deploy.runtimes.onnxruntime.rounding import KEEP_ROUNDING, round_to_half
from anydepth_deploy.runtimes.vnni import lacks_vnni

__all__ = [
    "CPU",
    "CUDA",
    "STOP_SPINNING",
    "DepthsEngine",
    "OnnxRuntimeEngine",
    "Provider",
    "open_engine",
]

Provider = tuple[str, dict[str, str]]
"""An execution provider by ONNX Runtime's name, and its options."""

CPU: Provider = ("CPUExecutionProvider", {})

# FP32 means FP32 here: TF32 keeps 10 bits of the mantissa, and is on unless told otherwise.
CUDA: Provider = ("CUDAExecutionProvider", {"use_tf32": "0"})

HALF_SCALES = ["WeightBiasQuantization"]
"""An optimisation that goes wrong where scales are FP16 (ONNX Runtime 1.31)."""

STOP_SPINNING = ("session.force_spinning_stop", "1")
"""For a piece of a chain, one session of many: while its threads wait busily for its next run,
those of the piece behind it have no core."""

WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
"""Where a model that is given as bytes has its weights."""


class OnnxRuntimeEngine:
    """An inference session; ONNX Runtime sessions may be shared between threads.

    ``providers``: from the one to prefer to the last resort, which is :data:`CPU`. Each takes the
    operators that it can compute and the ones before it cannot. ``row``: opens a gated graph for
    one row of its depth table, without the input ``depth``. On a GPU ``options.rounded`` has
    no meaning: FP16 is computed as the graph says. A run copies its inputs to the device and its
    outputs back.

    Raises :class:`MissingExtraError`, :class:`BundleError`, and for providers other than the CPU's
    :class:`UsageError` where no ONNX Runtime is installed and :class:`DeviceError` where one is
    not in the installed package or does not start. Providers for GPUs are **unverified** on
    hardware.
    """

    def __init__(
        self,
        path: Path,
        options: EngineOptions,
        providers: Sequence[Provider] = (CPU,),
        *,
        row: int | None = None,
    ) -> None:
        wanted = [name for name, _ in providers]
        on_cpu = wanted == [CPU[0]]
        ort = _onnxruntime() if on_cpu else _onnxruntime_with(wanted)
        settings = ort.SessionOptions()
        settings.log_severity_level = 4  # errors reach the caller as exceptions; no second copy
        # ONNX Runtime has kernels that do not saturate; they take half as long again where there is
        # no need for them.
        if lacks_vnni() is not False:
            settings.add_session_config_entry("session.x64quantprecision", "1")
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        if options.artifact is not None and options.artifact.layout == "stages":
            settings.add_session_config_entry(*STOP_SPINNING)
        edited: bytes | None = None
        rounded = options.rounded and on_cpu
        disabled = HALF_SCALES if options.target == "tensorrt" else []
        try:
            with utf8_path(path if row is None else path.resolve()) as named:
                if row is not None:
                    # Of a file that has several names, as in a Triton repository, it reads no
                    # weights.
                    alone = named.stat().st_nlink == 1
                    edited = fix_depth(path, row, named.name if alone else "")
                    settings.add_session_config_entry(WEIGHTS_FOLDER, str(named.parent))
                if options.raw or rounded:
                    edited = _edited(path, edited, raw=options.raw, rounded=rounded)
                self._session: Any = ort.InferenceSession(
                    edited or str(named),
                    settings,
                    providers=[name if not given else (name, given) for name, given in providers],
                    disabled_optimizers=[*disabled, *KEEP_ROUNDING] if rounded else disabled,
                    # It would print what failed, and open the model on the CPU instead.
                    **({} if on_cpu else {"enable_fallback": 0}),
                )
        except AnyDepthError:
            raise
        except Exception as error:  # ONNX Runtime has no public root for its exceptions
            raise BundleError(
                f"ONNX Runtime {ort.__version__} cannot load {path}: {first_line(error)}"
            ) from None
        self.path = path
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        """The providers that are active, in the order of preference."""
        if not on_cpu:
            _check_started(wanted, self.providers, ort.__version__)
            self._session.disable_fallback()  # nor go on without one that fails in a run
        self.inputs: Sequence[str] = [value.name for value in self._session.get_inputs()]
        self.outputs: Sequence[str] = [value.name for value in self._session.get_outputs()]

    def run(self, feeds: Arrays, outputs: Sequence[str]) -> dict[str, NDArray[np.generic]]:
        try:
            found = self._session.run(list(outputs), dict(feeds))
        except Exception as error:
            raise InputError(f"{self.path.name}: {first_line(error)}") from None
        return dict(zip(outputs, found, strict=True))


class DepthsEngine:
    """A gated graph opened once for each depth that is run; may be called from several threads.

    Each depth is a session of its own that costs what a static graph costs, and needs no memory for
    what only other depths use; the ``options.kept_depths`` used last stay open. Weights are read
    from the file when a depth is opened, so it has to stay the file that was opened first.

    Raises what :class:`OnnxRuntimeEngine` raises.
    """

    def __init__(self, path: Path, options: EngineOptions) -> None:
        self.path = path
        self._options = options
        self._depths: KeptDepths[OnnxRuntimeEngine] = KeptDepths(options.kept_depths or 1)
        described = read_onnx_file(path)
        table = json.loads(described.metadata.get(TABLE_METADATA, "null"))
        if not table:
            raise BundleError(f"{path} does not say which depths it holds: export it again")
        self._rows = len(table["rows"])
        self._file = _identity(path)
        # Opened now, so that what cannot be opened shows here and not in the first run.
        first = self._depths.at(int(table["levels"]) - 1, self._open)
        self.inputs: Sequence[str] = [port.name for port in described.inputs]
        self.outputs: Sequence[str] = first.outputs

    def run(self, feeds: Arrays, outputs: Sequence[str]) -> dict[str, NDArray[np.generic]]:
        """Raises :class:`InputError` for a row that the graph's table does not have, and
        :class:`BundleError` where a depth cannot be opened."""
        if set(feeds) != set(self.inputs):
            raise InputError(
                f"{self.path.name}: expected the inputs {', '.join(self.inputs)}; found "
                f"{', '.join(feeds) or 'none'}"
            )
        given = dict(feeds)
        row = row_fed(given.pop("depth"), self._rows, self.path.name)
        return self._depths.at(row, self._open).run(given, outputs)

    def prepare(self, feeds: Arrays) -> None:
        """Open the depth of ``feeds``, instead of when it is run first."""
        self._depths.at(row_fed(feeds["depth"], self._rows, self.path.name), self._open)

    @property
    def compiled(self) -> tuple[int, ...]:
        """Rows of the depths that are open, the latest used last."""
        return self._depths.rows

    def _open(self, row: int) -> OnnxRuntimeEngine:
        self._check_file()
        opened = OnnxRuntimeEngine(self.path, self._options, row=row)
        self._check_file()  # weights are read by where they lie in it
        return opened

    def _check_file(self) -> None:
        try:
            same = _identity(self.path) == self._file
        except OSError:
            same = False
        if not same:
            raise BundleError(
                f"{self.path} was replaced since this session was opened, and the depth is not in "
                "memory: open the bundle again"
            )


def open_engine(path: Path, options: EngineOptions) -> Engine:
    """Open an ONNX file; a gated one for each depth by itself where ``options.kept_depths`` says
    how many to keep. Raises :class:`MissingExtraError` and :class:`BundleError`."""
    gated = options.artifact is not None and options.artifact.layout == "gated"
    if gated and options.kept_depths is not None:
        return DepthsEngine(path, options)
    return OnnxRuntimeEngine(path, options)


def _identity(path: Path) -> tuple[int, ...]:
    """What changes when a file is replaced or written to."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "onnxruntime", "running an ONNX artifact") from None
    return onnxruntime


def _onnxruntime_with(wanted: Sequence[str]) -> Any:
    """The package, which has these providers compiled in."""
    try:
        import onnxruntime
    except ImportError:
        # Not an extra: the package that it would install has no provider for GPUs.
        raise UsageError(
            f"ONNX Runtime's {wanted[0]} needs the package 'onnxruntime-gpu', which is not "
            "installed: pip install onnxruntime-gpu, on a machine with an NVIDIA GPU"
        ) from None
    has = onnxruntime.get_available_providers()
    lacking = [name for name in wanted if name not in has]
    if lacking:
        raise DeviceError(
            f"ONNX Runtime {onnxruntime.__version__} here has no {lacking[0]} (it has "
            f"{shorten(has)}): install onnxruntime-gpu instead of onnxruntime, on a machine with "
            "an NVIDIA GPU"
        )
    return onnxruntime


def _check_started(wanted: Sequence[str], active: Sequence[str], version: str) -> None:
    """Refuse a session that goes on without a provider it was asked for."""
    lacking = [name for name in wanted if name not in active]
    if lacking:
        raise DeviceError(
            f"ONNX Runtime {version} could not start {' and '.join(lacking)}, and would compute "
            f"with {shorten(active)} instead: check that nvidia-smi lists a GPU, and that CUDA, "
            "cuDNN and TensorRT are those this onnxruntime-gpu was built for"
        )


def _edited(path: Path, content: bytes | None, *, raw: bool, rounded: bool) -> bytes:
    """The model (``content``, or that of the file ``path``) with raw outputs, or rounding to FP16,
    in memory; the file stays as it is."""
    found = path.read_bytes() if content is None else content
    if raw:
        said = read_onnx_file(path)
        tensors = json.loads(said.metadata.get(RAW_METADATA, "{}"))
        if not tensors:
            raise BundleError(f"{path} does not say where its raw outputs are: export it again")
        found += appended_outputs(tensors, {port.name for port in said.outputs})
    if not rounded:
        return found
    try:
        import onnx
    except ImportError:
        purpose = "looking into this artifact"
        raise MissingExtraError("onnx", "tensorrt", purpose) from None
    model = onnx.load_model_from_string(found)
    round_to_half(model)
    return bytes(model.SerializeToString())
