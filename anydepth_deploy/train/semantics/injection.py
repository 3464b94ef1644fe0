"""Deep Semantic Injector: the tokens behind AIFI learn to point where a teacher's tokens do.

Source: RT-DETRv4. A linear layer takes the encoder's coarsest map, as AIFI leaves it, to the
teacher's channels; the loss is the mean over all tokens of 1 - cosine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydepth_deploy.errors import CheckpointError, UsageError
from anydepth_deploy.families.shared.detr.model import DetrModel
from anydepth_deploy.families.shared.stages import AnyDepthModel

__all__ = ["Injector", "semantic_loss"]

PROJECTOR = "encoder.feature_projector.0."
"""Before ``weight`` and ``bias``: the projector's names in files of RT-DETRv4."""


def semantic_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - cosine over tokens, a scalar in 0..2.

    ``student``: float [N, C, h, w]; ``teacher``: float [N, C, h', w'], which is resized bilinearly
    (corners of the outermost pixels aligned, not their centres) to h, w where these differ.
    """
    student, teacher = student.float(), teacher.float()
    if teacher.shape[-2:] != student.shape[-2:]:
        teacher = F.interpolate(
            teacher, size=student.shape[-2:], mode="bilinear", align_corners=False
        )
    return 1.0 - F.cosine_similarity(student, teacher, dim=1).mean()


class Injector:
    """The projector, and what it reads of a network.

    ``model``: any network with the hybrid encoder of the DETRs. ``channels``: of the teacher's
    tokens. ``seed``: of the projector's first weights, the same in all processes that train
    together.

    Attributes:
        projector: a linear layer from the encoder's channels to the teacher's, no part of
            ``model``.

    Raises :class:`UsageError` for a network without AIFI.
    """

    def __init__(self, model: AnyDepthModel, channels: int, *, seed: int = 0) -> None:
        if not isinstance(model, DetrModel) or not model.encoder.encoder[0].layers:
            raise UsageError(
                f"a teacher needs a network whose encoder has AIFI, which {model.config.name} has "
                "not: train one of the DETRs, or leave the teacher out"
            )
        self.model = model
        weight = next(model.encoder.encoder.parameters())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projector = nn.Linear(model.encoder.hidden, channels)
        self.projector.to(weight.device)
        self._tokens: Tensor | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While it is entered, what AIFI makes is kept, of the last forward pass.

        It is let go where that fails, so that no graph outlives its step.
        """
        layers: Any = self.model.encoder.encoder[0].layers
        self._tokens = None
        handle = layers[-1].register_forward_hook(self._keep)
        try:
            yield
        except BaseException:
            self._tokens = None
            raise
        finally:
            handle.remove()

    def student(self, images: Tensor) -> Tensor:
        """The kept tokens in the teacher's channels, float32 [N, channels, H / s, W / s] with the
        coarsest stride s; they are let go.

        ``images``: [N, 3, H, W], those of the forward pass that was watched.
        """
        tokens, self._tokens = self._tokens, None
        if tokens is None:
            raise RuntimeError("no forward pass was watched: call the network within watching()")
        height, width = images.shape[-2:]
        projected: Tensor = self.projector(tokens)
        grid = self.model.shapes((height, width))[-1]
        return projected.transpose(1, 2).reshape(len(images), -1, *grid).float()

    def state(self) -> dict[str, Tensor]:
        """The projector's weights by the names that files of RT-DETRv4 have for them."""
        return {f"{PROJECTOR}{name}": value for name, value in self.projector.state_dict().items()}

    def load(self, state: Mapping[str, Any], origin: str) -> None:
        """Take the projector of ``state``, whatever else is in it. ``origin``: for messages.

        Raises :class:`CheckpointError` where it is missing, of another shape or not finite.
        """
        if problem := self._problem(state):
            raise CheckpointError(
                f"{origin}: {problem} for this network and this teacher: use the teacher it was "
                "trained with"
            )
        values = {name.removeprefix(PROJECTOR): state[name] for name in self.state()}
        self.projector.load_state_dict(values)

    def take_over(self, state: Mapping[str, Any]) -> str:
        """Begin with the projector of ``state``, if it is one for this network and this teacher;
        what was done, for a person."""
        told = "the file's projection to a teacher, which is no part of the network, "
        if problem := self._problem(state):
            return f"{told}is not for this one and begins anew: {problem}"
        self.load(state, "")
        return f"{told}goes on with this one"

    def _problem(self, state: Mapping[str, Any]) -> str | None:
        """Why ``state`` is no projector of this shape; None where it is one."""
        for name, own in self.state().items():
            found = state.get(name)
            if not isinstance(found, Tensor) or found.shape != own.shape:
                what = f"of shape {list(found.shape)}" if isinstance(found, Tensor) else "missing"
            elif not found.isfinite().all():
                what = "not finite"
            else:
                continue
            return f"'{name}' is {what}, expected finite numbers of shape {list(own.shape)}"
        return None

    def _keep(self, layer: nn.Module, inputs: object, output: Tensor) -> None:
        self._tokens = output
