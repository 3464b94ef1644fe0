"""A chain of equal blocks, of which a skipped stage runs only the first few."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

__all__ = ["Repeats"]


class Repeats(nn.ModuleList):
    """Blocks ``0..n-1``: the first ``essential`` always run, the others are the refinement."""

    def __init__(self, blocks: Iterable[nn.Module], essential: int) -> None:
        super().__init__(blocks)
        self.essential = essential

    def running(self, skip: bool) -> Iterator[nn.Module]:
        """The blocks that run, in order."""
        for index, block in enumerate(self):
            if index < self.essential or not skip:
                yield block
