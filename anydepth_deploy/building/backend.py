"""TensorRT 8.6 to 11 and TensorRT-RTX as builders: what building differs in between versions.

They share their Python interface, apart from what this module chooses by version. Names were
checked against the bindings of TensorRT 8.6.1, 10.3.0 and 11.4.0 and of TensorRT-RTX 1.7.1; engines
were built with the last only. **What is for TensorRT proper is unverified on hardware.**

Precision lives in the graph. Strongly typed networks (TensorRT-RTX, TensorRT 10 and later) take it
from there; the weakly typed ones of TensorRT 8.6 have to be allowed FP16 and INT8 by flags, and be
told which nodes stay in FP32. A precision for which a version has no flag is refused here: skipping
a flag that is not there would silently build FP32.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from anydepth_deploy.errors import BuildError, MissingExtraError, PrecisionError, UsageError
from anydepth_deploy.runtimes.tensorrt.module import MODULES

__all__ = ["Backend", "load"]

OLDEST = (8, 6)

OPSETS = (((11, 0), 24), ((10, 15), 24), ((10, 0), 20), ((9, 0), 19), ((8, 6), 17))
"""Largest opset that the parser reads, from a version on; from the tables of supported operators of
the parser's releases. Between two known versions the older one's is taken."""

RTX_OPSET = 20
"""TensorRT-RTX 1.7 documents none; opsets 18 and 19 were built, its parser follows 10.x."""

HIGHEST_SHAPE_VALUE = 65535
"""Of an input whose value TensorRT wants bounds for; more than any depth table has rows."""

NODE_OF_LAYER = re.compile(r"\[ONNX Layer: (.*?)(?: \||\])")
"""What the parser writes into a layer's metadata."""


def load(runtime: str) -> Backend:
    """Import the module of ``runtime``, ``tensorrt`` or ``tensorrt-rtx``; needs no GPU.

    Raises :class:`UsageError` for another name, :class:`MissingExtraError` and :class:`BuildError`
    where it is not installed, broken or too old.
    """
    if runtime not in MODULES:
        raise UsageError(f"'{runtime}' builds no engines: expected {' or '.join(MODULES)}")
    found = MODULES[runtime]
    try:
        module = found.load(f"building engines for {found.title}", BuildError)
    except MissingExtraError:
        if runtime == "tensorrt-rtx":
            raise
        raise BuildError(  # an extra cannot bring it
            "TensorRT is not installed for this Python: it comes with JetPack (python3-libnvinfer) "
            "or NVIDIA's package 'tensorrt'; versions 8.6 to 11 are served"
        ) from None
    return Backend(runtime, module)


