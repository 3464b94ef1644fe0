"""The names that files have for the weights of a static DETR, and the one that a network has.

Networks have the names of RT-DETRv2's and D-FINE's authors. RT-DETR v1 and the HGNetv2 of one
repository differ in a few words; files of transformers ("Hugging Face") in most, and its networks
in memory once more. What is renamed is the same tensor, but for attention: there the query's, key's
and value's parts become one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from anydepth_deploy.errors import CheckpointError, shorten

__all__ = ["Names", "is_hugging_face", "renamed_shapes", "renamed_tensors"]

Value = TypeVar("Value")

SIGN = "model.backbone.model."
"""Keys of transformers begin so, and no others."""

PARTS = "qkv"

N = r"(\d+)"

AUTHORS = (
    (rf"encoder\.input_proj\.{N}\.0\.", r"encoder.input_proj.\1.conv."),
    (rf"encoder\.input_proj\.{N}\.1\.", r"encoder.input_proj.\1.norm."),
    (r"decoder\.enc_output\.0\.", "decoder.enc_output.proj."),
    (r"decoder\.enc_output\.1\.", "decoder.enc_output.norm."),
    (r"decoder\.decoder\.(up|reg_scale)$", r"decoder.\1"),
    (r"(backbone\.stages\..*)\.aggregation_squeeze_conv\.", r"\1.aggregation.0."),
    (r"(backbone\.stages\..*)\.aggregation_excitation_conv\.", r"\1.aggregation.1."),
    (r"(backbone\.stem\.stem2[ab])\.conv\.1\.", r"\1.conv."),
)
"""Names of RT-DETR v1 and of other repositories; the second copy of two numbers of D-FINE."""

HUGGING_FACE = (
    # In memory.
    (r"encoder\.aifi\.", "encoder.encoder."),
    (r"(.*\.self_attn)\.o_proj\.", r"\1.out_proj."),
    (r"(.*\.layers\.\d+)\.mlp\.(?:fc1|layers\.0)\.", r"\1.fc1."),
    (r"(.*\.layers\.\d+)\.mlp\.(?:fc2|layers\.1)\.", r"\1.fc2."),
    # Heads stand once or twice.
    (r"(class_embed|bbox_embed)\.", r"decoder.\1."),
    # ResNet.
    (r"backbone\.model\.embedder\.embedder\.0\.", "backbone.conv1.conv1_1."),
    (r"backbone\.model\.embedder\.embedder\.1\.", "backbone.conv1.conv1_2."),
    (r"backbone\.model\.embedder\.embedder\.2\.", "backbone.conv1.conv1_3."),
    (
        rf"backbone\.model\.encoder\.stages\.{N}\.layers\.{N}\.",
        r"backbone.res_layers.\1.blocks.\2.",
    ),
    (r"(backbone\.res_layers\..*)\.layer\.0\.", r"\1.branch2a."),
    (r"(backbone\.res_layers\..*)\.layer\.1\.", r"\1.branch2b."),
    (r"(backbone\.res_layers\..*)\.layer\.2\.", r"\1.branch2c."),
    (r"(backbone\.res_layers\..*)\.shortcut\.1\.", r"\1.short.conv."),
    (r"(backbone\.res_layers\..*)\.shortcut\.", r"\1.short."),
    (r"(backbone\.(?:conv1|res_layers)\..*)\.convolution\.", r"\1.conv."),
    (r"(backbone\.(?:conv1|res_layers)\..*)\.normalization\.", r"\1.norm."),
    # HGNetv2.
    (r"backbone\.model\.embedder\.", "backbone.stem."),
    (r"backbone\.model\.encoder\.stages\.", "backbone.stages."),
    (r"(backbone\.(?:stem|stages)\..*)\.convolution\.", r"\1.conv."),
    (r"(backbone\.(?:stem|stages)\..*)\.normalization\.", r"\1.bn."),
    # Projections and the heads that choose queries.
    (rf"(encoder|decoder)_input_proj\.{N}\.0\.", r"\1.input_proj.\2.conv."),
    (rf"(encoder|decoder)_input_proj\.{N}\.1\.", r"\1.input_proj.\2.norm."),
    (r"enc_output\.0\.", "decoder.enc_output.proj."),
    (r"enc_output\.1\.", "decoder.enc_output.norm."),
    (r"(enc_score_head|enc_bbox_head|denoising_class_embed)\.", r"decoder.\1."),
    # Layers of the encoder, then of the decoder.
    (r"(encoder\.encoder\..*)\.self_attn_layer_norm\.", r"\1.norm1."),
    (r"(encoder\.encoder\..*)\.final_layer_norm\.", r"\1.norm2."),
    (r"decoder\.(layers|lqe_layers)\.", r"decoder.decoder.\1."),
    (r"(decoder\.decoder\..*)\.encoder_attn\.n_points_scale", r"\1.cross_attn.num_points_scale"),
    (r"(decoder\.decoder\..*)\.encoder_attn\.", r"\1.cross_attn."),
    (r"(decoder\.decoder\..*)\.self_attn_layer_norm\.", r"\1.norm1."),
    (r"(decoder\.decoder\..*)\.encoder_attn_layer_norm\.", r"\1.norm2."),
    (r"(decoder\.decoder\..*)\.final_layer_norm\.", r"\1.norm3."),
    (r"((?:en|de)coder\.(?:en|de)coder\..*)\.fc([12])\.", r"\1.linear\2."),
    (r"decoder\.class_embed\.", "decoder.dec_score_head."),
    (r"decoder\.bbox_embed\.", "decoder.dec_bbox_head."),
    # D-FINE's blocks; RT-DETR's have the authors' names.
    (rf"encoder\.downsample_convs\.{N}\.conv([12])\.", r"encoder.downsample_convs.\1.0.cv\2."),
)
"""Names of transformers without ``model.`` in front; rules apply one after the other."""

ELAN = (
    (rf"encoder\.(fpn|pan)_blocks\.{N}\.csp_rep1\.", r"encoder.\1_blocks.\2.cv2.0."),
    (rf"encoder\.(fpn|pan)_blocks\.{N}\.csp_rep2\.", r"encoder.\1_blocks.\2.cv3.0."),
    (rf"encoder\.(fpn|pan)_blocks\.{N}\.conv1\.", r"encoder.\1_blocks.\2.cv1."),
    (rf"encoder\.(fpn|pan)_blocks\.{N}\.conv2\.", r"encoder.\1_blocks.\2.cv2.1."),
    (rf"encoder\.(fpn|pan)_blocks\.{N}\.conv3\.", r"encoder.\1_blocks.\2.cv3.1."),
    (rf"encoder\.(fpn|pan)_blocks\.{N}\.conv4\.", r"encoder.\1_blocks.\2.cv4."),
)
"""Of blocks that have a ``csp_rep1``; RT-DETR's have a ``conv1`` of their own."""

