"""Triton model repositories: what is written for a bundle, and that nothing is half written."""

from __future__ import annotations

import ast
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import handmade
import onnxruntime
import pytest
from google.protobuf import text_format
from static_bundles import static_bundle
from triton_bundle import SIDE, bundle_of, engine, engines, graph, graphs
from tritonclient.grpc import model_config_pb2

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.documents import file_sha256
from anydepth_deploy.errors import (
    BundleError,
    DepthError,
    MissingExtraError,
    UsageError,
)
from anydepth_deploy.manifest import Manifest
from anydepth_deploy.serve import health, protocol, repository
from anydepth_deploy.serve.check.repository import check_repository
from anydepth_deploy.serve.plan import ServeOptions
from anydepth_deploy.serve.repository import write_repository

TYPES = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}
CPU = model_config_pb2.ModelInstanceGroup.KIND_CPU
GPU = model_config_pb2.ModelInstanceGroup.KIND_GPU


def config(path: Path, file: str = "config.pbtxt") -> Any:
    """A configuration as Triton reads it."""
    return text_format.Parse((path / file).read_text("utf-8"), model_config_pb2.ModelConfig())


def tensors(items: Any) -> dict[str, tuple[str, list[int]]]:
    name = model_config_pb2.DataType.Name
    return {item.name: (name(item.data_type), list(item.dims)) for item in items}


def parameters(path: Path) -> dict[str, str]:
    return {key: value.string_value for key, value in config(path).parameters.items()}


