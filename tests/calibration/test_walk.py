"""Steps that depths have in common run once, and give what each depth's own graph gives."""

from __future__ import annotations

import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from calibration_cases import detr_pieces
from conftest import random_detr, random_images, random_yolo

from anydepth_deploy.calibration.graphs import stage_runs, tensors_of, to_bytes
from anydepth_deploy.calibration.observe import Observations
from anydepth_deploy.calibration.steps import Step, shared_steps
from anydepth_deploy.calibration.walk import Walk
from anydepth_deploy.errors import CalibrationError, InputError, MissingExtraError
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.graph.assemble import assemble_static
from anydepth_deploy.graph.pieces import Pieces


@pytest.fixture(params=["detr", "yolo"])
def network(request: pytest.FixtureRequest) -> tuple[AnyDepthModel, Pieces]:
    if request.param == "detr":
        return random_detr(), detr_pieces()
    return random_yolo(), request.getfixturevalue("yolo_pieces")


# --- steps -----------------------------------------------------------------------------------


def test_a_step_is_what_depths_have_in_common(network: tuple[AnyDepthModel, Pieces]) -> None:
    """Stages form a chain: two depths share a step as long as they ran the same before it."""
    model, pieces = network
    depths = list(model.table.rows)[::5]
    histories: dict[tuple[Any, ...], set[Any]] = {}
    for depth in depths:
        ran: tuple[Any, ...] = ()
        for run in stage_runs(pieces, depth):
            if run.variant is not None:
                ran = (*ran, (run.stage.name, run.variant))
                histories.setdefault(ran, set()).add(depth)
    steps = shared_steps(pieces, depths)
    assert len(steps) == len(histories)
    assert sorted(map(len, histories.values())) == sorted(len(step.depths) for step in steps)
    assert len(steps) < 0.7 * sum(len(step.depths) for step in steps)
    for place, step in enumerate(steps):
        assert all(source is None or source in steps[:place] for source in step.sources)
        stage = step.run.stage
        assert all(stage.variant(depth) == step.run.variant for depth in step.depths)


# --- what they make --------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2])
def test_every_depth_gets_what_its_own_graph_makes(
    network: tuple[AnyDepthModel, Pieces], batch: int
) -> None:
    """Bit for bit: which depths a step is shared by shows nowhere in the values."""
    model, pieces = network
    depths = [*model.table.ladder, *list(model.table.rows)[3:60:19]]
    images = random_images(batch, *pieces.size, seed=batch)
    observations = Observations(pieces, model.table, depths)
    opened = observations.open(threads=1)
    made: dict[tuple[str, str], Any] = {}
    for depth, tensors in opened.run(images):
        for name, array in tensors.items():
            assert (depth, name) not in made  # each once
            made[depth, name] = array
    assert {(depth, name) for depth, names in opened.tensors.items() for name in names} == {*made}
    counted: Any = {}
    for (depth, name), array in made.items():
        counted.setdefault(depth, {})[name] = array
    compared = 0
    named: dict[str, dict[str, Any]] = observations.named(counted)
    for depth, tensors in named.items():
        graph = assemble_static(pieces, model.table.find(depth), detections=False)
        inside = [name for name in tensors if name in tensors_of(graph.graph) and name != "images"]
        proto = onnx.load_from_string(to_bytes(graph))
        del proto.graph.output[:]
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inside)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for name, wanted in zip(inside, session.run(None, {"images": images}), strict=True):
            np.testing.assert_array_equal(tensors[name], wanted, err_msg=f"{name} at {depth}")
            compared += 1
        assert np.array_equal(tensors["images"], images)
    assert compared > 30 * len(depths)
    assert len(made) < 0.9 * compared


