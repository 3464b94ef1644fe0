"""A checkpoint whose norms are right at both ends: second sets added, statistics measured anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anydepth_deploy.checkpoints.checkpoint import Checkpoint, read_checkpoint
from anydepth_deploy.errors import UsageError
from anydepth_deploy.families.shared.settling import Said
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.families.shared.usual_state import usual_state
from anydepth_deploy.pictures.choice import choose_pictures
from anydepth_deploy.pictures.images import Preprocess, load_image, prepare_batch
from anydepth_deploy.progress import Progress
from anydepth_deploy.train.agreement import found_by_super
from anydepth_deploy.train.config import TrainConfig
from anydepth_deploy.train.data.detection_set import DetectionSet
from anydepth_deploy.train.data.read import read_data_set
from anydepth_deploy.train.processes import ALONE
from anydepth_deploy.train.start import TRAINED_NORMS, Start, open_start
from anydepth_deploy.train.statistics import NormSets, measure_statistics, norm_sets
from anydepth_deploy.train.validation import Validation

__all__ = ["FEWEST", "Gains", "Reestimated", "reestimate"]

BATCH_PIXELS = 64 * 160 * 160
"""Of a batch that statistics are measured on: 64 pictures of 160 x 160, 4 of 640 x 640."""

FEWEST = 128
"""Pictures below which statistics are rough: 32 gave 2.3 AP at base where 128 gave 2.7."""

ENOUGH = 0.3
"""Mean gain over the ladder, in percent, that is more than chance."""


@dataclass(frozen=True)
class Gains:
    """Accuracy by depth before and after, in percent, from base to super.

    ``measure``: ``AP``, or ``agreement`` with super's own detections, where super's is left out.
    """

    measure: str
    before: Mapping[str, float]
    after: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Mean gain over the depths."""
        return sum(self.after[depth] - self.before[depth] for depth in self.before) / len(
            self.before
        )

    @property
    def helps(self) -> bool:
        """Whether it is more than chance."""
        return self.mean >= ENOUGH


@dataclass(frozen=True)
class Reestimated:
    """What was done: to how many norms, over how many pictures, and what it brings. ``content``:
    the checkpoint, for ``torch.save``."""

    norms: int
    added: int
    pictures: int
    pictures_sha256: str
    gains: Gains
    content: dict[str, Any]
    notes: tuple[str, ...] = ()


