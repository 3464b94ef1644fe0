"""The decoders of the DETRs; each stops after any layer, which then uses its own heads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydepth_deploy.families.shared.detr.attention import DeformableAttention, MultiheadAttention
from anydepth_deploy.families.shared.detr.encoder import ConvNorm

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Decoder",
    "DecoderLayer",
    "Layers",
    "Mlp",
    "QueryDecoder",
    "as_tokens",
    "gather_tokens",
    "inverse_sigmoid",
    "moved",
    "reset_box_head",
]

CLASS_PRIOR = 0.01

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {"relu": F.relu, "silu": F.silu}
"""By the names that configurations have for them."""


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 - x)) with x clipped to [0, 1] and both terms to at least ``eps``."""
    x = x.clamp(0.0, 1.0)
    return torch.log(x.clamp(min=eps) / (1.0 - x).clamp(min=eps))


def moved(boxes: Tensor, delta: Tensor) -> Tensor:
    """``boxes`` [N, Q, 4] (0..1) moved by ``delta`` [N, Q, 4] in logit space."""
    return torch.sigmoid(delta + inverse_sigmoid(boxes))


def gather_tokens(x: Tensor, tokens: Tensor) -> Tensor:
    """Rows ``tokens`` (int64 [N, Q]) of ``x`` [N, S, C] -> [N, Q, C]."""
    return x.gather(1, tokens.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


class Mlp(nn.Module):
    """Linear layers with an activation between them (keys ``layers.{i}``)."""

    def __init__(self, *channels: int, activation: Activation = F.relu) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(channels))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        output: Tensor = self.layers[-1](x)
        return output


