"""The recipes of all DETRs: what learns, what is stored, odd batches, and short floats."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from recipes import DETRS, fresh, generator, objects, pictures, recipe_of
from torch import Tensor, nn

from anydepth_deploy.errors import DivergedError
from anydepth_deploy.families.shared.detr.training.norms import unfreeze_norms
from anydepth_deploy.families.shared.norms import FrozenBatchNorm2d, SwitchableConv
from anydepth_deploy.families.shared.randomise import randomise
from anydepth_deploy.families.shared.recipe import RecipeSettings, Terms, total
from anydepth_deploy.families.shared.second_sets import is_second_set
from anydepth_deploy.families.shared.targets import Targets

STATIC = [name for name in DETRS if not name.startswith("anydepth-")]


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", DETRS)
def test_a_few_steps_bring_queries_to_the_objects(name: str) -> None:
    recipe = recipe_of(name)
    model = recipe.model
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    images, targets = pictures(), objects(3, 1)
    losses = []
    for _ in range(10):
        optimiser.zero_grad()
        terms, _ = recipe.super_pass(images, targets, generator())
        passes = [terms]
        if name not in STATIC:  # base is super elsewhere
            passes.append(recipe.base_pass(images, targets, None, generator()))
        backward(torch.stack([total(found) for found in passes]).sum())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        # Terms of edges weigh more the better boxes fit: they may rise.
        losses.append([sum_of(found, ("class", "l1", "giou")) for found in passes])
    for first, last in zip(losses[0], losses[-1], strict=True):
        assert last < 0.85 * first, losses


def sum_of(terms: Terms, words: tuple[str, ...]) -> float:
    return sum(term.item() for key, term in terms.items() if key.endswith(words))


@pytest.mark.parametrize("name", STATIC)
def test_gradients_reach_all_that_should_learn(name: str) -> None:
    recipe = recipe_of(name)
    # In evaluation mode: in the other, norms take away what the layers before them add to all.
    randomise(recipe.model)
    terms, _ = recipe.super_pass(pictures(), objects(2, 1), generator())
    backward(total(terms))
    still = []
    for parameter, value in recipe.model.named_parameters():
        if value.requires_grad and (value.grad is None or not value.grad.abs().sum() > 0):
            still.append(parameter)
    assert still == []
    constants = {n for n, p in recipe.model.named_parameters() if not p.requires_grad}
    assert constants == (
        {"decoder.up", "decoder.reg_scale"} if "decoder.up" in constants else set()
    )


@pytest.mark.parametrize("name", DETRS)
def test_base_learns_from_super_alone_where_it_is_matched(name: str) -> None:
    """No gradient goes back to super, and a base that is super has nothing to learn from it."""
    recipe = recipe_of(name, RecipeSettings(denoising=0))
    model = randomise(recipe.model)
    images, targets = pictures(), objects(2, 1)
    _, teacher = recipe.super_pass(images, targets, generator())
    assert not teacher.logits.requires_grad
    terms = recipe.base_pass(images, targets, teacher, generator())
    distilled = {key: term for key, term in terms.items() if key.startswith("distill_")}
    wanted = {"class", "l1", "giou", "backbone", "encoder"}
    if model.family == "d-fine":
        wanted.add("edges")
    assert set(distilled) == {f"distill_{word}" for word in wanted}
    maps = [model.maps(images, skip=skip)[1] for skip in (False, True)]
    if not all(torch.equal(one, other) for one, other in zip(*maps, strict=True)):
        assert all(term.item() > 1e-4 for key, term in distilled.items() if "back" not in key)
        assert name in ("anydepth-detr", "rt-detr-fine")
        return
    for key, term in distilled.items():  # a static network is its own base
        assert term.item() == pytest.approx(0.0, abs=2e-5), key
    learn = [value for value in model.decoder.parameters() if value.requires_grad]
    slopes = torch.autograd.grad(total(distilled), learn, allow_unused=True)
    assert max(float(slope.abs().max()) for slope in slopes if slope is not None) < 1e-3


@pytest.mark.parametrize("name", DETRS)
@pytest.mark.parametrize("counts", [(0, 2), (0, 0)])
def test_pictures_without_objects(name: str, counts: tuple[int, int]) -> None:
    recipe = recipe_of(name)
    recipe.model.train()
    images, targets = pictures(), objects(*counts)
    terms, teacher = recipe.super_pass(images, targets, generator())
    base = recipe.base_pass(images, targets, teacher, generator())
    backward(total(terms) + total(base))
    for term in (*terms.values(), *base.values()):
        assert bool(torch.isfinite(term))
    assert terms["class"].item() > 0
    if not sum(counts):
        assert terms["l1"].item() == terms["giou"].item() == 0
        assert not any(key.startswith("denoising") for key in terms)
    for value in recipe.model.parameters():
        assert value.grad is None or bool(torch.isfinite(value.grad).all())


@pytest.mark.parametrize("name", ["rt-detr", "rt-detr-fine", "d-fine"])
def test_short_floats_lead_the_same_way(name: str) -> None:
    slopes = []
    for enabled in (False, True):
        recipe = recipe_of(name)
        recipe.model.eval()  # two pictures are too few for statistics in short floats
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            terms, teacher = recipe.super_pass(pictures(), objects(3, 1), generator())
            base = recipe.base_pass(pictures(), objects(3, 1), teacher, generator())
        loss = total(terms) + total(base)
        assert loss.dtype == torch.float32
        assert teacher.boxes.dtype == teacher.logits.dtype == torch.float32
        backward(loss)
        found = [p.grad.flatten() for p in recipe.model.parameters() if p.grad is not None]
        slopes.append(torch.cat(found))
        assert bool(torch.isfinite(slopes[-1]).all())
    exact, short = slopes
    assert float(exact @ short / (exact.norm() * short.norm())) > 0.97


@pytest.mark.parametrize("name", ["rt-detr", "d-fine"])
def test_passes_hang_on_their_generator_alone(name: str) -> None:
    recipe = recipe_of(name)
    recipe.model.eval()

    def losses(seed: int) -> list[float]:
        torch.rand(3)  # of the process
        terms, _ = recipe.super_pass(pictures(), objects(2, 1), generator(seed))
        return [term.item() for term in terms.values()]

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


@pytest.mark.parametrize("name", ["rt-detr", "d-fine"])
def test_a_batch_without_a_place_for_objects(name: str) -> None:
    recipe = recipe_of(name)
    recipe.model.eval()
    nothing = Targets(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, 4))
    found, _ = recipe.super_pass(pictures(), nothing, generator())
    padded, _ = recipe.super_pass(pictures(), objects(0, 0), generator())
    assert found == padded


@pytest.mark.parametrize("name", ["rt-detr", "d-fine"])
def test_a_decoder_of_one_layer(name: str) -> None:
    recipe = recipe_of(name, decoder_layers=1)
    recipe.model.eval()
    terms, teacher = recipe.super_pass(pictures(), objects(2, 1), generator())
    base = recipe.base_pass(pictures(), objects(2, 1), teacher, generator())
    assert bool(torch.isfinite(total(terms) + total(base)))
    if name == "d-fine":  # nobody to teach, and of base nobody but the teacher's pupil
        assert terms["ddf"].item() == base["ddf"].item() == base["fgl"].item() == 0
        assert terms["fgl"].item() > 0


def test_numbers_are_those_of_all_processes() -> None:
    """As if another process had three times as many pairs: twice as many on average."""
    asked = []

    def average(value: Tensor) -> Tensor:
        asked.append(value.shape)
        return 2 * value

    alone, _ = recipe_of("d-fine").super_pass(pictures(), objects(2, 1), generator())
    recipe = recipe_of("d-fine", RecipeSettings(denoising=8, average=average))
    shared, teacher = recipe.super_pass(pictures(), objects(2, 1), generator())
    assert asked
    assert set(asked) == {()}
    for name in ("l1", "giou", "fgl"):
        assert shared[name].item() == pytest.approx(alone[name].item() / 2, rel=1e-4)
    assert shared["class"].item() == pytest.approx(alone["class"].item(), rel=1e-4)
    before = len(asked)
    recipe.base_pass(pictures(), objects(2, 1), teacher, generator())
    assert len(asked) == 2 * before


@pytest.mark.parametrize("name", ["rt-detr", "d-fine"])
def test_a_network_that_diverged_is_an_error(name: str) -> None:
    recipe = recipe_of(name, RecipeSettings(denoising=0))
    with torch.no_grad():
        recipe.model.decoder.dec_score_head[0].bias.fill_(torch.nan)
    with pytest.raises(DivergedError, match="not finite numbers: train with a lower"):
        recipe.super_pass(pictures(), objects(1, 1), generator())


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.bn1_skip = FrozenBatchNorm2d(2), FrozenBatchNorm2d(2)
        self.inner = nn.Sequential()
        self.inner.add_module("norm", FrozenBatchNorm2d(2))
        self.inner.add_module("norm_skippable", FrozenBatchNorm2d(2))


def test_second_sets_learn_where_frozen_norms_do_not() -> None:
    assert is_second_set("backbone.bn1_skip")
    assert is_second_set("norm_skippable")
    assert is_second_set("backbone.layer1.0.downsample_skip")
    assert not is_second_set("skip.norm")
    net = _Net()
    assert unfreeze_norms(net, second_sets_only=True) == ["bn1_skip", "inner.norm_skippable"]
    kinds = {name: type(module) for name, module in net.named_modules()}
    assert kinds["bn1"] is kinds["inner.norm"] is FrozenBatchNorm2d
    assert kinds["bn1_skip"] is nn.BatchNorm2d
    assert unfreeze_norms(net) == ["bn1", "inner.norm"]


@pytest.mark.parametrize("train_norms", [True, False])
def test_norms_that_are_frozen_in_the_file(train_norms: bool) -> None:
    stored = set(fresh("rt-detr-hgnetv2").state_dict())
    recipe = recipe_of("rt-detr-hgnetv2", RecipeSettings(denoising=8, train_norms=train_norms))
    model = recipe.model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    terms, _ = recipe.super_pass(pictures(), objects(1, 2), generator())
    backward(total(terms))
    state = model.state_dict()
    moved = [
        n for n in state if n.endswith("running_mean") and not torch.equal(state[n], before[n])
    ]
    in_backbone = [name for name in moved if name.startswith("backbone.")]
    assert bool(in_backbone) == train_norms
    assert any(name.startswith("encoder.") for name in moved)
    learn = [name for name, _ in model.named_parameters() if ".bn." in name]
    assert bool(learn) == train_norms
    assert {name for name in state if recipe.stores(name)} == stored


def test_second_sets_of_an_any_depth_network_always_learn() -> None:
    recipe = recipe_of("anydepth-detr", RecipeSettings(train_norms=False))
    frozen = {n for n, m in recipe.model.named_modules() if isinstance(m, FrozenBatchNorm2d)}
    learn = {
        n
        for n, m in recipe.model.named_modules()
        if isinstance(m, nn.BatchNorm2d) and n.startswith("backbone.")
    }
    assert "backbone.layer1.0.bn1" in frozen
    assert "backbone.layer1.0.bn1_skip" in learn
    assert all(is_second_set(name) for name in learn)
    assert not any(is_second_set(name) for name in frozen)


def test_weights_to_begin_with() -> None:
    model = fresh("rt-detr")
    closing: list[Any] = [
        module
        for name, module in model.named_modules()
        if isinstance(module, SwitchableConv) and name.endswith("branch2b")
    ]
    assert len(closing) == 5
    assert all(bool((module.norm.weight == 0.2).all()) for module in closing)
    assert bool((model.backbone.res_layers[0].blocks[0].branch2a.norm.weight == 1).all())
    model = fresh("d-fine")
    affine = [m for n, m in model.named_modules() if n.endswith(".lab")]
    assert all(m.scale.item() == 1 and m.bias.item() == 0 for m in affine)
    assert len(affine) > 10
    deep = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == 64]
    for conv in deep:  # as if it were one channel
        side = conv.kernel_size[0]
        assert conv.weight.std().item() == pytest.approx((2 / side**2) ** 0.5, rel=0.15)
    assert len(deep) > 2
    decoder = model.decoder
    for head in (decoder.pre_bbox_head, *decoder.dec_bbox_head):
        assert not bool(head.layers[-1].weight.any())
    with torch.no_grad():  # so that a layer changes no box, and takes nothing for something
        outputs = recipe_of("d-fine").forward(pictures(), None, skip=False)
    torch.testing.assert_close(outputs.boxes[-1], outputs.encoder_boxes, rtol=1e-4, atol=1e-5)
    assert float(outputs.logits.sigmoid().mean()) < 0.05


def test_objects_beyond_those_of_other_batches_count() -> None:
    """What losses are divided by is the mean of all batches of a step, where that is known."""
    recipe = recipe_of("rt-detr", RecipeSettings(denoising=0))
    recipe.model.eval()
    targets = objects(2, 1)
    alone, _ = recipe.super_pass(pictures(), targets, generator())
    counted = replace(targets, counted=6.0)
    shared, _ = recipe.super_pass(pictures(), counted, generator())
    for name, term in alone.items():
        assert shared[name].item() == pytest.approx(term.item() / 2, rel=1e-5)
