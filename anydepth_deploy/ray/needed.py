"""What the extra ``ray`` brings, imported where it is used."""

from __future__ import annotations

import importlib
from typing import Any

from anydepth_deploy.errors import missing_extra

__all__ = ["needed"]


def needed(module: str) -> Any:
    """The module ``module`` of Ray or pyarrow. Raises :class:`MissingExtraError` without them."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise (missing_extra(error, "anydepth_deploy.ray") or error) from None
