"""What the networks of the DETRs have in common: queries, decoder layers, the best pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anydepth_deploy.depth import Depth, Predicate
from anydepth_deploy.errors import InputError
from anydepth_deploy.families.shared.detr.attention import MultiheadAttention
from anydepth_deploy.families.shared.detr.decoder import Decoder, QueryDecoder, gather_tokens
from anydepth_deploy.families.shared.detr.encoder import HybridEncoder, position_embedding
from anydepth_deploy.families.shared.detr.queries import QuerySelection, are_tokens, selection_gap
from anydepth_deploy.families.shared.stages import (
    POSTPROCESS,
    AnyDepthModel,
    Comparison,
    Size,
    Stage,
    Variant,
)

__all__ = ["DetrModel", "EncoderVariant"]


class DetrModel(AnyDepthModel):
    """A backbone, a hybrid encoder and a decoder that stops after any layer.

    A family sets ``backbone``, ``encoder`` and ``decoder`` after this constructor, and its
    configuration has ``queries``, ``classes``, ``max_detections``, ``depth_space`` and
    ``default_ladder``.

    Raw outputs: ``logits`` float32 [N, Q, classes], ``boxes`` float32 [N, Q, 4] (cx, cy, w, h in
    0..1), ``queries`` int64 [N, Q] (the encoder token that each query came from, which is what
    identifies a query across runtimes: the order of near-equal scores is nobody's promise).
    """

    samples_grids = True
    optional_keys = ("decoder.denoising_class_embed.",)
    raw_outputs = {"logits": "logits", "boxes": "boxes", "queries": "queries"}  # noqa: RUF012
    strides: tuple[int, ...] = (8, 16, 32)
    """Of the maps that go through the encoder, the coarsest last."""
    counts_all_boxes = True
    """Whether published figures count a box of query selection for every token."""
    encoder: HybridEncoder
    decoder: QueryDecoder

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.space = config.depth_space
        self.ladder = config.default_ladder
        # No more detections than there are query-class pairs.
        self.max_detections = min(config.max_detections, config.queries * config.classes)

    def check_size(self, size: Size) -> None:
        """Multiples of 32, and at least as many tokens as queries."""
        super().check_size(size)
        tokens = self._tokens(size)
        if tokens < self.config.queries:
            raise InputError(
                f"input size {size[0]}x{size[1]} (height x width) gives {tokens} tokens, the "
                f"network selects {self.config.queries} queries from them: choose a larger size"
            )

    def _tokens(self, size: Sequence[int]) -> int:
        return sum((size[0] // stride) * (size[1] // stride) for stride in self.strides)

    def _spared(self, size: Size) -> int:
        """Multiply-adds of the box head on tokens that do not become queries."""
        idle: int = self._tokens(size) - self.config.queries
        return idle * sum(weight.numel() for weight in self.decoder.box_weights())

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
        count = self._tokens(images.shape[-2:])
        if not are_tokens(chosen, (len(images), self.config.queries), count):
            return self.comparison(self.flow(images, depth), gap=float("inf"))
        gap = 0.0

        def take_over(stage: Stage, tensors: dict[str, Tensor]) -> None:
            nonlocal gap
            if stage.name != "queries":
                return
            selection = stage.variants["full"]
            assert isinstance(selection, QuerySelection)
            maps = [tensors[name] for name in stage.inputs]
            memory, features, class_logits = selection.score(maps)
            gap = selection_gap(class_logits, chosen)
            target, boxes = selection.pick(features, chosen)
            tensors.update(zip(self.memory_names, memory, strict=True))
            tensors.update(target=target, boxes=boxes, queries=chosen)

        tensors = self.flow(images, depth, revise=take_over)
        return self.comparison(tensors, gap)

    def forward_and_choice(
        self, images: Tensor, depth: Depth | str | int
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """See :meth:`AnyDepthModel.forward_and_choice`."""
        scores: list[Tensor] = []

        def look(stage: Stage, tensors: dict[str, Tensor]) -> None:
            if stage.name == "queries":
                selection = stage.variants["full"]
                assert isinstance(selection, QuerySelection)
                _, _, class_logits = selection.score([tensors[name] for name in stage.inputs])
                scores.append(class_logits.amax(-1))

        tensors = self.flow(images, depth, revise=look)
        return {public: tensors[name] for public, name in self.raw_outputs.items()}, scores[0]

    def maps(self, images: Tensor, *, skip: bool) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The backbone's and the encoder's maps [N, C, h, w] of super, or with ``skip`` of base."""
        raise NotImplementedError

    def shapes(self, size: Size) -> list[tuple[int, int]]:
        """Height and width of the maps for inputs of ``size``."""
        return [(size[0] // stride, size[1] // stride) for stride in self.strides]

    @property
    def map_names(self) -> tuple[str, ...]:
        """Tensors of the flow between backbone and encoder."""
        return tuple(f"stride{stride}" for stride in self.strides)

    @property
    def memory_names(self) -> tuple[str, ...]:
        """Tensors of the flow that the decoder's layers read and query selection makes."""
        return ("memory",)

    @property
    def encoded_names(self) -> tuple[str, ...]:
        """Tensors of the flow between encoder and queries."""
        return tuple(f"encoded{stride}" for stride in self.strides)

    def gate(self, name: str) -> tuple[Predicate, ...]:
        """What chooses between the variants of a stage whose gate is ``name``; nothing where there
        is no such gate."""
        return tuple(Predicate(i) for i, gate in enumerate(self.space.gates) if gate.name == name)

    def gated_stages(
        self, size: Size, device: torch.device, entry: nn.Module, layers: Sequence[nn.Module]
    ) -> list[Stage]:
        """All stages of a network whose backbone is ``entry`` and four ``layers``, each of which
        takes a map and ``skip``."""
        previous = "stride4.stem"
        stages = [Stage("stem", "backbone", ("images",), (previous,), {"full": entry})]
        for index, layer in enumerate(layers):
            output = f"stride{4 << index}"
            gates = self.gate(f"backbone.layer{index + 1}")
            variants = {"full": Variant(layer, skip=False)}
            if gates:
                variants["skipped"] = Variant(layer, skip=True)
            stages.append(
                Stage(f"layer{index + 1}", "backbone", (previous,), (output,), variants, gates)
            )
            previous = output
        return [*stages, self.encoder_stage(size, device), *self.decoding_stages(size, device)]

    def encoder_stage(self, size: Size, device: torch.device) -> Stage:
        """The encoder, and the decoder's projections where their norms go with it: as constants of
        its variants they cost nothing, and what follows has one variant."""
        position = position_embedding(*self.shapes(size)[-1], self.config.hidden, device)
        gates = self.gate("encoder")
        names = {"full": False, "skipped": True} if gates else {"full": False}
        decoder = self.decoder if self.decoder.switchable else None
        variants = {
            name: EncoderVariant(self.encoder, position, skip=skip, decoder=decoder)
            for name, skip in names.items()
        }
        return Stage("encoder", "encoder", self.map_names, self.encoded_names, variants, gates)

    def decoding_stages(self, size: Size, device: torch.device) -> list[Stage]:
        """What follows the encoder: queries, a stage for each decoder layer, of which the last gate
        counts those that run, and the best pairs."""
        gate = len(self.space.gates) - 1
        stages = [
            Stage(
                "queries",
                "decoder",
                self.encoded_names,
                (*self.memory_names, "target", "boxes", "queries"),
                {"full": QuerySelection(self.decoder, self.shapes(size), device)},
                spared=self._spared(size) if self.counts_all_boxes else 0,
            )
        ]
        for index in range(self.config.decoder_layers):
            inputs, outputs, layer = self.layer_stage(index, self.shapes(size))
            stages.append(
                Stage(
                    f"decoder{index + 1}",
                    "decoder",
                    inputs,
                    outputs,
                    {"full": layer},
                    (Predicate(gate, index + 1),) if index else (),
                )
            )
        pairs = _BestPairs(size, self.config.classes, self.max_detections, device)
        stages.append(
            Stage(
                POSTPROCESS,
                POSTPROCESS,
                ("logits", "boxes"),
                ("labels", "detections", "scores"),
                {"full": pairs},
            )
        )
        return stages

    def layer_stage(
        self, index: int, shapes: Sequence[tuple[int, int]]
    ) -> tuple[tuple[str, ...], tuple[str, ...], nn.Module]:
        """Decoder layer ``index`` (from 0): what it reads and writes of the flow, and the module.
        ``logits`` and ``boxes`` are among what it writes."""
        assert isinstance(self.decoder, Decoder)
        return (
            ("target", "boxes", "memory"),
            ("target", "boxes", "logits"),
            _DecoderVariant(self.decoder, index, shapes),
        )


class EncoderVariant(nn.Module):
    """The encoder for maps of one size, in one mode, and the projections of ``decoder``."""

    position: Tensor

    def __init__(
        self,
        encoder: HybridEncoder,
        position: Tensor,
        *,
        skip: bool,
        decoder: QueryDecoder | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.skip = skip
        self.register_buffer("position", position, persistent=False)

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        encoded = self.encoder(maps, self.skip, self.position)
        return tuple(encoded if self.decoder is None else self.decoder.project(encoded, self.skip))


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


class _BestPairs(nn.Module):
    """Raw outputs -> the best ``count`` of all query-class pairs; no NMS."""

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
