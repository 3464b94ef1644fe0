"""Backbones of the static DETRs as a stem and four stages, whose refinement may be skipped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from anydepth_deploy.families.shared.repeats import Repeats

__all__ = ["BlockStage", "StagedBackbone"]


class BlockStage(nn.Module):
    """``downsample``, where there is one, and ``blocks``, of which ``essential`` always run."""

    def __init__(
        self, blocks: Iterable[nn.Module], essential: int, downsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = Repeats(blocks, essential)

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        """``skip`` leaves out the other blocks and selects the second norm set of what runs."""
        if self.downsample is not None:
            x = self.downsample(x, skip)
        for block in self.blocks.running(skip):
            x = block(x, skip)
        return x


class StagedBackbone(nn.Module):
    """``forward`` gives the last ``levels`` maps, the coarsest (stride 32) last."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    @property
    def entry(self) -> nn.Module:
        """What makes the map of stride 4 that the first stage takes: a view of the backbone."""
        raise NotImplementedError

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The four stages; each takes a map and ``skip``."""
        raise NotImplementedError

    def forward(self, images: Tensor, skip: bool = False) -> tuple[Tensor, ...]:
        """``images`` [N, 3, H, W] -> maps [N, C, H/s, W/s]; ``skip``: whether the refinement of all
        stages is skipped."""
        x = self.entry(images)
        maps = []
        for stage in self.layers:
            x = stage(x, skip)
            maps.append(x)
        return tuple(maps[-self.levels :])
