"""Where every tensor of a run lies in memory, for the largest batch: found before the first run.

Each time a step sets a tensor, that gets a new place, which is free again when its last reader is
done. So a piece never writes over what it reads, and a chain needs the memory of its widest moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from anydepth_deploy.errors import BundleError
from anydepth_deploy.runtimes.chain import Step
from anydepth_deploy.runtimes.tensorrt.memory import Interval, Tensor, aligned, pack

__all__ = ["Fetched", "Layout", "Ports", "Sent", "Shapes", "lay_out", "send", "with_batch"]

Shape = tuple[int, ...]

Shapes = dict[tuple[int, str], Shape]
"""By step and name of the engine's tensor."""


@dataclass(frozen=True)
class Ports:
    """The inputs and outputs of the engine of one step; ``name``: of its file."""

    name: str
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


@dataclass(frozen=True)
class Sent:
    """An input: its places in the staging memory and on the device, in bytes from the start of
    each; ``device`` is None for one that the engine reads from the staging memory."""

    staging: int
    device: int | None


@dataclass(frozen=True)
class Fetched:
    """An output: its places, and the step and the engine's tensor that it comes from."""

    staging: int
    device: int
    step: int
    tensor: Tensor


@dataclass(frozen=True)
class Layout:
    """``places``: bytes from the start of the block for tensors. ``unknown``: the most bytes that
    outputs can take whose shapes only a run tells. ``tensors`` and ``staging``: sizes of the two
    blocks."""

    sent: Mapping[str, Sent]
    fetched: Mapping[str, Fetched]
    places: Mapping[tuple[int, str], int]
    unknown: Mapping[tuple[int, str], int]
    tensors: int
    staging: int


def with_batch(tensor: Tensor, batch: int) -> Shape:
    """The shape of an input at ``batch``. Raises :class:`BundleError` where more is free."""
    first, rest = tensor.shape[:1], tensor.shape[1:]
    if -1 in rest:
        raise BundleError(
            f"the input {tensor.name} has the shape {list(tensor.shape)}, expected only its batch "
            "to be free: build the engine again"
        )
    return (batch if first == (-1,) else tensor.shape[0], *rest) if first else ()


def send(sources: Sequence[Tensor], batch: int) -> tuple[dict[str, int], int]:
    """Places of the inputs in the staging memory, and the bytes they take together."""
    places, size = {}, 0
    for tensor in sources:
        places[tensor.name] = size
        size += aligned(tensor.size(with_batch(tensor, batch)))
    return places, size


def lay_out(
    sources: Sequence[Tensor],
    steps: Sequence[Step],
    ports: Sequence[Ports],
    outputs: Sequence[str],
    shapes: Shapes,
    unknown: Mapping[tuple[int, str], int],
    batch: int,
) -> Layout:
    """Give everything a place. ``shapes`` are those at ``batch``, the largest.

    Raises :class:`BundleError` where pieces do not fit each other.
    """
    staged, staging = send(sources, batch)
    spans: list[Interval] = []
    where: dict[tuple[int, str], int] = {}
    flow: dict[str, _Version] = {}

    def new(tensor: Tensor, size: int, step: int) -> _Version:
        spans.append(Interval(size, step, step))
        return _Version(len(spans) - 1, step, tensor)

    for tensor in sources:
        if tensor.host:
            flow[tensor.name] = _Version(None, -1, tensor)
        else:
            flow[tensor.name] = new(tensor, tensor.size(with_batch(tensor, batch)), -1)
    first = dict(flow)
    for index, (step, port) in enumerate(zip(steps, ports, strict=True)):
        for tensor in port.inputs:
            version = flow[step.reads[tensor.name]]
            _check_link(port, tensor, version)
            if version.span is not None:
                spans[version.span] = replace(spans[version.span], last=index)
                where[index, tensor.name] = version.span
        for tensor in port.outputs:
            if tensor.host:
                raise BundleError(
                    f"{port.name} gives {tensor.name} in memory of the host, expected on the "
                    "device: build it from a graph of this project"
                )
            key = index, tensor.name
            version = new(tensor, unknown.get(key) or tensor.size(shapes[key]), index)
            assert version.span is not None
            where[key] = version.span
            if tensor.name in step.writes:
                flow[step.writes[tensor.name]] = version
    fetched: dict[str, tuple[int, _Version]] = {}
    for name in outputs:
        version = flow[name]
        assert version.span is not None  # outputs on the host are refused above
        spans[version.span] = replace(spans[version.span], last=len(steps))
        fetched[name] = staging, version
        staging += aligned(spans[version.span].size)
    offsets, total = pack(spans)

    def place(version: _Version) -> int | None:
        return None if version.span is None else offsets[version.span]

    return Layout(
        sent={name: Sent(staged[name], place(version)) for name, version in first.items()},
        fetched={
            name: Fetched(start, place(version) or 0, version.step, version.tensor)
            for name, (start, version) in fetched.items()
        },
        places={key: offsets[span] for key, span in where.items()},
        unknown=dict(unknown),
        tensors=total,
        staging=staging,
    )


@dataclass(frozen=True)
class _Version:
    """A tensor of the flow since ``step`` has set it; ``span``: None for one on the host."""

    span: int | None
    step: int
    tensor: Tensor


def _check_link(port: Ports, tensor: Tensor, version: _Version) -> None:
    given = version.tensor
    if tensor.host != given.host or tensor.dtype != given.dtype:
        wanted = f"{tensor.dtype} on the {'host' if tensor.host else 'device'}"
        found = f"{given.dtype} on the {'host' if given.host else 'device'}"
        raise BundleError(
            f"{port.name} takes {tensor.name} as {wanted}, the piece before it gives {found}: "
            "build the pieces again together"
        )