PART = re.compile(r"(.*\.self_attn)\.([qkv])_proj\.(weight|bias)")


@dataclass(frozen=True)
class Names:
    """For each name of a network, the keys of a file that are it: one key, or three whose tensors
    are joined along their first axis. Where there are several, they hold the same."""

    sources: Mapping[str, tuple[tuple[str, ...], ...]]


def is_hugging_face(keys: Iterable[str]) -> bool:
    """Whether these are keys of a DETR of transformers."""
    return any(key.startswith(SIGN) for key in keys)


def _compiled(rules: Iterable[tuple[str, str]]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern), into) for pattern, into in rules]


_AUTHORS, _HUGGING_FACE, _ELAN = map(_compiled, (AUTHORS, HUGGING_FACE, ELAN))


def _rename(key: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, into in rules:
        if found := pattern.match(key):
            key = found.expand(into) + key[found.end() :]
    return key


def _names(keys: Iterable[str]) -> Names:
    keys = list(keys)
    rules = _AUTHORS
    if is_hugging_face(keys):
        rules = _HUGGING_FACE
        if any(".csp_rep1." in key for key in keys):
            rules = rules + _ELAN
    sources: dict[str, list[tuple[str, ...]]] = {}
    parts: dict[str, dict[str, list[str]]] = {}
    for key in keys:
        bare = key.removeprefix("model.") if rules is not _AUTHORS else key
        name = _rename(bare, rules)
        if rules is not _AUTHORS and (part := PART.fullmatch(name)):
            whole = f"{part[1]}.in_proj_{part[3]}"
            parts.setdefault(whole, {}).setdefault(part[2], []).append(key)
        else:
            sources.setdefault(name, []).append((key,))
    for whole, found in parts.items():
        if all(len(found.get(part, ())) == 1 for part in PARTS):
            sources.setdefault(whole, []).append(tuple(found[part][0] for part in PARTS))
        else:  # parts without the others stay what they are called: nothing takes them
            for names in found.values():
                for key in names:
                    sources.setdefault(key, []).append((key,))
    return Names({name: tuple(found) for name, found in sources.items()})


def renamed_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes by a network's names; of several for one name, the first."""

    def join(parts: list[tuple[int, ...]]) -> tuple[int, ...]:
        if len(parts) == 1 or not all(parts):
            return parts[0]
        return (sum(part[0] for part in parts), *parts[0][1:])

    return _applied(_names(shapes), shapes, join)


def renamed_tensors(state: Mapping[str, Value], origin: str) -> dict[str, Value]:
    """Tensors by a network's names.

    Raises :class:`CheckpointError` where two keys stand for one weight and hold different numbers,
    and where parts cannot be joined.
    """
    import torch

    names = _names(state)

    def join(parts: list[torch.Tensor]) -> torch.Tensor:
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    for name, found in names.sources.items():
        if len(found) > 1 and not _all_equal([[state[key] for key in keys] for keys in found]):
            twins = shorten([keys[0] for keys in found])
            raise CheckpointError(
                f"{origin} holds the weight '{name}' {len(found)} times with different numbers "
                f"({twins}): expected one and the same; save the network again"
            )
        shapes = [tuple(state[key].shape) for key in found[0]]  # type: ignore[attr-defined]
        if len(shapes) > 1 and (not shapes[0] or len({shape[1:] for shape in shapes}) > 1):
            raise CheckpointError(
                f"{origin} has parts of one weight that do not fit each other "
                f"({shorten(found[0])}, shapes {shorten(shapes)}): expected equal ones"
            )
        types = [state[key].dtype for key in found[0]]  # type: ignore[attr-defined]
        if len(set(types)) > 1:  # joined, integers would become floating point unseen
            raise CheckpointError(
                f"{origin} has parts of one weight that do not fit each other "
                f"({shorten(found[0])}, types {shorten(types)}): expected equal ones"
            )
    return _applied(names, state, join)  # type: ignore[arg-type]


def _all_equal(twins: list[list[Value]]) -> bool:
    import torch

    first, *others = twins
    return all(
        len(other) == len(first)
        and all(
            isinstance(a, torch.Tensor)
            and isinstance(b, torch.Tensor)
            and a.shape == b.shape
            and bool((a == b).all())
            for a, b in zip(first, other, strict=True)
        )
        for other in others
    )


def _applied(
    names: Names, found: Mapping[str, Value], join: Callable[[list[Value]], Value]
) -> dict[str, Value]:
    return {name: join([found[key] for key in keys[0]]) for name, keys in names.sources.items()}
