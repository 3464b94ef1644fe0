"""What shapes FINE, what a file says of it, and what it cannot say; nothing of torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from anydepth_deploy.errors import UsageError
from anydepth_deploy.families.shared.detr.structure import Reader, UnfitError
from anydepth_deploy.families.shared.settling import Beside, option_of

__all__ = ["FINE_CHOICES", "FineConfig", "read_fine", "settle_fine"]

MODULES = "encoder.sa_cross_attn"
"""Where the authors' RT-DETR has them, one for each step of the top-down path."""

SWITCH = ("on", "off")

FINE_CHOICES: Mapping[str, tuple[str, ...]] = {
    "fine_position": SWITCH,
    "fine_cosformer": SWITCH,
    "fine_upsampling": ("bilinear", "nearest"),
}
"""What a person may say of FINE, the authors' RT-DETR first."""


@dataclass(frozen=True)
class FineConfig:
    """FINE in the top-down path, the same at each step. Defaults are those of the authors' RT-DETR.

    ``heads``, ``feedforward``: of its attention, and channels inside the layers behind it.
    ``position``: whether tokens get a position embedding; ``cosformer``: whether they are weighted
    by where they stand in their row of tokens; ``upsampling``: ``bilinear`` or ``nearest``, how the
    coarser map grows before it is joined. No key reveals these three.
    """

    heads: int = 16
    feedforward: int = 1024
    position: bool = True
    cosformer: bool = True
    upsampling: str = "bilinear"

    @property
    def usual(self) -> FineConfig:
        """The same structure with the authors' switches."""
        return FineConfig(self.heads, self.feedforward)


def read_fine(reader: Reader) -> FineConfig | None:
    """What the shapes say of FINE, its switches as the authors have them; None where there is none.

    Heads are read off the norm of attention, which has one weight for each channel of a head.
    Raises :class:`UnfitError`.
    """
    if not reader.has(MODULES):
        return None
    steps, found = reader.count("encoder.input_proj") - 1, reader.count(MODULES)
    if found != steps:
        raise UnfitError(f"with FINE in {found} places: expected one for each of {steps} steps up")
    first = f"{MODULES}.0"
    hidden = reader.side("encoder.input_proj.0.conv.weight")
    width = reader.side(f"{first}.attn_norm.weight")
    if hidden % width:
        raise UnfitError(
            f"whose FINE has heads of {width} channels: expected a divisor of its {hidden} channels"
        )
    return FineConfig(hidden // width, reader.side(f"{first}.linear1.weight"))


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
                f"(no key '{MODULES}.0.'); leave it out"
            )
        return None, {}, {}
    usual = {key: words[0] for key, words in FINE_CHOICES.items()}
    chosen = usual | said
    settled = dataclasses.replace(
        fine,
        position=chosen["fine_position"] == "on",
        cosformer=chosen["fine_cosformer"] == "on",
        upsampling=chosen["fine_upsampling"],
    )
    return settled, chosen, {key: word for key, word in usual.items() if key not in said}
