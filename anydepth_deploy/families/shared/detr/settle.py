"""From what a file holds to what a static DETR is built from and loads: the part that all share."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from anydepth_deploy.errors import CheckpointError, UsageError, shorten
from anydepth_deploy.families.shared.detr.document import Documented
from anydepth_deploy.families.shared.detr.fine_config import FINE, FineConfig
from anydepth_deploy.families.shared.detr.names import renamed_tensors
from anydepth_deploy.families.shared.detr.static import StaticConfig
from anydepth_deploy.families.shared.detr.structure import take_points
from anydepth_deploy.families.shared.settling import Beside, Settled, option_of

__all__ = [
    "CHOICES",
    "FINE_CHOICES",
    "Parts",
    "number_of",
    "settle_fine",
    "settle_sampling",
    "settled",
    "take_parts",
    "with_words",
]

CHOICES: Mapping[str, tuple[str, ...]] = {
    "decoder_activation": ("relu", "silu"),
    "sampling": ("bilinear", "discrete"),
}
"""What a person may say of a static DETR."""

SWITCH = ("on", "off")

FINE_CHOICES: Mapping[str, tuple[str, ...]] = {
    "fine_position": SWITCH,
    "fine_cosformer": SWITCH,
    "fine_upsampling": ("bilinear", "nearest"),
}
"""What a person may say of FINE, the authors' RT-DETR first."""

SCALES = ".cross_attn.num_points_scale"
MOST_SCALES = 4096
"""That are looked at: in Python, each takes many times its bytes in the file."""

PROJECTOR = "encoder.feature_projector."

TRAINING = (
    ("anchors of the input size in training, computed anew", r"decoder\.(?:anchors|valid_mask)"),
    ("a projection for distillation in training", re.escape(PROJECTOR) + ".*"),
)
"""What is left out, in words, and its names."""

LAYER = re.compile(
    r"decoder\.(?:decoder\.layers|decoder\.lqe_layers|dec_score_head|dec_bbox_head)\.(\d{1,4})\..*"
)

Config = TypeVar("Config", bound=StaticConfig)


class Parts:
    """A state dict by a network's own names, without what it has no use for.

    ``notes``: what was left out, in words. ``points``: by level, from the file; None where nothing
    says them. ``projector``: RT-DETRv4's projection to its teacher, empty where there is none.
    """

    def __init__(self, config: StaticConfig, state: Mapping[str, Any], beside: Beside) -> None:
        self.state: dict[str, Any] = {}
        self.notes: list[str] = []
        renamed = renamed_tensors(state, beside.origin)
        left: dict[str, list[str]] = {}
        scales: dict[str, Any] = {}
        for name, value in renamed.items():
            found = LAYER.fullmatch(name)
            if found and int(found[1]) >= config.decoder_layers:
                left.setdefault("wider decoder layers behind the last exit", []).append(name)
            elif name.endswith(SCALES):
                scales[name] = value
            elif what := next((w for w, rule in TRAINING if re.fullmatch(rule, name)), None):
                left.setdefault(what, []).append(name)
            else:
                self.state[name] = value
        for what, names in left.items():
            self.notes.append(f"left out: {what} ({len(names)} tensors: {shorten(names, 2)})")
        self.projector = {
            name: value for name, value in renamed.items() if name.startswith(PROJECTOR)
        }
        self.points = _points(config, scales, beside.origin)


def _points(config: StaticConfig, scales: Mapping[str, Any], origin: str) -> tuple[int, ...] | None:
    """Raises :class:`CheckpointError` for scales that are none, or of other points than offsets."""
    found: tuple[int, ...] | None = None
    for name, value in scales.items():
        numbers = [float(number) for number in value.flatten()[:MOST_SCALES].tolist()]
        points = take_points(numbers, len(config.points))
        if points is None or sum(points) != sum(config.points) or found not in (None, points):
            raise CheckpointError(
                f"{origin}: '{name}' is {shorten([f'{number:g}' for number in numbers], 13)}, "
                f"expected 1 / points for each of the {sum(config.points)} points of "
                f"{len(config.points)} levels, the same in all layers; fetch the file again"
            )
        found = points
    return found


