"""D-FINE's decoder: each layer sharpens a distribution over the edges of every box.

D-FINE: Redefine Regression Task of DETRs as Fine-grained Distribution Refinement (Peng et al.,
2024), section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anydepth_deploy.families.shared.detr.attention import DeformableAttention, MultiheadAttention
from anydepth_deploy.families.shared.detr.decoder import (
    Activation,
    Mlp,
    QueryDecoder,
    as_tokens,
    moved,
    reset_box_head,
)

__all__ = ["DFineDecoder", "DecoderVariant", "bin_distances", "edges_to_boxes"]

LARGEST_HALF = 65504.0
"""The largest number of half precision, to which sums are clipped before a norm."""

LARGEST_POSITION = 10.0


def bin_distances(bound: Tensor, reach: Tensor, bins: int) -> Tensor:
    """The distance that each bin stands for, float32 [bins], rising; inner ones grow geometrically.

    With ``a = |bound * reach|`` the ends are -2a and 2a, between them lie -a .. a in steps that
    grow by the factor ``(a + 1) ** (2 / (bins - 3))``: W(n) of D-FINE, section 4.1.
    """
    largest = (bound * reach).abs()
    half = (bins - 3) // 2
    powers = torch.arange(1, half + 1, dtype=torch.float32, device=largest.device)
    steps = (largest + 1) ** (2 * powers / (bins - 3)) - 1
    zero = torch.zeros_like(largest)
    return torch.cat([-2 * largest, -steps.flip(0), zero, steps, 2 * largest])


def edges_to_boxes(reference: Tensor, distances: Tensor, reach: Tensor) -> Tensor:
    """Boxes [N, Q, 4] (cx, cy, w, h) whose edges lie ``distances`` [N, Q, 4] (left, top, right,
    bottom) from those of ``reference`` [N, Q, 4], in its sides divided by ``reach``."""
    centre, unit = reference[..., :2], reference[..., 2:] / reach
    low = centre - (0.5 * reach + distances[..., :2]) * unit
    high = centre + (0.5 * reach + distances[..., 2:]) * unit
    return torch.cat([(low + high) / 2, high - low], -1)


class _Gateway(nn.Module):
    """How much of the target and of what attention brought goes on, channel by channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * channels, 2 * channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, target: Tensor, crossed: Tensor) -> Tensor:
        gates = torch.sigmoid(self.gate(torch.cat([target, crossed], -1)))
        channels = target.shape[-1]
        kept, taken = gates[..., :channels], gates[..., channels:]
        output: Tensor = self.norm(kept * target + taken * crossed)
        return output


class _Layer(nn.Module):
    """Self-attention, deformable cross-attention behind a gateway, feed-forward."""

    def __init__(
        self,
        channels: int,
        heads: int,
        feedforward: int,
        points: Sequence[int],
        *,
        activation: Activation,
        discrete: bool,
    ) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(channels, heads)
        self.norm1 = nn.LayerNorm(channels)
        self.cross_attn = DeformableAttention(
            channels, heads, len(points), points, projected=False, discrete=discrete
        )
        self.gateway = _Gateway(channels)
        self.linear1 = nn.Linear(channels, feedforward)
        self.linear2 = nn.Linear(feedforward, channels)
        self.norm3 = nn.LayerNorm(channels)
        self.activation = activation

    def forward(
        self,
        target: Tensor,
        reference: Tensor,
        memory: Sequence[Tensor],
        position: Tensor,
        shapes: Sequence[tuple[int, int]],
        mask: Tensor | None = None,
    ) -> Tensor:
        """As :class:`~anydepth_deploy.families.shared.detr.decoder.DecoderLayer`; ``memory`` is
        the maps, [N, C, h, w] each."""
        query = target + position
        target = self.norm1(target + self.self_attn(query, query, target, mask))
        crossed = self.cross_attn(target + position, reference, memory, shapes)
        target = self.gateway(target, crossed)
        inner = self.linear2(self.activation(self.linear1(target)))
        output: Tensor = self.norm3((target + inner).clamp(-LARGEST_HALF, LARGEST_HALF))
        return output


class _Quality(nn.Module):
    """How sharp the distributions of a box's edges are, as a number added to all its logits."""

    def __init__(self, best: int, channels: int, activation: Activation) -> None:
        super().__init__()
        self.best = best
        self.reg_conf = Mlp(4 * (best + 1), channels, 1, activation=activation)

    def forward(self, shares: Tensor) -> Tensor:
        """``shares`` [N, Q, 4, bins], each row a distribution -> [N, Q, 1]."""
        best = shares.topk(self.best, dim=-1).values
        seen = torch.cat([best, best.mean(-1, keepdim=True)], -1)
        output: Tensor = self.reg_conf(seen.flatten(2))
        return output


