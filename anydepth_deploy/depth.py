"""Gates, depths and ladders: value objects with one text form each.

A *gate* is one run-time choice. A *depth* is a full setting of all gates of a model, written as
text: ``FFTT-F-6`` (groups of gates joined by dashes, ``F`` = runs in full, ``T`` = refinement
skipped, a number = that many layers run). Where all gates count layers, numbers get a letter,
``L3``: digits alone are a row of a table, everywhere. A network without gates has one depth,
``full``. A *ladder* is an ordered tuple of depths from ``base`` (everything skipped) to ``super``
(nothing skipped), of one depth where they are the same; each rung is a *level*.

Nothing here knows a model family: a family describes its gates as a :class:`DepthSpace`.
"""

from __future__ import annotations

import itertools
import json
import numbers
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from anydepth_deploy.errors import DepthError, shorten
from anydepth_deploy.texts import read_text

__all__ = [
    "Depth",
    "DepthSpace",
    "DepthTable",
    "Gate",
    "Predicate",
    "count_depths",
    "ladder_words",
    "names_whole_ladder",
    "parse_ladder",
    "variant_name",
]


FULL = "full"
"""The text of the only depth of a network without gates."""


@dataclass(frozen=True)
class Gate:
    """One run-time choice.

    A gate with ``layers == 0`` is a skip gate: 0 = the stage runs in full, 1 = its refinement is
    skipped. A gate with ``layers == n`` says how many of n layers run, 1..n.
    """

    name: str
    group: int
    layers: int = 0

    @property
    def choices(self) -> tuple[int, ...]:
        """All legal settings, from the fullest to the cheapest."""
        return (0, 1) if self.layers == 0 else tuple(range(self.layers, 0, -1))

    @property
    def fullest(self) -> int:
        return self.choices[0]

    def letter(self, setting: int) -> str:
        """The text of one setting: ``F``, ``T`` or the number of layers."""
        return "FT"[setting] if self.layers == 0 else str(setting)


@dataclass(frozen=True)
class Depth:
    """A full setting of all gates; ``str(depth)`` is its text form."""

    settings: tuple[int, ...]
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Predicate:
    """When a gate of a stage says that it runs in full.

    ``layer == 0``: when skip gate ``gate`` is 0. Otherwise: when the gate counts at least
    ``layer`` layers.
    """

    gate: int
    layer: int = 0

    def runs(self, depth: Depth) -> bool:
        setting = depth.settings[self.gate]
        return setting >= self.layer if self.layer else setting == 0


def variant_name(runs: Sequence[bool]) -> str:
    """``full`` or ``skipped`` for each gate of a stage, joined by dashes; ``full`` without one."""
    return "-".join("full" if value else "skipped" for value in runs) or "full"


