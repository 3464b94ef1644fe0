"""Tell from the shapes in a state dict which D-FINE it is."""

from __future__ import annotations

from anydepth_deploy.families.dfine.config import CONFIGS, DFineConfig
from anydepth_deploy.families.family import Refusal, Shapes
from anydepth_deploy.families.shared.detr.names import renamed_shapes
from anydepth_deploy.families.shared.detr.relatives import find_relative
from anydepth_deploy.families.shared.detr.structure import (
    Reader,
    UnfitError,
    read_decoder,
    read_encoder,
)
from anydepth_deploy.families.shared.detr.switched import has_static_stem, read_essentials

__all__ = ["recognise_dfine"]

QUALITY = "decoder.decoder.lqe_layers.0.reg_conf.layers"
EDGES = "decoder.dec_bbox_head.0.layers"

USUAL_POINTS = {12: (3, 6, 3)}
"""By their sum, of networks with three levels; a file's own scales come before."""


def recognise_dfine(shapes: Shapes) -> DFineConfig | Refusal | None:
    """The configuration with these shapes, in the authors' names or those of transformers. Which
    release it is, and so its activation, shapes do not tell: taken for D-FINE's own.

    None when these are not the keys of a D-FINE; a refusal for one that is built otherwise.
    """
    if not any("lqe_layers." in key for key in shapes):
        return None
    if any("_skip" in key for key in shapes) and not has_static_stem(shapes):
        return None
    if find_relative(shapes) is not None:
        return None
    reader = Reader(renamed_shapes(shapes))
    if not reader.has("decoder.decoder.lqe_layers"):
        return None
    try:
        return _read(reader).completed(CONFIGS)
    except UnfitError as error:
        return Refusal(f"a D-FINE {error}")


def _read(reader: Reader) -> DFineConfig:
    plain = _read_plain(reader)
    return plain.replace(essential=read_essentials(reader, plain))


def _read_plain(reader: Reader) -> DFineConfig:
    decoder = read_decoder(reader)
    points = decoder["points"]
    if len(points) == 3:
        decoder["points"] = USUAL_POINTS.get(sum(points), points)
    for prefix, count in ((QUALITY, 2), (EDGES, 3)):
        if (found := reader.count(prefix)) != count:
            raise UnfitError(f"with {found} layers in '{prefix}': expected {count}")
    edges = reader.side(f"{EDGES}.2.weight")
    bins, rest = divmod(edges, 4)
    if rest or bins < 5 or bins % 2 == 0:
        raise UnfitError(f"with {edges} numbers for the edges of a box: expected four times an odd")
    seen = reader.side(f"{QUALITY}.0.weight", 1)
    best, rest = divmod(seen, 4)
    if rest or not 2 <= best <= bins:
        raise UnfitError(f"that judges edges by {seen} numbers: expected 20")
    return DFineConfig(
        **read_encoder(reader),
        csp_blocks=reader.count("encoder.fpn_blocks.0.cv2.0.bottlenecks"),
        csp_channels=reader.side("encoder.fpn_blocks.0.cv2.0.conv1.conv.weight"),
        **decoder,
        bins=bins,
        best=best - 1,
        quality=reader.side(f"{QUALITY}.0.weight"),
    )
