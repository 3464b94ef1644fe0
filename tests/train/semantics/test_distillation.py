"""A teacher made on the spot, in steps of training as a loop runs them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydepth_deploy.errors import CheckpointError, InputError, UsageError
from anydepth_deploy.families.registry import find_family, find_training
from anydepth_deploy.families.shared.recipe import Recipe, RecipeSettings, total
from anydepth_deploy.families.shared.targets import Targets
from anydepth_deploy.train.semantics.distillation import TERM, SemanticDistillation
from anydepth_deploy.train.semantics.modulation import PUBLISHED, SemanticSettings
from anydepth_deploy.train.semantics.teachers import SemanticTeacher

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))
TARGETS = Targets(
    torch.tensor([[1, 2], [0, -1]]),
    torch.tensor([[[0.3, 0.4, 0.2, 0.3], [0.7, 0.5, 0.2, 0.2]], [[0.5, 0.5, 0.4, 0.4]] * 2]),
)


class Patches(nn.Module):
    """Tokens of 5 channels for each 24 x 24 pixels: no grid of the student's."""

    channels = 5

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.layer = nn.Conv2d(3, 5, 24, 24)
        self.norm = nn.BatchNorm2d(5)
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        assert not torch.is_grad_enabled()
        tokens: Tensor = self.norm(torch.tanh(self.layer(images - 0.5)))
        return tokens


def recipe_of(seed: int = 0) -> Recipe[Any]:
    family, training = find_family("anydepth-detr"), find_training("anydepth-detr")
    torch.manual_seed(seed)
    model = family.build(family.sizes["tiny"].replace(queries=20))
    training.initialise(model)
    recipe = training.recipe(model, RecipeSettings(denoising=4))
    recipe.model.train()
    return recipe


def backward(recipe: Recipe[Any], semantics: SemanticDistillation) -> Tensor:
    """The passes of a step; the term's value."""
    generator = torch.Generator().manual_seed(0)
    with semantics.super_pass():
        terms, seen = recipe.super_pass(IMAGES, TARGETS, generator)
    found = semantics.term(IMAGES)
    assert set(found) == {TERM}
    assert TERM not in terms
    total({**terms, **found}).backward()  # type: ignore[no-untyped-call]
    total(recipe.base_pass(IMAGES, TARGETS, seen, generator)).backward()  # type: ignore[no-untyped-call]
    semantics.after_backward()
    return found[TERM].detach()


