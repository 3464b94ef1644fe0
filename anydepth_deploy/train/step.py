"""One step of self-distillation: super learns from the objects, base from super.

The authors' recipe, the same for all families: zero the gradients; super pass (nothing
skipped) against the objects, backward; base pass (everything skipped) against super's detached
outputs, backward; the gradients of both add up; clip, step, average. What the losses are is a
matter of the family: see :class:`~anydepth_deploy.families.shared.recipe.Recipe`.

A step may be made of several batches, whose mean loss it lowers, in one process or in several.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from anydepth_deploy.errors import DivergedError
from anydepth_deploy.families.shared.recipe import Recipe, Teacher, Terms, total
from anydepth_deploy.families.shared.targets import Targets
from anydepth_deploy.train.ema import Ema
from anydepth_deploy.train.processes import ALONE, Processes
from anydepth_deploy.train.semantics.distillation import SemanticDistillation

__all__ = ["StepLosses", "Stepper", "accumulate_gradients"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Pair = tuple[Tensor, Targets]
"""Images float32 [N, 3, H, W] in 0..1, and their objects."""


@dataclass(frozen=True)
class StepLosses:
    """``super_loss``, ``base_loss``: of a step, means over its batches and over all processes;
    ``super_terms``, ``base_terms``: what they consist of in this process, detached scalars by
    name. ``stopping``: whether any process was asked to stop."""

    super_terms: Terms
    base_terms: Terms
    super_loss: float
    base_loss: float
    stopping: bool = False

    @property
    def is_finite(self) -> bool:
        """Whether the losses are numbers in all processes."""
        return math.isfinite(self.super_loss) and math.isfinite(self.base_loss)


class _Passes(nn.Module):
    """Both passes as the ``forward`` of one module, which is what torch distributes."""

    def __init__(
        self, recipe: Recipe[Any], semantics: SemanticDistillation | None, precision: str
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.model = recipe.model
        self.semantics = semantics
        if semantics is not None:
            self.projector = semantics.injector.projector
        self.dtype = DTYPES[precision]

    def forward(
        self,
        images: Tensor,
        targets: Targets,
        generator: torch.Generator | None,
        teacher: Any,
        *,
        base: bool,
    ) -> tuple[Terms, Any]:
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
            if base:
                return self.recipe.base_pass(images, targets, teacher, generator), None
            if self.semantics is None:
                return self.recipe.super_pass(images, targets, generator)
            with self.semantics.super_pass():
                terms, teacher = self.recipe.super_pass(images, targets, generator)
            return {**terms, **self.semantics.term(images)}, teacher


@dataclass
class Stepper:
    """Steps of ``recipe``.

    ``static``: super passes only, for networks without gates. ``precision``: of the passes, by
    torch's autocast; losses are computed in float32. ``processes``: that train together, whose
    gradients torch adds up. ``semantics``: what super learns from beside the objects.
    """

    recipe: Recipe[Any]
    processes: Processes = ALONE
    static: bool = False
    precision: str = "fp32"
    semantics: SemanticDistillation | None = None
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        device = next(self.recipe.model.parameters()).device
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        passes = _Passes(self.recipe, self.semantics, self.precision)
        self._passes: nn.Module = passes
        if self.processes.world > 1:
            self._passes = DistributedDataParallel(
                passes,
                device_ids=[device.index] if device.type == "cuda" else None,
                find_unused_parameters=True,  # base skips what super runs
            )

    def accumulate(
        self,
        batches: Sequence[Pair],
        *,
        distill: bool,
        generator: torch.Generator | None = None,
        stop: bool = False,
    ) -> StepLosses:
        """Run both passes forward and backward over all ``batches``; their mean gradients add to
        those that are there.

        ``distill``: whether base learns from super, or from the objects like super. ``generator``:
        source of what is random in the passes. ``stop``: whether this process is asked to stop,
        which all of them are told.
        """
        counted = self._counted(batches)
        sums: tuple[Terms, Terms] = ({}, {})
        for number, (images, targets) in enumerate(batches):
            targets = replace(targets, counted=counted) if counted is not None else targets
            last = number == len(batches) - 1
            teacher: Any = None
            for base in (False, True)[: 1 if self.static else 2]:
                # Gradients of other processes are waited for once a step, after its last pass.
                with self._apart(not last or (not base and not self.static)):
                    terms, outputs = self._passes(
                        images, targets, generator, teacher if distill else None, base=base
                    )
                    # Backward before base's forward: only one of the two graphs is in memory.
                    self.scaler.scale(total(terms) / len(batches)).backward()  # type: ignore[no-untyped-call]
                teacher = outputs
                _add(sums[base], terms, len(batches))
        return self._together(sums, stop)

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        ema: Ema | None,
        batches: Sequence[Pair],
        *,
        distill: bool,
        clip: float,
        generator: torch.Generator | None = None,
        stop: bool = False,
    ) -> StepLosses:
        """One update of the weights and their average; arguments as above.

        ``clip`` is the largest norm of the gradient of all passes together, 0 for any. Nothing is
        updated where losses are not finite. Raises :class:`DivergedError`, before anything is
        updated, where they are and the gradient is not.
        """
        optimizer.zero_grad(set_to_none=True)
        losses = self.accumulate(batches, distill=distill, generator=generator, stop=stop)
        if not losses.is_finite:
            return losses
        self.scaler.unscale_(optimizer)
        if self.semantics is not None:
            self.semantics.after_backward()
        learning = [value for group in optimizer.param_groups for value in group["params"]]
        norm = nn.utils.clip_grad_norm_(learning, clip or math.inf)
        # In half precision the scaler leaves out such a step.
        if not self.scaler.is_enabled() and not bool(norm.isfinite()):
            raise DivergedError("the gradient is no number any more, though the loss is one")
        self.scaler.step(optimizer)
        self.scaler.update()
        if ema is not None:
            ema.update(self.recipe.model)
        return losses

    def _apart(self, alone: bool) -> contextlib.AbstractContextManager[None]:
        if alone and isinstance(self._passes, DistributedDataParallel):
            return self._passes.no_sync()
        return contextlib.nullcontext()

    def _counted(self, batches: Sequence[Pair]) -> float | None:
        """The mean number of objects in a batch of this step, of at least one object in all of
        them; None where it is but one batch."""
        if len(batches) == 1 and self.processes.world == 1:
            return None
        device = batches[0][0].device
        counts = torch.stack([targets.valid.sum().to(device) for _, targets in batches])
        mean = float(self.processes.average(counts.double().mean()))
        # At least one object in all of the step, as where it is one batch.
        return max(mean, 1 / (len(batches) * self.processes.world))

    def _together(self, sums: tuple[Terms, Terms], stop: bool) -> StepLosses:
        first = total(sums[0])
        told = [first, total(sums[1]) if sums[1] else first * 0, first.new_tensor(float(stop))]
        super_loss, base_loss, asked = self.processes.average(torch.stack(told).float()).tolist()
        return StepLosses(sums[0], sums[1], super_loss, base_loss, asked > 0)


def accumulate_gradients(
    recipe: Recipe[Teacher],
    images: Tensor,
    targets: Targets,
    *,
    distill: bool,
    generator: torch.Generator | None = None,
) -> StepLosses:
    """Run both passes forward and backward; their gradients add to those that are there.

    The network of ``recipe`` is in training mode. ``images``: float32 [N, 3, H, W] in 0..1, the
    same for both passes; ``targets``: their objects. ``distill``: whether base learns from super,
    or from the objects like super. ``generator``: source of what is random in the passes.
    """
    return Stepper(recipe).accumulate([(images, targets)], distill=distill, generator=generator)


def _add(sums: Terms, terms: Mapping[str, Tensor], share: int) -> None:
    for name, term in terms.items():
        part = term.detach() / share
        sums[name] = sums[name] + part if name in sums else part
