"""A teacher in a training loop: one loss term, and a weight that follows the gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from anydepth_deploy.errors import CheckpointError
from anydepth_deploy.families.shared.recipe import Terms, itself
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.train.semantics.injection import Injector, semantic_loss
from anydepth_deploy.train.semantics.modulation import Modulation, SemanticSettings
from anydepth_deploy.train.semantics.teachers import SemanticTeacher, freeze, tokens_of

__all__ = ["TERM", "SemanticDistillation"]

TERM = "semantic"
"""Name of the loss term."""


class SemanticDistillation:
    """What a loop does with a teacher, in this order:

    .. code-block:: python

        with semantics.super_pass():
            terms, seen = recipe.super_pass(images, targets, generator)
        terms |= semantics.term(images)
        total(terms).backward()
        ...  # base's pass, forward and backward
        semantics.after_backward()
        optimizer.step()  # of the network's parameters and semantics.parameters()
        ...
        semantics.end_of_epoch()

    Only super learns from the teacher, as base learns from super. ``model``: the network, of any
    family with AIFI, on its device; teacher and projector are moved there. ``settings``: by default
    the published ones of the nearest size. ``seed``: of the projector; ``average``: as in
    :class:`~anydepth_deploy.families.shared.recipe.RecipeSettings`. Where several processes train,
    gradients of :meth:`parameters` are to be averaged like the network's.

    Raises :class:`UsageError` for a network without AIFI.
    """

    def __init__(
        self,
        model: AnyDepthModel,
        teacher: SemanticTeacher,
        settings: SemanticSettings | None = None,
        *,
        seed: int = 0,
        average: Callable[[Tensor], Tensor] = itself,
    ) -> None:
        if settings is None:
            settings = SemanticSettings.nearest(sum(p.numel() for p in model.parameters()))
        self.model = model
        self.teacher = teacher
        self.injector = Injector(model, teacher.channels, seed=seed)
        self.modulation = Modulation(settings, average)
        freeze(teacher, self._device)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The projector's, for the optimiser and for clipping."""
        return self.injector.projector.parameters()

    def super_pass(self) -> AbstractContextManager[None]:
        """Within it super's forward pass is called."""
        return self.injector.watching()

    def term(self, images: Tensor) -> Terms:
        """The weighted loss of the forward pass before, a scalar by its name.

        ``images``: float32 [N, 3, H, W] in 0..1, those of that pass.
        """
        loss = semantic_loss(self.injector.student(images), tokens_of(self.teacher, images))
        return {TERM: self.modulation.weight * loss}

    def after_backward(self, model: nn.Module | None = None) -> None:
        """Take in the gradients of a step, when all its backward passes are done.

        ``model``: what holds the network's parameters now, where that is another module, with any
        names before theirs. The projector's count to all gradients, as in RT-DETRv4.
        """
        parameters = dict((model or self.model).named_parameters())
        held = {id(parameter) for parameter in parameters.values()}
        for name, parameter in self.injector.projector.named_parameters():
            if id(parameter) not in held:
                parameters[f"projector.{name}"] = parameter
        self.modulation.measure(parameters.items())

    def end_of_epoch(self, *, last_stage: bool = False) -> float:
        """The weight of the next epoch; ``last_stage``: whether the run's last stage begins or goes
        on, in which the weight is the default. In all processes that train together at once."""
        return self.modulation.end_of_epoch(self._device, last_stage=last_stage)

    def take_over(self, projector: Mapping[str, Tensor]) -> str:
        """See :meth:`~anydepth_deploy.train.semantics.injection.Injector.take_over`."""
        return self.injector.take_over(projector)

    def state_dict(self) -> dict[str, Any]:
        """What an unfinished run keeps: numbers of the weight, and the projector by its names in
        files of RT-DETRv4. A deployed file needs none of it."""
        return {"modulation": self.modulation.state_dict(), "projector": self.injector.state()}

    def load_state_dict(self, state: Mapping[str, Any], origin: str = "unfinished run") -> None:
        """Go on from :meth:`state_dict`. ``origin``: the file, for messages.

        Raises :class:`CheckpointError` for a state of another form.
        """
        parts = [state.get(name) for name in ("modulation", "projector")]
        if not all(isinstance(part, Mapping) for part in parts):
            raise CheckpointError(
                f"{origin}: it keeps no state of a teacher, expected modulation and projector; "
                "train without the teacher, or delete the file to start anew"
            )
        self.injector.load(state["projector"], origin)
        self.modulation.load_state_dict(state["modulation"], origin)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device
