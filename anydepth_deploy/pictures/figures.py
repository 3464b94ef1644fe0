"""Figures that matplotlib draws, written whole as the kind of file that their name says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anydepth_deploy.documents import write_or_refuse
from anydepth_deploy.errors import AnyDepthError, UsageError, missing_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DPI", "drawing_format", "empty_figure", "write_figure"]

FORMATS = ("png", "pdf", "svg")

DPI = 150
"""Dots per inch of what has dots; positions of labels are found at it."""


def drawing_format(path: Path, what: str) -> str:
    """The format of a drawing named ``path``; ``what``: for the message, ``report``.

    Raises :class:`UsageError` for a name with another suffix.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise UsageError(
            f"a {what} cannot be drawn as '{path.name}': expected a name that ends in "
            f"{' or '.join(f'.{item}' for item in FORMATS)}"
        )
    return kind


def empty_figure(purpose: str, **options: Any) -> Figure:
    """A figure with nothing on it; ``options``: of matplotlib's ``Figure``. Raises
    :class:`MissingExtraError` without the extra ``plot``; ``purpose``: for its message."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise missing_extra(error, purpose) or error from None
    return Figure(**options)


EMBEDDED = {"pdf.fonttype": 42, "ps.fonttype": 42}
"""Fonts go into PDFs as TrueType: publishers refuse the Type 3 that is usual."""


def write_figure(
    path: Path,
    make: Callable[[], Figure],
    what: str,
    refusal: type[AnyDepthError],
    dpi: int = DPI,
) -> None:
    """Write what ``make`` draws, a picture or ``what`` else, into a .png, .pdf or .svg; ``dpi``: of
    what has dots.

    Raises :class:`UsageError` for another kind of file, before anything is drawn, and ``refusal``
    when it cannot be written.
    """
    kind = drawing_format(path, what)
    figure = make()

    from matplotlib import rc_context

    with rc_context(EMBEDDED):
        write_or_refuse(
            path, lambda file: figure.savefig(file, format=kind, dpi=dpi), what, refusal
        )
