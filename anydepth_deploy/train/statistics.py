"""Norm statistics measured anew, with not a weight changed.

A batch norm that both passes of a training step share ends up with statistics of neither: about
half are super's, half base's. Given a second set, each mode can have its own, measured over
pictures without labels: mean of the batches' means; mean of the variances within batches plus the
variance between them ("precise" batch norm; Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anydepth_deploy.families.shared.second_sets import first_set_of, is_second_set
from anydepth_deploy.families.shared.stages import AnyDepthModel

__all__ = ["NormSets", "measure_statistics", "norm_sets"]


class NormSets:
    """Norms to measure: ``first`` sets, which super uses, and ``second`` sets, which base uses."""

    def __init__(self, first: dict[str, nn.BatchNorm2d], second: dict[str, nn.BatchNorm2d]) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.second)


def norm_sets(model: nn.Module, added: Sequence[str]) -> NormSets:
    """The batch norms of ``model`` that have two sets: those whose second set was just ``added``
    (paths of modules), since only these were shared; all, where none was."""
    modules = dict(model.named_modules())
    seconds = [
        path
        for path, module in modules.items()
        if isinstance(module, nn.BatchNorm2d) and is_second_set(path)
    ]
    names = list(model.state_dict())
    chosen = [path for path in seconds if path in added] or seconds
    first: dict[str, nn.BatchNorm2d] = {}
    second: dict[str, nn.BatchNorm2d] = {}
    for path in chosen:
        beside = first_set_of(path, names)
        one, other = modules[beside], modules[path]
        assert isinstance(one, nn.BatchNorm2d)
        assert isinstance(other, nn.BatchNorm2d)
        first[beside], second[path] = one, other
    return NormSets(first, second)


@torch.no_grad()
def measure_statistics(
    model: AnyDepthModel,
    sets: NormSets,
    batches: Iterable[Tensor],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Measure ``sets`` over ``batches`` (images float32 [N, 3, H, W] in 0..1), in place.

    ``model`` is left in evaluation mode. While they are measured, norms use the statistics of each
    batch, so that what follows them sees what it will see afterwards. ``progress``: called with the
    number of batches done.
    """
    model.eval()
    passes = (("super", sets.first), ("base", sets.second))
    meters = {depth: {path: _Meter() for path in norms} for depth, norms in passes}
    for number, images in enumerate(batches):
        if progress is not None:
            progress(number)
        # Made now: stages that are made by a pass would put its norms back to evaluation.
        model.stages((images.shape[-2], images.shape[-1]), images.device)
        for depth, norms in passes:
            hooks = [
                norm.register_forward_pre_hook(meters[depth][path]) for path, norm in norms.items()
            ]
            kept = {path: (norm.momentum, norm.num_batches_tracked) for path, norm in norms.items()}
            for norm in norms.values():
                norm.train()
                norm.momentum = 0.0  # of this batch only: running statistics stay
                norm.num_batches_tracked = None
            try:
                model(images, depth)
            finally:
                for path, norm in norms.items():
                    norm.eval()
                    norm.momentum, norm.num_batches_tracked = kept[path]
                for hook in hooks:
                    hook.remove()
    for depth, norms in passes:
        for path, norm in norms.items():
            mean, variance = meters[depth][path].result()
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)


class _Meter:
    """Mean and variance of each channel over batches of maps, in float64."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = torch.zeros(())
        self._square = torch.zeros(())
        self._within = torch.zeros(())

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """As a hook before a norm."""
        x: Tensor = inputs[0].double()
        mean = x.mean((0, 2, 3))
        within = (x * x).mean((0, 2, 3)) - mean * mean
        self._count += 1
        self._mean = self._mean + mean
        self._square = self._square + mean * mean
        self._within = self._within + within.clamp(min=0)

    def result(self) -> tuple[Tensor, Tensor]:
        assert self._count, "the norm was not run"
        mean = self._mean / self._count
        between = (self._square / self._count - mean * mean).clamp(min=0)
        return mean, self._within / self._count + between