@usual_state()
def reestimate(
    checkpoint: str | Path,
    images: str | Path,
    *,
    data: str | Path | None = None,
    data_images: str | Path | None = None,
    count: int = 512,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    said: Said | None = None,
    progress: Progress | None = None,
) -> Reestimated:
    """Add second norm sets where a checkpoint has none and measure both over ``count`` pictures of
    the folder ``images``; no weight changes.

    ``data``, ``data_images``: annotated pictures that average precision is measured on, before and
    after; without them, how well each depth agrees with super on other pictures of ``images``.
    ``size``: of the input; by default that of the checkpoint.

    Raises :class:`UsageError` for networks of one depth, and what reading raises.
    """
    said = said or Said()
    found = read_checkpoint(checkpoint, said)
    size = size or found.usual_size()
    if found.family.training is None or not _skips(found):
        raise UsageError(
            f"checkpoint {found.path} is of {found.family.name} {found.config.name}, which skips "
            "nothing that has norms: there is one mode, whose statistics training measured"
        )
    names = found.class_names or [str(number) for number in range(found.config.classes)]
    before = set(found.state)
    start = _start(found, said, names, size)
    model = start.model
    stored = [key for key in model.state_dict() if start.recipe.stores(key)]
    added = {key.rpartition(".")[0] for key in stored if key not in before}
    chosen = choose_pictures(images, 2 * count, seed, progress=progress)
    # Half for statistics, the others to see what they bring.
    paths, others = chosen.paths[::2], chosen.paths[1::2] or chosen.paths
    validation_set = None
    if data is not None:
        validation_set, _ = read_data_set(data, data_images, which="val").matched(names)

    def accuracy(what: str) -> dict[str, float]:
        target = validation_set
        if target is None:
            target = found_by_super(model.eval(), Path(images), others, names, size)
        return _accuracy(start, target, size, what, progress, with_super=validation_set is not None)

    earlier = accuracy("before")
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    batches = list(range(0, len(paths), max(1, min(64, BATCH_PIXELS // (size[0] * size[1])))))

    def told(done: int) -> None:
        if progress is not None:
            progress("measuring norms", done, len(batches))

    best: tuple[float, NormSets, dict[str, float], dict[str, Tensor]] | None = None
    for sets in _candidates(model, sorted(added)):
        model.load_state_dict(initial)
        measure_statistics(model, sets, _batches(paths, model.resize, size, batches), told)
        later = accuracy("after")
        mean = sum(later.values()) / len(later)
        if best is None or mean > best[0]:
            state = {name: value.clone() for name, value in model.state_dict().items()}
            best = mean, sets, later, state
    assert best is not None
    _, sets, later, state = best
    model.load_state_dict(state)
    notes = list(start.notes)
    if validation_set is not None:
        notes += [f"validation set: {finding.text}" for finding in validation_set.findings]
    if len(paths) < FEWEST:
        notes.append(
            f"statistics are of {len(paths)} pictures: fewer than {FEWEST} leave some of the gain"
        )
    return Reestimated(
        norms=2 * len(sets),
        added=len(added),
        pictures=len(paths),
        pictures_sha256=chosen.sha256,
        gains=Gains("AP" if validation_set is not None else "agreement", earlier, later),
        content=_content(start, names, size, found),
        notes=tuple(notes),
    )


def _candidates(model: AnyDepthModel, added: Sequence[str]) -> list[NormSets]:
    """What may be measured: norms whose second set is new, or all that have two. Norms of the
    backbone may have been frozen in training, where statistics are what weights were trained with:
    no file tells, so it is tried with them and without."""
    every = norm_sets(model, added)
    others = [path for path in every.second if not path.startswith("backbone.")]
    if not others or len(others) == len(every):
        return [every]
    return [every, norm_sets(model, others)]


def _skips(found: Checkpoint) -> bool:
    return any(not gate.layers for gate in found.config.depth_space.gates)


def _start(found: Checkpoint, said: Said, names: Sequence[str], size: tuple[int, int]) -> Start:
    config = TrainConfig.for_family(
        found.family.name,
        initial=str(found.path),
        said=said.words,
        data="-",  # not generated shapes, which are square
        input_size=size,
        train_norms=True,
        denoising=0,
    )
    start = open_start(config, names)
    start.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return start


def _accuracy(
    start: Start,
    data: DetectionSet,
    size: tuple[int, int],
    what: str,
    progress: Progress | None,
    *,
    with_super: bool,
) -> dict[str, float]:
    validation = Validation(start.model, start.family.build, data, size, ALONE)

    def told(done: int, total: int) -> None:
        if progress is not None:
            progress(f"accuracy {what}", done, total)

    found = validation.run(start.stored(start.model.state_dict()), told)
    if not with_super:
        found.pop(validation.super, None)
    return found


def _batches(
    paths: Sequence[Path], resize: Any, size: tuple[int, int], starts: Sequence[int]
) -> Iterator[Tensor]:
    recipe = Preprocess.of(resize, size)
    step = starts[1] - starts[0] if len(starts) > 1 else len(paths)
    for start in starts:
        pictures = [load_image(path) for path in paths[start : start + step]]
        prepared, _ = prepare_batch(pictures, recipe)
        yield torch.from_numpy(prepared)


def _content(
    start: Start, names: Sequence[str], size: tuple[int, int], found: Checkpoint
) -> dict[str, Any]:
    """As :func:`~anydepth_deploy.train.checkpointing.save_checkpoint` writes it, but for what is of
    a run. Whether norms learned is a matter of the run that made the checkpoint."""
    content = start.content(start.model.state_dict(), 0, size)
    content[TRAINED_NORMS] = found.extra.get(TRAINED_NORMS) is True
    if found.class_names is not None:
        content["class_names"] = list(names)
    return content
