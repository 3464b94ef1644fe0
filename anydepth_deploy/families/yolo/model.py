"""AnyDepth-YOLO: the network, and how it falls into gated stages."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydepth_deploy.depth import Depth, Predicate, variant_name
from anydepth_deploy.families.shared.stages import (
    POSTPROCESS,
    AnyDepthModel,
    Comparison,
    Size,
    Stage,
    Variant,
)
from anydepth_deploy.families.shared.suppress import Suppress
from anydepth_deploy.families.yolo.blocks import A2C2f, C3k2, Conv, residual_ends
from anydepth_deploy.families.yolo.config import ATTENTION_LAYERS, YoloConfig
from anydepth_deploy.families.yolo.head import Detect, decode, grid
from anydepth_deploy.suppression import Suppression

__all__ = ["AnyDepthYOLO", "YOLOv12"]

AREAS = {6: 4, 8: 1}
"""Areas of the attention layers."""

BOX_SPREAD, CLASS_SPREAD, QUIET = 0.05, 0.2, -7.4
"""Standard deviations of the head's logits, and the bias of the classes, in a network with random
weights: boxes differ by pixels, and about 1 % of all scores are candidates for suppression."""


@dataclass(frozen=True)
class _Step:
    """What one gate governs: the block at ``layer``, and the convolution or upsampling before it.

    ``sources`` are layers: the main input, then what is concatenated to it.
    """

    layer: int
    sources: tuple[int, ...]
    down: int | None = None
    up: bool = False


STEPS = (
    _Step(2, (1,)),
    _Step(4, (2,), down=3),
    _Step(6, (4,), down=5),
    _Step(8, (6,), down=7),
    _Step(11, (8, 6), up=True),
    _Step(14, (11, 4), up=True),
    _Step(17, (14, 11), down=15),
    _Step(20, (17, 8), down=18),
)
"""The body of the network, in the order of the gates."""

OUTPUTS = (14, 17, 20)
"""Layers that the head reads: strides 8, 16 and 32."""


class AnyDepthYOLO(AnyDepthModel):
    """YOLOv12 with skippable blocks; parameter names are those of the authors' checkpoints.

    Raw output: ``predictions`` float32 [N, 4 + classes, A] (cx, cy, w, h in input pixels, then the
    score of each class in 0..1), A the cells of strides 8, 16 and 32, fine to coarse.
    """

    family = "anydepth-yolo"
    raw_outputs = {"predictions": "predictions"}  # noqa: RUF012
    resize = "letterbox"

    def __init__(self, config: YoloConfig) -> None:
        super().__init__()
        self.config: YoloConfig = config
        self.space = config.depth_space
        self.ladder = config.default_ladder
        self.max_detections = config.max_detections
        self.suppression = Suppression()
        layers = _layers(config)
        self.model = nn.ModuleDict({str(index): layers[index] for index in sorted(layers)})

    @property
    def head(self) -> Detect:
        head = self.model["21"]
        assert isinstance(head, Detect)
        return head

    def features(self, images: Tensor, skip: Sequence[bool]) -> dict[int, Tensor]:
        """Outputs of the gated layers by their index; ``skip`` holds a flag for each gate."""
        found = {1: self._stem()(images)}
        for step, flag in zip(STEPS, skip, strict=True):
            found[step.layer] = self._step(step)(
                *(found[source] for source in step.sources), skip=flag
            )
        return found

    def after_random_weights(self) -> None:
        """Make the network as well-conditioned as a trained one.

        With any weights and statistics, rounding errors grow with every block until they are
        visible in the boxes. So residual branches get a small share, both norm sets statistics
        that fit (of noise and of smooth pictures; half of the mean stays, because centring is what
        magnifies errors most), and the head's logits a small spread.
        """
        for conv in residual_ends(self.model):
            for name, parameter in conv.named_parameters():
                if name.startswith(Conv.norm_names):
                    parameter.mul_(0.2)
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # plain averages
        generator = torch.Generator().manual_seed(0)
        smooth = F.interpolate(torch.rand(2, 3, 8, 8, generator=generator), size=(128, 128))
        images = torch.cat([torch.rand(2, 3, 128, 128, generator=generator), smooth])
        self.train()
        for skip in (True, False):
            maps = self.features(images, [skip] * len(STEPS))
            box_logits, class_logits = self.head([maps[layer] for layer in OUTPUTS])
        for norm in norms:
            norm.momentum = Conv.momentum
            mean, variance = norm.running_mean, norm.running_var
            assert mean is not None
            assert variance is not None
            mean.mul_(0.5)
            variance.add_(mean**2)
        for boxes, scores in zip(self.head.cv2, self.head.cv3, strict=True):
            boxes[2].weight.mul_(BOX_SPREAD / box_logits.std())  # type: ignore[index]
            scores[2].weight.mul_(CLASS_SPREAD / class_logits.std())  # type: ignore[index]
            nn.init.constant_(scores[2].bias, QUIET)  # type: ignore[index]
        self.head.dfl.reset_parameters()

    def compare(
        self, images: Tensor, depth: Depth | str | int, raw: Mapping[str, Tensor]
    ) -> Comparison:
        """Suppress the artifact's own predictions: which of two near-equal boxes survives is
        decided by digits that no tolerance covers."""
        found = raw["predictions"]
        own: dict[str, Tensor] = {}

        def take_over(stage: Stage, tensors: dict[str, Tensor]) -> None:
            if stage.name == "head":
                own["predictions"] = tensors["predictions"]
                if found.shape == own["predictions"].shape:
                    tensors["predictions"] = found

        return self.comparison(self.flow(images, depth, revise=take_over) | own, gap=0.0)

    def build_stages(self, size: Size, device: torch.device) -> list[Stage]:
        rule = self.suppression
        assert rule is not None
        steps = [self._step(step) for step in STEPS]
        entry = _Entry(self._stem(), *steps[:2])
        stages = [Stage("entry", "backbone", ("images",), ("layer4",), *self._gated(entry, (0, 1)))]
        for gate in range(2, len(STEPS)):
            step, module = STEPS[gate], steps[gate]
            stages.append(
                Stage(
                    f"layer{step.layer}",
                    "backbone" if step.layer <= 8 else "neck",
                    tuple(f"layer{source}" for source in step.sources),
                    (f"layer{step.layer}",),
                    *self._gated(module, (gate,)),
                )
            )
        maps = tuple(f"layer{layer}" for layer in OUTPUTS)
        head = _Predictions(self.head, size, device)
        stages.append(Stage("head", "head", maps, ("predictions",), {"full": head}))
        stages.append(
            Stage(
                POSTPROCESS,
                POSTPROCESS,
                ("predictions",),
                ("labels", "detections", "scores"),
                {"full": Suppress(rule, self.max_detections)},
            )
        )
        return stages

    def _gated(
        self, module: nn.Module, gates: Sequence[int]
    ) -> tuple[dict[str, Variant], tuple[Predicate, ...]]:
        """The variants of a stage with these gates, and its predicates; of a network of one depth
        the full one, and none."""

        def variant(skips: tuple[bool, ...]) -> Variant:
            return Variant(module, skip=skips if len(skips) > 1 else skips[0])

        if self.config.one_depth:
            return {"full": variant((False,) * len(gates))}, ()
        choices = itertools.product((False, True), repeat=len(gates))
        variants = {variant_name([not skip for skip in skips]): variant(skips) for skips in choices}
        return variants, tuple(Predicate(gate) for gate in gates)

    def _stem(self) -> nn.Sequential:
        return nn.Sequential(self.model["0"], self.model["1"])

    def _step(self, step: _Step) -> _Joined:
        down = None if step.down is None else self.model[str(step.down)]
        return _Joined(self.model[str(step.layer)], down, step.up)


class YOLOv12(AnyDepthYOLO):
    """The network without any-depth: one norm set, one depth, no gates."""

    family = "yolov12"


def _layers(config: YoloConfig) -> dict[int, nn.Module]:
    """All layers that hold weights, by index; sizes are those of YOLOv12's table."""
    width, repeats = config.channels, config.repeats
    switchable = not config.one_depth

    def c3k2(layer: int, inputs: int, channels: int, expansion: float, c3k: bool) -> C3k2:
        count = repeats(2)
        return C3k2(
            inputs,
            width(channels),
            count,
            count if config.switchable_c3k2 else (count + 1) // 2,
            expansion=expansion,
            c3k=c3k or config.bottleneck_c3k,
            inner_skip=layer in config.inner_skips,
            own_skip_weight=layer in config.own_skip_weights,
            switchable=switchable,
        )

    def a2c2f(layer: int, inputs: int, channels: int) -> A2C2f:
        return A2C2f(
            inputs,
            width(channels),
            repeats(4 if layer in ATTENTION_LAYERS else 2),
            area=AREAS.get(layer, 0),
            mlp_ratio=config.mlp_ratio,
            residual=layer in config.gamma,
            inner_skip=layer in config.inner_skips,
            own_skip_weight=layer in config.own_skip_weights,
            switchable=switchable,
        )

    def down(inputs: int, channels: int, groups: int = 1) -> Conv:
        return Conv(width(inputs), width(channels), 3, 2, groups=groups, switchable=switchable)

    p3, p4, p5 = width(256), width(512), width(1024)
    return {
        0: Conv(3, width(64), 3, 2),
        1: Conv(width(64), width(128), 3, 2, groups=2),
        2: c3k2(2, width(128), 256, 0.25, c3k=False),
        3: down(256, 256, groups=4),
        4: c3k2(4, p3, 512, 0.25, c3k=False),
        5: down(512, 512),
        6: a2c2f(6, p4, 512),
        7: down(512, 1024),
        8: a2c2f(8, p5, 1024),
        11: a2c2f(11, p5 + p4, 512),
        14: a2c2f(14, p4 + p4, 256),
        15: down(256, 256),
        17: a2c2f(17, p3 + p4, 512),
        18: down(512, 512),
        20: c3k2(20, p4 + p5, 1024, 0.5, c3k=True),
        21: Detect((p3, p4, p5), config.classes),
    }


