"""Tell from the shapes in a state dict which RT-DETR it is."""

from __future__ import annotations

from anydepth_deploy.families.family import Refusal, Shapes
from anydepth_deploy.families.rtdetr.config import CONFIGS, RTDetrConfig
from anydepth_deploy.families.shared.detr.names import renamed_shapes
from anydepth_deploy.families.shared.detr.relatives import find_relative
from anydepth_deploy.families.shared.detr.structure import (
    Reader,
    UnfitError,
    read_decoder,
    read_encoder,
    read_fine,
)
from anydepth_deploy.families.shared.detr.switched import has_static_stem, read_essentials

__all__ = ["recognise_rtdetr"]

LAYERS = "decoder.layers."
"""Is in keys of every layout."""

POSITION = "decoder.query_pos_head.layers"


def recognise_rtdetr(shapes: Shapes) -> RTDetrConfig | Refusal | None:
    """The configuration with these shapes, in the authors' names or those of transformers.

    None when these are not the keys of a DETR, or of one of another family; a refusal for one that
    is built otherwise, and for relatives that are not supported.
    """
    if any("_skip" in key for key in shapes) and not has_static_stem(shapes):
        return None
    if (relative := find_relative(shapes)) is not None:
        return relative
    if not any(LAYERS in key for key in shapes):
        return None
    reader = Reader(renamed_shapes(shapes))
    if not reader.has("decoder.decoder.layers") or reader.has("decoder.decoder.lqe_layers"):
        return None
    try:
        return _read(reader).completed(CONFIGS)
    except UnfitError as error:
        return Refusal(f"an RT-DETR {error}")


def _read(reader: Reader) -> RTDetrConfig:
    plain = _read_plain(reader)
    return plain.replace(essential=read_essentials(reader, plain))


def _read_plain(reader: Reader) -> RTDetrConfig:
    layers = reader.count(POSITION)
    scaled = reader.has("decoder.decoder.layers.0.cross_attn.num_points_scale")
    release = "deim" if layers == 3 else "v2" if scaled else "v1"
    return RTDetrConfig(
        release=release,
        **read_encoder(reader),
        csp_blocks=reader.count("encoder.fpn_blocks.0.bottlenecks"),
        csp_channels=reader.side("encoder.fpn_blocks.0.conv1.conv.weight"),
        **read_decoder(reader),
        position=tuple(reader.side(f"{POSITION}.{i}.weight") for i in range(layers - 1)),
        fine=read_fine(reader),
        decoder_activation="silu" if release == "deim" else "relu",
    )