class Backend:
    """An imported TensorRT or TensorRT-RTX, with what its version can.

    Attributes:
        name: the runtime, ``tensorrt`` or ``tensorrt-rtx``.
        version: as the module gives it, ``10.3.0``.
        title: both, for messages: ``TensorRT-RTX 1.7.1``.
        strongly_typed: whether networks take all types from the graph.
        largest_opset: of graphs that the parser reads.
        half_scales: whether scales of QuantizeLinear may be FP16.
        nested_ifs: whether an If inside an If builds.
        non_max_suppression: whether there is an implementation of NonMaxSuppression.
        ahead_of_time: whether engines are built for devices that are not here.
        known_capabilities: for which, as ``sm75``.
    """

    def __init__(self, runtime: str, module: ModuleType) -> None:
        self.name = runtime
        self.version = str(module.__version__)
        self._trt: Any = module
        called = MODULES[runtime].title
        found = tuple(int(digits) for digits in re.findall(r"\d+", self.version)[:3])
        self.title = f"{called} {'.'.join(map(str, found))}"
        rtx = runtime == "tensorrt-rtx"
        if not rtx and found < OLDEST:
            raise BuildError(
                f"{self.title} is too old: versions 8.6 to 11 are served; JetPack 6 and later "
                "bring one of them"
            )
        self._major = found[0]
        self.ahead_of_time = rtx
        self.nested_ifs = not rtx
        self.non_max_suppression = not rtx
        self.strongly_typed = hasattr(self._trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
        self.half_scales = rtx or found >= (10,)
        self.largest_opset = (
            RTX_OPSET if rtx else next(opset for since, opset in OPSETS if found >= since)
        )
        self.known_capabilities: tuple[str, ...] = ()
        if rtx:
            names = sorted(
                (name for name in self._trt.ComputeCapability.__members__ if name[:2] == "SM"),
                key=lambda name: int(name[2:]),
            )
            self.known_capabilities = tuple(name.lower() for name in names)

    def logger(self, hear: Callable[[bool, str], None]) -> Any:
        """A logger that hands every message to ``hear``, with whether it is an error."""
        severity = self._trt.ILogger.Severity
        errors = (severity.ERROR, severity.INTERNAL_ERROR)
        base: Any = self._trt.ILogger

        class Logger(base):  # type: ignore[misc]
            def __init__(self) -> None:
                base.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                hear(severity in errors, message)

        return Logger()

    def builder(self, logger: Any) -> Any:
        """A builder. Of TensorRT proper only where there is a GPU: without one it may crash."""
        if not self.ahead_of_time:
            self._trt.init_libnvinfer_plugins(logger, "")
        return self._trt.Builder(logger)

    def network(self, builder: Any) -> Any:
        """An empty network with an explicit batch dimension, strongly typed where that is known."""
        flags = self._trt.NetworkDefinitionCreationFlag
        wanted = 0
        if self.strongly_typed:
            wanted |= 1 << int(flags.STRONGLY_TYPED)
        if self._explicit_batch():
            wanted |= 1 << int(flags.EXPLICIT_BATCH)
        return builder.create_network(wanted)

    def parser(self, network: Any, logger: Any) -> Any:
        return self._trt.OnnxParser(network, logger)

    def parser_error(self, error: Any) -> tuple[int, str, str, str]:
        """The index, name and operator of the node a parser stopped at, and what it says.

        The index is -1 where it was none; name and operator are empty before TensorRT 10.
        """
        name = str(error.node_name()) if hasattr(error, "node_name") else ""
        operator = str(error.node_operator()) if hasattr(error, "node_operator") else ""
        return int(error.node()), name, operator, str(error.desc())

    def config(self, builder: Any, *, workspace: int | None) -> Any:
        """How to build: in detail, without TF32, with at most ``workspace`` bytes of scratch."""
        config = builder.create_builder_config()
        config.profiling_verbosity = self._trt.ProfilingVerbosity.DETAILED
        # FP32 means FP32 here: TF32 keeps 10 bits of the mantissa, and is on unless told otherwise.
        config.clear_flag(self._trt.BuilderFlag.TF32)
        if workspace is not None:
            config.set_memory_pool_limit(self._trt.MemoryPoolType.WORKSPACE, workspace)
        return config

    def set_targets(self, config: Any, capabilities: Sequence[str]) -> None:
        """Build for ``capabilities`` (``sm75``), or for the device at hand where there are none.

        Raises :class:`BuildError` for what this version does not build for.
        """
        if not self.ahead_of_time:
            if capabilities:
                raise BuildError(
                    f"{self.title} builds for the device it runs on, not ahead of time: name "
                    "no target"
                )
            return
        known: Any = self._trt.ComputeCapability
        if unknown := [name for name in capabilities if name not in self.known_capabilities]:
            raise BuildError(
                f"{self.title} does not build for {unknown[0]}: expected "
                f"{', '.join(self.known_capabilities)}"
            )
        targets = [getattr(known, name.upper()) for name in capabilities] or [known.CURRENT]
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            if not config.set_compute_capability(target, index):
                raise BuildError(f"{self.title} does not take {capabilities[index]} as a target")

    def set_types(
        self, builder: Any, network: Any, config: Any, precision: str, float32: Sequence[str]
    ) -> int:
        """Let a weakly typed builder compute as the graph says; how many nodes it keeps in FP32.

        Strongly typed networks need nothing. Raises :class:`PrecisionError` where a precision
        cannot be delivered.
        """
        if self.strongly_typed:
            return 0
        flags = self._trt.BuilderFlag
        wanted = {"fp32": (), "fp16": ("FP16",), "int8": ("FP16", "INT8")}[precision]
        for name in wanted:
            fast = getattr(builder, f"platform_has_fast_{name.lower()}", False)
            if not hasattr(flags, name) or not fast:
                raise PrecisionError(
                    f"{precision.upper()} cannot be delivered by {self.title} on this device, "
                    f"which has no fast {name}: build fp32"
                )
            config.set_flag(getattr(flags, name))
        if not wanted:
            return 0
        config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)
        return self._keep_float32(network, frozenset(float32))

    def _keep_float32(self, network: Any, nodes: frozenset[str]) -> int:
        data = self._trt.DataType
        floating = (data.FLOAT, data.HALF)
        kept: set[str] = set()
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            found = NODE_OF_LAYER.match(layer.metadata or "")
            node = found[1] if found else layer.name
            if node not in nodes or layer.type == self._trt.LayerType.CONSTANT:
                continue
            kept.add(node)
            outputs = [layer.get_output(place) for place in range(layer.num_outputs)]
            if all(output.dtype in floating for output in outputs):
                layer.precision = data.FLOAT
            for place, output in enumerate(outputs):
                if output.dtype == data.FLOAT:
                    layer.set_output_type(place, data.FLOAT)
        return len(kept)

    def profile(self, builder: Any, network: Any, batch: tuple[int, int, int]) -> Any | None:
        """An optimisation profile for the smallest, typical and largest batch; None without need.

        Raises :class:`BuildError` for an input with free sizes beside its batch.
        """
        profile = builder.create_optimization_profile()
        needed = False
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            shape = [int(side) for side in tensor.shape]
            if tensor.is_shape_tensor:
                count = shape[0] if shape else 1
                bounds = [[0] * count, [0] * count, [HIGHEST_SHAPE_VALUE] * count]
                profile.set_shape_input(tensor.name, *bounds)
                needed = True
            elif -1 in shape:
                free = [axis for axis, side in enumerate(shape) if side < 0]
                if len(free) > 1 and len({tensor.get_dimension_name(axis) for axis in free}) > 1:
                    raise BuildError(
                        f"the input {tensor.name} has the shape {shape} with several free sizes, "
                        "expected a free batch only: export the graph again"
                    )
                sizes = [tuple(size if side < 0 else side for side in shape) for size in batch]
                profile.set_shape(tensor.name, *sizes)
                needed = True
        return profile if needed else None

    def attach_cache(self, config: Any, content: bytes) -> tuple[Any | None, bool]:
        """Give the builder a timing cache: None where there is no such thing (TensorRT-RTX), and
        whether ``content`` was of use, that is of this version and device."""
        if self.ahead_of_time:
            return None, False
        cache = config.create_timing_cache(content) if content else None
        if cache is not None and config.set_timing_cache(cache, False):
            return cache, True
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
        return cache, False

    def typed_layers(self, network: Any) -> list[tuple[str, str]]:
        """Convolutions and matrix products of a network: name, and type the graph asks for.

        A type is ``int8`` where a DequantizeLinear gives both factors.
        """
        kinds: Any = self._trt.LayerType
        names = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED")
        products = [getattr(kinds, name) for name in names if hasattr(kinds, name)]
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        dequantised = {
            layer.get_output(0).name for layer in layers if layer.type == kinds.DEQUANTIZE
        }
        found = []
        for layer in layers:
            if layer.type in products:
                inputs = [layer.get_input(place) for place in range(min(2, layer.num_inputs))]
                factors = [tensor for tensor in inputs if tensor is not None]
                if len(factors) == 2 and all(item.name in dequantised for item in factors):
                    found.append((str(layer.name), "int8"))
                else:
                    found.append((str(layer.name), str(factors[0].dtype.name)))
        return found

    def inspect(self, logger: Any, engine: bytes) -> str:
        """The layers of a built engine as JSON. Needs the device."""
        runtime = self._trt.Runtime(logger)
        loaded = runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            raise BuildError(f"{self.title} does not load the engine it has just built")
        inspector = loaded.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def _explicit_batch(self) -> bool:
        """Whether it has to be asked for; from 10 on there is nothing else."""
        return self.name == "tensorrt" and self._major < 10