class _Joined(nn.Module):
    """Down- or upsample the main input, concatenate the others to it, run the block."""

    def __init__(self, block: nn.Module, down: nn.Module | None, up: bool) -> None:
        super().__init__()
        self.block, self.down, self.up = block, down, up

    def forward(self, x: Tensor, *others: Tensor, skip: bool) -> Tensor:
        if self.down is not None:
            x = self.down(x, skip)
        if self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        output: Tensor = self.block(torch.cat([x, *others], 1) if others else x, skip)
        return output


class _Entry(nn.Module):
    """Layers 0 to 4, whose maps are the largest: with two gates one stage, because large maps are
    what the borders of stages cost most."""

    def __init__(self, stem: nn.Module, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.stem, self.first, self.second = stem, first, second

    def forward(self, images: Tensor, skip: tuple[bool, bool]) -> Tensor:
        x = self.first(self.stem(images), skip=skip[0])
        output: Tensor = self.second(x, skip=skip[1])
        return output


class _Predictions(nn.Module):
    """The head and the decoding of its outputs, for one input size."""

    points: Tensor
    strides: Tensor

    def __init__(self, head: Detect, size: Size, device: torch.device) -> None:
        super().__init__()
        self.head = head
        points, strides = grid(size, device)
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("strides", strides, persistent=False)

    def forward(self, *maps: Tensor) -> Tensor:
        box_logits, class_logits = self.head(maps)
        return decode(box_logits, class_logits, self.points, self.strides, self.head.dfl.bins)
