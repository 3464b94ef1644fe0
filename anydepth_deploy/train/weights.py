"""A network's state as its checkpoint holds it, and back.

Training may swap modules for others with more entries (trainable norms count batches), so a
predicate of the family's recipe says which names a checkpoint holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from anydepth_deploy.errors import CheckpointError, shorten

__all__ = ["load_stored_state", "stored_state"]


def stored_state(state: Mapping[str, Tensor], stores: Callable[[str], bool]) -> dict[str, Tensor]:
    """The entries of a state dict that a checkpoint holds, detached."""
    return {name: value.detach() for name, value in state.items() if stores(name)}


def load_stored_state(
    model: nn.Module, state: Mapping[str, Tensor], stores: Callable[[str], bool]
) -> None:
    """Load what a checkpoint holds into a model that may have more entries.

    Raises :class:`CheckpointError` if anything that is stored is missing, unexpected or of another
    shape.
    """
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    other = [
        f"{name} {list(value.shape)} (expected {list(wanted[name])})"
        for name, value in state.items()
        if name in wanted and tuple(value.shape) != wanted[name]
    ]
    if other:
        raise CheckpointError(
            f"{len(other)} weights have other shapes than the model's: {shorten(other, 2)}: train "
            "the same configuration"
        )
    # A plain dictionary has no versions, so torch fills in the counters of batches itself where a
    # deployed file lacks them.
    missing, unexpected = model.load_state_dict(dict(state), strict=False)
    missing = [name for name in missing if stores(name)]
    if missing or unexpected:
        raise CheckpointError(
            f"the weights do not fit the model: missing {shorten(missing) or 'nothing'}, "
            f"unexpected {shorten(unexpected) or 'nothing'}: train the same configuration"
        )