class _Layers(nn.Module):
    """Holds the layers under the authors' names (``decoder.decoder.layers``, ``lqe_layers``)."""

    def __init__(self, layers: Sequence[_Layer], qualities: Sequence[_Quality]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.lqe_layers = nn.ModuleList(qualities)


class DFineDecoder(QueryDecoder):
    """Query selection and up to ``layers`` layers, each with its own heads.

    A layer's box head changes the ``edges`` of all queries [N, Q, 4 * bins], logits of four
    distributions that layers add up; boxes are read off them, relative to one ``anchor`` box that
    follows from the first layer. ``up`` and ``reg_scale``, [1] each, say how far bins reach.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        channels: int,
        heads: int,
        feedforward: int,
        layers: int,
        points: Sequence[int],
        queries: int,
        classes: int,
        bins: int,
        best: int,
        quality: int,
        reach: float,
        bound: float,
        activation: Activation,
        feedforward_activation: Activation,
        discrete: bool,
        switchable: bool = False,
    ) -> None:
        super().__init__(
            in_channels,
            channels=channels,
            queries=queries,
            classes=classes,
            position=(4, 2 * channels, channels),
            names=("proj", "norm"),
            projected=in_channels[0] != channels,
            switchable=switchable,
            activation=activation,
        )
        self.bins = bins
        self.decoder = _Layers(
            [
                _Layer(
                    channels,
                    heads,
                    feedforward,
                    points,
                    activation=feedforward_activation,
                    discrete=discrete,
                )
                for _ in range(layers)
            ],
            [_Quality(best, quality, activation) for _ in range(layers)],
        )
        self.pre_bbox_head = Mlp(channels, channels, channels, 4, activation=activation)
        self.add_heads(layers, 4 * bins, activation)
        self.up = nn.Parameter(torch.tensor([bound]), requires_grad=False)
        self.reg_scale = nn.Parameter(torch.tensor([reach]), requires_grad=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Class heads start at a prior of 0.01, box heads at "no change", judgements of sharpness
        at 0, gateways half open."""
        super().reset_parameters()
        reset_box_head(self.pre_bbox_head)
        for layer, quality in zip(self.decoder.layers, self.decoder.lqe_layers, strict=True):
            assert isinstance(layer, _Layer)
            assert isinstance(quality, _Quality)
            reset_box_head(quality.reg_conf)
            nn.init.zeros_(layer.gateway.gate.weight)
            nn.init.zeros_(layer.gateway.gate.bias)

    def remember(self, maps: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Layers read maps: they have no linear layer that would turn them into tokens anyway."""
        found = self.take(maps)
        own = self.projected and not self.switchable
        return (tuple(found) if own else (), as_tokens(found))

    def layer(
        self,
        index: int,
        target: Tensor,
        reference: Tensor,
        memory: Sequence[Tensor],
        shapes: Sequence[tuple[int, int]],
        mask: Tensor | None = None,
    ) -> Tensor:
        """Decoder layer ``index`` (from 0), with the position of its reference boxes; ``mask`` as
        that of RT-DETR's."""
        position = self.query_pos_head(reference).clamp(-LARGEST_POSITION, LARGEST_POSITION)
        output: Tensor = self.decoder.layers[index](
            target, reference, memory, position, shapes, mask
        )
        return output

    def anchor(self, target: Tensor, reference: Tensor) -> Tensor:
        """The boxes [N, Q, 4] that all layers' edges are relative to: ``target`` after the first
        layer, ``reference`` before it."""
        return moved(reference, self.pre_bbox_head(target))

    def shares(self, edges: Tensor) -> Tensor:
        """Logits of edges [N, Q, 4 * bins] as distributions [N, Q, 4, bins]."""
        return edges.reshape(*edges.shape[:-1], 4, self.bins).softmax(-1)

    @property
    def distances(self) -> Tensor:
        """What each bin stands for, float32 [bins]: see :func:`bin_distances`."""
        return bin_distances(self.up.detach(), self.reg_scale.detach(), self.bins)

    def score(self, index: int, target: Tensor, shares: Tensor) -> Tensor:
        """Class logits [N, Q, classes] after layer ``index``."""
        logits: Tensor = self.dec_score_head[index](target) + self.decoder.lqe_layers[index](shares)
        return logits


class DecoderVariant(nn.Module):
    """One decoder layer for maps of one size, with what it hands to the next.

    The first takes target, boxes and maps, the others edges and anchor, too, before the maps; what
    each gives is listed in ``makes``.
    """

    distances: Tensor
    reach: Tensor

    def __init__(
        self, decoder: DFineDecoder, index: int, shapes: Sequence[tuple[int, int]]
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.index = index
        self.shapes = list(shapes)
        self.register_buffer("distances", decoder.distances, persistent=False)
        self.register_buffer("reach", decoder.reg_scale.detach().abs(), persistent=False)
        self.makes: tuple[str, ...] = ("boxes", "logits")
        if index < len(decoder.dec_bbox_head) - 1:
            self.makes += ("target", "edges") if index else ("target", "edges", "anchor")

    def forward(self, before: Tensor, boxes: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        decoder, index = self.decoder, self.index
        memory = rest[2:] if index else rest
        target = decoder.layer(index, before, boxes, memory, self.shapes)
        if index:
            edges, anchor = rest[:2]
            edges = decoder.dec_bbox_head[index](target + before) + edges
        else:
            anchor = decoder.anchor(target, boxes)
            edges = decoder.dec_bbox_head[index](target)
        shares = decoder.shares(edges)
        boxes = edges_to_boxes(anchor, (shares * self.distances).sum(-1), self.reach)
        logits = decoder.score(index, target, shares)
        return (boxes, logits, target, edges, anchor)[: len(self.makes)]
