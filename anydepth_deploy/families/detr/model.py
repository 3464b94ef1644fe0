"""AnyDepth-DETR: the network, and how it falls into gated stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from anydepth_deploy.depth import Depth, Predicate
from anydepth_deploy.errors import InputError
from anydepth_deploy.families.detr.backbone import Backbone, Stem
from anydepth_deploy.families.detr.config import DetrConfig
from anydepth_deploy.families.shared.detr.attention import MultiheadAttention
from anydepth_deploy.families.shared.detr.decoder import Decoder, anchors, gather_tokens
from anydepth_deploy.families.shared.detr.encoder import HybridEncoder, position_embedding
from anydepth_deploy.families.shared.stages import (
    POSTPROCESS,
    AnyDepthModel,
    Comparison,
    Size,
    Stage,
    Variant,
)

__all__ = ["AnyDepthDETR"]

STRIDES = (8, 16, 32)


class AnyDepthDETR(AnyDepthModel):
    """RT-DETR with skippable stages; parameter names are those of the authors' checkpoints.

    Raw outputs: ``logits`` float32 [N, Q, classes], ``boxes`` float32 [N, Q, 4] (cx, cy, w, h in
    0..1), ``queries`` int64 [N, Q] (the encoder token that each query came from, which is what
    identifies a query across runtimes: the order of near-equal scores is nobody's promise).
    """

    family = "anydepth-detr"
    samples_grids = True
    optional_keys = ("decoder.denoising_class_embed.",)
    raw_outputs = {"logits": "logits", "boxes": "boxes", "queries": "queries"}  # noqa: RUF012

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.config: DetrConfig = config
        self.space = config.depth_space
        self.ladder = config.default_ladder
        # No more detections than there are query-class pairs.
        self.max_detections = min(config.max_detections, config.queries * config.classes)
        self.backbone = Backbone(config.blocks, config.widths)
        self.encoder = HybridEncoder(
            self.backbone.out_channels,
            config.hidden,
            heads=config.heads,
            feedforward=config.feedforward,
            csp_blocks=config.csp_blocks,
        )
        self.decoder = Decoder(
            [config.hidden] * len(STRIDES),
            channels=config.decoder_hidden,
            heads=config.decoder_heads,
            feedforward=config.decoder_feedforward,
            layers=config.decoder_layers,
            points=config.points,
            queries=config.queries,
            classes=config.classes,
        )

    def check_size(self, size: Size) -> None:
        """Multiples of 32, and at least as many tokens as queries."""
        super().check_size(size)
        tokens = sum((size[0] // stride) * (size[1] // stride) for stride in STRIDES)
        if tokens < self.config.queries:
            raise InputError(
                f"input size {size[0]}x{size[1]} (height x width) gives {tokens} tokens, the "
                f"network selects {self.config.queries} queries from them: choose a larger size"
            )

    def product_weights(self) -> Iterator[nn.Parameter]:
        """And those of attention, which is written as plain products."""
        yield from super().product_weights()
        for module in self.modules():
            if isinstance(module, MultiheadAttention):
                yield from (module.in_proj_weight, module.in_proj_bias)

    def compare(
        self, images: Tensor, depth: Depth | str | int, raw: Mapping[str, Tensor]
    ) -> Comparison:
        """Run with the queries that the artifact selected, in the artifact's order.

        The gap is how much the best token it left out beats the worst one it took, in logits.
        """
        chosen = raw["queries"]
        height, width = images.shape[-2:]
        count = sum((height // stride) * (width // stride) for stride in STRIDES)
        if not _are_tokens(chosen, (len(images), self.config.queries), count):
            return self.comparison(self.flow(images, depth), gap=float("inf"))
        gap = 0.0

        def take_over(stage: Stage, tensors: dict[str, Tensor]) -> None:
            nonlocal gap
            if stage.name != "queries":
                return
            selection = stage.variants["full"]
            assert isinstance(selection, _QuerySelection)
            maps = [tensors[name] for name in stage.inputs]
            memory, features, class_logits, box_logits = selection.score(maps)
            gap = _selection_gap(class_logits, chosen)
            target, boxes = selection.pick(features, box_logits, chosen)
            tensors.update(memory=memory, target=target, boxes=boxes, queries=chosen)

        tensors = self.flow(images, depth, revise=take_over)
        return self.comparison(tensors, gap)

    def build_stages(self, size: Size, device: torch.device) -> list[Stage]:
        shapes = [(size[0] // stride, size[1] // stride) for stride in STRIDES]
        stages = [
            Stage(
                "stem",
                "backbone",
                ("images",),
                ("stride4.stem",),
                {"full": Stem(self.backbone.conv1, self.backbone.bn1)},
            )
        ]
        previous = "stride4.stem"
        for index, layer in enumerate(self.backbone.layers):
            output = f"stride{4 << index}"
            stages.append(
                Stage(
                    f"layer{index + 1}",
                    "backbone",
                    (previous,),
                    (output,),
                    {"full": Variant(layer, skip=False), "skipped": Variant(layer, skip=True)},
                    (Predicate(index),),
                )
            )
            previous = output
        position = position_embedding(*shapes[-1], self.config.hidden, device)
        encoded = tuple(f"encoded{stride}" for stride in STRIDES)
        stages.append(
            Stage(
                "encoder",
                "encoder",
                tuple(f"stride{stride}" for stride in STRIDES),
                encoded,
                {
                    "full": _EncoderVariant(self.encoder, position, skip=False),
                    "skipped": _EncoderVariant(self.encoder, position, skip=True),
                },
                (Predicate(4),),
            )
        )
        stages.append(
            Stage(
                "queries",
                "decoder",
                encoded,
                ("memory", "target", "boxes", "queries"),
                {"full": _QuerySelection(self.decoder, shapes, device)},
            )
        )
        for index in range(self.config.decoder_layers):
            stages.append(
                Stage(
                    f"decoder{index + 1}",
                    "decoder",
                    ("target", "boxes", "memory"),
                    ("target", "boxes", "logits"),
                    {"full": _DecoderVariant(self.decoder, index, shapes)},
                    (Predicate(5, index + 1),) if index else (),
                )
            )
        stages.append(
            Stage(
                POSTPROCESS,
                POSTPROCESS,
                ("logits", "boxes"),
                ("labels", "detections", "scores"),
                {"full": _PostProcess(size, self.config.classes, self.max_detections, device)},
            )
        )
        return stages


def _are_tokens(chosen: Tensor, shape: tuple[int, int], count: int) -> bool:
    """Whether these are indices of distinct tokens, in the shape that queries have."""
    return (
        chosen.dtype == torch.int64
        and tuple(chosen.shape) == shape
        and bool(((chosen >= 0) & (chosen < count)).all())
        and all(len(row.unique()) == len(row) for row in chosen)
    )


def _selection_gap(class_logits: Tensor, chosen: Tensor) -> float:
    """Best token left out minus worst token taken, at least 0."""
    best = class_logits.amax(-1)
    taken = torch.zeros_like(best, dtype=torch.bool).scatter(1, chosen, True)
    if bool(taken.all()):
        return 0.0
    left_out = best.masked_fill(taken, float("-inf")).amax(1)
    worst = best.masked_fill(~taken, float("inf")).amin(1)
    return float((left_out - worst).clamp(min=0.0).max())


class _EncoderVariant(nn.Module):
    position: Tensor

    def __init__(self, encoder: HybridEncoder, position: Tensor, *, skip: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.skip = skip
        self.register_buffer("position", position, persistent=False)

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.encoder(maps, self.skip, self.position))


class _QuerySelection(nn.Module):
    """Encoder maps -> memory, and the target and reference boxes of the selected queries."""

    anchor_logits: Tensor
    valid: Tensor

    def __init__(
        self, decoder: Decoder, shapes: Sequence[tuple[int, int]], device: torch.device
    ) -> None:
        super().__init__()
        self.decoder = decoder
        anchor_logits, valid = anchors(shapes, device)
        self.register_buffer("anchor_logits", anchor_logits, persistent=False)
        self.register_buffer("valid", valid, persistent=False)

    def score(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Memory, features, class logits and box logits of every token."""
        memory = self.decoder.tokens(maps)
        return (memory, *self.decoder.propose(memory, self.anchor_logits, self.valid))

    def pick(self, features: Tensor, box_logits: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Target and reference boxes of the chosen tokens."""
        boxes = torch.sigmoid(gather_tokens(box_logits, queries))
        return gather_tokens(features, queries), boxes

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        memory, features, class_logits, box_logits = self.score(maps)
        queries = self.decoder.select(class_logits)
        return (memory, *self.pick(features, box_logits, queries), queries)


class _DecoderVariant(nn.Module):
    def __init__(self, decoder: Decoder, index: int, shapes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.decoder = decoder
        self.index = index
        self.shapes = list(shapes)

    def forward(
        self, target: Tensor, boxes: Tensor, memory: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        target = self.decoder.layer(self.index, target, boxes, memory, self.shapes)
        boxes = self.decoder.refine(self.index, target, boxes)
        return target, boxes, self.decoder.dec_score_head[self.index](target)


class _PostProcess(nn.Module):
    """Raw outputs -> the best ``max_detections`` of all query-class pairs; no NMS."""

    size: Tensor

    def __init__(self, size: Size, classes: int, count: int, device: torch.device) -> None:
        super().__init__()
        self.classes = classes
        self.count = count
        height, width = size
        pixels = torch.tensor([width, height, width, height], dtype=torch.float32, device=device)
        self.register_buffer("size", pixels, persistent=False)

    def forward(self, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores, index = logits.sigmoid().flatten(1).topk(self.count, dim=1)
        centre, half = boxes[..., :2], boxes[..., 2:] * 0.5
        corners = torch.cat([centre - half, centre + half], -1) * self.size
        query = index // self.classes
        return index - query * self.classes, gather_tokens(corners, query), scores
