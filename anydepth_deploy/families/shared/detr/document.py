"""The ``config.json`` of a DETR of transformers, held against the tensors that it came with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from anydepth_deploy.errors import CheckpointError
from anydepth_deploy.families.shared.detr.backbones import HGNetConfig, ResNetConfig
from anydepth_deploy.families.shared.detr.static import StaticConfig
from anydepth_deploy.families.shared.settling import Beside

__all__ = ["Documented", "read_document"]

ACTIVATIONS = ("relu", "silu")
METHODS = {"default": "bilinear", "discrete": "discrete"}
MOST_QUERIES = 10_000


@dataclass(frozen=True)
class Documented:
    """What such a document decides; None where it does not say. ``feedforward``: the activation of
    the feed-forward of decoder layers; the other linear layers are ReLU's in transformers."""

    model_type: str | None = None
    feedforward: str | None = None
    sampling: str | None = None
    queries: int | None = None


def read_document(
    config: StaticConfig, beside: Beside, types: tuple[str, ...], **more: Any
) -> Documented:
    """What the document beside the tensors of ``config`` decides; nothing where there is none.

    ``types``: the ``model_type`` of such networks. ``more``: values that it must have where it
    names them. Raises :class:`CheckpointError` for a document that contradicts the tensors, or
    describes what no network here does.
    """
    document = beside.document
    if document is None:
        return Documented()
    model_type = document.get("model_type")
    if model_type not in types:
        raise _contradiction(beside.origin, "model_type", model_type, " or ".join(types))
    for key, expected in [*_expected(config), *more.items()]:
        found = document.get(key)
        if found is not None and not _same(found, expected):
            raise _contradiction(beside.origin, key, found, expected)
    backbone = document.get("backbone_config")
    if isinstance(backbone, Mapping):
        for key, expected in _expected_backbone(config.backbone):
            found = backbone.get(key)
            if found is not None and not _same(found, expected):
                raise _contradiction(beside.origin, f"backbone_config.{key}", found, expected)
    labels = document.get("id2label")
    if isinstance(labels, Mapping) and len(labels) != config.classes:
        words = f"{len(labels)} names"
        raise _contradiction(beside.origin, "id2label", words, f"{config.classes} classes")
    feedforward = document.get("decoder_activation_function", "relu")
    if feedforward not in ACTIVATIONS:
        expected = " or ".join(ACTIVATIONS)
        raise _contradiction(beside.origin, "decoder_activation_function", feedforward, expected)
    method = document.get("decoder_method", "default")
    if not isinstance(method, str) or method not in METHODS:
        raise _contradiction(beside.origin, "decoder_method", method, " or ".join(METHODS))
    queries = document.get("num_queries")
    if queries is not None and not (type(queries) is int and 1 <= queries <= MOST_QUERIES):
        raise _contradiction(beside.origin, "num_queries", queries, f"1 to {MOST_QUERIES}")
    return Documented(model_type, feedforward, METHODS[method], queries)


def _expected(config: StaticConfig) -> Iterator[tuple[str, Any]]:
    levels = len(config.points)
    even = len(set(config.points)) == 1
    points = config.points[0] if even else list(config.points)
    yield from {
        "encoder_hidden_dim": config.hidden,
        "encoder_ffn_dim": config.feedforward,
        "encoder_layers": config.aifi_layers,
        "encoder_attention_heads": config.heads,
        "encoder_in_channels": list(config.in_channels),
        "encode_proj_layers": [levels - 1],
        "encoder_activation_function": "gelu",
        "activation_function": "silu",
        "normalize_before": False,
        "positional_encoding_temperature": 10000,
        "d_model": config.decoder_hidden,
        "decoder_ffn_dim": config.decoder_feedforward,
        "decoder_layers": config.decoder_layers,
        "decoder_attention_heads": config.heads,
        "num_feature_levels": levels,
        "feat_strides": list(config.strides),
        "decoder_offset_scale": 0.5,
        "learn_initial_query": False,
        "with_box_refine": True,
        "layer_norm_eps": 1e-5,
        "batch_norm_eps": 1e-5,
        "num_labels": config.classes,
    }.items()
    yield "decoder_n_points", _Either(points, list(config.points))


class _Either:
    """A number for all, or a list of one for each."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        return other in self.values

    def __hash__(self) -> int:
        return 0

    def __str__(self) -> str:
        return str(self.values[0])


def _expected_backbone(backbone: ResNetConfig | HGNetConfig) -> Iterator[tuple[str, Any]]:
    yield "num_channels", 3
    yield "hidden_act", "relu"
    if isinstance(backbone, ResNetConfig):
        yield "model_type", "rt_detr_resnet"
        yield "layer_type", "bottleneck" if backbone.bottleneck else "basic"
        yield "depths", list(backbone.blocks)
        yield "hidden_sizes", list(backbone.out_channels)
        yield "embedding_size", backbone.stem[1]
        yield "downsample_in_first_stage", False
        yield "downsample_in_bottleneck", False
        return
    yield "model_type", "hgnet_v2"
    stages = backbone.stages
    yield "use_learnable_affine_block", backbone.affine
    yield "stem_channels", [3, *backbone.stem]
    yield "stem_strides", [2, 1, 1, 2, 1]
    yield "stage_mid_channels", [stage.width for stage in stages]
    yield "stage_out_channels", [stage.channels for stage in stages]
    yield "stage_num_blocks", [stage.blocks for stage in stages]
    yield "stage_numb_of_layers", [stage.layers for stage in stages]
    yield "stage_light_block", [stage.light for stage in stages]
    yield "stage_kernel_size", [stage.kernel for stage in stages]
    yield "stage_downsample", [stage.downsample for stage in stages]


def _same(found: Any, expected: Any) -> bool:
    if isinstance(found, bool) != isinstance(expected, bool):
        return False
    if isinstance(expected, float):
        return isinstance(found, int | float) and _close(found, expected)
    return bool(expected == found)


def _close(found: float, expected: float) -> bool:
    return abs(found - expected) <= 1e-6 * abs(expected)


def _contradiction(origin: str, key: str, found: object, expected: object) -> CheckpointError:
    shown = "".join(letter if letter.isprintable() else "?" for letter in repr(found)[:80])
    return CheckpointError(
        f"{origin}: its config.json has {key} = {shown}, expected {expected} beside these weights; "
        "fetch both from one source"
    )
