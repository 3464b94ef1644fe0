"""Detectors that resemble those of this package, told by their keys, to be refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterable

from anydepth_deploy.errors import shorten
from anydepth_deploy.families.shared.sizes import Refusal

__all__ = ["find_relative"]

RELATIVES = (
    ("Ultralytics' RT-DETR", r"model\.\d+\.(?:enc_score_head|dec_score_head|decoder\.layers)\."),
    (
        "DEIMv2",
        r"(?:backbone\.dinov3\.|backbone\.sta\.|decoder\.decoder\.layers\.\d+\.swish_ffn\.)",
    ),
    ("RF-DETR", r"(?:model\.)?backbone\.0\.encoder\.encoder\."),
    ("LW-DETR", r"(?:model\.)?backbone\.0\.encoder\.(?:blocks|patch_embed|pos_embed)"),
    ("RF-DETR or LW-DETR", r"(?:model\.)?(?:refpoint_embed|reference_point_embed)\."),
    ("a Deformable DETR", r"(?:transformer|model)\.encoder\.layers\.\d+\.self_attn\.sampling_off"),
    ("a Deformable DETR", r"(?:transformer|model)\.level_embed"),
    ("a DETR", r"transformer\.(?:en|de)coder\.layers\.\d+\.self_attn\."),
    ("a DETR", r"model\.query_position_embeddings\.weight"),
    ("RT-DETR of MMDetection", r"bbox_head\.(?:cls|reg)_branches\.\d+\."),
)
"""Names, and how a key of each begins; the first that fits."""


_ANY = re.compile("|".join(pattern for _, pattern in RELATIVES))


def find_relative(keys: Iterable[str]) -> Refusal | None:
    """A refusal that names the detector whose keys these are; None where none is known."""
    keys = list(filter(_ANY.match, keys))
    for name, pattern in RELATIVES:
        if found := next((key for key in keys if re.match(pattern, key)), None):
            return Refusal(
                f"these look like the weights of {name} (key {shorten([repr(found)])}), which is "
                "not supported; expected an any-depth detector, RT-DETR, RT-DETRv2, D-FINE, DEIM "
                "or RT-DETRv4 of their authors or of transformers"
            )
    return None
