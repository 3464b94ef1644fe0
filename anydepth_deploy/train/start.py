"""What a run starts from: a checkpoint, any-depth or not, or nothing.

A network that always runs in full becomes any-depth by having second norm sets, which begin as
copies of the first: at super it computes what it computed before. Where the data has other classes
than the checkpoint, what depends on their number is made anew, but for classes of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from anydepth_deploy.checkpoints.checkpoint import Checkpoint, load_model, read_checkpoint
from anydepth_deploy.checkpoints.class_names import COCO_CLASSES
from anydepth_deploy.errors import CheckpointError, UsageError, missing_extra, shorten
from anydepth_deploy.families.family import Family, Training
from anydepth_deploy.families.registry import find_family, find_training
from anydepth_deploy.families.shared.recipe import Recipe, RecipeSettings
from anydepth_deploy.families.shared.second_sets import with_second_sets
from anydepth_deploy.families.shared.settling import Said, assumption
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.families.shared.usual_state import usual_state
from anydepth_deploy.train.config import TrainConfig
from anydepth_deploy.train.processes import ALONE, Processes
from anydepth_deploy.train.weights import stored_state

__all__ = ["Start", "open_start"]

TRAINED_NORMS = "trained_norms"
"""An entry of a checkpoint: norms that it holds frozen learned when it was trained."""

MOST_DENOISING = 100


@dataclass(frozen=True)
class Start:
    """A network as a run finds it. ``recipe``: with its model, channels last in memory, on the
    CPU. ``train_norms``: whether norms that the file holds frozen learn. ``notes``: what a person
    has to know of it. ``projector``: of a file that was trained with a teacher, which is no part of
    the network; see :class:`~anydepth_deploy.checkpoints.checkpoint.Checkpoint`."""

    family: Family
    recipe: Recipe[Any]
    train_norms: bool
    notes: tuple[str, ...] = ()
    projector: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def model(self) -> AnyDepthModel:
        return self.recipe.model

    def stored(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What of ``state`` a checkpoint holds, in plain memory order: channels last is a matter of
        a run only."""
        found = stored_state(state, self.recipe.stores)
        return {name: value.cpu().contiguous() for name, value in found.items()}

    def content(
        self, state: Mapping[str, Tensor], updates: int, size: tuple[int, int]
    ) -> dict[str, Any]:
        """The entries by which a checkpoint is a network: ``ema`` (``state`` as ``module``, and how
        many ``updates`` it is an average of), ``input_size`` and what no key reveals."""
        remember = self.family.remember
        return {
            "ema": {"module": self.stored(state), "updates": updates},
            "input_size": list(size),
            "network": {} if remember is None else remember(self.model.config),
            TRAINED_NORMS: self.train_norms,
        }


@usual_state()
def open_start(
    config: TrainConfig, class_names: Sequence[str], processes: Processes = ALONE
) -> Start:
    """The network of a run on pictures with these classes; from nothing, the same for the same
    seed.

    Raises :class:`UsageError` for an unknown family or model name, and for a network that has no
    gates where it needs them or has some where it must not, :class:`CheckpointError` where the
    initial one cannot be read or is of another family, and :class:`MissingExtraError` for a package
    that the family needs to train.
    """
    family, training = find_family(config.family), find_training(config.family)
    found: Checkpoint | None = None
    if config.initial:
        found = read_checkpoint(config.initial, Said.of(config.said))
        if found.family.name != family.name:
            raise CheckpointError(
                f"checkpoint {config.initial} is of {found.family.name} {found.config.name}, this "
                f"run trains {family.name}: leave --family out, or name a checkpoint of it"
            )
        network = found.config
    elif config.model not in family.sizes:
        raise UsageError(
            f"unknown model {config.model!r}: choose one of {', '.join(sorted(family.sizes))}"
        )
    else:
        network = family.sizes[config.model]
    network = _deepened(network, training, config)
    network = replace(network, classes=len(class_names), input_size=config.input_size)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = family.build(network)
            training.initialise(model)
        model.check_size(config.input_size)
        notes = () if found is None else _take_over(model, found, class_names)
        train_norms = _trains_norms(config, found)
        settings = RecipeSettings(_denoising(config, network), train_norms, processes.average)
        recipe = training.recipe(model, settings)
    except ModuleNotFoundError as error:
        raise (missing_extra(error, "training", extra="train") or error) from error
    recipe.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    projector = {} if found is None else found.projector
    return Start(family, recipe, train_norms, notes, projector)


