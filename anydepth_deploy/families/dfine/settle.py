"""What shapes do not tell of a D-FINE: whose release it is, and with it its activation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anydepth_deploy.families.dfine.config import CONFIGS, DFineConfig
from anydepth_deploy.families.shared.detr.document import read_document
from anydepth_deploy.families.shared.detr.remembered import (
    STATIC,
    inner_activation,
    recall,
    remember,
    sizes_in,
)
from anydepth_deploy.families.shared.detr.settle import (
    Parts,
    number_of,
    settle_sampling,
    settled,
    take_parts,
)
from anydepth_deploy.families.shared.settling import Beside, Settled

__all__ = ["remember_dfine", "settle_dfine"]

NAME = "d-fine"
RELEASES = ("d-fine", "deim", "v4")

FROZEN = ("l", "x")
"""Sizes whose backbone has frozen norms in D-FINE's files, and ordinary ones in DEIM's."""

ASSUMED = (
    "the decoder's activation is assumed to be ReLU, as D-FINE's: no key tells D-FINE's files from "
    "DEIM's, and the wrong one gives poor boxes; --decoder-activation silu if DEIM trained it"
)


def settle_dfine(config: DFineConfig, state: Mapping[str, Any], beside: Beside) -> Settled:
    """The network of a file whose shapes are those of ``config``.

    Raises :class:`CheckpointError` for contradictions.
    """
    config, parts = take_parts(config, state, beside)
    known, beside = recall(NAME, config, beside, STATIC, releases=RELEASES, points=parts.points)
    config = config.replace(**sizes_in(known))
    if parts.points is None and "points" not in known:
        parts.notes.append(
            f"the points of attention are assumed to be {', '.join(map(str, config.points))} from "
            "the finest level to the coarsest, as D-FINE's: the file has no 'num_points_scale'"
        )
    reach = number_of(parts.state, "decoder.reg_scale", config.reach, beside.origin)
    bound = number_of(parts.state, "decoder.up", config.bound, beside.origin)
    for name in ("decoder.reg_scale", "decoder.up"):  # whole numbers in the authors' files
        if name in parts.state:
            parts.state[name] = parts.state[name].float().reshape(1)
    config = config.replace(reach=reach, bound=bound)
    document = read_document(
        config,
        beside,
        ("d_fine",),
        max_num_bins=config.bins - 1,
        top_prob_values=config.best,
        lqe_hidden_dim=config.quality,
        lqe_layers=2,
    )
    if document.model_type is not None:
        queries = document.queries or config.queries
        config = config.replace(queries=queries, max_detections=queries)
    config, sampled, assumed_sampling = settle_sampling(config, beside, document, may_differ=False)
    activation, inner, chosen, assumed = _activation(config, parts, beside, document.feedforward)
    if "decoder_activation" in known:
        inner = inner_activation(known, activation)
    release = "v4" if parts.projector else "deim" if activation == "silu" else "d-fine"
    release = known.get("release", release)
    config = config.replace(
        release=release, decoder_activation=activation, feedforward_activation=inner
    )
    return settled(config, CONFIGS, parts, chosen | sampled, assumed | assumed_sampling)


def remember_dfine(config: DFineConfig) -> dict[str, Any]:
    """What no key tells of ``config``, for the entry ``network`` of a checkpoint."""
    return remember(NAME, config, STATIC)


def _activation(
    config: DFineConfig, parts: Parts, beside: Beside, documented: str | None
) -> tuple[str, str | None, dict[str, str], dict[str, str]]:
    """Of the decoder; that of its feed-forward, where it is another; chosen and assumed words."""
    if said := beside.said.decoder_activation:
        return said, None, {"decoder_activation": said}, {}
    if parts.projector:
        return "silu", None, {}, {}
    if documented is not None:  # transformers has ReLU in all but the feed-forward
        return "relu", None if documented == "relu" else documented, {}, {}
    if not config.backbone.frozen and any(config.resembles(CONFIGS[size]) for size in FROZEN):
        counted = any(
            name.startswith("backbone.") and name.endswith(".num_batches_tracked")
            for name in parts.state
        )
        if counted:
            parts.notes.append(
                "the decoder's activation is SiLU, as DEIM's: at this size, D-FINE's own files "
                "have no counters in the norms of the backbone; --decoder-activation relu if it "
                "is a D-FINE that was trained with them"
            )
            return "silu", None, {}, {}
    parts.notes.append(ASSUMED)
    assumed = {"decoder_activation": "relu"}
    return "relu", None, dict(assumed), assumed
