"""Weights in files of safetensors: one, or several that hold a network together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from anydepth_deploy.checkpoints.archive import refuse_unreadable
from anydepth_deploy.documents import utf8_path
from anydepth_deploy.errors import CheckpointError, shorten

__all__ = ["is_finite", "read_safetensors"]


def read_safetensors(path: Path, files: Sequence[Path]) -> dict[str, Tensor]:
    """The tensors of ``files`` by name, floating point numbers in float32 whatever the files have.
    ``path``: what they are part of, for messages.

    Raises :class:`CheckpointError` for files that cannot be read, for a name in two of them and for
    types that are not taken.
    """
    from safetensors import SafetensorError, safe_open

    state: dict[str, Tensor] = {}
    for part in files:
        try:
            with utf8_path(part) as named, safe_open(named, framework="pt") as file:
                keys = list(file.keys())
                if again := [key for key in keys if key in state]:
                    raise CheckpointError(
                        f"checkpoint {path} has weights in two of its files, expected each in one: "
                        f"{shorten(again)}"
                    )
                state.update({key: _widened(part, file.get_tensor(key)) for key in keys})
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(
                f"checkpoint {part} is not a readable safetensors file ({error}); it may be "
                "truncated: fetch it again"
            ) from None
    return state


def is_finite(value: Tensor) -> bool:
    """Whether all numbers of ``value`` are finite."""
    # A finite sum has only finite terms, and is found many times faster than every term is seen.
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())


def _widened(path: Path, value: Tensor) -> Tensor:
    refuse_unreadable(path, [value.dtype])
    return value.float() if value.is_floating_point() else value
