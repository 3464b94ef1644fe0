"""RT-DETR's transformer decoder; it stops after any layer, which then uses its own heads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydepth_deploy.families.shared.detr.attention import DeformableAttention, MultiheadAttention

__all__ = ["Decoder", "DecoderLayer", "anchors", "inverse_sigmoid"]

ANCHOR_SIZE = 0.05
ANCHOR_MARGIN = 0.01
CLASS_PRIOR = 0.01


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 - x)) with x clipped to [0, 1] and both terms to at least ``eps``."""
    x = x.clamp(0.0, 1.0)
    return torch.log(x.clamp(min=eps) / (1.0 - x).clamp(min=eps))


def anchors(
    shapes: Sequence[tuple[int, int]], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Anchor boxes of all levels, in logit space, and which of them are valid.

    Returns float32 [1, S, 4] (cx, cy, w, h; +inf where invalid) and bool [1, S, 1]. An anchor is
    valid when every coordinate lies in (0.01, 0.99).
    """
    levels = []
    for level, (height, width) in enumerate(shapes):
        rows, columns = torch.meshgrid(
            torch.arange(height, dtype=torch.float32, device=device),
            torch.arange(width, dtype=torch.float32, device=device),
            indexing="ij",
        )
        centre = torch.stack([(columns + 0.5) / width, (rows + 0.5) / height], -1)
        size = torch.full_like(centre, ANCHOR_SIZE * 2.0**level)
        levels.append(torch.cat([centre, size], -1).reshape(1, height * width, 4))
    boxes = torch.cat(levels, 1)
    valid = ((boxes > ANCHOR_MARGIN) & (boxes < 1.0 - ANCHOR_MARGIN)).all(-1, keepdim=True)
    logits = torch.log(boxes / (1.0 - boxes))
    return torch.where(valid, logits, torch.inf), valid


class Mlp(nn.Module):
    """Linear layers with ReLU between them (keys ``layers.{i}``)."""

    def __init__(self, *channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(channels))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        output: Tensor = self.layers[-1](x)
        return output


class DecoderLayer(nn.Module):
    """Self-attention, deformable cross-attention, feed-forward; post-norm."""

    def __init__(
        self, channels: int, heads: int, feedforward: int, levels: int, points: int
    ) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(channels, heads)
        self.norm1 = nn.LayerNorm(channels)
        self.cross_attn = DeformableAttention(channels, heads, levels, points)
        self.norm2 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, feedforward)
        self.linear2 = nn.Linear(feedforward, channels)
        self.norm3 = nn.LayerNorm(channels)

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
        crossed = self.cross_attn(target + position, reference, memory, shapes)
        target = self.norm2(target + crossed)
        output: Tensor = self.norm3(target + self.linear2(F.relu(self.linear1(target))))
        return output


class _Layers(nn.Module):
    """Holds the layers under the authors' names (``decoder.decoder.layers``)."""

    def __init__(self, layers: Sequence[DecoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class Decoder(nn.Module):
    """Query selection and up to ``layers`` decoder layers, each with its own heads."""

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        channels: int,
        heads: int,
        feedforward: int,
        layers: int,
        points: int,
        queries: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.queries = queries
        self.classes = classes
        self.input_proj = nn.ModuleList()
        for width in in_channels:
            projection = nn.Sequential()
            projection.add_module("conv", nn.Conv2d(width, channels, 1, bias=False))
            projection.add_module("norm", nn.BatchNorm2d(channels))
            self.input_proj.append(projection)
        self.enc_output = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.enc_score_head = nn.Linear(channels, classes)
        self.enc_bbox_head = Mlp(channels, channels, channels, 4)
        self.query_pos_head = Mlp(4, 2 * channels, channels)
        self.decoder = _Layers(
            [
                DecoderLayer(channels, heads, feedforward, len(in_channels), points)
                for _ in range(layers)
            ]
        )
        self.dec_score_head = nn.ModuleList(nn.Linear(channels, classes) for _ in range(layers))
        self.dec_bbox_head = nn.ModuleList(
            Mlp(channels, channels, channels, 4) for _ in range(layers)
        )
        # Training only; the last row stands for "no object".
        self.denoising_class_embed = nn.Embedding(classes + 1, channels, padding_idx=classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Class heads start at a prior of 0.01, box heads at "no change"."""
        nn.init.xavier_uniform_(self.enc_output[0].weight)  # type: ignore[arg-type]
        for linear in self.query_pos_head.layers:
            nn.init.xavier_uniform_(linear.weight)  # type: ignore[arg-type]
        bias = -math.log((1.0 - CLASS_PRIOR) / CLASS_PRIOR)
        for score_head in (self.enc_score_head, *self.dec_score_head):
            nn.init.constant_(score_head.bias, bias)
        for box_head in (self.enc_bbox_head, *self.dec_bbox_head):
            last = box_head.layers[-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def tokens(self, maps: Sequence[Tensor]) -> Tensor:
        """Project the encoder's maps; their cells become tokens [N, S, C], fine to coarse."""
        projected = [conv(x) for conv, x in zip(self.input_proj, maps, strict=True)]
        return torch.cat([x.flatten(2).transpose(1, 2) for x in projected], 1)

    def propose(
        self, memory: Tensor, anchor_logits: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Score every token: features [N, S, C], class logits [N, S, classes], box logits
        [N, S, 4]. ``anchor_logits`` and ``valid`` come from :func:`anchors`."""
        features = self.enc_output(torch.where(valid, memory, 0.0))
        return features, self.enc_score_head(features), self.enc_bbox_head(features) + anchor_logits

    def select(self, class_logits: Tensor) -> Tensor:
        """The tokens that become queries: int64 [N, Q], best class logit first."""
        return class_logits.amax(-1).topk(self.queries, dim=1).indices

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
        delta: Tensor = self.dec_bbox_head[index](target)
        return torch.sigmoid(delta + inverse_sigmoid(reference))


def gather_tokens(x: Tensor, tokens: Tensor) -> Tensor:
    """Rows ``tokens`` (int64 [N, Q]) of ``x`` [N, S, C] -> [N, Q, C]."""
    return x.gather(1, tokens.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
