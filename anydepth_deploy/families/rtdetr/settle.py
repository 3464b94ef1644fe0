"""What shapes do not tell of an RT-DETR: its activation, how it samples, switches of FINE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anydepth_deploy.families.rtdetr.config import CONFIGS, RTDetrConfig
from anydepth_deploy.families.shared.detr.document import read_document
from anydepth_deploy.families.shared.detr.remembered import (
    STATIC,
    inner_activation,
    recall,
    remember,
    sizes_in,
)
from anydepth_deploy.families.shared.detr.settle import (
    settle_fine,
    settle_sampling,
    settled,
    take_parts,
)
from anydepth_deploy.families.shared.settling import Beside, Settled

__all__ = ["remember_rtdetr", "settle_rtdetr"]

NAME = "rt-detr"
TYPES = {"rt_detr": "v1", "rt_detr_v2": "v2"}


def settle_rtdetr(config: RTDetrConfig, state: Mapping[str, Any], beside: Beside) -> Settled:
    """The network of a file whose shapes are those of ``config``.

    Its activation is ReLU, as RT-DETR's and transformers', SiLU in DEIM's, which have a third layer
    in the embedding of boxes. Raises :class:`CheckpointError` for contradictions,
    :class:`UsageError` where something is said of FINE and there is none.
    """
    config, parts = take_parts(config, state, beside)
    releases = ("deim",) if config.release == "deim" else ("v1", "v2")
    known, beside = recall(NAME, config, beside, STATIC, releases=releases, points=parts.points)
    config = config.replace(**sizes_in(known))
    document = read_document(config, beside, tuple(TYPES))
    chosen: dict[str, str] = {}
    if document.model_type is not None:
        queries = document.queries or config.queries
        config = config.replace(
            release=TYPES[document.model_type] if config.release != "deim" else config.release,
            feedforward_activation=_unless(document.feedforward, config.decoder_activation),
            queries=queries,
            max_detections=queries,
        )
    if said := beside.said.decoder_activation:
        inner = inner_activation(known, said)
        config = config.replace(decoder_activation=said, feedforward_activation=inner)
        chosen["decoder_activation"] = said
    config, sampled, assumed = settle_sampling(
        config, beside, document, may_differ=config.release == "v2"
    )
    fine, switched, unsaid = settle_fine(config.fine, beside)
    config = config.replace(fine=fine)
    return settled(config, CONFIGS, parts, chosen | sampled | switched, assumed | unsaid)


def remember_rtdetr(config: RTDetrConfig) -> dict[str, Any]:
    """What no key tells of ``config``, for the entry ``network`` of a checkpoint."""
    return remember(NAME, config, STATIC)


def _unless(value: str | None, usual: str) -> str | None:
    return None if value == usual else value
