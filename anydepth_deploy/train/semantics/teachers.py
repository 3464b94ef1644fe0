"""What a teacher is: any frozen network that makes a map of tokens of pictures."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from anydepth_deploy.errors import InputError

__all__ = ["SemanticTeacher", "freeze", "tokens_of"]


@runtime_checkable
class SemanticTeacher(Protocol):
    """Pictures in, a map of tokens out; a torch module, or anything else that can be called.

    ``channels``: of a token. Called with float32 [N, 3, H, W] in 0..1, pictures as the student sees
    them, on the student's device, it gives float32 [N, channels, h, w], row by row over the whole
    picture; h and w are its own.
    """

    @property
    def channels(self) -> int: ...

    def __call__(self, images: Tensor) -> Tensor: ...


def freeze(teacher: SemanticTeacher, device: torch.device) -> None:
    """A module's parameters without gradients, in evaluation mode, on ``device``."""
    if isinstance(teacher, nn.Module):
        teacher.requires_grad_(False).eval().to(device)


@torch.no_grad()
def tokens_of(teacher: SemanticTeacher, images: Tensor) -> Tensor:
    """The teacher's map of ``images``, float32 [N, channels, h, w], without history.

    Raises :class:`InputError` for a map of another form.
    """
    tokens = teacher(images)
    wanted = (len(images), teacher.channels)
    if tokens.ndim != 4 or tuple(tokens.shape[:2]) != wanted or not tokens.numel():
        raise InputError(
            f"the teacher gives a map of shape {list(tokens.shape)}, expected [{wanted[0]}, "
            f"{wanted[1]}, height, width]: a token of {wanted[1]} channels for each patch"
        )
    return tokens.float()
