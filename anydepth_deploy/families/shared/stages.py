"""A network as a sequence of gated stages: the one description that everything else reads.

A model lists its stages once. The torch reference runs them, multiply-adds are counted over them,
and the exporter turns each variant of each stage into a piece of the ONNX graph. So there is no
second place where the order of a network, or the meaning of a gate, is written down.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anydepth_deploy.depth import Depth, DepthSpace, DepthTable, Predicate, variant_name
from anydepth_deploy.errors import InputError
from anydepth_deploy.families.shared.memory import StageMemory
from anydepth_deploy.families.shared.usual_state import usual_state
from anydepth_deploy.suppression import Suppression

__all__ = [
    "DETECTIONS",
    "POSTPROCESS",
    "AnyDepthModel",
    "Comparison",
    "Size",
    "Stage",
    "Variant",
]

Size = tuple[int, int]
"""Height and width of the network input, in pixels."""

LARGEST_SIDE = 8192
"""Of an input, in pixels."""

DETECTIONS = {"labels": "labels", "boxes": "detections", "scores": "scores"}
"""Public names of the detections and the tensors of the flow that hold them."""

POSTPROCESS = "postprocess"
"""The last stage, from raw outputs to detections: a graph can do without it."""


@dataclass(frozen=True)
class Stage:
    """One piece of a network, in one variant for each combination of its gates.

    A stage reads the named tensors ``inputs`` of the flow and binds ``outputs``; a variant takes
    the inputs as positional tensors and returns one tensor per output (a single output may be
    returned bare). Variants are named by :func:`variant_name`; where one is missing, the outputs
    keep the values they had before the stage.
    """

    name: str
    part: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    variants: Mapping[str, nn.Module]
    gates: tuple[Predicate, ...] = ()
    spared: int = 0
    """Multiply-adds of an image that the published figures count here, for every variant, and that
    are not executed, since nothing reads what they give."""

    def variant(self, depth: Depth) -> str | None:
        """The variant that runs at ``depth``, or None where the stage passes its outputs on."""
        name = variant_name([gate.runs(depth) for gate in self.gates])
        return name if name in self.variants else None

    def run(self, variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run one variant on the tensors of the flow; the outputs by name."""
        found = self.variants[variant](*(tensors[name] for name in self.inputs))
        outputs = (found,) if isinstance(found, Tensor) else found
        return dict(zip(self.outputs, outputs, strict=True))


class Variant(nn.Module):
    """A module that is told by ``skip`` which mode it runs in, with that choice made."""

    def __init__(self, module: nn.Module, *, skip: bool | tuple[bool, ...]) -> None:
        super().__init__()
        self.module = module
        self.skip = skip

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs: Tensor | tuple[Tensor, ...] = self.module(*inputs, skip=self.skip)
        return outputs


@dataclass(frozen=True)
class Comparison:
    """The torch model's answer to the raw outputs of an artifact.

    ``raw`` is in the artifact's order; ``gap`` says by how much (in logits) the best choice that
    the artifact passed over beats the worst one it took: 0 when it chose as torch would.
    """

    raw: dict[str, Tensor]
    detections: dict[str, Tensor]
    gap: float


