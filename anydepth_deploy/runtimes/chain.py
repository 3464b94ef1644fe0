"""The pieces of a network as one engine: which run at a depth, and what flows between them.

:class:`Chain` is the plan, for any runtime; :class:`HostStages` carries it out with engines that
take and give arrays of the host.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import BundleError, InputError, shorten
from anydepth_deploy.manifest import StagePiece

if TYPE_CHECKING:  # the package imports this module
    from anydepth_deploy.runtimes.engine import Engine

__all__ = ["SOURCE", "Chain", "HostStages", "Link", "See", "Step", "Stepped", "check_piece"]

SOURCE = "images"
"""The tensor that the flow starts with."""

See = Callable[[str, Mapping[str, NDArray[np.generic]]], None]
"""Called with the name of a piece that has just run, and the tensors of the flow that it set."""


@dataclass(frozen=True)
class Link:
    """A piece of a chain and how to open it."""

    name: str
    spec: StagePiece
    open: Callable[[], Engine]


@dataclass(frozen=True)
class Step:
    """One piece of a chain at work.

    ``reads`` and ``writes``: inputs and outputs of the piece's graph by name, and the tensor of the
    flow of each; of the outputs, those that are of use. ``live``: what the flow still holds behind
    it, everything else being read by nobody any more.
    """

    piece: int
    reads: Mapping[str, str]
    writes: Mapping[str, str]
    live: frozenset[str]


class Chain:
    """All pieces of a network. ``ends``: the tensors that no piece reads, which is its outputs.

    Raises :class:`BundleError` for pieces that are not the whole of one chain.
    """

    def __init__(self, pieces: Sequence[tuple[str, StagePiece]]) -> None:
        self.names = tuple(name for name, _ in pieces)
        self.specs = tuple(spec for _, spec in pieces)
        totals = {spec.total for spec in self.specs}
        if totals != {len(pieces)}:
            expected = " or ".join(str(total) for total in sorted(totals)) or "at least one"
            raise BundleError(
                f"the chain has {len(pieces)} pieces, expected {expected} (here: "
                f"{shorten(self.names) or 'none'}): export or build layout stages again"
            )
        for name, spec in pieces:
            if len(set(spec.writes.values())) != len(spec.writes):
                raise BundleError(f"the piece {name} sets a tensor twice: export it again")
        read = {tensor for spec in self.specs for tensor in spec.reads.values()}
        written = _ordered(self.specs)
        self.ends = tuple(tensor for tensor in written if tensor not in read)

    def at(self, depth: Depth) -> tuple[int, ...]:
        """The pieces that run at ``depth``, in order, as places in :attr:`specs`.

        Raises :class:`BundleError` where two of an order would run, where one would read a tensor
        that none before has set, and where an output of the network is left unset.
        """
        running = [place for place, spec in enumerate(self.specs) if spec.runs(depth)]
        running.sort(key=lambda place: self.specs[place].order)
        known = {SOURCE}
        for before, place in zip([None, *running], running, strict=False):
            spec = self.specs[place]
            if before is not None and self.specs[before].order == spec.order:
                raise BundleError(
                    f"the pieces {self.names[before]} and {self.names[place]} both run at depth "
                    f"{depth}, expected at most one of an order: export layout stages again"
                )
            unset = [tensor for tensor in spec.reads.values() if tensor not in known]
            if unset:
                raise BundleError(
                    f"the piece {self.names[place]} reads {shorten(unset)}, which no piece before "
                    f"it sets at depth {depth}: export layout stages again"
                )
            known.update(spec.writes.values())
        unset = [tensor for tensor in self.ends if tensor not in known]
        if unset or not running:
            raise BundleError(
                f"no piece sets {shorten(unset) or 'anything'} at depth {depth}: export layout "
                "stages again"
            )
        return tuple(running)

    def tensors(self, running: Iterable[int]) -> list[str]:
        """What the pieces ``running`` set, in the order they first do."""
        return _ordered(self.specs[place] for place in running)

    def steps(self, running: Sequence[int], outputs: Sequence[str]) -> tuple[Step, ...]:
        """The steps that ``outputs`` need, found from the last to the first.

        Raises :class:`InputError` for an output that no piece sets.
        """
        has = self.tensors(running)
        unknown = [name for name in outputs if name not in has]
        if unknown or not outputs:
            raise InputError(
                f"the chain has no outputs {shorten(unknown) or '(none were asked for)'}; it has "
                f"{shorten(has)}"
            )
        live = frozenset(outputs)
        steps: list[Step] = []
        for place in reversed(running):
            spec = self.specs[place]
            writes = {name: tensor for name, tensor in spec.writes.items() if tensor in live}
            if writes:
                steps.append(Step(place, spec.reads, writes, live))
                live = (live - set(writes.values())) | set(spec.reads.values())
        return tuple(reversed(steps))


class Stepped:
    """The steps of the pieces ``running`` for each choice of outputs, found once."""

    def __init__(self, chain: Chain, running: Sequence[int]) -> None:
        self.chain, self.running = chain, tuple(running)
        self.outputs: Sequence[str] = chain.tensors(self.running)
        self._steps: dict[tuple[str, ...], tuple[Step, ...]] = {}

    def steps(self, outputs: Sequence[str]) -> tuple[Step, ...]:
        """See :meth:`Chain.steps`."""
        key = tuple(outputs)
        if key not in self._steps:
            self._steps[key] = self.chain.steps(self.running, key)
        return self._steps[key]


class HostStages:
    """Pieces that any engine runs, and whose tensors pass through memory of the host.

    A piece is opened when a depth first needs it, once, and kept. May be called from several
    threads. Raises :class:`BundleError` as :class:`Chain` does.
    """

    def __init__(self, links: Sequence[Link]) -> None:
        self._chain = Chain([(link.name, link.spec) for link in links])
        self._pieces = [_Piece(link) for link in links]
        self._engines: dict[Depth, _HostChain] = {}
        self._lock = threading.Lock()

    def at(self, depth: Depth) -> Engine:
        """The chain of ``depth``, with its pieces opened.

        Raises :class:`BundleError` for a chain that does not hold the depth or a piece that does
        not fit its description, and what opening raises.
        """
        with self._lock:
            engine = self._engines.get(depth)
        if engine is None:
            stepped = Stepped(self._chain, self._chain.at(depth))
            engines = {place: self._pieces[place].engine() for place in stepped.running}
            with self._lock:
                engine = self._engines.setdefault(depth, _HostChain(stepped, engines))
        return engine


class _HostChain:
    """The chain of one depth."""

    inputs: Sequence[str] = (SOURCE,)

    def __init__(self, stepped: Stepped, engines: Mapping[int, Engine]) -> None:
        self._stepped, self._engines = stepped, engines
        self.outputs = stepped.outputs

    def run(
        self, feeds: Mapping[str, NDArray[np.generic]], outputs: Sequence[str]
    ) -> dict[str, NDArray[np.generic]]:
        """Run the pieces that ``outputs`` need. Raises :class:`InputError`, and what they raise."""
        return self.observe(feeds, outputs)

    def observe(
        self,
        feeds: Mapping[str, NDArray[np.generic]],
        outputs: Sequence[str],
        see: See | None = None,
    ) -> dict[str, NDArray[np.generic]]:
        """The same; ``see`` is called after each piece."""
        if set(feeds) != {SOURCE}:
            raise InputError(f"a chain takes the input {SOURCE}; found {shorten(feeds) or 'none'}")
        flow = dict(feeds)
        for step in self._stepped.steps(outputs):
            given = {name: flow[tensor] for name, tensor in step.reads.items()}
            found = self._engines[step.piece].run(given, list(step.writes))
            flow.update((tensor, found[name]) for name, tensor in step.writes.items())
            if see is not None:
                written = {tensor: flow[tensor] for tensor in step.writes.values()}
                see(self._stepped.chain.names[step.piece], written)
                del written
            del given, found  # or what is dropped here would live on through the next step
            flow = {tensor: array for tensor, array in flow.items() if tensor in step.live}
        return {name: flow[name] for name in outputs}


class _Piece:
    """A link, and its engine once it is open."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def engine(self) -> Engine:
        with self._lock:
            if self._engine is None:
                engine = self._link.open()
                check_piece(self._link.name, self._link.spec, engine.inputs, engine.outputs)
                self._engine = engine
            return self._engine


def check_piece(name: str, spec: StagePiece, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Whether a piece has the inputs and outputs it is described with.

    Raises :class:`BundleError`.
    """
    unset = [value for value in inputs if value not in spec.reads]
    absent = [value for value in spec.reads if value not in inputs]
    absent += [value for value in spec.writes if value not in outputs]
    if unset or absent:
        found = f"also takes {shorten(unset)}" if unset else f"has no {shorten(absent)}"
        raise BundleError(
            f"the piece {name} {found}, which the manifest does not say of it: export or build "
            "layout stages again"
        )


def _ordered(specs: Iterable[StagePiece]) -> list[str]:
    return list(dict.fromkeys(tensor for spec in specs for tensor in spec.writes.values()))
