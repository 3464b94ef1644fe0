"""What shapes do not tell of an AnyDepth-DETR and its training wrote down beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anydepth_deploy.families.detr.config import DetrConfig
from anydepth_deploy.families.shared.detr.remembered import SIZES, recall, remember
from anydepth_deploy.families.shared.detr.settle import FINE_CHOICES, with_words
from anydepth_deploy.families.shared.settling import Beside, Settled

__all__ = ["remember_detr", "settle_detr"]

NAME = "anydepth-detr"


def settle_detr(config: DetrConfig, state: Mapping[str, Any], beside: Beside) -> Settled:
    """The network of a file whose shapes are those of ``config``; without anything beside them
    that is ``config`` itself.

    Raises :class:`CheckpointError` for contradictions.
    """
    known, _ = recall(NAME, config, beside, SIZES)
    config = config.replace(**{name: known[name] for name in SIZES if name in known})
    if config.fine is not None:
        usual = {name: words[0] for name, words in FINE_CHOICES.items()}
        config = config.replace(fine=with_words(config.fine, {**usual, **known}))
    return Settled(config, dict(state))


def remember_detr(config: DetrConfig) -> dict[str, Any]:
    """What no key tells of ``config``, for the entry ``network`` of a checkpoint."""
    return remember(NAME, config, SIZES)