class QueryDecoder(nn.Module):
    """What the decoders have in common: projections of the encoder's maps, and the heads that
    choose which tokens become queries.

    ``names``: of the linear layer and the norm of ``enc_output``. ``position``: channels of
    the embedding of a box, from 4 to ``channels``. ``projected``: whether each map goes through a
    convolution of its own; elsewhere its channels are those of the decoder already.
    ``switchable``: whether these projections, where there are some, have two sets of norms, chosen
    as the encoder's are. They belong to the encoder's stage then.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        channels: int,
        queries: int,
        classes: int,
        position: Sequence[int],
        names: tuple[str, str] = ("0", "1"),
        projected: bool = True,
        switchable: bool = False,
        activation: Activation = F.relu,
    ) -> None:
        super().__init__()
        self.queries = queries
        self.classes = classes
        self.projected = projected
        self.switchable = switchable and projected
        self.input_proj = nn.ModuleList(
            ConvNorm(width, channels, 1, switchable=switchable) if projected else nn.Identity()
            for width in in_channels
        )
        self.enc_output = nn.Sequential()
        self.enc_output.add_module(names[0], nn.Linear(channels, channels))
        self.enc_output.add_module(names[1], nn.LayerNorm(channels))
        self.enc_score_head = nn.Linear(channels, classes)
        self.enc_bbox_head = Mlp(channels, channels, channels, 4, activation=activation)
        self.query_pos_head = Mlp(*position, activation=activation)

    def add_heads(self, layers: int, numbers: int, activation: Activation) -> None:
        """The heads of each layer, a box head of so many ``numbers``, and what training adds; in
        the authors' order, which is that of a state dict."""
        channels = self.enc_score_head.in_features
        self.dec_score_head = nn.ModuleList(
            nn.Linear(channels, self.classes) for _ in range(layers)
        )
        self.dec_bbox_head = nn.ModuleList(
            Mlp(channels, channels, channels, numbers, activation=activation) for _ in range(layers)
        )
        # Training only; the last row stands for "no object".
        self.denoising_class_embed = nn.Embedding(
            self.classes + 1, channels, padding_idx=self.classes
        )

    def reset_parameters(self) -> None:
        """Class heads start at a prior of 0.01, box heads at "no change"."""
        nn.init.xavier_uniform_(self.enc_output[0].weight)  # type: ignore[arg-type]
        for linear in self.query_pos_head.layers:
            nn.init.xavier_uniform_(linear.weight)  # type: ignore[arg-type]
        for score_head in (self.enc_score_head, *self.dec_score_head):
            reset_score_head(score_head)
        for box_head in (self.enc_bbox_head, *self.dec_bbox_head):
            reset_box_head(box_head)

    def project(self, maps: Sequence[Tensor], skip: bool = False) -> list[Tensor]:
        """The encoder's maps with the decoder's channels: [N, C, h, w] each. ``skip``: whether they
        are of a skipped encoder."""
        if not self.projected:
            return list(maps)
        return [conv(x, skip) for conv, x in zip(self.input_proj, maps, strict=True)]

    def take(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The maps [N, C, h, w] of the encoder's stage with the decoder's channels: that stage has
        projected them where the projections are ``switchable``."""
        return list(maps) if self.switchable else self.project(maps)

    def remember(self, maps: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        """What the layers read of the ``maps`` of the encoder's stage beside these themselves, and
        the tokens [N, S, C] that queries are chosen from; here both are the same."""
        tokens = as_tokens(self.take(maps))
        return (tokens,), tokens

    def classify(self, memory: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, S, C] and class logits [N, S, classes] of every token; ``valid`` comes from
        :func:`~anydepth_deploy.families.shared.detr.queries.anchors`."""
        features = self.enc_output(torch.where(valid, memory, 0.0))
        return features, self.enc_score_head(features)

    def select(self, class_logits: Tensor) -> Tensor:
        """The tokens that become queries: int64 [N, Q], best class logit first."""
        return class_logits.amax(-1).topk(self.queries, dim=1).indices

    def propose(
        self, features: Tensor, anchor_logits: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features [N, Q, C] and box logits [N, Q, 4] of the chosen ``tokens`` (int64 [N, Q]).

        RT-DETR's authors compute the boxes of all tokens, of which nothing but these is used.
        ``anchor_logits`` come from :func:`~anydepth_deploy.families.shared.detr.queries.anchors`.
        """
        chosen = gather_tokens(features, tokens)
        return chosen, self.enc_bbox_head(chosen) + F.embedding(tokens, anchor_logits[0])

    def box_weights(self) -> list[Tensor]:
        """The matrices of the box head of query selection."""
        return [matrix for matrix in self.enc_bbox_head.parameters() if matrix.dim() == 2]


def as_tokens(maps: Sequence[Tensor]) -> Tensor:
    """The cells of ``maps`` [N, C, h, w] one after the other: [N, S, C]."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)


def reset_score_head(head: nn.Linear) -> None:
    """A prior of 0.01 for every class."""
    nn.init.constant_(head.bias, -math.log((1.0 - CLASS_PRIOR) / CLASS_PRIOR))


def reset_box_head(head: Mlp) -> None:
    """ "No change"."""
    last = head.layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


class DecoderLayer(nn.Module):
    """Self-attention, deformable cross-attention, feed-forward; post-norm."""

    def __init__(
        self,
        channels: int,
        heads: int,
        feedforward: int,
        levels: int,
        points: int | Sequence[int],
        *,
        activation: Activation = F.relu,
        discrete: bool = False,
    ) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(channels, heads)
        self.norm1 = nn.LayerNorm(channels)
        self.cross_attn = DeformableAttention(channels, heads, levels, points, discrete=discrete)
        self.norm2 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, feedforward)
        self.linear2 = nn.Linear(feedforward, channels)
        self.norm3 = nn.LayerNorm(channels)
        self.activation = activation

    def forward(
        self,
        target: Tensor,
        reference: Tensor,
        memory: Tensor,
        position: Tensor,
        shapes: Sequence[tuple[int, int]],
        mask: Tensor | None = None,
    ) -> Tensor:
        """``target`` and ``position`` [N, Q, C], ``reference`` [N, Q, 4] (cx, cy, w, h in 0..1),
        ``memory`` [N, S, C]; ``mask`` bool [Q, Q], true where self-attention is forbidden."""
        query = target + position
        target = self.norm1(target + self.self_attn(query, query, target, mask))
        crossed = self.cross_attn(target + position, reference, [memory], shapes)
        target = self.norm2(target + crossed)
        inner = self.activation(self.linear1(target))
        output: Tensor = self.norm3(target + self.linear2(inner))
        return output


class Layers(nn.Module):
    """Holds the layers under the authors' names (``decoder.decoder.layers``)."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class Decoder(QueryDecoder):
    """RT-DETR's: query selection and up to ``layers`` decoder layers, each with its own heads.

    ``position``: channels between those of a box and ``channels`` in the embedding of boxes.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        channels: int,
        heads: int,
        feedforward: int,
        layers: int,
        points: int | Sequence[int],
        queries: int,
        classes: int,
        position: Sequence[int] | None = None,
        names: tuple[str, str] = ("0", "1"),
        switchable: bool = False,
        activation: Activation = F.relu,
        feedforward_activation: Activation = F.relu,
        discrete: bool = False,
    ) -> None:
        inner = (2 * channels,) if position is None else position
        super().__init__(
            in_channels,
            channels=channels,
            queries=queries,
            classes=classes,
            position=(4, *inner, channels),
            names=names,
            switchable=switchable,
            activation=activation,
        )
        self.decoder = Layers(
            [
                DecoderLayer(
                    channels,
                    heads,
                    feedforward,
                    len(in_channels),
                    points,
                    activation=feedforward_activation,
                    discrete=discrete,
                )
                for _ in range(layers)
            ]
        )
        self.add_heads(layers, 4, activation)
        self.reset_parameters()

    def layer(
        self,
        index: int,
        target: Tensor,
        reference: Tensor,
        memory: Tensor,
        shapes: Sequence[tuple[int, int]],
        mask: Tensor | None = None,
    ) -> Tensor:
        """Decoder layer ``index`` (from 0), with the position of its reference boxes."""
        position = self.query_pos_head(reference)
        output: Tensor = self.decoder.layers[index](
            target, reference, memory, position, shapes, mask
        )
        return output

    def refine(self, index: int, target: Tensor, reference: Tensor) -> Tensor:
        """The boxes [N, Q, 4] (cx, cy, w, h in 0..1) after layer ``index``."""
        return moved(reference, self.dec_bbox_head[index](target))