def test_the_loss_falls_and_the_weight_follows() -> None:
    """Steps as the loop runs them; then a weight by the mean share of all gradients."""
    recipe = recipe_of()
    teacher = Patches()
    before = [value.clone() for value in teacher.state_dict().values()]
    semantics = SemanticDistillation(recipe.model, teacher, SemanticSettings(2.0, 20.0, 11.0, 1.0))
    parameters = [*recipe.model.parameters(), *semantics.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    losses, shares = [], []
    for _ in range(8):
        optimizer.zero_grad()
        losses.append(float(backward(recipe, semantics)))
        sums = {True: 0.0, False: 0.0}
        named = [*recipe.model.named_parameters(), *semantics.injector.projector.named_parameters()]
        for name, parameter in named:
            if parameter.grad is not None:
                sums[name.startswith("encoder.encoder.")] += float(parameter.grad.abs().sum())
        shares.append(100 * sums[True] / (sums[True] + sums[False]))
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert teacher.calls == 8
    for value, old in zip(teacher.state_dict().values(), before, strict=True):
        assert torch.equal(value, old)
    share = sum(shares) / len(shares)
    assert 0 < share < 10  # below the band
    weight = semantics.end_of_epoch()
    assert semantics.modulation.share == pytest.approx(share, rel=1e-4)
    found, aim = share / 100, 0.12
    wanted = min(2.0 * aim * (1 - found) / (found * (1 - aim)), 20.0)
    assert weight == pytest.approx(wanted, rel=1e-3)
    optimizer.zero_grad()
    heavier = float(backward(recipe, semantics)) / weight
    assert heavier == pytest.approx(losses[-1] / 2.0, rel=0.5)  # the same loss, weighted anew
    assert semantics.end_of_epoch(last_stage=True) == 20.0


def test_the_term_is_weighted() -> None:
    recipe = recipe_of()
    values = []
    for weight in (1.0, 3.0):
        settings = SemanticSettings(weight, 20.0, 11.0, 1.0)
        values.append(
            backward(recipe, SemanticDistillation(recipe.model, Patches(), settings, seed=1))
        )
    assert float(values[1]) == pytest.approx(3.0 * float(values[0]), rel=1e-5)


def test_the_network_keeps_its_form() -> None:
    """Names, shapes, what a checkpoint holds, what runs at every depth: as without a teacher."""
    recipe, other = recipe_of(), recipe_of()
    semantics = SemanticDistillation(recipe.model, Patches())
    backward(recipe, semantics)
    other.model.load_state_dict(recipe.model.state_dict())
    named = dict(other.model.named_parameters())
    assert dict(recipe.model.named_parameters()).keys() == named.keys()
    assert not any("projector" in name or "teacher" in name for name in recipe.model.state_dict())
    with torch.no_grad():
        for depth in ("super", "base"):
            one, wanted = (r.model.eval()(IMAGES, depth) for r in (recipe, other))
            for name, value in one.items():
                assert torch.equal(value, wanted[name])


def test_a_teacher_is_frozen() -> None:
    teacher = Patches().train()
    SemanticDistillation(recipe_of().model, teacher)
    assert not teacher.training
    assert not any(value.requires_grad for value in teacher.parameters())
    assert isinstance(teacher, SemanticTeacher)


def test_settings_by_the_size_of_the_network() -> None:
    semantics = SemanticDistillation(recipe_of().model, Patches())
    assert semantics.modulation.settings == PUBLISHED["s"]
    assert semantics.modulation.weight == 5.0


def test_any_callable_teaches() -> None:
    """One that is no module, and whose grid is the student's."""

    class Colours:
        channels = 3

        def __call__(self, images: Tensor) -> Tensor:
            return F.avg_pool2d(images, 32).half()

    recipe = recipe_of()
    semantics = SemanticDistillation(recipe.model, Colours())
    assert 0 < float(backward(recipe, semantics)) < 2 * 5.0


def test_a_map_of_another_form_is_refused() -> None:
    class Flat(Patches):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).flatten(2).transpose(1, 2)

    class Other(Patches):
        channels = 4

    recipe = recipe_of()
    for teacher, shape in ((Flat(), r"\[2, 8, 5\], expected \[2, 5"), (Other(), r"\[2, 5, 2, 4\]")):
        semantics = SemanticDistillation(recipe.model, teacher)
        with semantics.super_pass():
            recipe.super_pass(IMAGES, TARGETS, None)
        with pytest.raises(InputError, match=f"the teacher gives a map of shape {shape}"):
            semantics.term(IMAGES)


def test_a_run_goes_on(tmp_path: Any) -> None:
    """A state through a file, read as plain tensors and numbers, in the middle of an epoch."""
    recipe = recipe_of()
    first = SemanticDistillation(recipe.model, Patches(), seed=1)
    backward(recipe, first)
    torch.save(first.state_dict(), tmp_path / "state.pth")
    second = SemanticDistillation(recipe.model, Patches(), seed=2)
    second.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True), "a file")
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    for semantics in (first, second):
        recipe.model.zero_grad()
        for parameter in semantics.parameters():
            parameter.grad = None
        torch.manual_seed(0)
        backward(recipe, semantics)
    assert first.end_of_epoch() == pytest.approx(second.end_of_epoch(), rel=1e-5)


@pytest.mark.parametrize("state", [{}, {"modulation": {}, "projector": 3}, {"modulation": {}}])
def test_a_state_of_another_form_is_refused(state: dict[str, Any]) -> None:
    semantics = SemanticDistillation(recipe_of().model, Patches())
    with pytest.raises(CheckpointError, match=r"^a file: it keeps no state of a teacher"):
        semantics.load_state_dict(state, "a file")


def test_other_modules_may_hold_the_network() -> None:
    """Names that a wrapper changed, and a projector that it holds as well, counted once."""
    recipe = recipe_of()
    semantics = SemanticDistillation(recipe.model, Patches())
    backward(recipe, semantics)
    wrapper = nn.ModuleDict({"module": recipe.model, "projector": semantics.injector.projector})
    semantics.end_of_epoch()
    wanted = semantics.modulation.share
    semantics.after_backward(wrapper)
    semantics.end_of_epoch()
    assert semantics.modulation.share == pytest.approx(wanted, rel=1e-6)


def test_families_without_aifi_are_refused() -> None:
    family = find_family("anydepth-yolo")
    with pytest.raises(UsageError, match="AIFI"):
        SemanticDistillation(family.build(family.sizes["tiny"]), Patches())
