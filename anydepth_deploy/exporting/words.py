"""What an export can refuse by the words it is asked with, before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from anydepth_deploy.calibration.table import default_table, read_table
from anydepth_deploy.depth import names_whole_ladder
from anydepth_deploy.errors import UsageError
from anydepth_deploy.manifest import LAYOUTS, PRECISIONS, Target, Weights

__all__ = ["check_layouts", "check_precisions", "check_ranges", "check_weights"]


def check_layouts(layouts: Sequence[str] | None, depth: str) -> None:
    """Refuse unknown layouts, and chosen depths of a graph that holds all of them."""
    if layouts is None:
        return
    _check_words("layout", layouts, LAYOUTS)
    if "set" not in layouts and not names_whole_ladder(depth):
        raise UsageError(
            f"a {layouts[0]} graph holds every depth, so --depth {depth} has no meaning for it: "
            "leave --depth out, or add --layout set"
        )


def check_weights(weights: Sequence[str]) -> None:
    """Refuse unknown ways to store weights."""
    _check_words("weights", weights, get_args(Weights))


def check_precisions(precision: Sequence[str], targets: Sequence[str]) -> None:
    """Refuse unknown precisions and targets, and targets of what is not INT8."""
    _check_words("precision", precision, PRECISIONS)
    _check_words("target", targets, get_args(Target))
    if "int8" not in precision and list(targets) != ["onnxruntime"]:
        raise UsageError("--target has a meaning for --precision int8 only: leave it out")


def check_ranges(
    checkpoint: Path, precision: Sequence[str], ranges: Path | None, *, rules: bool
) -> None:
    """Refuse INT8 without a range table, and what belongs to INT8 without it; ``rules``: whether
    anything was said about what stays in float.

    Raises :class:`UsageError`, and :class:`CalibrationError` for a table that does not exist.
    """
    if "int8" not in precision:
        if ranges is not None or rules:
            raise UsageError(
                "a range table, --keep and --quantise have a meaning for --precision int8 only"
            )
        return
    if ranges is not None:
        if not ranges.exists():
            read_table(ranges)  # says so
        return
    table = default_table(checkpoint)
    if not table.is_file():
        raise UsageError(
            f"INT8 needs a range table, and {table} does not exist: make it with 'anydepth-deploy "
            f"calibrate {checkpoint} --images FOLDER', or name another with --ranges"
        )


def _check_words(what: str, words: Sequence[str], known: Sequence[str]) -> None:
    if not words or (unknown := [item for item in words if item not in known]):
        named = unknown[0] if words else ""
        raise UsageError(f"unknown {what} '{named}': expected {' or '.join(known)}")
