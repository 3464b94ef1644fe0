"""What a drawing can be saved as; asked before it is drawn."""

from __future__ import annotations

from pathlib import Path

from anydepth_deploy.errors import UsageError

__all__ = ["FORMATS", "drawing_format"]

FORMATS = ("png", "pdf", "svg")
"""By the suffix of the file."""


def drawing_format(path: Path, what: str) -> str:
    """The format of a drawing named ``path``; ``what``: for the message, ``a report``.

    Raises :class:`UsageError` for a name with another suffix.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise UsageError(
            f"{what} cannot be drawn as '{path.name}': expected a name that ends in "
            f"{' or '.join(f'.{item}' for item in FORMATS)}"
        )
    return kind