@dataclass(frozen=True)
class DepthSpace:
    """All gates of a model, and what ``base`` means for it.

    ``base_settings`` skips everything that can be skipped; how many layers it keeps is the
    family's choice (AnyDepth-DETR evaluates its base with 4 of 6 decoder layers).
    """

    gates: tuple[Gate, ...]
    base_settings: tuple[int, ...]

    def depth(self, settings: Sequence[int]) -> Depth:
        """The depth with these settings; raises :class:`DepthError` if a gate has no such one."""
        values = tuple(int(setting) for setting in settings)
        if len(values) != len(self.gates):
            raise DepthError(
                f"a depth of this model sets {len(self.gates)} gates, {len(values)} were given"
            )
        for gate, value in zip(self.gates, values, strict=True):
            if value not in gate.choices:
                raise DepthError(
                    f"gate '{gate.name}' cannot be {value}: expected one of {sorted(gate.choices)}"
                )
        return Depth(values, self._format(values))

    @cached_property
    def super(self) -> Depth:
        """Nothing skipped."""
        return self.depth([gate.fullest for gate in self.gates])

    @cached_property
    def base(self) -> Depth:
        """Everything skipped."""
        return self.depth(self.base_settings)

    @cached_property
    def every(self) -> tuple[Depth, ...]:
        """All legal depths, in a fixed order that begins with the fullest."""
        return tuple(
            self.depth(settings)
            for settings in itertools.product(*(gate.choices for gate in self.gates))
        )

    @property
    def example(self) -> str:
        """A text that shows how depths of this model are written."""
        return str(self.super)

    def parse(self, text: str) -> Depth:
        """The depth written as ``text``: its settings, ``super`` or ``base``.

        Levels and rows need a :class:`DepthTable`. Raises :class:`DepthError`.
        """
        word = text.strip()
        if word.lower() == "super":
            return self.super
        if word.lower() == "base":
            return self.base
        if not self.gates:
            if word.lower() == FULL:
                return self.super
            raise DepthError(
                f"unknown depth '{text}': this model has no gates, its one depth is '{FULL}' "
                "('super', 'base' and 'level:0' name it, too)"
            )
        groups = word.upper().split("-")
        gates = [list(group) for _, group in itertools.groupby(self.gates, lambda gate: gate.group)]
        problem = DepthError(
            f"unknown depth '{text}': this model's depths are written like '{self.example}' "
            "(F = runs in full, T = refinement skipped, a number = layers that run); "
            "'super', 'base' and 'level:K' are accepted too"
        )
        if len(groups) != len(gates):
            raise problem
        settings: list[int] = []
        for letters, members in zip(groups, gates, strict=True):
            if members[0].layers:
                if not re.fullmatch(self._counted + r"[0-9]{1,3}", letters):
                    raise problem
                settings.append(int(letters.removeprefix(self._counted)))
            elif len(letters) == len(members) and set(letters) <= {"F", "T"}:
                settings.extend("FT".index(letter) for letter in letters)
            else:
                raise problem
        try:
            return self.depth(settings)
        except DepthError as error:
            raise DepthError(f"unknown depth '{text}': {error}") from None

    @property
    def _counted(self) -> str:
        """What stands before a number of layers: a letter where nothing else tells it from a
        row."""
        return "L" if all(gate.layers for gate in self.gates) else ""

    def _format(self, settings: tuple[int, ...]) -> str:
        if not settings:
            return FULL
        pairs = zip(self.gates, settings, strict=True)
        groups = itertools.groupby(pairs, lambda pair: pair[0].group)
        return "-".join(
            self._counted * bool(members[0][0].layers)
            + "".join(gate.letter(setting) for gate, setting in members)
            for members in (list(members) for _, members in groups)
        )


@dataclass(frozen=True)
class DepthTable:
    """The rows an exported graph's ``depth`` input counts: a ladder first, then all others.

    The rows of a graph are fixed when it is made: the ladder of that day (row 0 = base), then the
    rest of the legal depths in the order of :attr:`DepthSpace.every`, so every depth is reachable.
    ``ladder`` is the one in use, level 0 = base, the last = super. It may name any rows;
    ``first`` are those of the ladder that the rows begin with, where that is another one.
    """

    space: DepthSpace
    ladder: tuple[Depth, ...]
    first: tuple[Depth, ...] = ()

    def __post_init__(self) -> None:
        for ladder in (self.ladder, self.exported):
            if not ladder or ladder[0] != self.space.base or ladder[-1] != self.space.super:
                raise DepthError(
                    f"a ladder goes from base ({self.space.base}) to super ({self.space.super}); "
                    f"found: {shorten(ladder)}"
                )
            if len(set(ladder)) != len(ladder):
                raise DepthError(f"a ladder names each depth once; found: {shorten(ladder, 12)}")

    @property
    def exported(self) -> tuple[Depth, ...]:
        """The ladder of the day when the rows were fixed: they begin with it."""
        return self.first or self.ladder

    @cached_property
    def rows(self) -> tuple[Depth, ...]:
        first = self.exported
        chosen = set(first)
        return first + tuple(depth for depth in self.space.every if depth not in chosen)

    @property
    def levels(self) -> int:
        return len(self.ladder)

    def with_ladder(self, ladder: Sequence[Depth]) -> DepthTable:
        """The same rows, with another ladder in use. Raises :class:`DepthError`."""
        used = tuple(ladder)
        return DepthTable(self.space, used, () if used == self.exported else self.exported)

    def level(self, depth: str | int | Depth) -> int | None:
        """The level of ``depth``, or None when the ladder does not name it."""
        return self._level_of.get(self.find(depth))

    def row(self, depth: str | int | Depth) -> int:
        """The row of ``depth``: what an exported graph takes as its ``depth`` input."""
        return self._row_of[self.find(depth)]

    def find(self, depth: str | int | Depth) -> Depth:
        """The depth that a person means: text, ``level:k``, a row (a number or digits) or a depth.

        Raises :class:`DepthError` when there is no such depth, for negative rows, and for values
        of any other type.
        """
        if isinstance(depth, Depth):
            if depth not in self._row_of:
                raise DepthError(f"depth '{depth}' is not one of this model's {len(self.rows)}")
            return depth
        if isinstance(depth, str) and re.fullmatch(r"-?[0-9]{1,9}", depth.strip()):
            depth = int(depth)
        if isinstance(depth, str):
            match = re.fullmatch(r"level:(-?[0-9]{1,9})", depth.strip(), re.IGNORECASE)
            if match is None:
                return self.space.parse(depth)
            level = int(match.group(1))
            if not 0 <= level < self.levels:
                has = "one level, 0" if self.levels == 1 else f"levels 0 to {self.levels - 1}"
                raise DepthError(
                    f"unknown depth '{depth}': the ladder has {has} ({shorten(self.ladder, 12)})"
                )
            return self.ladder[level]
        row = _integer(depth)
        if row is None:
            raise DepthError(
                f"a depth cannot be of type {type(depth).__name__}: expected text like "
                f"'{self.space.example}', 'level:K', a row or a Depth"
            )
        if not 0 <= row < len(self.rows):
            raise DepthError(f"unknown depth row {row}: {self._rows_in_words()}")
        return self.rows[row]

    def select(self, text: str) -> tuple[Depth, ...]:
        """The depths that ``text`` names: a comma-separated list of depths, ``all`` or ``every``.

        ``all`` is the ladder, ``every`` all legal settings. Order is kept, repeats are dropped.
        """
        chosen: dict[Depth, None] = {}
        for word in text.split(","):
            name = word.strip().lower()
            if name == "all":
                found: Iterator[Depth] = iter(self.ladder)
            elif name == "every":
                found = iter(self.rows)
            else:
                found = iter((self.find(word.strip()),))
            chosen.update(dict.fromkeys(found))
        return tuple(chosen)

    def _rows_in_words(self) -> str:
        if len(self.rows) == 1:
            return "the only row is 0"
        words = f"rows go from 0 to {len(self.rows) - 1}"
        if self.first:
            return words
        last = self.levels - 1
        return f"{words}, of which 0 {f'to {last} are' if last else 'is'} the ladder"

    @cached_property
    def _row_of(self) -> dict[Depth, int]:
        return {depth: row for row, depth in enumerate(self.rows)}

    @cached_property
    def _level_of(self) -> dict[Depth, int]:
        return {depth: level for level, depth in enumerate(self.ladder)}


