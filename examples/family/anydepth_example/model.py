"""The network of the example: a stem, two residual blocks that can be skipped, a dense head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anydepth_deploy.depth import Predicate
from anydepth_deploy.families.shared.stages import POSTPROCESS, AnyDepthModel, Size, Stage
from anydepth_example import ExampleConfig

STRIDE = 8


class ExampleModel(AnyDepthModel):
    """Raw outputs: see :class:`anydepth_example.ExampleOutputs`."""

    family = "anydepth-example"
    raw_outputs = {"confidences": "scores_of_cells", "corners": "corners"}  # noqa: RUF012

    def __init__(self, config: ExampleConfig) -> None:
        super().__init__()
        self.config = config
        self.space = config.depth_space
        self.ladder = tuple(self.space.parse(text) for text in config.ladder)
        self.max_detections = config.max_detections
        width = config.width
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 5, 4, 2), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU()
        )
        self.blocks = nn.ModuleList(_Block(width) for _ in self.space.gates)
        self.head = nn.Conv2d(width, 4 + config.classes, 1)

    def build_stages(self, size: Size, device: torch.device) -> list[Stage]:
        """A skipped block leaves the map as it is, so it needs no second variant."""
        x = ("map",)
        blocks = [
            Stage(f"block{gate + 1}", "body", x, x, {"full": block}, (Predicate(gate),))
            for gate, block in enumerate(self.blocks)
        ]
        head, ending = _Head(self.head, size, device), _Best(self.max_detections)
        raw = ("scores_of_cells", "corners")
        found = ("labels", "detections", "scores")
        return [
            Stage("stem", "body", ("images",), x, {"full": self.stem}),
            *blocks,
            Stage("head", "head", x, raw, {"full": head}),
            Stage(POSTPROCESS, POSTPROCESS, raw, found, {"full": ending}),
        ]


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


class _Head(nn.Module):
    """A map [N, C, h, w] to scores [N, h * w, classes] and corners [N, h * w, 4]."""

    centres: Tensor

    def __init__(self, conv: nn.Conv2d, size: Size, device: torch.device) -> None:
        super().__init__()
        self.conv = conv
        y, x = (STRIDE * (torch.arange(side // STRIDE, device=device) + 0.5) for side in size)
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
        self.register_buffer("centres", centres, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.conv(x).flatten(2).transpose(1, 2)
        sides = STRIDE * (1 + nn.functional.softplus(found[..., :4]))
        low, high = self.centres - sides[..., :2], self.centres + sides[..., 2:]
        return found[..., 4:].sigmoid(), torch.cat([low, high], -1)


class _Best(nn.Module):
    """The best ``count`` pairs of cell and class."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, scores: Tensor, corners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        best, index = scores.flatten(1).topk(self.count, dim=1)
        cell = index // scores.shape[2]
        boxes = corners.gather(1, cell[..., None].expand(-1, -1, 4))
        return index - cell * scores.shape[2], boxes, best
