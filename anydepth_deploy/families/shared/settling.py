"""What no key of a state dict reveals: who says it, and what a family makes of a file with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anydepth_deploy.errors import UsageError, shorten

__all__ = ["Beside", "Said", "Settled", "assumption", "option_of"]


def option_of(name: str) -> str:
    """The option of commands that says the field ``name`` of :class:`Said`."""
    return f"--{name.replace('_', '-')}"


def assumption(name: str, word: str) -> str:
    """That the field ``name`` of :class:`Said` is taken for ``word``, for a person."""
    return f"ASSUMED: {name} {word}; no key tells, {option_of(name)} says otherwise"


@dataclass(frozen=True)
class Said:
    """What a person says of a network; None where nothing is said.

    ``decoder_activation``: ``relu`` or ``silu``, in the decoder's linear layers. ``sampling``:
    ``bilinear`` or ``discrete``, how deformable attention reads a map. ``fine_position`` and
    ``fine_cosformer``: ``on`` or ``off``, ``fine_upsampling``: ``bilinear`` or ``nearest``, of a
    network with FINE. A family names in :attr:`Family.choices` which of these it has.
    """

    decoder_activation: str | None = None
    sampling: str | None = None
    fine_position: str | None = None
    fine_cosformer: str | None = None
    fine_upsampling: str | None = None

    @property
    def words(self) -> dict[str, str]:
        """What was said, by field."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if value is not None}

    def refusal(self) -> UsageError:
        """What to say where this is said of a bundle."""
        named = shorten(map(option_of, self.words))
        return UsageError(f"{named}: for checkpoints; a bundle was exported with its own")

    @classmethod
    def of(cls, words: Mapping[str, str]) -> Said:
        """What a bundle remembers; fields of later versions are left out."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: word for name, word in words.items() if name in known})


@dataclass(frozen=True)
class Beside:
    """What there is to know of a state dict but its tensors.

    ``origin``: the file, for messages. ``document``: the content of the ``config.json`` that it
    came with, None where there was none. ``network``: what the family's :attr:`Family.remember`
    wrote into the file, unchecked; None where it holds nothing of the kind.
    """

    origin: str
    said: Said = Said()
    document: Mapping[str, Any] | None = None
    network: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Settled:
    """A network as it will be built and loaded.

    ``state``: tensors by the network's own names. ``notes``: what was left out or found, in words.
    ``chosen``: what no key reveals, by the fields of :class:`Said`, and ``assumed``: which of it
    nobody said, so that it may be wrong. ``projector``: tensors that only training with a teacher
    uses, by the names that files of RT-DETRv4 have for them.
    """

    config: Any
    state: dict[str, Any]
    notes: tuple[str, ...] = ()
    chosen: Mapping[str, str] = field(default_factory=dict)
    assumed: Mapping[str, str] = field(default_factory=dict)
    projector: Mapping[str, Any] = field(default_factory=dict)
