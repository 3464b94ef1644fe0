"""Which convolutions stay in float although they could be quantised, and why.

Three reasons, in the order they are asked: the user says so; the structure does (outputs of the
heads); the range table does: a join whose range differs too much between depths to be rounded with
one scale, or a tensor that 8 bits resolve too badly.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from fnmatch import fnmatchcase

import onnx_ir as ir

from anydepth_deploy.calibration.rules import KeepingRules
from anydepth_deploy.calibration.table import RangeTable
from anydepth_deploy.errors import UsageError, shorten
from anydepth_deploy.graph.passes.quantise import Ranges

__all__ = ["Keeper", "KeepingRules", "check_patterns", "table_ranges"]


class Keeper:
    """Decides for one graph; ``depth`` is its one depth, None for a graph of all depths."""

    def __init__(self, table: RangeTable, rules: KeepingRules, depth: str | None) -> None:
        self.table, self.rules, self.depth = table, rules, depth

    def __call__(self, node: ir.Node, reason: str | None) -> str | None:
        """Why ``node`` stays in float, or None; ``reason`` is the structure's."""
        value = node.inputs[0]
        tensor = "" if value is None or value.name is None else value.name
        names = [*_names(node.name or ""), tensor]
        if (pattern := _match(self.rules.keep, names)) is not None:
            return f"--keep {pattern}"
        if _match(self.rules.quantise, names) is not None:
            return None
        return reason or self.verdict(tensor, enters=value is None or _enters(value, node))

    def verdict(self, tensor: str, *, enters: bool) -> str | None:
        """Why the table wants float for what reads ``tensor``, or None; ``enters``: whether the
        tensor comes into its graph from outside."""
        if self.depth is not None:
            error = self.table.at(tensor, self.depth).error_own
        else:
            ratio = self.table.ratio(tensor)
            if enters and ratio > self.rules.max_ratio:
                return f"range of {tensor} differs {ratio:.1f}x between depths"
            error = max(entry.error_merged for entry in self.table.tensors[tensor].values())
        if error > self.rules.max_error:
            return f"relative error {error:.2f} in {tensor}"
        return None


def table_ranges(table: RangeTable, depth: str | None) -> Ranges:
    """Ranges at ``depth``, or merged over all depths of ``table``."""
    return lambda value: table.bounds(value.name or "", depth)


def check_patterns(
    rules: KeepingRules, convolutions: Iterable[str], tensors: Iterable[str]
) -> None:
    """Refuse patterns that match none of these names: they are misspelt.

    Raises :class:`UsageError`.
    """
    found = [_names(name) for name in convolutions]
    names = list(dict.fromkeys([*itertools.chain.from_iterable(found), *tensors]))
    lost = [item for item in (*rules.keep, *rules.quantise) if _match([item], names) is None]
    if lost:
        stages = dict.fromkeys(stage for _, _, stage in found)
        raise UsageError(
            f"{shorten(map(repr, lost))} (of --keep or --quantise) matches nothing: expected a "
            f"pattern of a convolution's name ({found[0][0]}), its stage ({shorten(stages, 12)}), "
            "or the tensor it reads"
        )


def _names(convolution: str) -> tuple[str, str, str]:
    """What a convolution can be called: its name, its variant, its stage."""
    variant = convolution.split("/", 1)[0]
    return convolution, variant, variant.split(".", 1)[0]


def _match(patterns: Iterable[str], names: Iterable[str]) -> str | None:
    """The first pattern that fits one of ``names``."""
    found = list(names)
    return next((item for item in patterns if any(fnmatchcase(x, item) for x in found)), None)


def _enters(value: ir.Value, node: ir.Node) -> bool:
    """Whether ``value`` comes into the node's graph from outside, or out of an If."""
    producer = value.producer()
    return producer is None or producer.graph is not node.graph or producer.op_type == "If"