@pytest.mark.parametrize("family", ["bundle", "yolo_bundle", "one_depth_bundle"])
def test_what_is_written_for_a_real_bundle(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bundle: Bundle = request.getfixturevalue(family)
    levels = [f"tiny_level_{level}" for level in range(len(bundle.table.ladder))]
    python = ["tiny_postprocess", "tiny_preprocess", "tiny_router"]

    found = write_repository(bundle, tmp_path / "models")

    assert (found.name, found.device, found.default_depth) == ("tiny", "cpu", "super")
    written = sorted(path.name for path in (tmp_path / "models").iterdir())
    assert written == sorted(["tiny", "tiny_gated", *levels, *python])
    assert sorted(model.name for model in found.models) == written
    for name in ["tiny_gated", *levels]:
        _check_served(tmp_path / "models" / name, name != "tiny_gated")
    for name in ["tiny", *python]:
        manifest = tmp_path / "models" / name / "1" / "manifest.json"
        assert Manifest.model_validate_json(manifest.read_text()) == bundle.manifest
    router = parameters(tmp_path / "models" / "tiny_router")
    assert router["gated"] == "tiny_gated"
    assert json.loads(router["levels"]) == {str(row): name for row, name in enumerate(levels)}
    assert json.loads(parameters(tmp_path / "models" / "tiny")["classes"]) == bundle.classes
    assert check_repository(tmp_path / "models") == []
    assert list(tmp_path.iterdir()) == [tmp_path / "models"]  # nothing is left beside it


@pytest.mark.parametrize("kind", ["d-fine", "rt-detr"])
def test_detrs_whose_decoder_alone_stops_early(
    kind: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every exit is a level, gated and static; outputs are those of any DETR."""
    bundle = static_bundle(kind, tmp_path_factory)
    write_repository(bundle, tmp_path / "models", name="tiny")
    levels = [f"tiny_level_{level}" for level in range(3)]
    ends: dict[str, tuple[str, list[int]]] = {
        "labels": ("TYPE_INT64", [100]),
        "boxes": ("TYPE_FP32", [100, 4]),
        "scores": ("TYPE_FP32", [100]),
    }
    for level in levels:
        assert tensors(config(tmp_path / "models" / level).output) == ends
    router = parameters(tmp_path / "models" / "tiny_router")
    assert router["gated"] == "tiny_gated"
    assert json.loads(router["levels"]) == {str(row): name for row, name in enumerate(levels)}
    assert check_repository(tmp_path / "models") == []


def _check_served(folder: Path, static: bool) -> None:
    """ONNX Runtime's view of the file is what the configuration says, in all its variants."""
    session = onnxruntime.InferenceSession(
        folder / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    for file, kind in (
        ("config.pbtxt", CPU),
        ("configs/cpu.pbtxt", CPU),
        ("configs/gpu.pbtxt", GPU),
    ):
        has = config(folder, file)
        assert (has.name, has.backend) == (folder.name, "onnxruntime")
        assert has.max_batch_size == (8 if static else 0)
        assert [(group.kind, group.count) for group in has.instance_group] == [(kind, 1)]
        for mine, theirs in (
            (has.input, session.get_inputs()),
            (has.output, session.get_outputs()),
        ):
            expected = {
                value.name: (
                    TYPES[value.type],
                    [
                        side if isinstance(side, int) else -1
                        for side in (value.shape[1:] if static else value.shape or [1])
                    ],
                )
                for value in theirs
            }
            assert tensors(mine) == expected


def test_a_link_where_possible(tmp_path: Path) -> None:
    bundle = graphs(tmp_path / "b", layouts=["gated"])
    write_repository(bundle, tmp_path / "models")
    link = tmp_path / "models" / "b_gated" / "1" / "model.onnx"
    assert link.samefile(bundle.path / "gated-fp32-shared.onnx")


def test_a_copy_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    bundle = graphs(tmp_path / "b", layouts=["gated"])
    monkeypatch.setattr(os, "link", refuse)
    write_repository(bundle, tmp_path / "models")
    copy = tmp_path / "models" / "b_gated" / "1" / "model.onnx"
    assert not copy.samefile(bundle.path / "gated-fp32-shared.onnx")
    assert file_sha256(copy) == bundle.manifest.artifacts[0].sha256


def test_python_models_import_what_the_package_has(tmp_path: Path) -> None:
    write_repository(graphs(tmp_path / "b"), tmp_path / "models")
    for module in ("router", "preprocess", "postprocess"):
        text = (tmp_path / "models" / f"b_{module}" / "1" / "model.py").read_text()
        (imported,) = [node for node in ast.parse(text).body if isinstance(node, ast.ImportFrom)]
        assert imported.module == f"anydepth_deploy.serve.models.{module}"
        assert [alias.name for alias in imported.names] == ["TritonPythonModel"]
        source = Path(repository.__file__).parent / "models" / f"{module}.py"
        classes = [
            node.name
            for node in ast.parse(source.read_text()).body
            if isinstance(node, ast.ClassDef)
        ]
        assert "TritonPythonModel" in classes


def test_a_scalar_is_configured_as_one_number(tmp_path: Path) -> None:
    # Triton refuses an empty reshape without batches; its backend makes the scalar.
    write_repository(graphs(tmp_path / "b"), tmp_path / "models")
    depth = config(tmp_path / "models" / "b_gated").input[1]
    assert (depth.name, list(depth.dims), depth.HasField("reshape")) == ("depth", [1], False)


def test_options_reach_the_configurations(tmp_path: Path) -> None:
    options = ServeOptions(
        device="gpu",
        default_depth="level:1",
        max_batch=4,
        max_pixels=5000,
        max_queue=9,
        queue_delay_us=700,
        instances=3,
        workers=5,
        threads=2,
    )
    found = write_repository(
        graphs(tmp_path / "b"), tmp_path / "models", name="street-1", options=options
    )
    models = tmp_path / "models"
    assert found.device == "gpu"
    level = config(models / "street-1_level_0")
    assert level.max_batch_size == 4
    assert list(level.dynamic_batching.preferred_batch_size) == [4]
    assert level.dynamic_batching.max_queue_delay_microseconds == 700
    assert [(group.kind, group.count) for group in level.instance_group] == [(GPU, 3)]
    assert "intra_op_thread_count" not in level.parameters
    on_cpu = config(models / "street-1_level_0", "configs/cpu.pbtxt")
    assert on_cpu.parameters["intra_op_thread_count"].string_value == "2"
    assert config(models / "street-1_preprocess").instance_group[0].count == 5
    assert config(models / "street-1_router").instance_group[0].count == 1
    assert config(models / "street-1_router").instance_group[0].kind == CPU
    router = parameters(models / "street-1_router")
    assert (router["default_depth"], router["max_batch"]) == ("level:1", "4")
    assert router["name"] == "street-1"
    assert (router["max_images"], router["max_queue"]) == ("4", "9")
    assert router["in_flight"] == "32"
    assert (router["budget_ms"], json.loads(router["measured"])["threads"]) == ("", 2)
    before = parameters(models / "street-1_preprocess")
    assert (before["max_images"], before["max_pixels"]) == ("4", "5000")


def test_auto_is_written_where_the_router_reads_it(tmp_path: Path) -> None:
    bundle = graphs(tmp_path / "b")
    for name, options, served in (
        ("cpu", ServeOptions(default_depth="auto", budget_ms=12.5, threads=3), 4),
        ("gpu", ServeOptions(budget_ms=1e-3, device="gpu"), 0),  # its ladders are of the processor
    ):
        write_repository(bundle, tmp_path / "models", name=name, options=options)
        router = parameters(tmp_path / "models" / f"{name}_router")
        assert float(router["budget_ms"]) == options.budget_ms
        assert router["default_depth"] == options.default_depth
        measured = json.loads(router["measured"])
        assert (measured["runtime"], measured["precision"]) == ("onnxruntime", "fp32")
        assert measured["threads"] == options.threads
        assert len(measured["artifacts"]) == served
        assert set(measured["artifacts"]) <= {item.name for item in bundle.manifest.artifacts}
        # Preprocessing tells the router when a picture came.
        arrived = {"arrived": ("TYPE_INT64", [1])}
        has = config(tmp_path / "models" / f"{name}_router")
        assert arrived.items() <= tensors(has.input).items()
        assert {item.name for item in has.input if item.optional} == {"depth", "row", "arrived"}
        before = config(tmp_path / "models" / f"{name}_preprocess")
        assert arrived.items() <= tensors(before.output).items()
        first, second, _ = config(tmp_path / "models" / name).ensemble_scheduling.step
        assert first.output_map["arrived"] == second.input_map["arrived"]
    assert check_repository(tmp_path / "models") == []


@pytest.mark.parametrize("layout", ["gated", "set"])
def test_a_request_to_any_layout_is_limited(tmp_path: Path, layout: Any) -> None:
    options = ServeOptions(max_batch=6)
    bundle = graphs(tmp_path / "b", layouts=[layout])
    write_repository(bundle, tmp_path / "models", options=options)
    for model in ("router", "preprocess"):
        assert parameters(tmp_path / "models" / f"b_{model}")["max_images"] == "6"


def test_the_router_has_places_for_the_largest_requests(tmp_path: Path) -> None:
    bundle = graphs(tmp_path / "b", layouts=["gated"])
    for name, options, places in (
        ("usual", ServeOptions(), ("32", "64")),
        ("large", ServeOptions(max_batch=64), ("128", "128")),
        ("many", ServeOptions(max_batch=64, instances=2, max_queue=5), ("256", "5")),
    ):
        write_repository(bundle, tmp_path / "models", name=name, options=options)
        router = parameters(tmp_path / "models" / f"{name}_router")
        assert (router["in_flight"], router["max_queue"]) == places


def test_what_warms_and_asks_for_health_is_within_any_limit(tmp_path: Path) -> None:
    options = ServeOptions(max_batch=1, max_pixels=1)
    write_repository(graphs(tmp_path / "b"), tmp_path / "models", options=options)
    (sample,) = config(tmp_path / "models" / "b_preprocess").model_warmup
    assert list(sample.inputs["image"].dims) == health.IMAGE["shape"] == [1, 1, 1, 3]


def test_models_are_warm_before_they_are_ready(tmp_path: Path) -> None:
    write_repository(graphs(tmp_path / "b"), tmp_path / "models")
    models = tmp_path / "models"
    files = ("config.pbtxt", "configs/cpu.pbtxt", "configs/gpu.pbtxt")
    for file in files:
        (sample,) = config(models / "b_level_1", file).model_warmup
        assert (sample.batch_size, sample.count) == (1, 1)
        assert list(sample.inputs["images"].dims) == [3, SIDE, SIDE]
        rows = []
        for sample in config(models / "b_gated", file).model_warmup:
            assert list(sample.inputs["images"].dims) == [1, 3, SIDE, SIDE]
            path = models / "b_gated" / "warmup" / sample.inputs["depth"].input_data_file
            rows.append(int.from_bytes(path.read_bytes(), "little"))
            assert path.stat().st_size == 8
        assert rows == [0, 2]  # base and super
    for name in ("preprocess", "postprocess"):
        assert len(config(models / f"b_{name}").model_warmup) == 1


def test_batches_of_one_are_not_waited_for(tmp_path: Path) -> None:
    write_repository(graphs(tmp_path / "b"), tmp_path / "models", options=ServeOptions(max_batch=1))
    level = config(tmp_path / "models" / "b_level_0")
    assert level.max_batch_size == 1
    assert not level.HasField("dynamic_batching")


def test_text_survives(tmp_path: Path) -> None:
    classes = ['the "quoted"', "naïve\nline", "\\back", "日本"]
    write_repository(graphs(tmp_path / "b", classes=classes), tmp_path / "models")
    assert json.loads(parameters(tmp_path / "models" / "b")["classes"]) == classes


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("best", "best"), ("best model (v1.2)", "best_model_v1_2"), ("日本", "model")],
)
def test_the_default_name_is_the_folders(tmp_path: Path, folder: str, expected: str) -> None:
    found = write_repository(graphs(tmp_path / folder), tmp_path / "models")
    assert found.name == expected
    assert (tmp_path / "models" / f"{expected}_router").is_dir()


@pytest.mark.parametrize("name", ["", "a b", "../a", "-a", "a" * 101, "ä", "a\n"])
def test_names_that_cannot_be_a_folders(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a model's"):
        write_repository(graphs(tmp_path / "b"), tmp_path / "models", name=name)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("has", "asked", "served"),
    [
        (("gated",), None, {"b_gated"}),
        (("set",), None, {"b_level_0", "b_level_1", "b_level_2"}),
        (("gated", "set"), ("gated",), {"b_gated"}),
        (("gated", "set"), ("set",), {"b_level_0", "b_level_1", "b_level_2"}),
    ],
)
def test_layouts(tmp_path: Path, has: Any, asked: Any, served: set[str]) -> None:
    bundle = graphs(tmp_path / "b", layouts=has)
    found = write_repository(bundle, tmp_path / "models", options=ServeOptions(layouts=asked))
    assert {model.name for model in found.models if model.artifact} == served
    assert check_repository(tmp_path / "models") == []
    router = parameters(tmp_path / "models" / "b_router")
    assert router["gated"] == ("b_gated" if "b_gated" in served else "")
    assert len(json.loads(router["levels"])) == len(served - {"b_gated"})


def test_a_static_graph_beside_the_ladder_is_served_by_its_row(tmp_path: Path) -> None:
    described = {"layout": "set", "depth": "TF-1", "row": 6}
    bundle = bundle_of(
        tmp_path / "b",
        [("gated", graph(gated=True), {}), ("static", graph(gated=False), described)],
    )
    write_repository(bundle, tmp_path / "models")
    router = parameters(tmp_path / "models" / "b_router")
    assert json.loads(router["levels"]) == {"6": "b_row_6"}
    assert (tmp_path / "models" / "b_row_6" / "1" / "model.onnx").is_file()


def test_predictions_that_the_host_suppresses(tmp_path: Path) -> None:
    write_repository(graphs(tmp_path / "b", host=True), tmp_path / "models")
    for name, dims in (("b_gated", [-1, 7, 20]), ("b_level_1", [7, 20])):
        has = tensors(config(tmp_path / "models" / name).output)
        assert has == {"raw_predictions": ("TYPE_FP32", dims)}
    assert parameters(tmp_path / "models" / "b_router")["raw_output"] == "raw_predictions"
    assert check_repository(tmp_path / "models") == []


def test_predictions_that_nobody_suppresses(tmp_path: Path) -> None:
    rule = {"where": "none"}
    bundle = graphs(tmp_path / "b", host=True, suppression=rule)
    with pytest.raises(BundleError, match="--nms graph or host"):
        write_repository(bundle, tmp_path / "models")


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"runtime": "openvino"}, UsageError, "no backend 'openvino'"),
        ({"device": "tpu"}, UsageError, "expected auto, cpu or gpu"),
        ({"layouts": ("stages",)}, UsageError, "'?stages'? cannot be served"),
        ({"layouts": ()}, UsageError, "no layout"),
        ({"precision": "int8"}, BundleError, "has no artifact"),
        ({"precision": "fp64"}, UsageError, "do not compute in fp64"),
        ({"weights": "folded", "layouts": ("gated",)}, BundleError, "has no artifact"),
        ({"max_batch": 0}, UsageError, "--max-batch is 0"),
        ({"max_pixels": 0}, UsageError, "--max-pixels is 0"),
        ({"max_queue": 0}, UsageError, "--max-queue is 0"),
        ({"queue_delay_us": -1}, UsageError, "--queue-delay-us is -1"),
        ({"instances": 0}, UsageError, "--instances is 0"),
        ({"workers": 0}, UsageError, "--workers is 0"),
        ({"threads": 0}, UsageError, "--threads is 0"),
        ({"target": "sm89"}, UsageError, "--target is for engines"),
        ({"runtime": "tensorrt"}, BundleError, "no TensorRT engines 'set fp32'"),
        ({"default_depth": "level:9"}, DepthError, "levels 0 to 2"),
        ({"layouts": ("set",), "default_depth": "TF-1"}, UsageError, "would not be served"),
        ({"default_depth": "auto"}, UsageError, "auto needs a budget: say with --budget-ms"),
        ({"budget_ms": -2.5}, UsageError, "--budget-ms is -2.5: expected a positive number"),
    ],
)
def test_what_cannot_be_served(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    bundle = graphs(tmp_path / "b")
    with pytest.raises(error, match=told):
        write_repository(bundle, tmp_path / "models", options=ServeOptions(**options))
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


TENSORRT = ServeOptions(runtime="tensorrt")


def test_engines(tmp_path: Path) -> None:
    found = write_repository(engines(tmp_path / "b"), tmp_path / "models", options=TENSORRT)
    assert found.device == "gpu"
    level = tmp_path / "models" / "b_level_1"
    assert (level / "1" / "model.plan").read_bytes() == b"plan"
    assert not (level / "configs").exists()  # no CPU runs an engine
    has = config(level)
    assert (has.backend, has.platform, has.max_batch_size) == ("tensorrt", "tensorrt_plan", 4)
    assert list(has.dynamic_batching.preferred_batch_size) == [2, 4]
    assert has.instance_group[0].kind == GPU
    assert tensors(has.input) == {"images": ("TYPE_FP32", [3, SIDE, SIDE])}
    assert not has.output  # TensorRT knows their dimensions, and all of them have to be listed
    assert parameters(tmp_path / "models" / "b_router")["gated"] == ""
    assert check_repository(tmp_path / "models") == []


@pytest.mark.parametrize(("asked", "batch", "preferred"), [(3, 3, [2, 3]), (64, 4, [2, 4])])
def test_batches_are_those_of_the_engine(
    tmp_path: Path, asked: int, batch: int, preferred: list[int]
) -> None:
    options = ServeOptions(runtime="tensorrt", max_batch=asked)
    write_repository(engines(tmp_path / "b"), tmp_path / "models", options=options)
    has = config(tmp_path / "models" / "b_level_0")
    assert has.max_batch_size == batch
    assert list(has.dynamic_batching.preferred_batch_size) == preferred
    router = parameters(tmp_path / "models" / "b_router")
    assert (router["max_batch"], router["max_images"]) == (str(batch), str(batch))


def test_engines_that_end_before_suppression(tmp_path: Path) -> None:
    bundle = engines(tmp_path / "b", host=True, detections=False)
    write_repository(bundle, tmp_path / "models", options=TENSORRT)
    assert parameters(tmp_path / "models" / "b_router")["raw_output"] == "raw_predictions"


@pytest.mark.parametrize(
    ("made", "options", "told"),
    [
        ({}, {"layouts": ("gated",)}, "takes no scalar inputs"),
        ({}, {"device": "cpu"}, "run on no CPU"),
        ({}, {"threads": 2}, "--threads is for ONNX Runtime"),
        ({}, {"target": "sm75"}, "it has them for: sm89"),
        ({"batch": (2, 2, 4)}, {}, "build it again with --batch 1,2,4"),
        ({"passed": False}, {}, "failed its verification"),
    ],
)
def test_engines_that_cannot_be_served(
    tmp_path: Path, made: dict[str, Any], options: dict[str, Any], told: str
) -> None:
    bundle = engines(tmp_path / "b", **made)
    with pytest.raises((UsageError, BundleError), match=told):
        write_repository(
            bundle, tmp_path / "models", options=ServeOptions(runtime="tensorrt", **options)
        )
    assert not (tmp_path / "models").exists()


def _mixed(path: Path, one: dict[str, Any], other: dict[str, Any]) -> Bundle:
    """Engines of super, of two kinds."""
    made: list[tuple[str, bytes, dict[str, Any]]] = [
        (
            name,
            name.encode(),
            {**engine("FF-2", 2, **options), "layout": "set", "level": 2, "raw": True},
        )
        for name, options in (("one", one), ("other", other))
    ]
    return bundle_of(path, made)


def test_engines_of_several_devices(tmp_path: Path) -> None:
    bundle = _mixed(tmp_path / "b", {"capabilities": ["sm75"]}, {"capabilities": ["sm89"]})
    with pytest.raises(UsageError, match="sm75, sm89: say which with --target"):
        write_repository(bundle, tmp_path / "models", options=TENSORRT)
    options = ServeOptions(runtime="tensorrt", target="sm75")
    write_repository(bundle, tmp_path / "models", options=options)
    assert (tmp_path / "models" / "b_level_2" / "1" / "model.plan").read_bytes() == b"one"


def test_engines_of_several_versions(tmp_path: Path) -> None:
    bundle = _mixed(tmp_path / "b", {"version": "10.5.0"}, {"version": "10.3.0"})
    with pytest.raises(BundleError, match=r"TensorRT 10\.3\.0, 10\.5\.0"):
        write_repository(bundle, tmp_path / "models", options=TENSORRT)


def test_engines_that_end_differently(tmp_path: Path) -> None:
    rule = {"suppression": {"where": "graph"}, "raw_outputs": {"predictions": "p"}}
    made = [
        (
            f"static-{row}",
            b"plan",
            {
                **engine(depth, row, detections=row == 0),
                "layout": "set",
                "level": row,
                "raw": True,
            },
        )
        for row, depth in enumerate(handmade.LADDER)
    ]
    bundle = bundle_of(tmp_path / "b", made, **rule)
    with pytest.raises(BundleError, match="others before suppression"):
        write_repository(bundle, tmp_path / "models", options=TENSORRT)


def test_an_altered_artifact(tmp_path: Path) -> None:
    bundle = graphs(tmp_path / "b")
    path = bundle.path / "static-1.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(BundleError, match="was altered"):
        write_repository(bundle, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_graph_without_the_outputs_of_its_bundle(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "b", [("gated", graph(gated=True, raw=True), {})])
    with pytest.raises(BundleError, match="outputs is none in the graph, labels, boxes, scores in"):
        write_repository(bundle, tmp_path / "models")


@pytest.mark.parametrize("content", [b"no graph", b"\x08\x08"])  # the second: ir_version 8
def test_bytes_that_are_no_graph(tmp_path: Path, content: bytes) -> None:
    bundle = bundle_of(tmp_path / "b", [("gated", content, {})])
    with pytest.raises(BundleError, match="ONNX graph"):
        write_repository(bundle, tmp_path / "models")


# What is not installed


def test_without_tritonclient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = graphs(tmp_path / "b")
    for name in list(sys.modules):
        if name.split(".")[0] == "tritonclient":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'anydepth-deploy\[triton\]'"):
        write_repository(bundle, tmp_path / "models")
    with pytest.raises(MissingExtraError, match="tritonclient"):
        check_repository(tmp_path)


def test_without_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = graphs(tmp_path / "b")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"'onnx'.*anydepth-deploy\[triton\]"):
        write_repository(bundle, tmp_path / "models")


def test_without_the_grpc_half_of_tritonclient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == "tritonclient":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(MissingExtraError, match=r"'grpc'.*anydepth-deploy\[triton\]"):
        protocol.messages()


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    heavy = {"tritonclient", "grpc", "google", "onnx", "torch", "onnxruntime"}
    code = (
        "import sys, anydepth_deploy.serve.repository, anydepth_deploy.commands.triton\n"
        f"print(sorted({heavy!r} & {{name.split('.')[0] for name in sys.modules}}))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert found.stdout.strip() == "[]"


def test_handmade_graphs_are_like_real_ones(bundle: Bundle) -> None:
    """Or the tests above would prove nothing."""
    real = onnxruntime.InferenceSession(
        bundle.path / "gated-fp32-shared.onnx", providers=["CPUExecutionProvider"]
    )
    assert [value.name for value in real.get_inputs()] == ["images", "depth"]
    assert [value.name for value in real.get_outputs()] == ["labels", "boxes", "scores"]
    assert len(handmade.LADDER) == 3
