"""How tokens of the encoder become queries of the decoder; anchors, and boxes as logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anydepth_deploy.families.shared.detr.decoder import QueryDecoder

__all__ = ["QuerySelection", "anchors", "are_tokens", "selection_gap"]

ANCHOR_SIZE = 0.05
ANCHOR_MARGIN = 0.01


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


class QuerySelection(nn.Module):
    """Encoder maps -> what the decoder remembers of them, the target and reference boxes of the
    selected queries, and these (int64 [N, Q])."""

    anchor_logits: Tensor
    valid: Tensor

    def __init__(
        self, decoder: QueryDecoder, shapes: Sequence[tuple[int, int]], device: torch.device
    ) -> None:
        super().__init__()
        self.decoder = decoder
        anchor_logits, valid = anchors(shapes, device)
        self.register_buffer("anchor_logits", anchor_logits, persistent=False)
        self.register_buffer("valid", valid, persistent=False)

    def score(self, maps: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """What the decoder remembers; features and class logits of every token."""
        memory, tokens = self.decoder.remember(maps)
        return (memory, *self.decoder.classify(tokens, self.valid))

    def pick(self, features: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Target and reference boxes of the chosen tokens."""
        target, box_logits = self.decoder.propose(features, self.anchor_logits, queries)
        return target, torch.sigmoid(box_logits)

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        memory, features, class_logits = self.score(maps)
        queries = self.decoder.select(class_logits)
        return (*memory, *self.pick(features, queries), queries)


def are_tokens(chosen: Tensor, shape: tuple[int, int], count: int) -> bool:
    """Whether these are indices of distinct tokens, in the shape that queries have."""
    return (
        chosen.dtype == torch.int64
        and tuple(chosen.shape) == shape
        and bool(((chosen >= 0) & (chosen < count)).all())
        and all(len(row.unique()) == len(row) for row in chosen)
    )


def selection_gap(class_logits: Tensor, chosen: Tensor) -> float:
    """Best token left out minus worst token taken, at least 0."""
    best = class_logits.amax(-1)
    taken = torch.zeros_like(best, dtype=torch.bool).scatter(1, chosen, True)
    if bool(taken.all()):
        return 0.0
    left_out = best.masked_fill(taken, float("-inf")).amax(1)
    worst = best.masked_fill(~taken, float("inf")).amin(1)
    return float((left_out - worst).clamp(min=0.0).max())