def _deepened(network: Any, training: Training, config: TrainConfig) -> Any:
    if not config.static:
        return network if training.deepen is None else training.deepen(network)
    gates = [gate.name for gate in network.depth_space.gates if not gate.layers]
    if gates:
        what = f"checkpoint {config.initial}" if config.initial else f"{config.family} networks"
        raise UsageError(
            f"--static: {what} can skip {shorten(gates)}; leave --static out, or train a network "
            "without such gates (--family rt-detr or d-fine)"
        )
    return network


def _denoising(config: TrainConfig, network: Any) -> int:
    if config.denoising is not None:
        return config.denoising
    return min(MOST_DENOISING, 2 * int(getattr(network, "queries", 0)) // 3)


def _trains_norms(config: TrainConfig, found: Checkpoint | None) -> bool:
    if config.train_norms is not None:
        return config.train_norms
    return found is None or found.extra.get(TRAINED_NORMS) is True


def _take_over(
    model: AnyDepthModel, found: Checkpoint, class_names: Sequence[str]
) -> tuple[str, ...]:
    """Fill ``model`` with what the checkpoint holds of it; what there was to say about it.

    Raises :class:`CheckpointError` where the checkpoint does not fit its own network.
    """
    load_model(found)  # refuses what is missing, too much, or no number
    wanted = model.state_dict()
    state = with_second_sets(found.state, wanted)
    notes = [*found.notes, *(assumption(*item) for item in found.assumed.items())]
    added = {name.rpartition(".")[0] for name in state if name not in found.state}
    if added:
        notes.append(
            f"{len(added)} norms got a second set, a copy of the first: at super the network is "
            "what it was"
        )
    state, told = _fit_classes(model, state, found, class_names)
    missing = [
        name
        for name in wanted
        if name not in state
        and not name.startswith(model.optional_keys)
        and not name.endswith("num_batches_tracked")
    ]
    assert not missing, f"{missing[:3]} of {model.config.name} are in no checkpoint of it"
    model.load_state_dict({**wanted, **state})
    return (*notes, *told)


def _fit_classes(
    model: AnyDepthModel,
    state: Mapping[str, Tensor],
    found: Checkpoint,
    class_names: Sequence[str],
) -> tuple[dict[str, Tensor], list[str]]:
    """``state`` with the classes of the data, and what was done to it, in words."""
    wanted = model.state_dict()
    before = found.class_names
    if before is None and found.config.classes == len(COCO_CLASSES):
        before = list(COCO_CLASSES)
    count = found.config.classes
    if before is None and count == len(class_names):
        note = (
            f"the checkpoint does not name its {count} classes: taken for those of the data, in "
            "their order"
        )
        return dict(state), [note]
    if before == list(class_names):
        return dict(state), []
    fresh = dict(state)
    same = _pairs(before or [], class_names)
    for name in _of_classes(found):
        if name not in state:
            continue
        old, new = state[name], wanted[name].clone()
        extra = old.shape[0] - count  # "no object" of denoising
        if same and old.shape[1:] == new.shape[1:] and new.shape[0] - len(class_names) == extra:
            for here, there in same:
                new[here] = old[there]
            if extra:
                new[-extra:] = old[-extra:]
        fresh[name] = new
    kept = f", {len(same)} of them kept by name" if same else ""
    note = f"class heads were made anew for {len(class_names)} classes{kept}; before: {count}"
    return fresh, [note]


def _pairs(before: Sequence[str], after: Sequence[str]) -> list[tuple[int, int]]:
    """Places of the same names in ``after`` and ``before``."""
    places = {name.strip().casefold(): place for place, name in enumerate(before)}
    found = [(here, places.get(name.strip().casefold())) for here, name in enumerate(after)]
    return [(here, there) for here, there in found if there is not None]


def _of_classes(found: Checkpoint) -> list[str]:
    """The entries of a network's state whose shape follows the number of classes."""
    shapes = []
    for classes in (found.config.classes, found.config.classes + 1):
        with torch.device("meta"):
            model = found.family.build(replace(found.config, classes=classes))
        shapes.append({name: value.shape for name, value in model.state_dict().items()})
    one, other = shapes
    return [name for name, shape in one.items() if other[name] != shape]
