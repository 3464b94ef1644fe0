"""Checking model repositories: every rule, shown by a mistake that it finds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import handmade
import onnx
import pytest
from google.protobuf import text_format
from triton_bundle import engines, graphs
from tritonclient.grpc import model_config_pb2 as pb

from anydepth_deploy.errors import BundleError
from anydepth_deploy.serve.check.repository import Problem, check_repository
from anydepth_deploy.serve.plan import ServeOptions
from anydepth_deploy.serve.repository import write_repository

Change = Callable[[Any], object]


@pytest.fixture(scope="module")
def _clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton")
    write_repository(graphs(folder / "b"), folder / "models")
    engine_options = ServeOptions(runtime="tensorrt")
    write_repository(engines(folder / "e"), folder / "models", options=engine_options)
    write_repository(graphs(folder / "h", host=True), folder / "models")
    return folder / "models"


@pytest.fixture
def models(_clean: Path, tmp_path: Path) -> Path:
    """A repository of three bundles, graphs, engines and host suppression, to be damaged."""
    return Path(shutil.copytree(_clean, tmp_path / "models"))


def edit(path: Path, change: Change) -> None:
    """Change a configuration as a message."""
    config = text_format.Parse(path.read_text("utf-8"), pb.ModelConfig())
    change(config)
    path.write_text(text_format.MessageToString(config, as_utf8=True), "utf-8")


def test_what_we_write_is_clean(models: Path) -> None:
    assert check_repository(models) == []


@dataclass(frozen=True)
class Mistake:
    """``file``: where it is made, and reported unless ``at`` says otherwise."""

    name: str
    file: str
    change: Change
    told: str
    at: str | None = None


def rename(name: str) -> Change:
    return lambda config: setattr(config, "name", name)


def again(kind: str, name: str) -> Change:
    def change(config: Any) -> None:
        items = getattr(config, kind)
        items.add().CopyFrom(next(item for item in items if item.name == name))

    return change


def tensor(kind: str, name: str, change: Change) -> Change:
    """Change one input or output."""
    return lambda config: change(next(item for item in getattr(config, kind) if item.name == name))


def dims(kind: str, name: str, *sides: int) -> Change:
    def change(item: Any) -> None:
        item.ClearField("dims")
        item.dims.extend(sides)

    return tensor(kind, name, change)


def drop(kind: str, name: str) -> Change:
    def change(config: Any) -> None:
        items = getattr(config, kind)
        items.remove(next(item for item in items if item.name == name))

    return change


def typed(kind: str, name: str, number: int) -> Change:
    return tensor(kind, name, lambda item: setattr(item, "data_type", number))


def parameter(key: str, value: str | None) -> Change:
    def change(config: Any) -> None:
        if value is None:
            del config.parameters[key]
        else:
            config.parameters[key].string_value = value

    return change


def step(number: int, change: Change) -> Change:
    return lambda config: change(config.ensemble_scheduling.step[number])


def mapped(number: int, kind: str, **changes: str | None) -> Change:
    """Map tensors of a step otherwise; None: not at all."""

    def change(item: Any) -> None:
        names = getattr(item, kind)
        for name, value in changes.items():
            if value is None:
                del names[name]
            else:
                names[name] = value

    return step(number, change)


def sample(change: Change) -> Change:
    """Change the first request that warms a model."""
    return lambda config: change(config.model_warmup[0])


def larger_batch(config: Any) -> None:
    config.max_batch_size = 16
    config.ensemble_scheduling.step[1].model_name = "b_level_1"


def kind(number: int) -> Change:
    return lambda config: setattr(config.instance_group[0], "kind", number)


CPU, GPU = pb.ModelInstanceGroup.KIND_CPU, pb.ModelInstanceGroup.KIND_GPU
GATED, LEVEL, ROUTER = "b_gated/config.pbtxt", "b_level_1/config.pbtxt", "b_router/config.pbtxt"
ENSEMBLE, ENGINE = "b/config.pbtxt", "e_level_1/config.pbtxt"
BEFORE, AFTER = "b_preprocess/config.pbtxt", "b_postprocess/config.pbtxt"
OTHER_LEVELS = json.dumps({"0": "b_level_0", "9": "b_level_1", "2": "b_level_2"})

MISTAKES = [
    # One configuration by itself
    Mistake("name", GATED, rename("b_gate"), "the name is 'b_gate', its folder is 'b_gated'"),
    Mistake("name of a variant", "b_gated/configs/gpu.pbtxt", rename("x"), "the name is 'x'"),
    Mistake("input twice", GATED, again("input", "images"), "input 'images' is there 2 times"),
    Mistake("output twice", LEVEL, again("output", "boxes"), "output 'boxes' is there 2 times"),
    Mistake("no name", ROUTER, lambda c: c.input.add(data_type=pb.TYPE_FP32, dims=[1]), "no name"),
    Mistake("no dims", AFTER, dims("input", "geometry"), "input 'geometry' has no dims"),
    Mistake("a side of 0", AFTER, dims("input", "geometry", 0, 6), "has dims [0, 6]"),
    Mistake("a side of -2", AFTER, dims("input", "geometry", -2, 6), "has dims [-2, 6]"),
    Mistake("no type", BEFORE, typed("input", "image", pb.TYPE_INVALID), "has no data_type"),
    Mistake(
        "a scalar without batches",
        GATED,
        tensor("input", "depth", lambda item: item.reshape.SetInParent()),
        "is reshaped to a scalar",
    ),
    Mistake(
        "reshaped to another size",
        LEVEL,
        tensor("input", "images", lambda item: item.reshape.shape.extend([3, 64, 63])),
        "cannot be reshaped from [3, 64, 64] to [3, 64, 63]",
    ),
    Mistake(
        "reshaped across free sides",
        BEFORE,
        tensor("input", "image", lambda item: item.reshape.shape.extend([-1, -1, 3, -1])),
        "cannot be reshaped",
    ),
    Mistake(
        "reshaped to nothing",
        LEVEL,
        tensor("input", "images", lambda item: item.reshape.shape.extend([0, 3])),
        "has reshape [0, 3]",
    ),
    Mistake("no backend", ROUTER, lambda c: c.ClearField("backend"), "no backend is named"),
    Mistake(
        "platform of another backend",
        LEVEL,
        lambda c: setattr(c, "platform", "tensorrt_plan"),
        "goes with backend 'tensorrt', found 'onnxruntime'",
    ),
    Mistake(
        "an ensemble with a backend",
        ENSEMBLE,
        lambda c: setattr(c, "backend", "python"),
        "an ensemble has no backend",
    ),
    Mistake(
        "an ensemble without steps",
        ENSEMBLE,
        lambda c: c.ClearField("ensemble_scheduling"),
        "has no steps",
    ),
    Mistake(
        "steps of no ensemble",
        ROUTER,
        lambda c: c.ensemble_scheduling.step.add(model_name="b_gated"),
        'it has steps, but not platform "ensemble"',
    ),
    Mistake(
        "a negative batch",
        ROUTER,
        lambda c: setattr(c, "max_batch_size", -1),
        "max_batch_size is -1",
    ),
    Mistake(
        "batching without batches",
        GATED,
        lambda c: c.dynamic_batching.SetInParent(),
        "batches nothing",
    ),
    Mistake(
        "a preferred size beyond the largest",
        LEVEL,
        lambda c: c.dynamic_batching.preferred_batch_size.append(9),
        "preferred_batch_size 9 is not within 1 and max_batch_size 8",
    ),
    Mistake(
        "a preferred size of 0",
        LEVEL,
        lambda c: c.dynamic_batching.preferred_batch_size.append(0),
        "preferred_batch_size 0",
    ),
    Mistake(
        "an ensemble that batches",
        ENSEMBLE,
        lambda c: c.dynamic_batching.SetInParent(),
        "an ensemble makes no batches",
    ),
    Mistake(
        "optional with batches",
        LEVEL,
        tensor("input", "images", lambda item: setattr(item, "optional", True)),
        "optional input 'images' with max_batch_size 8",
    ),
    Mistake(
        "an ensemble's instances",
        ENSEMBLE,
        lambda c: c.instance_group.add(count=1),
        "an ensemble has no instances",
    ),
    Mistake(
        "a negative count",
        LEVEL,
        lambda c: setattr(c.instance_group[0], "count", -1),
        "instance_group has count -1",
    ),
    Mistake(
        "a CPU with GPUs",
        LEVEL,
        lambda c: c.instance_group[0].gpus.append(0),
        "is KIND_CPU and names gpus",
    ),
    Mistake("an engine on a CPU", ENGINE, kind(CPU), "an engine of TensorRT cannot be KIND_CPU"),
    Mistake("a router on a GPU", ROUTER, kind(GPU), "this Python model computes on the CPU"),
    Mistake("variants mixed up", "b_gated/configs/cpu.pbtxt", kind(GPU), "KIND_GPU in the variant"),
    Mistake("the other one", "b_level_1/configs/gpu.pbtxt", kind(CPU), "KIND_CPU in the variant"),
    # The model's file
    Mistake(
        "an input of another name",
        GATED,
        tensor("input", "images", lambda item: setattr(item, "name", "pictures")),
        "input 'pictures' is not in b_gated/1/model.onnx, which has images, depth",
    ),
    Mistake("an input left out", GATED, drop("input", "depth"), "takes 'depth', which is no input"),
    Mistake(
        "an output of another name",
        LEVEL,
        tensor("output", "scores", lambda item: setattr(item, "name", "score")),
        "output 'score' is not in b_level_1/1/model.onnx",
    ),
    Mistake(
        "no outputs",
        LEVEL,
        lambda c: c.ClearField("output"),
        "no output is listed",
    ),
    Mistake(
        "an input of another type",
        GATED,
        typed("input", "depth", pb.TYPE_INT32),
        "input 'depth' is TYPE_INT32, in b_gated/1/model.onnx it is TYPE_INT64",
    ),
    Mistake(
        "an output of another type",
        LEVEL,
        typed("output", "labels", pb.TYPE_INT32),
        "output 'labels' is TYPE_INT32",
    ),
    Mistake(
        "an input of another size",
        LEVEL,
        dims("input", "images", 3, 32, 64),
        "input 'images' has dims [3, 32, 64], b_level_1/1/model.onnx has [-1, 3, 64, 64]",
    ),
    Mistake(
        "the batch twice",
        LEVEL,
        dims("input", "images", -1, 3, 64, 64),
        "with the batch, which dims leave out",
    ),
    Mistake(
        "the batch lost", GATED, dims("output", "scores", 5), "b_gated/1/model.onnx has [-1, 5]"
    ),
    Mistake(
        "an output freer than the file's",
        GATED,
        dims("output", "boxes", -1, -1, 4),
        "output 'boxes' has dims [-1, -1, 4]",
    ),
    Mistake("a scalar of two", GATED, dims("input", "depth", 2), "b_gated/1/model.onnx has [1]"),
    Mistake(
        "a variant that differs",
        "b_level_1/configs/gpu.pbtxt",
        typed("output", "labels", pb.TYPE_INT32),
        "output 'labels' is TYPE_INT32",
    ),
    Mistake(
        "another file's name",
        LEVEL,
        lambda c: setattr(c, "default_model_filename", "graph.onnx"),
        "is missing: b_level_1/config.pbtxt needs it",
        at="b_level_1/1/graph.onnx",
    ),
    Mistake(
        "a version that is not there",
        LEVEL,
        lambda c: c.version_policy.specific.versions.append(2),
        "version_policy asks for version 2",
    ),
    # The router
    Mistake(
        "no gated model",
        ROUTER,
        parameter("gated", "b_all"),
        "parameter 'gated' names the model 'b_all', which is not in the repository",
    ),
    Mistake(
        "no model of a level",
        ROUTER,
        parameter("levels", '{"0": "b_level_7"}'),
        "names the model 'b_level_7'",
    ),
    Mistake("a row beyond the table", ROUTER, parameter("levels", OTHER_LEVELS), "has row 9"),
    Mistake("levels that are no object", ROUTER, parameter("levels", "[]"), "no JSON object"),
    Mistake("levels that are no JSON", ROUTER, parameter("levels", "{"), "no JSON object"),
    Mistake("an unknown depth", ROUTER, parameter("default_depth", "FF"), "unknown depth 'FF'"),
    Mistake(
        "a default depth without a model",
        "e_router/config.pbtxt",
        parameter("default_depth", "TF-1"),
        "the default depth 'TF-1' has no model",
    ),
    Mistake(
        "nowhere to go",
        "e_router/config.pbtxt",
        parameter("levels", "{}"),
        "the router has nowhere to go",
    ),
    Mistake(
        "larger batches", ROUTER, parameter("max_batch", "16"), "parameter 'max_batch' is '16'"
    ),
    Mistake("no number", ROUTER, parameter("max_batch", "many"), "'max_batch' is 'many'"),
    Mistake("no budget", ROUTER, parameter("budget_ms", "soon"), "parameter 'budget_ms' is 'soon'"),
    Mistake(
        "a default of auto that nobody gives a budget",
        ROUTER,
        parameter("default_depth", "auto"),
        "the default depth is 'auto', and parameter 'budget_ms' says nothing",
    ),
    *(
        Mistake(f"no {key}", ROUTER, parameter(key, None), f"the router has no parameter '{key}'")
        for key in ("gated", "levels", "max_batch", "default_depth", "raw_output")
    ),
    Mistake(
        "a static model in the place of the gated one",
        ROUTER,
        parameter("gated", "b_level_0"),
        "'gated' names 'b_level_0', which has no input 'depth'",
    ),
    Mistake(
        "the gated model in the place of a static one",
        ROUTER,
        parameter("levels", '{"0": "b_gated"}'),
        "'b_gated' wants 'depth', which the router does not send",
    ),
    Mistake(
        "a model of another bundle",
        ROUTER,
        parameter("gated", "h_gated"),
        "'h_gated' gives no 'labels', which the router reads",
    ),
    *(
        Mistake(
            f"the reserved name {name}",
            ROUTER,
            tensor("input", "row", rename(name)),
            f"optional input '{name}' may come as a parameter",
        )
        for name in ("priority", "triton_row")
    ),
    # The ensemble
    Mistake(
        "a step that is not there",
        ENSEMBLE,
        step(1, lambda item: setattr(item, "model_name", "b_route")),
        "a step runs 'b_route', which is not in the repository",
    ),
    Mistake(
        "an input that a step does not have",
        ENSEMBLE,
        mapped(2, "input_map", box="input_boxes"),
        "'input_boxes' goes to input 'box' of 'b_postprocess', which has none of that name",
    ),
    Mistake(
        "an output that a step does not have",
        ENSEMBLE,
        mapped(2, "output_map", picture="picture"),
        "'picture' is output 'picture' of 'b_postprocess', which has none of that name",
    ),
    Mistake(
        "a tensor from nowhere",
        ENSEMBLE,
        mapped(2, "input_map", geometry="sizes"),
        "'sizes', which 'b_postprocess' reads, comes from no step",
    ),
    Mistake(
        "an input without a tensor",
        ENSEMBLE,
        mapped(2, "input_map", geometry=None),
        "input 'geometry' of 'b_postprocess' gets nothing",
    ),
    Mistake(
        "a tensor from two steps",
        ENSEMBLE,
        mapped(2, "output_map", picture_boxes="input_boxes"),
        "'input_boxes' comes from 'b_router' and from 'b_postprocess'",
    ),
    Mistake(
        "a tensor from a step and from outside",
        ENSEMBLE,
        mapped(0, "output_map", images="image"),
        "'image' comes from the ensemble's input and from 'b_preprocess'",
    ),
    Mistake(
        "an output from nowhere",
        ENSEMBLE,
        mapped(1, "output_map", scores=None),
        "output 'scores' comes from no step",
    ),
    Mistake(
        "a tensor for nobody",
        ENSEMBLE,
        drop("output", "depth_row"),
        "'depth_row' is read by no step and is no output",
    ),
    Mistake(
        "an input for nobody",
        ENSEMBLE,
        lambda c: c.input.add(name="mask", data_type=pb.TYPE_FP32, dims=[1]),
        "'mask' is read by no step",
    ),
    Mistake(
        "an output of another type",
        ENSEMBLE,
        typed("output", "labels", pb.TYPE_INT32),
        "'labels' is INT64 [-1, -1] from 'b_router', output 'labels' is INT32 [-1, -1]",
    ),
    Mistake(
        "an output of another size",
        ENSEMBLE,
        dims("output", "boxes", -1, -1, 5),
        "output 'boxes' is FP32 [-1, -1, 5]",
    ),
    Mistake(
        "an input of another size",
        ENSEMBLE,
        dims("input", "image", -1, -1, -1, 4),
        "input 'image' of 'b_preprocess' is UINT8 [-1, -1, -1, 3]",
    ),
    Mistake(
        "an input of another rank",
        ENSEMBLE,
        dims("input", "image", -1, -1, 3),
        "'image' is UINT8 [-1, -1, 3] from the ensemble's input",
    ),
    Mistake(
        "steps that do not fit",
        BEFORE,
        typed("output", "geometry", pb.TYPE_FP64),
        "'geometry' is FP64 [-1, 6] from 'b_preprocess'",
        at=ENSEMBLE,
    ),
    Mistake(
        "an input that may be left out, but not there",
        ENSEMBLE,
        tensor("input", "image", lambda item: setattr(item, "optional", True)),
        "'image' may be left out, but input 'image' of 'b_preprocess' may not",
    ),
    Mistake(
        "a circle",
        ENSEMBLE,
        mapped(0, "input_map", image="boxes"),
        "'b_preprocess' waits for what is made of its own outputs",
    ),
    Mistake(
        "a larger batch than its steps'",
        ENSEMBLE,
        larger_batch,
        "max_batch_size is 16, 'b_level_1' takes 8",
    ),
    # Limits of requests
    *(
        Mistake(
            f"{key} of {value!r}",
            file,
            parameter(key, value),
            f"parameter '{key}' is {value!r}: expected a number from 1 on",
        )
        for file, key, value in (
            (ROUTER, "max_images", "0"),
            (ROUTER, "max_queue", "-1"),
            (ROUTER, "in_flight", "many"),
            (BEFORE, "max_images", "8 "),
            (BEFORE, "max_pixels", "1e9"),
            (BEFORE, "max_pixels", ""),
        )
    ),
    # Warming up
    Mistake(
        "a sample of no such batch",
        LEVEL,
        sample(lambda item: setattr(item, "batch_size", 9)),
        "model_warmup 'image' has batch_size 9: expected 1 to 8",
    ),
    Mistake(
        "a sample that is left out",
        GATED,
        sample(lambda item: setattr(item, "batch_size", 0)),
        "model_warmup 'row_0' has batch_size 0: expected 1 to 1",
    ),
    Mistake(
        "a sample without an input",
        GATED,
        sample(lambda item: item.inputs.pop("depth")),
        "model_warmup 'row_0' does not give the input 'depth'",
    ),
    Mistake(
        "a sample of another input",
        GATED,
        sample(lambda item: item.inputs["row"].dims.append(1)),
        "model_warmup 'row_0', input 'row', is no input of the model",
    ),
    Mistake(
        "a sample of another type",
        BEFORE,
        sample(lambda item: setattr(item.inputs["image"], "data_type", pb.TYPE_FP32)),
        "model_warmup 'picture', input 'image', is TYPE_FP32, the model takes TYPE_UINT8",
    ),
    Mistake(
        "a sample of another size",
        LEVEL,
        sample(lambda item: item.inputs["images"].dims.insert(0, 1)),
        "input 'images', has dims [1, 3, 64, 64], the model [3, 64, 64]: give all",
    ),
    Mistake(
        "a sample of any size",
        BEFORE,
        sample(lambda item: item.inputs["image"].dims.__setitem__(0, -1)),
        "input 'image', has dims [-1, 1, 1, 3], the model [-1, -1, -1, 3]: give all",
    ),
    Mistake(
        "a sample of nothing",
        AFTER,
        sample(lambda item: item.inputs["boxes"].ClearField("zero_data")),
        "model_warmup 'box', input 'boxes', has no data",
    ),
    Mistake(
        "a sample from a file that is not there",
        GATED,
        sample(lambda item: setattr(item.inputs["depth"], "input_data_file", "row_9")),
        "is read from warmup/row_9, which is missing",
    ),
    Mistake(
        "a sample from a file that is too short",
        GATED,
        sample(lambda item: setattr(item.inputs["images"], "input_data_file", "row_0")),
        "takes 49152 bytes, warmup/row_0 has 8",
    ),
    Mistake(
        "a warm ensemble",
        ENSEMBLE,
        lambda c: c.model_warmup.add(name="x", batch_size=1),
        "Triton warms no ensemble",
    ),
    # The manifest
    Mistake(
        "another input size than the manifest's",
        BEFORE,
        dims("output", "images", -1, 3, 32, 32),
        "'images' has dims [-1, 3, 32, 32], the manifest says [-1, 3, 64, 64]",
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_found(models: Path, mistake: Mistake) -> None:
    edit(models / mistake.file, mistake.change)
    found = check_repository(models)
    expected = [item for item in found if mistake.told in item.message]
    assert [item.file for item in expected] == [mistake.at or mistake.file], list(map(str, found))
    assert all("\n" not in str(item) for item in found)


def test_a_repository_of_earlier_days_is_clean(models: Path) -> None:
    """Before requests had limits and models were warmed."""
    for path in models.glob("*/**/*.pbtxt"):
        edit(path, _earlier)
    assert check_repository(models) == []


def _earlier(config: Any) -> None:
    config.ClearField("model_warmup")
    for key in ("max_images", "max_pixels", "max_queue"):
        if key in config.parameters:
            del config.parameters[key]


def test_what_the_router_sends_fits_its_models(models: Path) -> None:
    edit(models / ROUTER, typed("input", "images", pb.TYPE_FP16))
    told = list(map(str, check_repository(models)))
    assert any(
        "'prepared' is FP32 [-1, 3, 64, 64] from 'b_preprocess', input 'images'" in line
        for line in told
    )
    edit(models / LEVEL, typed("input", "images", pb.TYPE_FP16))
    told = list(map(str, check_repository(models)))
    assert any(
        "the router sends 'images' as FP32 [-1, 3, -1, -1], 'b_level_1' takes FP16" in line
        for line in told
    )


def test_a_model_without_what_is_read(models: Path) -> None:
    for file in ("config.pbtxt", "configs/cpu.pbtxt"):
        edit(models / "h_gated" / file, lambda config: config.ClearField("output"))
    told = [item for item in check_repository(models) if "which the router reads" in item.message]
    assert told == [
        Problem(
            "h_router/config.pbtxt",
            "'h_gated' gives no 'raw_predictions', which the router reads: list it in its output",
        )
    ]


def test_a_variant_breaks_the_wiring(models: Path) -> None:
    """Only a server that is started with this variant would meet it."""
    edit(models / "b_gated/configs/gpu.pbtxt", drop("output", "boxes"))
    assert [item.file for item in check_repository(models)] == ["b_router/config.pbtxt"]


# Files


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def onnx_graph(change: Change) -> Callable[[Path], None]:
    def edited(path: Path) -> None:
        model = onnx.load(path)
        change(model.graph)
        path.unlink()  # it is a link to what other tests use
        onnx.save(model, path)

    return edited


def fixed_batch(graph: Any) -> None:
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def other_manifest(path: Path) -> None:
    text = handmade.manifest(created="2025-01-01T00:00:00+00:00").model_dump_json()
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "change", "told", "at"),
    [
        ("b_level_1/1/model.onnx", remove, "is missing", None),
        ("e_level_1/1/model.plan", remove, "is missing", None),
        ("b_router/1/model.py", remove, "is missing", None),
        ("b_router/1/manifest.json", remove, "is missing", None),
        ("b/1/manifest.json", remove, "is missing", None),
        ("b_level_1/config.pbtxt", remove, "is missing", None),
        ("b/1", remove, "is missing: a model, and an ensemble, has a numbered folder", None),
        ("b_level_1/1/model.onnx", lambda path: path.write_bytes(b""), "is empty", None),
        ("e_level_1/1/model.plan", lambda path: path.write_bytes(b""), "is empty", None),
        ("b_level_1/1/model.onnx", lambda path: path.write_bytes(b"x"), "ONNX graph", None),
        ("b_level_1/config.pbtxt", lambda path: path.write_text("name: ["), "is no model", None),
        ("b/config.pbtxt", lambda path: path.write_text("nam: 'b'"), "is no model", None),
        ("b/config.pbtxt", lambda path: path.write_bytes(b"\xff"), "cannot be read", None),
        ("b_preprocess/1/manifest.json", other_manifest, "differs from b/1/manifest.json", None),
        ("b_router/1/manifest.json", lambda path: path.write_text("{}"), "not a valid", None),
        (
            "b_level_1/1/model.onnx",
            onnx_graph(fixed_batch),
            "the batch of 'images' in b_level_1/1/model.onnx is 1: set max_batch_size to 0",
            "b_level_1/config.pbtxt",
        ),
        (
            "b_gated/1/model.onnx",
            onnx_graph(lambda graph: setattr(graph.output[0], "name", "classes")),
            "output 'labels' is not in b_gated/1/model.onnx",
            "b_gated/config.pbtxt",
        ),
    ],
)
def test_a_damaged_file_is_found(
    models: Path, file: str, change: Callable[[Path], object], told: str, at: str | None
) -> None:
    path = models / file
    if path.is_file():  # links to the files of the module's repository
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    change(path)
    found = [item for item in check_repository(models) if told in item.message]
    assert (at or file) in [item.file for item in found]


# Other repositories


def test_models_that_are_not_ours(models: Path) -> None:
    """What is not known here is no mistake: backends, weights on a GPU, no variants."""
    for name, text in {
        "sums": 'backend: "my_backend" max_batch_size: 4',
        "on_gpu": 'backend: "python" instance_group { kind: KIND_GPU gpus: 0 }',
        "torch": 'platform: "pytorch_libtorch" default_model_filename: "m.pt"',
    }.items():
        (models / name / "3").mkdir(parents=True)
        (models / name / "config.pbtxt").write_text(text)
    (models / "on_gpu" / "3" / "model.py").write_text("...")
    (models / "torch" / "3" / "m.pt").write_text("...")
    (models / "README.md").write_text("no model")
    (models / ".git").mkdir()
    assert check_repository(models) == []


def test_an_ensemble_of_batches(tmp_path: Path) -> None:
    """Dimensions are compared with the batch where one side makes batches."""
    for name, text in {
        "one": 'backend: "my" max_batch_size: 8 '
        "input { name: 'x' data_type: TYPE_FP32 dims: 3 } "
        "output { name: 'y' data_type: TYPE_FP32 dims: [ 2, 2 ] }",
        "all": "platform: 'ensemble' "
        "input { name: 'x' data_type: TYPE_FP32 dims: [ -1, 3 ] } "
        "output { name: 'y' data_type: TYPE_FP32 dims: [ -1, 2, 2 ] } "
        "ensemble_scheduling { step { model_name: 'one' model_version: -1 "
        "input_map { key: 'x' value: 'x' } output_map { key: 'y' value: 'y' } } }",
    }.items():
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(text)
    assert check_repository(tmp_path) == []
    edit(tmp_path / "all" / "config.pbtxt", dims("output", "y", 2, 2))
    assert [item.file for item in check_repository(tmp_path)] == ["all/config.pbtxt"]


def test_what_triton_completes_by_itself(models: Path) -> None:
    """A graph of somebody else need not list its inputs and outputs."""
    shutil.copytree(models / "b_gated", models / "theirs")
    shutil.rmtree(models / "theirs" / "configs")
    path = models / "theirs" / "config.pbtxt"
    path.write_text('backend: "onnxruntime"')
    assert check_repository(models) == []
    shutil.copytree(models / "b_postprocess", models / "last")
    path = models / "last" / "config.pbtxt"
    path.write_text(
        "platform: 'ensemble' "
        "input { name: 'images' data_type: TYPE_FP32 dims: [ -1, 3, 64, 64 ] } "
        "output { name: 'scores' data_type: TYPE_FP32 dims: [ -1, 5 ] } "
        "ensemble_scheduling { step { model_name: 'theirs' model_version: -1 "
        "input_map { key: 'images' value: 'images' } "
        "output_map { key: 'scores' value: 'scores' } } }"
    )
    assert check_repository(models) == []


def test_an_ensemble_of_an_engine_that_lists_no_outputs(tmp_path: Path) -> None:
    """Only TensorRT knows them: what they are is not guessed, that they are used is checked."""
    for name, text in {
        "one": 'backend: "tensorrt" input { name: "x" data_type: TYPE_FP32 dims: 3 }',
        "all": "platform: 'ensemble' input { name: 'x' data_type: TYPE_FP32 dims: 3 } "
        "output { name: 'y' data_type: TYPE_FP16 dims: 7 } "
        "ensemble_scheduling { step { model_name: 'one' model_version: -1 "
        "input_map { key: 'x' value: 'x' } output_map { key: 'found' value: 'y' } } }",
    }.items():
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(text)
    (tmp_path / "one" / "1" / "model.plan").write_bytes(b"plan")
    assert check_repository(tmp_path) == []
    edit(tmp_path / "all" / "config.pbtxt", mapped(0, "output_map", found="z"))
    assert len(check_repository(tmp_path)) == 2  # nobody reads z, and nothing gives y


def test_folders_without_models(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        check_repository(tmp_path / "nothing")
    with pytest.raises(BundleError, match="holds no model folder"):
        check_repository(tmp_path)
