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
    try:
        # A plain dictionary has no versions, so torch fills in the counters of batches itself where
        # a deployed file lacks them.
        missing, unexpected = model.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights have other shapes than the model ({str(error).splitlines()[-1].strip()}):"
            " train the same configuration"
        ) from error
    missing = [name for name in missing if stores(name)]
    if missing or unexpected:
        raise CheckpointError(
            f"the weights do not fit the model: missing {shorten(missing) or 'nothing'}, "
            f"unexpected {shorten(unexpected) or 'nothing'}: train the same configuration"
        )
