"""The projector, what it reads of a network, and the loss, against the formula by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from static_detrs import static_detr
from torch import Tensor, nn

from anydepth_deploy.errors import CheckpointError, UsageError
from anydepth_deploy.families.registry import find_family
from anydepth_deploy.families.shared.detr.encoder import position_embedding
from anydepth_deploy.train.semantics.injection import Injector, semantic_loss

NETWORKS = [("anydepth-detr", "tiny"), ("rt-detr", "tiny"), ("d-fine", "tiny")]
IMAGES = torch.rand(2, 3, 96, 160, generator=torch.Generator().manual_seed(0))
GRID = (3, 5)


def network(family: str, size: str) -> Any:
    model = static_detr(family, size, queries=20)
    return model.train().requires_grad_(True)


def resized(tokens: np.ndarray, height: int, width: int) -> np.ndarray:
    """[C, h, w] to [C, height, width], bilinear: the outermost edges of both lie on each other."""
    before = tokens.shape[1:]
    result = np.zeros((tokens.shape[0], height, width))
    for row in range(height):
        for column in range(width):
            places = []
            for index, new, old in zip((row, column), (height, width), before, strict=True):
                place = max((index + 0.5) * old / new - 0.5, 0.0)
                first = min(int(place), old - 1)
                places.append((first, min(first + 1, old - 1), place - first))
            (top, bottom, down), (left, right, over) = places
            upper = tokens[:, top, left] * (1 - over) + tokens[:, top, right] * over
            lower = tokens[:, bottom, left] * (1 - over) + tokens[:, bottom, right] * over
            result[:, row, column] = upper * (1 - down) + lower * down
    return result


@pytest.mark.parametrize("grid", [(3, 5), (2, 3), (6, 10), (7, 4)])
def test_the_loss_is_the_formula(grid: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(2, 4, *GRID, generator=generator)
    teacher = torch.randn(2, 4, *grid, generator=generator)
    terms = []
    for one, other in zip(student.double().numpy(), teacher.double().numpy(), strict=True):
        other = resized(other, *GRID) if grid != GRID else other
        for row in range(GRID[0]):
            for column in range(GRID[1]):
                a, b = one[:, row, column], other[:, row, column]
                terms.append(1 - a @ b / math.sqrt((a @ a) * (b @ b)))
    assert float(semantic_loss(student, teacher)) == pytest.approx(
        sum(terms) / len(terms), rel=1e-5
    )


def test_the_loss_is_of_directions() -> None:
    tokens = torch.randn(2, 4, *GRID)
    assert float(semantic_loss(3.0 * tokens, tokens)) == pytest.approx(0.0, abs=1e-6)
    assert float(semantic_loss(-tokens, tokens)) == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize(("family", "size"), NETWORKS)
def test_what_aifi_makes_is_read(family: str, size: str) -> None:
    """Against AIFI run by hand on the projected map of the backbone; only in super's pass."""
    model = network(family, size).eval()
    injector = Injector(model, channels=model.encoder.hidden)
    nn.init.eye_(injector.projector.weight)
    nn.init.zeros_(injector.projector.bias)
    with torch.no_grad():
        with injector.watching():
            maps, _ = model.maps(IMAGES, skip=False)
        model.maps(IMAGES[:1], skip=family.startswith("anydepth"))  # no longer watched
        found = injector.student(IMAGES)
        coarsest = model.encoder.input_proj[-1](maps[-1], False)
        assert coarsest.shape[-2:] == GRID
        tokens = coarsest.flatten(2).transpose(1, 2)
        position = position_embedding(*GRID, model.encoder.hidden, IMAGES.device)
        for layer in model.encoder.encoder[0].layers:
            tokens = layer(tokens, position, False)
    assert found.shape == (2, model.encoder.hidden, *GRID)
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            wanted = tokens[:, row * GRID[1] + column]
            torch.testing.assert_close(found[:, :, row, column], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("family", "size"), NETWORKS)
def test_gradients_go_through_the_encoder_only(family: str, size: str) -> None:
    """They reach AIFI, what is before it, and the projector; nothing behind, no second norm set."""
    model = network(family, size)
    injector = Injector(model, channels=6)
    with injector.watching():
        model.maps(IMAGES, skip=False)
    semantic_loss(injector.student(IMAGES), torch.randn(2, 6, *GRID)).backward()  # type: ignore[no-untyped-call]
    reached = {
        name
        for name, value in model.named_parameters()
        if value.grad is not None and bool(value.grad.any())
    }
    coarsest = f"encoder.input_proj.{len(model.encoder.input_proj) - 1}."
    for name in reached:
        assert name.startswith(("backbone.", "encoder.encoder.", coarsest)), name
        assert "skip" not in name
    aifi = {name for name, _ in model.named_parameters() if name.startswith("encoder.encoder.")}
    assert {name for name in aifi if "skippable" not in name} <= reached
    assert any(name.startswith("backbone.") for name in reached)
    assert any(name.startswith(coarsest) for name in reached)
    for value in injector.projector.parameters():
        assert value.grad is not None
        assert bool(value.grad.any())


