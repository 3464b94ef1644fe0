"""What a family of any-depth detectors must say: the interface that a new one implements.

A family is a folder (or a package of its own, see :mod:`anydepth_deploy.families.registry`) whose
``__init__`` offers one :class:`Family`. Everything that is a family's own is asked of it: which
state dicts are its networks', what their raw outputs mean, how exactly an artifact must repeat
them, how it is trained. Nobody guesses it by a name or a key.

Importing a family imports no torch: engines are verified on devices that have none. So
:attr:`Family.build` and :attr:`Training.recipe` import the network when they are called, and
:class:`Outputs` needs NumPy only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.detections import Detections
from anydepth_deploy.families.shared.items import Items
from anydepth_deploy.families.shared.sizes import Refusal
from anydepth_deploy.families.shared.tolerances import EngineTolerances, Size, Tolerances
from anydepth_deploy.suppression import Suppression

if TYPE_CHECKING:
    from anydepth_deploy.families.shared.recipe import Recipe, TrainSettings
    from anydepth_deploy.families.shared.stages import AnyDepthModel

__all__ = ["Family", "Outputs", "Raw", "Refusal", "Shapes", "Training"]

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of a state dict's tensors by key."""

Raw = Mapping[str, NDArray[np.generic]]
"""Raw outputs by their public names, those of :attr:`AnyDepthModel.raw_outputs`."""


class Outputs(ABC):
    """What the raw outputs of a family's networks mean, and how far an artifact's may be off.

    A *quantity* is an array of one unit; an *item* is what an engine and its graph say something
    about: a query, a cell.
    """

    coordinates: tuple[str, ...] = ("boxes",)
    """Quantities that hold boxes or points: an item's numbers are judged together, against the
    root mean square of all. Of the others (scores, logits) each number is judged by itself, where
    it is large."""

    choice: str | None = None
    """The raw output int64 [N, Q] that says which tokens became queries, the indices of a TopK over
    a score (a logit) of every token; None where nothing is chosen."""

    def quantities(self, raw: Raw) -> dict[str, NDArray[np.generic]]:
        """Raw outputs, taken apart where one array holds quantities of different units."""
        return dict(raw)

    @abstractmethod
    def items(self, raw: Raw) -> Items:
        """The items of raw outputs: by quantity, [N, items, numbers]."""

    @abstractmethod
    def detections(self, raw: Raw, size: Size, places: int, rule: Suppression | None) -> Detections:
        """The detections that follow from raw outputs, as the network's last stage makes them.

        ``size``: of the input; boxes are in its pixels. ``places``: how many detections there are
        at most. ``rule``: of non-maximum suppression, where the bundle has one.
        """

    @abstractmethod
    def tolerances(self, size: Size, precision: str) -> Tolerances | None:
        """What parity with the checkpoint means for inputs of ``size`` at ``precision`` (fp32,
        fp16, bf16 or int8), every quantity with a limit; None for a precision that the family does
        not offer."""

    def engine_tolerances(self, size: Size, precision: str) -> EngineTolerances | None:
        """How far an engine may be from its graph (fp32, fp16 or int8); None where the family does
        not say, which leaves its engines unverified."""
        return None


@dataclass(frozen=True)
class Training:
    """How networks of a family are trained, and the settings that suit them.

    ``recipe`` makes a fresh network with its two passes, the same for the same seed; it raises
    :class:`UsageError` for an unknown size. ``learning_rate``: of AdamW at its peak; ``warmup``:
    steps; ``clip``: the largest norm of the gradient of a step.
    """

    recipe: Callable[[TrainSettings], Recipe[Any]]
    learning_rate: float
    weight_decay: float
    warmup: int
    clip: float


@dataclass(frozen=True)
class Family:
    """A family of any-depth detectors.

    ``name`` is what manifests and options say (``anydepth-detr``), ``title`` what people do
    (``AnyDepth-DETR``), ``description`` one line for lists. ``sizes``: configurations by name,
    frozen dataclasses that have ``name``, ``classes``, ``input_size`` (height, width) and
    ``ladder`` (texts of depths).

    ``recognise`` gives the configuration whose network has keys of these shapes, None for the keys
    of another family, and a :class:`Refusal` for networks that are this family's but cannot be
    deployed: another layout, a size that is not known. It does not raise, whatever a file holds.

    ``build``: the network of a configuration, weights as they come. ``training``: None for a
    family that cannot be trained here. ``prefix``: before the names of its sizes where those of
    all families stand in one list.
    """

    name: str
    title: str
    description: str
    sizes: Mapping[str, Any]
    recognise: Callable[[Shapes], Any | Refusal | None]
    outputs: Outputs
    build: Callable[[Any], AnyDepthModel]
    training: Training | None = None
    prefix: str | None = None

    @property
    def size_names(self) -> dict[str, str]:
        """Names of the sizes among those of all families, and the names here."""
        prefix = f"{self.name}-" if self.prefix is None else self.prefix
        return {prefix + size: size for size in self.sizes}
