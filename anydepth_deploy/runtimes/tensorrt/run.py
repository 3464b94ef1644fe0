"""Running engines on a device: one, or the chain of a depth, on one stream.

Copies go through pinned memory; everything is put into the stream in order, and waited for once at
the end. The activations of all pieces share one block of memory, because only one runs at a time.

Where nothing in the engines depends on the host, the second run of a batch size is recorded as a
CUDA graph, which later ones launch. Each graph has execution contexts of its own: TensorRT's guide
forbids to change one that was recorded. What cannot be recorded goes on as before.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.errors import BundleError, DeviceError, UsageError
from anydepth_deploy.runtimes.chain import Step, Stepped
from anydepth_deploy.runtimes.engine import Port
from anydepth_deploy.runtimes.tensorrt.checks import batch_of, check_feeds
from anydepth_deploy.runtimes.tensorrt.cuda import Graph
from anydepth_deploy.runtimes.tensorrt.layout import (
    Layout,
    Ports,
    Shapes,
    lay_out,
    send,
    with_batch,
)
from anydepth_deploy.runtimes.tensorrt.library import ExecutionContext, LoadedEngine, OutputPlace
from anydepth_deploy.runtimes.tensorrt.memory import MemoryUse, Tensor
from anydepth_deploy.runtimes.tensorrt.pieces import Piece, Workplace

__all__ = ["DeviceEngine"]

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass
class _Recorded:
    """A CUDA graph, and the contexts that must stay as they were when it was recorded."""

    graph: Graph
    contexts: Sequence[ExecutionContext]
    shapes: Shapes
    generation: int

    def close(self) -> None:
        self.graph.close()
        for context in self.contexts:
            context.close()


@dataclass
class _Plan:
    """What is known of one choice of outputs; by batch, how often it ran and what was recorded."""

    steps: tuple[Step, ...]
    layout: Layout
    scratch: int
    runs: Counter[int] = field(default_factory=Counter)
    recorded: dict[int, _Recorded] = field(default_factory=dict)


class DeviceEngine:
    """One engine, or the chain of one depth. May be called from several threads, which take turns.

    Tested with stand-ins for CUDA and TensorRT; unverified on hardware. Where an engine takes the
    input ``depth``, callers check that it is a row of the depth table: the device computes
    something or other for any other number.
    """

    def __init__(
        self,
        name: str,
        workplace: Workplace,
        pieces: Sequence[Piece],
        stepped: Stepped,
        ready: Sequence[str],
        why_not: str | None = None,
    ) -> None:
        """``ready``: outputs that memory is reserved for now. ``why_not``: the reason to make no
        CUDA graphs, if there is one."""
        self._name, self._workplace = name, workplace
        self._pieces, self._stepped = pieces, stepped
        self._why_not = why_not
        self._sources = self._find_sources()
        self.inputs: Sequence[str] = [tensor.name for tensor in self._sources]
        self.outputs: Sequence[str] = stepped.outputs
        self.ports = self._find_ports()
        """Inputs and outputs as the engines describe them."""
        limits = [pieces[place].batches() for place in stepped.running]
        self._limits = max(low for low, _ in limits), min(high for _, high in limits)
        if self._limits[0] > self._limits[1]:
            raise BundleError(f"the pieces of {name} have no batch in common: build them together")
        self._staged, self._staged_size = send(self._sources, self._limits[1])
        self._plans: dict[tuple[str, ...], _Plan] = {}
        with workplace.lock, workplace.context.current():
            self._plan(tuple(ready))

    @property
    def captured(self) -> tuple[int, ...]:
        """Batch sizes that are launched as CUDA graphs, for at least one choice of outputs."""
        return tuple(sorted({size for plan in self._plans.values() for size in plan.recorded}))

    @property
    def capture_failure(self) -> str | None:
        """Why no CUDA graphs are made; None while nothing is known to speak against them."""
        return self._why_not

    @property
    def memory(self) -> MemoryUse:
        """What is held, for other depths of the same network included."""
        return self._workplace.buffers.memory(sum(piece.weights for piece in self._pieces))

    def run(self, feeds: Arrays, outputs: Sequence[str]) -> dict[str, NDArray[np.generic]]:
        """Execute once; the arrays that come back are the caller's own.

        Raises :class:`InputError` for arrays or a batch that do not fit and for unknown outputs,
        :class:`DeviceError` when the device fails, :class:`UsageError` once it is closed.
        """
        given = {name: np.asarray(array) for name, array in feeds.items()}
        check_feeds(self._name, self._sources, given)
        batch = batch_of(self._name, self._sources, given, self._limits)
        workplace = self._workplace
        with workplace.lock, workplace.context.current():
            if workplace.closed:
                raise UsageError(f"{self._name} is closed: open the bundle again")
            plan = self._plan(tuple(dict.fromkeys(outputs)))
            found = self._run(plan, batch, given)
        return {name: found[name] for name in outputs}

    def drop_graphs(self) -> None:
        """Give back all CUDA graphs and their contexts; with the workplace locked."""
        for plan in self._plans.values():
            while plan.recorded:
                self._drop(plan, next(iter(plan.recorded)))

    # Planning

    def _find_sources(self) -> list[Tensor]:
        """The inputs of the whole: what steps read before any other has set it."""
        found: dict[str, Tensor] = {}
        known: set[str] = set()
        for place in self._stepped.running:
            spec, engine = self._stepped.chain.specs[place], self._pieces[place].engine
            for tensor in engine.inputs:
                flow = spec.reads[tensor.name]
                if flow not in known:
                    found.setdefault(flow, Tensor(flow, tensor.dtype, tensor.shape, tensor.host))
            known.update(spec.writes.values())
        return list(found.values())

    def _find_ports(self) -> tuple[list[Port], list[Port]]:
        written: dict[str, Tensor] = {}
        for place in self._stepped.running:
            writes = self._stepped.chain.specs[place].writes
            for tensor in self._pieces[place].engine.outputs:
                if tensor.name in writes:
                    written[writes[tensor.name]] = tensor
        return (
            [_port(tensor.name, tensor) for tensor in self._sources],
            [_port(name, tensor) for name, tensor in written.items()],
        )

    def _plan(self, outputs: tuple[str, ...]) -> _Plan:
        """The plan for ``outputs``, with memory for its largest batch."""
        plan = self._plans.get(outputs)
        if plan is None:
            plan = self._new_plan(outputs)
            self._reserve(plan)
            self._plans[outputs] = plan
        else:
            self._reserve(plan)
        return plan

    def _reserve(self, plan: _Plan) -> None:
        layout = plan.layout
        self._workplace.reserve(self._name, plan.scratch, layout.tensors, layout.staging)

    def _new_plan(self, outputs: tuple[str, ...]) -> _Plan:
        steps = self._stepped.steps(outputs)
        engines = [self._pieces[step.piece].engine for step in steps]
        contexts = self._contexts(steps)
        batch = self._limits[1]
        # Engines may read inputs that they want on the host as soon as shapes are asked for.
        self._workplace.reserve(self._name, 0, 0, self._staged_size)
        for tensor in self._sources:
            if tensor.host:
                self._view(self._staged[tensor.name], tensor, with_batch(tensor, batch))[...] = 0
        shapes = self._shapes(steps, contexts, batch)
        unknown = {
            key: contexts[key[0]].most(key[1]) for key, shape in shapes.items() if -1 in shape
        }
        ports = [Ports(engine.path.name, engine.inputs, engine.outputs) for engine in engines]
        layout = lay_out(self._sources, steps, ports, outputs, shapes, unknown, batch)
        return _Plan(steps, layout, max(engine.scratch for engine in engines))

    def _shapes(
        self, steps: Sequence[Step], contexts: Sequence[ExecutionContext], batch: int
    ) -> Shapes:
        """Set the contexts to ``batch``; the shapes of all that the engines read and write, with -1
        where only a run can tell."""
        flow = {tensor.name: with_batch(tensor, batch) for tensor in self._sources}
        found: Shapes = {}
        for index, (step, context) in enumerate(zip(steps, contexts, strict=True)):
            engine = self._pieces[step.piece].engine
            given = {name: flow[tensor] for name, tensor in step.reads.items()}
            if any(-1 in shape for shape in given.values()):
                raise BundleError(
                    f"{engine.path.name} reads a tensor whose shape depends on what is computed: "
                    "export and build the pieces again"
                )
            self._bind_host(step, engine, context)
            made = context.shape_of(given)
            flow.update((tensor, made[name]) for name, tensor in step.writes.items())
            found.update(((index, name), shape) for name, shape in made.items())
        return found

    # One run

    def _run(self, plan: _Plan, batch: int, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        for tensor in self._sources:
            array = feeds[tensor.name]
            view = self._view(plan.layout.sent[tensor.name].staging, tensor, array.shape)
            np.copyto(view, array, casting="same_kind")
        recorded = self._still_good(plan, batch)
        if recorded is not None:
            graph, stream = recorded.graph, self._workplace.stream
            self._do(lambda: graph.launch(stream))
            return self._results(plan.layout, recorded.shapes, {})
        plan.runs[batch] += 1
        own = self._contexts_to_record(plan, batch)
        contexts = own or self._contexts(plan.steps)
        shapes = self._shapes(plan.steps, contexts, batch)
        unknown = self._bind(plan, contexts)
        self._do(lambda: self._enqueue(plan, contexts, shapes, batch, unknown))
        results = self._results(plan.layout, shapes, unknown)
        if own is not None:
            # Behind a run with the same shapes, in which TensorRT does what it does only once.
            self._record(plan, own, shapes, batch)
        return results

    def _do(self, enqueue: Callable[[], None]) -> None:
        """Put work into the stream and wait for it; also where only part of it could be put in,
        since that part uses the buffers."""
        try:
            enqueue()
        except BaseException:
            with contextlib.suppress(DeviceError):
                self._workplace.stream.synchronise()
            raise
        self._workplace.stream.synchronise()

    def _bind(
        self, plan: _Plan, contexts: Sequence[ExecutionContext]
    ) -> dict[tuple[int, str], OutputPlace]:
        """Tell the contexts where everything is; the places of outputs of unknown shape."""
        scratch, base = self._workplace.buffers.scratch, self._base()
        unknown: dict[tuple[int, str], OutputPlace] = {}
        if scratch is not None:
            for context in contexts:
                context.use_scratch(scratch.address, scratch.size)
        for (index, name), offset in plan.layout.places.items():
            most = plan.layout.unknown.get((index, name))
            if most is None:
                contexts[index].bind(name, base + offset)
            else:
                unknown[index, name] = OutputPlace(base + offset, most)
                contexts[index].place(name, unknown[index, name])
        return unknown

    def _bind_host(self, step: Step, engine: LoadedEngine, context: ExecutionContext) -> None:
        for tensor in engine.inputs:
            place = self._staged.get(step.reads[tensor.name])
            if tensor.host and place is not None:
                context.bind(tensor.name, self._staging(place))

    def _enqueue(
        self,
        plan: _Plan,
        contexts: Sequence[ExecutionContext],
        shapes: Shapes,
        batch: int,
        unknown: Mapping[tuple[int, str], OutputPlace],
    ) -> None:
        stream, base = self._workplace.stream, self._base()
        for tensor in self._sources:
            sent = plan.layout.sent[tensor.name]
            if sent.device is not None:
                size = tensor.size(with_batch(tensor, batch))
                stream.upload(base + sent.device, self._staging(sent.staging), size)
        for context in contexts:
            context.execute(stream.number)
        for name, item in plan.layout.fetched.items():
            size = item.tensor.size(self._shape(plan.layout, name, shapes, unknown))
            stream.download(self._staging(item.staging), base + item.device, size)

    def _shape(
        self,
        layout: Layout,
        name: str,
        shapes: Shapes,
        unknown: Mapping[tuple[int, str], OutputPlace],
    ) -> tuple[int, ...]:
        """The shape of an output in this run."""
        item = layout.fetched[name]
        key = item.step, item.tensor.name
        shape = unknown[key].shape if key in unknown else shapes[key]
        if shape is None:
            raise DeviceError(
                f"{self._name}: {name} needs more memory than the {layout.unknown[key]} bytes that "
                f"{self._workplace.library.name} has named as its most"
            )
        return shape

    def _results(
        self,
        layout: Layout,
        shapes: Shapes,
        unknown: Mapping[tuple[int, str], OutputPlace],
    ) -> dict[str, NDArray[np.generic]]:
        """Copies of the outputs: the next run writes into the same memory."""
        return {
            name: self._view(
                item.staging, item.tensor, self._shape(layout, name, shapes, unknown)
            ).copy()
            for name, item in layout.fetched.items()
        }

    # CUDA graphs

    def _still_good(self, plan: _Plan, batch: int) -> _Recorded | None:
        """What was recorded; not with addresses that are no more."""
        recorded = plan.recorded.get(batch)
        if recorded is None or recorded.generation == self._workplace.buffers.generation:
            return recorded
        self._drop(plan, batch)
        return None

    def _drop(self, plan: _Plan, batch: int) -> None:
        plan.recorded.pop(batch).close()
        self._workplace.graphs_left += 1

    def _contexts_to_record(self, plan: _Plan, batch: int) -> list[ExecutionContext] | None:
        """New contexts, where this run is to be recorded."""
        if self._why_not is not None or plan.runs[batch] < 2 or self._workplace.graphs_left < 1:
            return None
        if plan.layout.unknown:
            self._why_not = "the shape of an output depends on what is computed"
            return None
        try:
            return [self._pieces[step.piece].engine.context() for step in plan.steps]
        except DeviceError as error:
            self._why_not = str(error)
            return None

    def _record(
        self, plan: _Plan, contexts: Sequence[ExecutionContext], shapes: Shapes, batch: int
    ) -> None:
        """Record a run, copies included, or remember why that cannot be done."""
        workplace = self._workplace
        try:
            if not all(context.capturable(workplace.stream.number) for context in contexts):
                raise DeviceError(f"{workplace.library.name} says that it cannot be captured")
            with workplace.stream.capture() as capture:
                self._enqueue(plan, contexts, shapes, batch, {})
        except DeviceError as error:
            self._why_not = str(error)
            return
        generation = workplace.buffers.generation
        plan.recorded[batch] = _Recorded(capture.graph, contexts, shapes, generation)
        workplace.graphs_left -= 1

    # Memory

    def _contexts(self, steps: Sequence[Step]) -> list[ExecutionContext]:
        return [self._pieces[step.piece].context for step in steps]

    def _base(self) -> int:
        tensors = self._workplace.buffers.tensors
        assert tensors is not None
        return tensors.address

    def _staging(self, offset: int) -> int:
        staging = self._workplace.buffers.staging
        assert staging is not None
        return staging.address + offset

    def _view(self, offset: int, tensor: Tensor, shape: tuple[int, ...]) -> NDArray[np.generic]:
        staging = self._workplace.buffers.staging
        assert staging is not None
        return staging.array(offset, shape, tensor.dtype)


def _port(name: str, tensor: Tensor) -> Port:
    shape = tuple(None if side == -1 else side for side in tensor.shape)
    return Port(name, np.dtype(tensor.dtype).name, shape)
