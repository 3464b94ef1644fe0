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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anydepth_deploy.families.shared.augmentation import DETR, Augmentation
from anydepth_deploy.families.shared.outputs import Outputs, Raw
from anydepth_deploy.families.shared.sizes import Refusal

if TYPE_CHECKING:
    from anydepth_deploy.families.shared.recipe import Recipe, RecipeSettings
    from anydepth_deploy.families.shared.settling import Beside, Settled
    from anydepth_deploy.families.shared.stages import AnyDepthModel

__all__ = ["Family", "Outputs", "Raw", "Refusal", "Shapes", "Training"]

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of a state dict's tensors by key."""


@dataclass(frozen=True)
class Training:
    """How networks of a family are trained, and the settings that suit them.

    ``recipe``: the two passes of a network, which it may change: what is frozen may learn then.
    ``initialise``: fills a network that was just built with weights to train from nothing.
    ``deepen``: the any-depth configuration of a configuration, which may be that itself; None where
    networks are any-depth as they are.

    ``learning_rate``: of AdamW at its peak, from nothing; ``tuning_rate``: from a checkpoint, and
    ``backbone_scale``: how much of that the backbone gets then. ``warmup``: steps; ``clip``: the
    largest norm of the gradient of a step. ``augmentation``: of pictures from files.
    """

    recipe: Callable[[AnyDepthModel, RecipeSettings], Recipe[Any]]
    initialise: Callable[[AnyDepthModel], None]
    learning_rate: float
    weight_decay: float
    warmup: int
    clip: float
    tuning_rate: float
    backbone_scale: float = 1.0
    deepen: Callable[[Any], Any] | None = None
    augmentation: Augmentation = DETR


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

    ``settle`` is asked next, where a family has it: from the configuration, the tensors by key and
    what is known beside them (:class:`~anydepth_deploy.families.shared.settling.Beside`) it gives
    what is built and loaded, tensors by the network's own names; it may raise
    :class:`CheckpointError` for tensors and words that contradict each other. ``choices``: what no
    key reveals and a person may say, a field of
    :class:`~anydepth_deploy.families.shared.settling.Said` with its words. ``remember``: plain
    values that, as the entry ``network`` of a checkpoint, tell ``settle`` what no key does of a
    configuration.

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
    settle: Callable[[Any, Mapping[str, Any], Beside], Settled] | None = None
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    remember: Callable[[Any], dict[str, Any]] | None = None

    @property
    def size_names(self) -> dict[str, str]:
        """Names of the sizes among those of all families, and the names here."""
        prefix = f"{self.name}-" if self.prefix is None else self.prefix
        return {prefix + size: size for size in self.sizes}
