"""Classes by their names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from anydepth_deploy.errors import UsageError, shorten

__all__ = ["labels_of"]


def labels_of(names: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """The labels of the classes ``names``; several classes may have one name.

    Raises :class:`UsageError` for a name that no class has, with those that are nearly the same.
    """
    unknown = [name for name in names if name not in class_names]
    if unknown:
        lower = {name.lower(): name for name in class_names}
        near = dict.fromkeys(
            lower[found]
            for name in unknown
            for found in difflib.get_close_matches(name.lower()[:100], lower, 3)
        )
        hint = f"; near {'is' if len(near) == 1 else 'are'} {shorten(near)}" if near else ""
        raise UsageError(
            f"unknown classes: {shorten(unknown)}{hint}; this network has "
            f"{shorten(class_names, 12)}"
        )
    return [label for label, name in enumerate(class_names) if name in names]