@pytest.mark.parametrize("batch", [1, 2])
def test_stages_give_what_torch_gives(network: tuple[AnyDepthModel, Pieces], batch: int) -> None:
    model, pieces = network
    images = random_images(batch, *pieces.size, seed=batch)
    depths = list(model.table.ladder)
    steps = shared_steps(pieces, depths)
    wanted: dict[Step, dict[str, Any]] = {}
    for depth in depths:
        mine = {step.run.stage.name: step for step in steps if depth in step.depths}

        def note(stage: Any, tensors: Any, mine: dict[str, Step] = mine) -> None:
            if (step := mine.get(stage.name)) is not None:
                wanted[step] = {
                    f"{step.prefix}/{name}": tensors[name].numpy()
                    for name in stage.outputs
                    if tensors[name].is_floating_point()
                }

        with torch.no_grad():
            model.eval().flow(torch.from_numpy(images), depth, revise=note)
    before_choices = (
        steps
        if model.family == "anydepth-yolo"
        else [
            step for step in steps if step.run.stage.name.startswith(("stem", "layer", "encoder"))
        ]
    )
    shown = {step: list(wanted[step]) for step in before_choices}
    compared = 0
    for seen in Walk(pieces, steps, shown, threads=1).run(images):
        if seen.step is None:
            continue
        for name, array in seen.tensors.items():
            true = wanted[seen.step][name]
            assert array.shape == true.shape
            assert np.abs(array - true).max() <= 1e-4 * np.abs(true).max(), name
            compared += 1
    assert compared >= len(before_choices) >= 10


def test_what_nobody_reads_any_more_is_let_go_of() -> None:
    pieces, model = detr_pieces(), random_detr()
    steps = shared_steps(pieces, [model.space.base, model.space.super])
    shown = {step: [here for here, _ in step.run.outputs] for step in steps}
    alive: list[tuple[Step | None, weakref.ref[Any]]] = []
    most = 0
    for seen in Walk(pieces, steps, shown, threads=1).run(random_images(1, *pieces.size)):
        alive += [(seen.step, weakref.ref(array)) for array in seen.tensors.values()]
        del seen
        alive = [(step, array) for step, array in alive if array() is not None]
        later = {source for step in steps for source in step.sources}
        assert all(step is None or step in later for step, _ in alive)
        most = max(most, len(alive))
    total = sum(len(names) for names in shown.values())
    assert 3 < most < total / 2
    assert not [array for _, array in alive if array() is not None]


def test_nothing_is_kept_while_the_next_step_runs() -> None:
    """As it is counted: of what was shown before, only what later steps read is in memory."""
    pieces, model = detr_pieces(), random_detr()
    observations = Observations(pieces, model.table, [model.space.super])
    before: list[tuple[str, weakref.ref[Any]]] = []
    held = 0
    for _, tensors in observations.open(threads=1).run(random_images(1, *pieces.size)):
        stages = {name.split("/")[0] for name in tensors}
        alive = [name for name, array in before if array() is not None and name != "images"]
        assert not [name for name in alive if "/Conv" in name or "/Relu" in name], stages
        held += len(alive)
        before = [(name, weakref.ref(array)) for name, array in tensors.items()]
        del tensors
    assert held < 40


# --- what is refused -------------------------------------------------------------------------


def test_what_cannot_be_looked_at_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces, model = detr_pieces(), random_detr()
    steps = shared_steps(pieces, [model.space.base])
    with pytest.raises(CalibrationError, match=r"'stem\.full' makes no .*: nothing, stem/x"):
        Walk(pieces, steps, {steps[0]: ["nothing", "stem/x"]})
    with pytest.raises(InputError, match="ONNX Runtime"):
        list(Walk(pieces, steps, {}, threads=1).run(random_images(1, 32, 33)[:, :2]))
    broken = pieces.pieces[0].graph.clone()
    next(node for node in broken if node.op_type == "Conv").op_type = "Convv"
    first = type(pieces.pieces[0])(pieces.pieces[0].stage, "full", broken)
    others = Pieces((first, *pieces.pieces[1:]), pieces.size, pieces.raw_outputs)
    with pytest.raises(CalibrationError, match=r"cannot load stage 'stem\.full'"):
        Walk(others, steps, {})
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match="'onnxruntime'"):
        Walk(pieces, steps, {})


def test_threads_are_at_most_what_the_machine_allows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from anydepth_deploy.calibration import walk as walk_module

    asked: list[int] = []

    class Session(ort.InferenceSession):  # type: ignore[misc]
        def __init__(self, model: bytes, settings: Any, **options: Any) -> None:
            asked.append(settings.intra_op_num_threads)
            super().__init__(model, settings, **options)

    monkeypatch.setattr(ort, "InferenceSession", Session)
    monkeypatch.setattr(walk_module, "limited_threads", lambda: 1)
    pieces, model = detr_pieces(), random_detr()
    steps = shared_steps(pieces, [model.space.base])[:1]
    shown = {steps[0]: [here for here, _ in steps[0].run.outputs]}
    Walk(pieces, steps, shown)
    Walk(pieces, steps, shown, threads=2)
    assert asked == [1, 2]
