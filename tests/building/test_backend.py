"""What differs between versions of TensorRT.

The versions of TensorRT proper are stand-ins with the names of the real bindings: these tests show
that nothing is called that a version lacks, and which flags are set. That an engine comes out of it
is **unverified on hardware**.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from fake_tensorrt_api import ENGINE, VERSIONS, Calls, Input, Layer, Script, fake_tensorrt
from onnx import helper

from anydepth_deploy.building import worker
from anydepth_deploy.building.backend import Backend, load
from anydepth_deploy.building.compile import BuildSettings, Built
from anydepth_deploy.errors import (
    BuildError,
    DeviceError,
    MissingExtraError,
    PrecisionError,
    UsageError,
)
from anydepth_deploy.manifest import BatchProfile
from anydepth_deploy.runtimes.tensorrt import cuda

OLD, MIDDLE, NEW = VERSIONS
PRECISIONS = ("fp32", "fp16", "int8")
TYPES = {"fp32": "FLOAT", "fp16": "HALF", "int8": "HALF"}


def network(precision: str) -> Script:
    """A convolution, a norm that stays in FP32 and a matrix product, and what a builder that keeps
    to it tells of its engine."""
    kind = TYPES[precision]
    conv = [("x", kind)]
    layers = []
    if precision == "int8":
        conv = [("x/dequantised", kind), ("w/dequantised", kind)]
        for name in "xw":
            layers.append(
                Layer(
                    "DEQUANTIZE",
                    f"{name}/DequantizeLinear",
                    [(f"{name}/quantised", "INT8"), (f"{name}/scale", "FLOAT")],
                    [(f"{name}/dequantised", kind)],
                )
            )
    layers += [
        Layer("CONVOLUTION", "a/Conv_0", conv, [("y", kind)]),
        # One node of the graph may be several layers, and only the metadata tells.
        Layer("REDUCE", "a/Norm_1", [("y", "FLOAT")], [("m", "FLOAT")], "[ONNX Layer: a/Norm_1]"),
        Layer(
            "ELEMENTWISE",
            "a/Norm_1_7",
            [("y", "FLOAT"), ("m", "FLOAT")],
            [("n", "FLOAT")],
            "[ONNX Layer: a/Norm_1 | a.full (then_branch) | a/If (If)]",
        ),
        Layer("MATRIX_MULTIPLY", "a/MatMul_2", [("n", kind), ("v", kind)], [("z", kind)]),
    ]
    told = {"fp32": "Float", "fp16": "Half", "int8": "Half"}[precision]
    listed = [("CaskConvolution", "Int8" if precision == "int8" else told), ("gemm", told)]
    inspector = {
        "Layers": [
            {"Name": "l", "LayerType": kind, "Inputs": [{"Name": "i", "Format/Datatype": text}]}
            for kind, text in listed
        ]
    }
    return Script(layers, inspector=json.dumps(inspector))


class Device:
    capability, name = "sm87", "Orin"


@pytest.fixture(autouse=True)
def _device(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(device=Device)
    monkeypatch.setattr(cuda, "load_cuda", lambda: found)


def build(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    version: str,
    script: Script,
    precision: str = "fp16",
    without: Sequence[str] = (),
    graph: Path | None = None,
    **settings: Any,
) -> tuple[Built, Calls]:
    module, calls = fake_tensorrt(version, script, without)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    settings.setdefault("batch", BatchProfile(smallest=1, typical=2, largest=4))
    made = worker.build(
        graph or folder / "net.onnx",
        folder / "net.engine",
        BuildSettings(runtime="tensorrt", precision=precision, **settings),
        lambda text: None,
    )
    return made, calls


def arguments(calls: Calls, name: str) -> list[tuple[Any, ...]]:
    return [given for called, given in calls if called == name]


def flags(calls: Calls) -> set[str]:
    return {flag.name for (flag,) in arguments(calls, "IBuilderConfig.set_flag")}


# What a version can


@pytest.mark.parametrize(
    ("version", "typed", "opset", "half"),
    [(OLD, False, 17, False), (MIDDLE, True, 20, True), (NEW, True, 24, True)],
)
def test_what_each_version_can(version: str, typed: bool, opset: int, half: bool) -> None:
    module, _ = fake_tensorrt(version, Script())
    backend = Backend("tensorrt", module)
    assert (backend.name, backend.version) == ("tensorrt", version)
    assert (backend.strongly_typed, backend.largest_opset, backend.half_scales) == (
        typed,
        opset,
        half,
    )
    assert backend.nested_ifs
    assert backend.non_max_suppression
    assert not backend.ahead_of_time
    assert backend.known_capabilities == ()


def test_the_real_tensorrt_rtx() -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    backend = load("tensorrt-rtx")
    assert backend.title.startswith("TensorRT-RTX 1.")
    assert backend.strongly_typed
    assert backend.ahead_of_time
    assert backend.half_scales
    assert not backend.nested_ifs
    assert not backend.non_max_suppression
    assert backend.largest_opset >= 19  # of our graphs with FP16 scales
    assert set(backend.known_capabilities) >= {"sm75", "sm86", "sm89", "sm120"}


def test_a_stand_in_lacks_what_its_version_lacks() -> None:
    # Otherwise the tests below show nothing.
    module: Any
    module, _ = fake_tensorrt(NEW, network("fp16"))
    builder = module.Builder(None)
    with pytest.raises(AttributeError, match=r"has no Builder\.platform_has_fast_fp16"):
        builder.platform_has_fast_fp16  # noqa: B018
    with pytest.raises(AttributeError, match=r"has no ILayer\.precision"):
        builder.create_network(0).get_layer(0).precision = 1
    with pytest.raises(AttributeError):
        module.BuilderFlag.FP16  # noqa: B018
    with pytest.raises(TypeError, match="takes"):
        builder.create_builder_config().set_memory_pool_limit(1)


# Loading


def test_too_old_a_version_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module, _ = fake_tensorrt(OLD, Script())
    monkeypatch.setattr(module, "__version__", "8.5.3.1")
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(BuildError, match=r"TensorRT 8\.5\.3 is too old: versions 8\.6 to 11"):
        load("tensorrt")


def test_missing_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(BuildError, match=r"comes with JetPack.*versions 8\.6 to 11 are served"):
        load("tensorrt")
    with pytest.raises(MissingExtraError, match=r"anydepth-deploy\[rtx\]"):
        load("tensorrt-rtx")
    with pytest.raises(UsageError, match="'onnxruntime' builds no engines"):
        load("onnxruntime")


def test_a_broken_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: not there\\nx')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(BuildError, match=r"cannot be loaded: libnvinfer\.so\.10: not there$"):
        load("tensorrt")


# Building with each version


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_delivers_each_precision(
    version: str, precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, calls = build(
        monkeypatch, tmp_path, version, network(precision), precision, workspace=2**28
    )
    assert (tmp_path / "net.engine").read_bytes() == ENGINE
    expected = {"fp32": {"fp32": 2}, "fp16": {"fp16": 2}, "int8": {"int8": 1, "fp16": 1}}
    assert made.layers == expected[precision]
    assert (made.device, made.capabilities, made.notes) == ("Orin", ("sm87",), ())
    assert made.strongly_typed == (version != OLD)
    assert made.peak_memory > 1e7
    # FP32 is not TF32, and the limit is set, everywhere.
    ((tf32,),) = arguments(calls, "IBuilderConfig.clear_flag")
    assert tf32.name == "TF32"
    ((pool, size),) = arguments(calls, "IBuilderConfig.set_memory_pool_limit")
    assert (pool.name, size) == ("WORKSPACE", 2**28)
    ((verbosity,),) = arguments(calls, "IBuilderConfig.profiling_verbosity =")
    assert verbosity.name == "DETAILED"
    ((bits,),) = arguments(calls, "Builder.create_network")
    module, _ = fake_tensorrt(version, Script())
    kinds: Any = vars(module)["NetworkDefinitionCreationFlag"]
    wanted = kinds.EXPLICIT_BATCH if version == OLD else kinds.STRONGLY_TYPED
    assert bits == 1 << int(wanted)
    weakly: dict[str, set[str]] = {
        "fp32": set(),
        "fp16": {"FP16", "OBEY_PRECISION_CONSTRAINTS"},
        "int8": {"FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"},
    }
    assert flags(calls) == (weakly[precision] if version == OLD else set())
    ((name, *shapes),) = arguments(calls, "IOptimizationProfile.set_shape")
    assert name == "images"
    assert shapes == [(1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8)]


def test_a_weakly_typed_builder_keeps_nodes_in_fp32(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, calls = build(
        monkeypatch, tmp_path, OLD, network("fp16"), float32=("a/Norm_1", "a/Folded_9")
    )
    # Both layers of the norm and nothing else: their precision, and the type of what they give.
    assert [kind.name for (kind,) in arguments(calls, "ILayer.precision =")] == ["FLOAT"] * 2
    assert [kind.name for _, kind in arguments(calls, "ILayer.set_output_type")] == ["FLOAT"] * 2
    assert made.notes == ("1 of 2 nodes to keep in FP32 are no layers of their own",)


@pytest.mark.parametrize("version", [MIDDLE, NEW])
def test_strongly_typed_builders_are_told_nothing_of_nodes(
    version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, calls = build(monkeypatch, tmp_path, version, network("fp16"), float32=("a/Norm_1",))
    assert not any(name.startswith("ILayer.") and "precision" in name for name, _ in calls)
    assert made.notes == ()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_precision_without_its_flag_is_refused(
    precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A weakly typed version that lacks the flag would silently build FP32.
    flag = f"BuilderFlag.{precision.upper()}"
    with pytest.raises(PrecisionError, match=rf"{precision.upper()} cannot be delivered by T"):
        build(monkeypatch, tmp_path, OLD, network(precision), precision, without=[flag])
    assert not (tmp_path / "net.engine").exists()


def test_a_device_without_fast_int8_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = network("int8")
    script.fast = False
    with pytest.raises(PrecisionError, match=r"no fast FP16: build fp32"):
        build(monkeypatch, tmp_path, OLD, script, "int8")


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_of_another_precision_is_refused(
    version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = network("fp16")
    script.inspector = network("fp32").inspector
    with pytest.raises(PrecisionError, match=r"net\.onnx: FP16 cannot be delivered.*2 in FP32"):
        build(monkeypatch, tmp_path, version, script)
    script = network("int8")
    script.inspector = network("fp16").inspector
    with pytest.raises(PrecisionError, match="none of 1 convolutions computes in INT8"):
        build(monkeypatch, tmp_path, version, script, "int8")
    assert not (tmp_path / "net.engine").exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_gpu_no_builder_is_made(
    version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail() -> Any:
        raise DeviceError("no NVIDIA GPU")

    monkeypatch.setattr(cuda, "load_cuda", lambda: SimpleNamespace(device=fail))
    module, calls = fake_tensorrt(version, network("fp16"))
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    batch = BatchProfile(smallest=1, typical=1, largest=1)
    settings = BuildSettings(runtime="tensorrt", precision="fp16", batch=batch)
    with pytest.raises(DeviceError):
        worker.build(tmp_path / "a.onnx", tmp_path / "a.engine", settings, print)
    assert calls == []


def test_tensorrt_proper_takes_no_targets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="builds for the device it runs on"):
        build(monkeypatch, tmp_path, NEW, network("fp16"), capabilities=("sm75",))


# Inputs


@pytest.mark.parametrize("version", VERSIONS)
def test_the_profile_covers_all_free_inputs(
    version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = network("fp16")
    script.inputs = [
        Input("images", (-1, 3, 8, 16)),
        Input("depth", ()),
        Input("anchors", (5, 4)),
        Input("tokens", (7, -1, 2)),
        Input("pairs", (-1, -1), dimensions=("N", "N")),
        Input("rows", (), shape_tensor=True),
    ]
    _, calls = build(monkeypatch, tmp_path, version, script)
    assert arguments(calls, "IOptimizationProfile.set_shape") == [
        ("images", (1, 3, 8, 16), (2, 3, 8, 16), (4, 3, 8, 16)),
        ("tokens", (7, 1, 2), (7, 2, 2), (7, 4, 2)),
        ("pairs", (1, 1), (2, 2), (4, 4)),
    ]
    ((name, low, typical, high),) = arguments(calls, "IOptimizationProfile.set_shape_input")
    assert (name, low, typical) == ("rows", [0], [0])
    assert len(high) == 1
    assert high[0] > 1000


def test_no_profile_without_a_free_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = network("fp16")
    script.inputs = [Input("images", (2, 3, 8, 8)), Input("depth", ())]
    _, calls = build(monkeypatch, tmp_path, NEW, script)
    assert arguments(calls, "IBuilderConfig.add_optimization_profile") == []


def test_free_sizes_beside_the_batch_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = network("fp16")
    script.inputs = [Input("images", (-1, 3, -1, 8), dimensions=("N", "", "H", ""))]
    with pytest.raises(BuildError, match=r"net\.onnx: the input images has the shape \[-1, 3, -1"):
        build(monkeypatch, tmp_path, NEW, script)


# Timing caches


@pytest.mark.parametrize("version", VERSIONS)
def test_a_timing_cache_is_used_and_kept(
    version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "timing.cache"
    made, _ = build(monkeypatch, tmp_path, version, network("fp16"), timing_cache=path)
    assert (path.read_bytes(), made.notes) == (b"cache after ", ())
    made, calls = build(monkeypatch, tmp_path, version, network("fp16"), timing_cache=path)
    assert (path.read_bytes(), made.notes) == (b"cache after cache after ", ())
    # Strictly: a cache of another device would choose kernels by times that are not this one's.
    assert [loosely for _, loosely in arguments(calls, "IBuilderConfig.set_timing_cache")] == [
        False
    ]
    script = network("fp16")
    script.cache_fits = False
    made, _ = build(monkeypatch, tmp_path, version, script, timing_cache=path)
    assert path.read_bytes() == b"cache after "
    assert made.notes == (f"{path} is of another version or device, so it was begun anew",)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["net.engine", "timing.cache"]


def test_a_timing_cache_that_cannot_be_written_costs_no_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "nowhere" / "timing.cache"
    made, _ = build(monkeypatch, tmp_path, NEW, network("fp16"), timing_cache=path)
    assert made.notes == (
        f"the timing cache {path} could not be written: No such file or directory",
    )
    with pytest.raises(BuildError, match=r"timing cache .* cannot be read: Is a directory"):
        build(monkeypatch, tmp_path, NEW, network("fp16"), timing_cache=tmp_path)


# What goes wrong


@pytest.mark.parametrize("version", VERSIONS)
def test_the_parser_names_the_node(
    version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "first"),
        helper.make_node("Wobble", ["a"], ["y"], "net/Wobble_7"),
    ]
    values = [helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    graph = tmp_path / "wobbly.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:])), graph)
    script = network("fp16")
    # Before 10 there is only the number, and the name has to be looked up.
    named = ("", "") if version == OLD else ("net/Wobble_7", "Wobble")
    script.errors = [(1, *named, "Assertion failed: creator: Plugin not found")]
    with pytest.raises(
        BuildError, match=r"wobbly\.onnx: TensorRT .* node net/Wobble_7 \(Wobble\): Plugin not fou"
    ):
        build(monkeypatch, tmp_path, version, script, graph=graph)


def test_what_the_builder_says_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = network("fp16")
    script.refusal = (
        "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any "
        "implementation for node {ForeignNode[a...b]}. In computeCosts at /_src/optimizer.cpp:41)"
    )
    with pytest.raises(BuildError) as error:
        build(monkeypatch, tmp_path, NEW, script)
    assert str(error.value) == (
        f"{tmp_path / 'net.onnx'}: TensorRT 11.4.0 cannot build it: Could not find any "
        "implementation for node {ForeignNode[a...b]}: try another --layout or --precision"
    )
    script.refusal = "[virtualMemoryBuffer.cpp::resizePhysical::154] Error Code 2: OutOfMemory (x)"
    with pytest.raises(BuildError, match="smaller --workspace"):
        build(monkeypatch, tmp_path, NEW, script)