def test_the_network_is_left_as_it_was() -> None:
    """No hook stays, not even where the pass fails, nor a parameter."""
    model = network("anydepth-detr", "tiny")
    before = list(model.state_dict())
    injector = Injector(model, channels=6)
    layer = model.encoder.encoder[0].layers[-1]
    with injector.watching():
        assert layer._forward_hooks
        model.maps(IMAGES, skip=False)
    assert not layer._forward_hooks

    def fail() -> None:
        with injector.watching():
            model.maps(IMAGES, skip=False)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not layer._forward_hooks
    with pytest.raises(RuntimeError, match="watching"):  # what failed is let go
        injector.student(IMAGES)
    assert list(model.state_dict()) == before


def test_a_pass_is_read_once() -> None:
    model = network("anydepth-detr", "tiny")
    injector = Injector(model, channels=6)
    with pytest.raises(RuntimeError, match="watching"):
        injector.student(IMAGES)
    with injector.watching():
        model.maps(IMAGES, skip=False)
    injector.student(IMAGES)
    with pytest.raises(RuntimeError, match="watching"):
        injector.student(IMAGES)


def test_the_first_weights_are_the_seeds() -> None:
    model = network("anydepth-detr", "tiny")
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, same, other = (Injector(model, 6, seed=seed).state() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    weight = "encoder.feature_projector.0.weight"
    assert torch.equal(one[weight], same[weight])
    assert not torch.equal(one[weight], other[weight])


def projector(hidden: int, channels: int = 6) -> dict[str, Tensor]:
    name = "encoder.feature_projector.0."
    return {f"{name}weight": torch.rand(channels, hidden), f"{name}bias": torch.rand(channels)}


def test_a_file_may_bring_the_projector() -> None:
    model = network("anydepth-detr", "tiny")
    injector = Injector(model, channels=6)
    state = projector(model.encoder.hidden)
    injector.load({**state, "backbone.conv1.weight": torch.rand(1)}, "a file")
    assert torch.equal(injector.projector.weight, state["encoder.feature_projector.0.weight"])
    assert torch.equal(injector.projector.bias, state["encoder.feature_projector.0.bias"])
    assert injector.state().keys() == state.keys()


def test_a_projector_that_does_not_fit_is_refused() -> None:
    model = network("anydepth-detr", "tiny")
    injector = Injector(model, channels=6)
    before = {name: value.clone() for name, value in injector.state().items()}
    hidden = model.encoder.hidden
    endless = projector(hidden)
    endless["encoder.feature_projector.0.bias"][1] = torch.inf
    for state, what in (
        ({}, "weight' is missing"),
        (projector(hidden, 7), rf"weight' is of shape \[7, {hidden}\]"),
        (endless, "bias' is not finite"),
    ):
        with pytest.raises(CheckpointError, match=f"^a file: .*{what}, expected .*teacher"):
            injector.load(state, "a file")
    for name, value in injector.state().items():
        assert torch.equal(value, before[name])


def test_a_run_begins_with_a_projector_that_fits_and_says_so() -> None:
    model = network("anydepth-detr", "tiny")
    injector = Injector(model, channels=6)
    before = injector.projector.weight.clone()
    hidden = model.encoder.hidden
    told = injector.take_over(projector(hidden, 7))
    assert told.endswith(
        "is not for this one and begins anew: 'encoder.feature_projector.0.weight' is of shape "
        f"[7, {hidden}], expected finite numbers of shape [6, {hidden}]"
    )
    assert torch.equal(injector.projector.weight, before)
    state = projector(hidden)
    assert injector.take_over(state).endswith("no part of the network, goes on with this one")
    assert torch.equal(injector.projector.weight, state["encoder.feature_projector.0.weight"])
    assert torch.equal(injector.projector.bias, state["encoder.feature_projector.0.bias"])


def test_a_network_without_aifi_is_refused() -> None:
    family = find_family("anydepth-yolo")
    with pytest.raises(
        UsageError, match=r"a teacher needs .* AIFI, which .*train one of the DETRs"
    ):
        Injector(family.build(family.sizes["tiny"]), channels=6)
