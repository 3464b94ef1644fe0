"""One step of self-distillation: super learns from the objects, base from super.

The authors' recipe: zero the gradients; super pass (nothing skipped) against the objects,
backward; base pass (everything skipped, all decoder layers) against super's detached outputs,
backward; the gradients of both add up; clip, step, average.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anydepth_deploy.models.detr import AnyDepthDETR
from anydepth_deploy.train.denoising import Denoising, make_denoising
from anydepth_deploy.train.ema import Ema
from anydepth_deploy.train.forward import training_forward
from anydepth_deploy.train.losses import Terms, detection_loss, distillation_loss, total
from anydepth_deploy.train.matcher import Targets

__all__ = ["StepLosses", "accumulate_gradients", "training_step"]


@dataclass(frozen=True)
class StepLosses:
    """Loss terms of the two passes of a step, as detached scalars by name."""

    super_terms: Terms
    base_terms: Terms


def accumulate_gradients(
    model: AnyDepthDETR,
    images: Tensor,
    targets: Targets,
    *,
    distill: bool,
    denoising: int = 0,
    generator: torch.Generator | None = None,
) -> StepLosses:
    """Run both passes forward and backward; their gradients add to those that are there.

    Args:
        model: in training mode.
        images: float32 [N, 3, H, W] in 0..1, the same for both passes.
        targets: their objects.
        distill: whether base learns from super, or from the objects like super.
        denoising: about how many denoising queries each pass answers, 0 for none.
        generator: source of their noise.
    """

    def noise() -> Denoising | None:
        decoder = model.decoder
        return make_denoising(
            targets,
            decoder.denoising_class_embed,
            classes=decoder.classes,
            queries=decoder.queries,
            wanted=denoising,
            generator=generator,
        )

    teacher = training_forward(model, images, skip=False, denoising=noise())
    super_terms = detection_loss(teacher, targets)
    total(super_terms).backward()  # type: ignore[no-untyped-call]
    student = training_forward(model, images, skip=True, denoising=noise())
    if distill:
        base_terms = distillation_loss(student, teacher.detach(), targets)
    else:
        base_terms = detection_loss(student, targets)
    total(base_terms).backward()  # type: ignore[no-untyped-call]
    return StepLosses(
        {name: term.detach() for name, term in super_terms.items()},
        {name: term.detach() for name, term in base_terms.items()},
    )


def training_step(
    model: AnyDepthDETR,
    optimizer: torch.optim.Optimizer,
    ema: Ema,
    images: Tensor,
    targets: Targets,
    *,
    distill: bool,
    clip: float = 0.1,
    denoising: int = 0,
    generator: torch.Generator | None = None,
) -> StepLosses:
    """One update of the weights and their average; arguments as above.

    ``clip`` is the largest norm of the gradient of both passes together.
    """
    optimizer.zero_grad(set_to_none=True)
    losses = accumulate_gradients(
        model, images, targets, distill=distill, denoising=denoising, generator=generator
    )
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    ema.update(model)
    return losses
