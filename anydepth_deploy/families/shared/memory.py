"""Depths that are tried one after the other begin alike: what they share is computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from anydepth_deploy.depth import Depth

__all__ = ["StageMemory"]


class _Stage(Protocol):
    """As :class:`~anydepth_deploy.families.shared.stages.Stage`."""

    def variant(self, depth: Depth) -> str | None: ...

    def run(self, variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]: ...


class _Run:
    """The stages of the last run on some images, up to the first that was revised."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.clone()  # the caller may write into its own
        self.done: list[tuple[str | None, dict[str, Tensor]]] = []


class StageMemory:
    """Keeps what each stage made of the last images of each shape.

    A run at another depth takes over the stages before the first whose variant differs. For one
    model whose weights do not change, in one thread; what is given out must not be written into.
    """

    def __init__(self) -> None:
        self._runs: dict[tuple[torch.Size, torch.device], _Run] = {}

    def flow(
        self,
        stages: Sequence[_Stage],
        images: Tensor,
        depth: Depth,
        revise: Callable[[Any, dict[str, Tensor]], None] | None,
    ) -> dict[str, Tensor]:
        """As :meth:`AnyDepthModel.flow`; what follows a revision is not kept."""
        key = (images.shape, images.device)
        run = self._runs.get(key)
        if run is None or not torch.equal(run.images, images):
            run = self._runs[key] = _Run(images)
        tensors = {"images": images}
        kept = True
        for place, stage in enumerate(stages):
            variant = stage.variant(depth)
            if not kept:
                made = {} if variant is None else stage.run(variant, tensors)
            elif place < len(run.done) and run.done[place][0] == variant:
                made = run.done[place][1]
            else:
                made = {} if variant is None else stage.run(variant, tensors)
                run.done[place:] = [(variant, made)]
            tensors.update(made)
            if revise is not None and variant is not None:
                before = dict(tensors)
                revise(stage, tensors)
                # This stage as it was is what others share; those behind it have other inputs.
                kept &= all(tensors[name] is before.get(name) for name in tensors)
        return tensors