def count_depths(count: int) -> str:
    """``one depth``, ``192 depths``."""
    return "one depth" if count == 1 else f"{count} depths"


def names_whole_ladder(text: str) -> bool:
    """Whether a list of depths, as :meth:`DepthTable.select` reads it, has ``all`` or ``every``."""
    return bool({word.strip().lower() for word in text.split(",")} & {"all", "every"})


def ladder_words(source: str) -> tuple[list[str], str]:
    """The depths of a ladder that is given as :func:`parse_ladder` reads it, as text, and what to
    call it in a message. Raises :class:`DepthError` for a file that cannot be read."""
    path = Path(source)
    if not _is_file(path) and ("," in source or not path.suffix):
        return source.split(","), "the ladder"
    return _read_ladder_file(path), f"ladder file {path}"


def parse_ladder(space: DepthSpace, source: str) -> tuple[Depth, ...]:
    """A ladder from the command line: depths joined by commas, or a file that holds them.

    Whatever names an existing file is read as one, with or without a suffix. A file is JSON (a
    list, or an object with the key ``ladder``) or plain text with one depth a line (``#`` starts
    a comment). Order is from base to super. Raises :class:`DepthError`.
    """
    words, origin = ladder_words(source)
    try:
        return DepthTable(space, tuple(space.parse(word) for word in words)).ladder
    except DepthError as error:
        raise DepthError(f"{origin}: {error}") from None


def _integer(value: object) -> int | None:
    """A Python or numpy integer as an int; None for all else, bools of both included."""
    if isinstance(value, bool):  # Python's is Integral, numpy's is not
        return None
    return int(value) if isinstance(value, numbers.Integral) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a list of depths may be too long for a name
        return False


def _read_ladder_file(path: Path) -> list[str]:
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DepthError(f"ladder file {path} cannot be read: {error}") from None
    if path.suffix.lower() != ".json" and not text.lstrip().startswith(("[", "{")):
        lines = (line.split("#", 1)[0].strip() for line in text.splitlines())
        return [line for line in lines if line]
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # numbers too long, lists nested too deep
        raise DepthError(f"ladder file {path} is not valid JSON: {error}") from None
    words = content.get("ladder") if isinstance(content, dict) else content
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise DepthError(
            f"ladder file {path}: expected a list of depths, or an object with the list 'ladder'"
        )
    return words
