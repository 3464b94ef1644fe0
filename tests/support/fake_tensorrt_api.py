"""Stand-ins for TensorRT 8.6.1, 10.3.0 and 11.4.0 with the names of the real bindings, no more.

`data/tensorrt-names.json` lists what the bindings themselves gave when loaded: the members of
their enumerations, the names of their classes, and how many arguments their methods take. A name
that a version lacks is an AttributeError here as it is there, and so is a wrong number of arguments
a TypeError. What a call returns is made up: nothing here says how TensorRT behaves.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

NAMES: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "tensorrt-names.json").read_text(encoding="utf-8")
)
VERSIONS = tuple(NAMES)
"""Oldest first."""

ENGINE = b"an engine"


@dataclass
class Layer:
    """A layer of a made-up network: its kind, and its inputs and outputs as (name, type)."""

    kind: str
    name: str
    inputs: Sequence[tuple[str, str]]
    outputs: Sequence[tuple[str, str]]
    metadata: str | None = None


@dataclass
class Input:
    name: str
    shape: Sequence[int]
    shape_tensor: bool = False
    dimensions: Sequence[str] = ()


@dataclass
class Script:
    """What a stand-in gives back. `errors`: of the parser, as (node, name, operator, text)."""

    layers: list[Layer] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=lambda: [Input("images", (-1, 3, 8, 8))])
    outputs: int = 1
    errors: list[tuple[int, str, str, str]] = field(default_factory=list)
    inspector: str = '{"Layers": []}'
    refusal: str | None = None
    fast: bool = True
    cache_fits: bool = True


Calls = list[tuple[str, tuple[Any, ...]]]


class Memory:
    """As IHostMemory, bytes by the protocol of buffers."""

    def __bytes__(self) -> bytes:
        return ENGINE


class _World:
    def __init__(self, version: str, script: Script, without: Sequence[str]) -> None:
        self.version, self.script = version, script
        names = json.loads(json.dumps(NAMES[version]))
        for path in without:
            kind, name = path.split(".")
            if kind in names["enums"]:
                names["enums"][kind].remove(name)
            else:
                del names["classes"][kind][name]
        self.classes: dict[str, dict[str, Any]] = names["classes"]
        self.calls: Calls = []
        self.enums: dict[str, Any] = {
            kind: enum.IntEnum(kind, members, start=0) for kind, members in names["enums"].items()
        }
        self.logger: Any = None

    def thing(
        self, kind: str, values: dict[str, Any] | None = None, **methods: Callable[..., Any]
    ) -> Thing:
        return Thing(self, kind, values or {}, methods)


class Thing:
    """An object of one class of the bindings; every call and every assignment is written down."""

    def __init__(
        self,
        world: _World,
        kind: str,
        values: dict[str, Any],
        methods: dict[str, Callable[..., Any]],
    ) -> None:
        vars(self).update(_world=world, _kind=kind, _values=values, _methods=methods)

    def __getattr__(self, name: str) -> Any:
        entry = self._entry(name)
        if entry == "attribute":
            return self._values[name]  # a KeyError is a fault of the test

        def call(*arguments: Any) -> Any:
            if entry is not None and not entry[0] <= len(arguments) <= entry[1]:
                raise TypeError(f"{self._kind}.{name} takes {entry} arguments, not {arguments}")
            self._world.calls.append((f"{self._kind}.{name}", arguments))
            return self._methods[name](*arguments) if name in self._methods else None

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        if self._entry(name) != "attribute":
            raise AttributeError(f"{self._kind}.{name} is no attribute")
        self._world.calls.append((f"{self._kind}.{name} =", (value,)))
        self._values[name] = value

    def _entry(self, name: str) -> Any:
        if name.startswith("_") or name not in self._world.classes[self._kind]:
            raise AttributeError(f"TensorRT {self._world.version} has no {self._kind}.{name}")
        return self._world.classes[self._kind][name]


def fake_tensorrt(
    version: str, script: Script, without: Sequence[str] = ()
) -> tuple[ModuleType, Calls]:
    """A module like `tensorrt` of that version, and the calls it has seen.

    `without`: names to leave out, as `BuilderFlag.FP16`.
    """
    world = _World(version, script, without)
    module = _Module("tensorrt", version)
    known = NAMES[version]["module"]

    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class ILogger:
        def __init__(self) -> None:
            world.logger = self

        def log(self, severity: Any, message: str) -> None:
            raise NotImplementedError

    ILogger.Severity = Severity  # type: ignore[attr-defined]
    offered: dict[str, Any] = {
        **world.enums,
        "ILogger": ILogger,
        "Builder": lambda logger: _builder(world),
        "OnnxParser": lambda network, logger: _parser(world),
        "Runtime": lambda logger: _runtime(world),
        "init_libnvinfer_plugins": lambda logger, namespace: world.calls.append(
            ("init_libnvinfer_plugins", (namespace,))
        ),
    }
    assert set(offered) <= set(known)
    vars(module).update(offered)
    return module, world.calls


class _Module(ModuleType):
    def __init__(self, name: str, version: str) -> None:
        super().__init__(name)
        self.__version__ = version

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"TensorRT {self.__version__}, or its stand-in, has no {name}")


def _builder(world: _World) -> Thing:
    world.calls.append(("Builder", ()))

    def serialise(*_: Any) -> Memory | None:
        if world.script.refusal is None:
            return Memory()
        severity = type(world.logger).Severity
        world.logger.log(severity.WARNING, "something harmless")
        world.logger.log(severity.ERROR, world.script.refusal)
        return None

    return world.thing(
        "Builder",
        {
            f"platform_has_fast_{name}": world.script.fast
            for name in ("fp16", "int8")
            if f"platform_has_fast_{name}" in world.classes["Builder"]
        },
        create_network=lambda flags: _network(world),
        create_builder_config=lambda: _config(world),
        create_optimization_profile=lambda: world.thing("IOptimizationProfile"),
        build_serialized_network=serialise,
    )


def _network(world: _World) -> Thing:
    script, data = world.script, world.enums["DataType"]

    def tensor(name: str, kind: str) -> Thing:
        return world.thing("ITensor", {"name": name, "dtype": data[kind]})

    def layer(item: Layer) -> Thing:
        inputs = [tensor(*entry) for entry in item.inputs]
        outputs = [tensor(*entry) for entry in item.outputs]
        return world.thing(
            "ILayer",
            {
                "name": item.name,
                "type": world.enums["LayerType"][item.kind],
                "metadata": item.metadata,
                "num_inputs": len(inputs),
                "num_outputs": len(outputs),
            },
            get_input=inputs.__getitem__,
            get_output=outputs.__getitem__,
        )

    def given(item: Input) -> Thing:
        return world.thing(
            "ITensor",
            {"name": item.name, "shape": item.shape, "is_shape_tensor": item.shape_tensor},
            get_dimension_name=lambda axis: item.dimensions[axis],
        )

    layers = [layer(item) for item in script.layers]
    inputs = [given(item) for item in script.inputs]
    return world.thing(
        "INetworkDefinition",
        {"num_layers": len(layers), "num_inputs": len(inputs), "num_outputs": script.outputs},
        get_layer=layers.__getitem__,
        get_input=inputs.__getitem__,
    )


def _config(world: _World) -> Thing:
    def cache(content: bytes) -> Thing:
        return world.thing("ITimingCache", serialize=lambda: b"cache after " + content)

    # What TensorRT refuses is a cache with something in it; an empty one always fits.
    fits = [world.script.cache_fits, True]

    return world.thing(
        "IBuilderConfig",
        add_optimization_profile=lambda profile: 0,
        create_timing_cache=cache,
        set_timing_cache=lambda cache, loosely: fits.pop(0),
    )


def _parser(world: _World) -> Thing:
    errors = world.script.errors

    def error(index: int) -> Thing:
        node, name, operator, text = errors[index]
        return world.thing(
            "ParserError",
            node=lambda: node,
            node_name=lambda: name,
            node_operator=lambda: operator,
            desc=lambda: text,
        )

    return world.thing(
        "OnnxParser",
        {"num_errors": len(errors)},
        parse_from_file=lambda path: not errors,
        get_error=error,
    )


def _runtime(world: _World) -> Thing:
    inspector = world.thing(
        "EngineInspector", get_engine_information=lambda form: world.script.inspector
    )
    engine = world.thing("ICudaEngine", create_engine_inspector=lambda: inspector)
    return world.thing("Runtime", deserialize_cuda_engine=lambda content: engine)