class AnyDepthModel(nn.Module):
    """What every family offers: gates, a default ladder, stages for an input size.

    A family sets ``family`` (its :attr:`Family.name`), ``space``, ``ladder``, ``config``,
    ``raw_outputs`` and ``max_detections``, and implements :meth:`build_stages`. The flow starts
    with the tensor ``images`` (float32 [N, 3, H, W], values in 0..1) and ends with ``labels``,
    ``detections`` and ``scores``; ``raw_outputs`` maps the public names of the heads' raw outputs
    to tensors of the flow.
    """

    family: str
    space: DepthSpace
    ladder: tuple[Depth, ...]
    config: Any
    raw_outputs: Mapping[str, str]
    max_detections: int
    size_multiple: int = 32
    resize: Literal["stretch", "letterbox"] = "stretch"
    """How pictures of other shapes were fitted to the input in training."""
    suppression: Suppression | None = None
    """Non-maximum suppression between predictions and detections, where the family needs it: then
    there is a raw output :data:`anydepth_deploy.manifest.PREDICTIONS`, which hosts work on."""
    samples_grids: bool = False
    """Whether there is deformable attention, which reads maps between their pixels."""
    optional_keys: tuple[str, ...] = ()
    """Prefixes of parameters that only training uses: a checkpoint may lack them."""
    memory: StageMemory | None = None
    """Of stages that depths have in common; for who runs many depths on the same images."""

    def __init__(self) -> None:
        super().__init__()
        self._stages: dict[tuple[Size, torch.device, Suppression | None], list[Stage]] = {}

    @functools.cached_property
    def table(self) -> DepthTable:
        """The default depth table of this model."""
        return DepthTable(self.space, self.ladder)

    def check_size(self, size: Size) -> None:
        """Refuse input sizes that this network cannot take; a family may ask for more.

        Raises :class:`InputError` when height or width is not a multiple of the coarsest stride,
        or larger than any memory would hold.
        """
        if any(side <= 0 or side % self.size_multiple or side > LARGEST_SIDE for side in size):
            raise InputError(
                f"input size {size[0]}x{size[1]} (height x width): both sides must be positive "
                f"multiples of {self.size_multiple}, at most {LARGEST_SIDE}"
            )

    def build_stages(self, size: Size, device: torch.device) -> list[Stage]:
        """The stages for inputs of ``size`` (height, width), constants on ``device``."""
        raise NotImplementedError

    def stages(self, size: Size, device: torch.device | str = "cpu") -> list[Stage]:
        """The stages for inputs of ``size``; they share this model's parameters.

        Raises :class:`InputError` as :meth:`check_size` does.
        """
        self.check_size(size)
        key = (size, torch.device(device), self.suppression)
        if key not in self._stages:
            with usual_state():
                stages = self.build_stages(size, key[1])
            for stage in stages:
                for module in stage.variants.values():
                    module.train(self.training)
            self._stages[key] = stages
        return self._stages[key]

    def train(self, mode: bool = True) -> AnyDepthModel:
        # Stages are views kept outside the module tree, so that no parameter gets a second name.
        super().train(mode)
        for stages in self._stages.values():
            for stage in stages:
                for module in stage.variants.values():
                    module.train(mode)
        return self

    def flow(
        self,
        images: Tensor,
        depth: Depth | str | int,
        *,
        revise: Callable[[Stage, dict[str, Tensor]], None] | None = None,
    ) -> dict[str, Tensor]:
        """Run the stages; return every tensor of the flow.

        ``revise(stage, tensors)`` is called after each stage and may change the tensors.
        """
        chosen = self.table.find(depth)
        height, width = images.shape[-2:]
        stages = self.stages((height, width), images.device)
        if self.memory is not None:
            return self.memory.flow(stages, images, chosen, revise)
        tensors: dict[str, Tensor] = {"images": images}
        for stage in stages:
            variant = stage.variant(chosen)
            if variant is None:
                continue
            tensors.update(stage.run(variant, tensors))
            if revise is not None:
                revise(stage, tensors)
        return tensors

    def forward(self, images: Tensor, depth: Depth | str | int = "super") -> dict[str, Tensor]:
        """The heads' raw outputs at ``depth`` by their public names.

        ``images``: float32 [N, 3, H, W] in 0..1, H and W multiples of 32. ``depth``: a depth, its
        text, ``super``, ``base``, ``level:k`` or a row. Raises :class:`DepthError` and
        :class:`InputError`.
        """
        return _public(self.raw_outputs, self.flow(images, depth))

    def forward_and_choice(
        self, images: Tensor, depth: Depth | str | int
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """What :meth:`forward` gives, and the score (a logit) of every token [N, T] that queries
        are chosen by; None where nothing is chosen. A family that chooses says the latter."""
        return self.forward(images, depth), None

    def detect(self, images: Tensor, depth: Depth | str | int = "super") -> dict[str, Tensor]:
        """Detections at ``depth``: ``labels`` int64 [N, K], ``boxes`` float32 [N, K, 4]
        (x1, y1, x2, y2 in input pixels) and ``scores`` float32 [N, K], best first."""
        return _public(DETECTIONS, self.flow(images, depth))

    def compare(
        self, images: Tensor, depth: Depth | str | int, raw: Mapping[str, Tensor]
    ) -> Comparison:
        """Run the model so that its outputs can be compared with ``raw`` one by one.

        A family that makes discrete choices (which tokens become queries) takes over the
        artifact's choices and reports how good they were, so that a tie broken differently is
        neither an error nor hides one. ``raw`` holds the artifact's raw outputs by name.
        """
        return self.comparison(self.flow(images, depth), gap=0.0)

    def product_weights(self) -> Iterator[nn.Parameter]:
        """Parameters of convolutions and matrix products: what half precision computes in it. A
        family adds those that it multiplies by without a module of torch's."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                yield from module.parameters(recurse=False)

    def after_random_weights(self) -> None:
        """Called when all weights were drawn at random: the place for what must not be."""

    def comparison(self, tensors: Mapping[str, Tensor], gap: float) -> Comparison:
        """What a finished flow has to say to an artifact."""
        return Comparison(_public(self.raw_outputs, tensors), _public(DETECTIONS, tensors), gap)


def _public(names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the flow under their public names."""
    return {public: tensors[name] for public, name in names.items()}