def take_parts(config: Config, state: Mapping[str, Any], beside: Beside) -> tuple[Config, Parts]:
    """The parts of a state dict, and ``config`` with the points that it says, or the document that
    it came with.

    Raises :class:`CheckpointError` for tensors that contradict each other.
    """
    parts = Parts(config, state, beside)
    if parts.points is None:
        parts.points = _documented_points(config, beside.document or {})
    return (config if parts.points is None else config.replace(points=parts.points)), parts


def _documented_points(config: StaticConfig, document: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Where they fit the offsets; otherwise the document is refused later."""
    found = document.get("decoder_n_points")
    points = [found] * len(config.points) if isinstance(found, int) else found
    if not isinstance(points, list) or any(type(count) is not int for count in points):
        return None
    fits = len(points) == len(config.points) and sum(points) == sum(config.points)
    return tuple(points) if fits and min(points) > 0 else None


def number_of(state: Mapping[str, Any], name: str, usual: float, origin: str) -> float:
    """The one number that is kept as ``name``; ``usual`` where there is none, which is found out
    when weights are loaded.

    Raises :class:`CheckpointError` for what is not one number other than zero.
    """
    value = state.get(name)
    if value is None:
        return usual
    number = float(value) if value.numel() == 1 else math.nan
    if not math.isfinite(number) or number == 0:
        found = f"{number:g}" if value.numel() == 1 else f"a tensor of {value.numel()} numbers"
        raise CheckpointError(
            f"{origin}: '{name}' is {found}, expected one number that is not zero; fetch the file "
            "again"
        )
    return number


def settle_sampling(
    config: Config, beside: Beside, document: Documented, *, may_differ: bool
) -> tuple[Config, dict[str, str], dict[str, str]]:
    """``config`` with its sampling, and what was chosen and assumed of it.

    ``may_differ``: whether files of this release are known that sample otherwise.
    """
    said = beside.said.sampling
    if said is not None:
        return config.replace(sampling=said), {"sampling": said}, {}
    if document.sampling is not None:
        unusual = document.sampling != config.sampling
        chosen = {"sampling": document.sampling} if unusual else {}
        return config.replace(sampling=document.sampling), chosen, {}
    assumed = {"sampling": config.sampling} if may_differ else {}
    return config, dict(assumed), assumed


def settle_fine(
    fine: FineConfig | None, beside: Beside
) -> tuple[FineConfig | None, dict[str, str], dict[str, str]]:
    """``fine`` with its switches as they were said, what was chosen, and what of it was assumed.

    Raises :class:`UsageError` where something is said of FINE and there is none.
    """
    said = {key: word for key, word in beside.said.words.items() if key in FINE_CHOICES}
    if fine is None:
        if said:
            key, word = next(iter(said.items()))
            raise UsageError(
                f"{option_of(key)} {word}: {beside.origin} holds a network without FINE "
                f"(no key '{FINE}.0.'); leave it out"
            )
        return None, {}, {}
    usual = {key: words[0] for key, words in FINE_CHOICES.items()}
    chosen = usual | said
    return (
        with_words(fine, chosen),
        chosen,
        {key: word for key, word in usual.items() if key not in said},
    )


def with_words(fine: FineConfig, words: Mapping[str, str]) -> FineConfig:
    """``fine`` with its switches as ``words`` say them, by the fields of :class:`Said`."""
    return dataclasses.replace(
        fine,
        position=words["fine_position"] == "on",
        cosformer=words["fine_cosformer"] == "on",
        upsampling=words["fine_upsampling"],
    )


def settled(
    config: Config,
    sizes: Mapping[str, Config],
    parts: Parts,
    chosen: Mapping[str, str],
    assumed: Mapping[str, str],
) -> Settled:
    """All of it together, ``config`` by the name that ``sizes`` have for it."""
    notes = tuple(parts.notes)
    return Settled(config.renamed(sizes), parts.state, notes, chosen, assumed, parts.projector)
