"""Runs that take over what the run before them has done: the same bits, fewer stages."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from conftest import random_detr, random_yolo
from torch import Tensor

from anydepth_deploy.depth import Depth
from anydepth_deploy.families.shared.memory import StageMemory
from anydepth_deploy.families.shared.stages import AnyDepthModel, Stage

SIZE = (64, 96)


@pytest.fixture(scope="module", params=["detr", "yolo"])
def network(request: pytest.FixtureRequest) -> AnyDepthModel:
    return (random_detr() if request.param == "detr" else random_yolo()).eval()


@pytest.fixture
def remembering(network: AnyDepthModel) -> Iterator[AnyDepthModel]:
    network.memory = StageMemory()
    yield network
    network.memory = None


def images_of(batch: int) -> Tensor:
    return torch.rand(batch, 3, *SIZE, generator=torch.Generator().manual_seed(batch))


def plain(model: AnyDepthModel, images: Tensor, depth: Depth) -> dict[str, Tensor]:
    """The same without a memory."""
    kept, model.memory = model.memory, None
    try:
        return model.flow(images, depth)
    finally:
        model.memory = kept


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def spy(model: AnyDepthModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that are run from here on."""
    ran: list[str] = []
    run = Stage.run

    def noted(stage: Stage, variant: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        ran.append(stage.name)
        return run(stage, variant, tensors)

    monkeypatch.setattr(Stage, "run", noted)
    return ran


@torch.inference_mode()
def test_depths_in_any_order(remembering: AnyDepthModel) -> None:
    """Two batch sizes in turn, each gate set and reset behind others that are."""
    depths = random.Random(0).sample(remembering.table.rows, 32)
    pictures = {batch: images_of(batch) for batch in (1, 3)}
    for place, depth in enumerate(depths):
        images = pictures[(1, 3)[place % 2]]
        assert_same(remembering.flow(images, depth), plain(remembering, images, depth))


@torch.inference_mode()
def test_a_revised_run_leaves_nothing_behind(remembering: AnyDepthModel) -> None:
    """Whatever stage is revised, a run without revision is as if there had been none; and the
    stages behind a revision see it."""
    images = images_of(2)
    base, top = remembering.table.find("base"), remembering.table.find("super")
    for name in [stage.name for stage in remembering.stages(SIZE)]:

        def revise(stage: Stage, tensors: dict[str, Tensor], name: str = name) -> None:
            if stage.name == name:
                for output in stage.outputs:
                    tensors[output] = (
                        tensors[output] * 0.5
                        if tensors[output].is_floating_point()
                        else tensors[output]
                    )

        for depth in (top, base):
            kept, remembering.memory = remembering.memory, None
            try:
                expected = remembering.flow(images, depth, revise=revise)
            finally:
                remembering.memory = kept
            assert_same(remembering.flow(images, depth, revise=revise), expected)
            assert_same(remembering.flow(images, depth), plain(remembering, images, depth))


@torch.inference_mode()
def test_only_what_differs_is_run(
    remembering: AnyDepthModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_of(1)
    depths = sorted(remembering.table.rows, key=lambda depth: depth.settings)[:32]
    ran = spy(remembering, monkeypatch)
    for depth in depths:
        plain(remembering, images, depth)
    alone = len(ran)
    ran.clear()
    for depth in depths:
        remembering.flow(images, depth)
    assert len(ran) < 0.5 * alone
    ran.clear()
    remembering.flow(images, depths[-1])
    assert not ran
    remembering.flow(images.clone(), depths[-1])
    assert not ran


@torch.inference_mode()
def test_other_images_are_other_images(remembering: AnyDepthModel) -> None:
    """Also where they are written into the same memory."""
    images = images_of(1)
    remembering.flow(images, remembering.table.find("super"))
    images[0, 0, 0, 0] += 0.25
    found = remembering.flow(images, remembering.table.find("super"))
    assert_same(found, plain(remembering, images, remembering.table.find("super")))
