"""A module as the list of operators that torch runs for it, whatever the number of pictures.

torch has two ways to such a list, ``torch.export`` and ``make_fx``, which take milliseconds for an
operator, most of them for symbols of sizes that are never asked for. Here the module runs as it
is, on tensors without contents (of torch's ``meta`` device), and what it calls is written down.
That is done twice, for two numbers of pictures: sizes that grow with it hang on it, everything
else has to be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from anydepth_deploy.graph.aten.builder import BATCH, Computed, Unsupported
from anydepth_deploy.graph.results import RESULTS

__all__ = ["Call", "Recording", "mapped", "record"]

BATCHES = (1009, 1013)
"""Two numbers of pictures. Primes, larger than what sizes of layers are made of: a size that one
of them divides comes of it, and the other one has the last word."""

LARGEST_MULTIPLE = 1 << 31
"""Beyond it a whole number is not a size (the end of a slice that has none)."""

aten: Any = torch.ops.aten

WHOLE: dict[Callable[..., Any], Any] = {
    torch.nn.functional.linear: aten.linear.default,
    torch.matmul: aten.matmul.default,
    Tensor.matmul: aten.matmul.default,
    Tensor.__matmul__: aten.matmul.default,
}
"""Functions that torch would take apart, into products of flattened tensors."""


@dataclass(frozen=True)
class Call:
    """One operator. Among ``args`` and ``kwargs`` are :class:`Computed` tensors and constants;
    ``results`` are those that later calls may read."""

    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[Computed, ...]


@dataclass(frozen=True)
class Recording:
    """``inputs`` and ``outputs`` of a module, and its calls in order. An output may be a constant
    or an input."""

    inputs: tuple[Computed, ...]
    outputs: tuple[Computed | Tensor, ...]
    calls: Sequence[Call]


def record(module: nn.Module, inputs: Sequence[tuple[Sequence[int], torch.dtype]]) -> Recording:
    """Follow ``module`` without computing anything but what hangs on constants alone.

    ``inputs``: shape and type of each, without the number of pictures. Raises
    :class:`Unsupported` where sizes do anything but grow with the number of pictures, for
    operators that write into their arguments, and for what asks a tensor for its contents.
    """
    one, other = (_run(module, inputs, batch) for batch in BATCHES)
    if len(one.calls) != len(other.calls):
        raise Unsupported("operators that hang on the number of pictures")
    for here, there in zip(one.calls, other.calls, strict=True):
        if not _same(_plain(here), _plain(there)):
            raise Unsupported(f"{here.target} with sizes that hang on the number of pictures")
    if not _same(_numbers(one.outputs), _numbers(other.outputs)):
        raise Unsupported("results that hang on the number of pictures")
    return one


def _run(
    module: nn.Module, inputs: Sequence[tuple[Sequence[int], torch.dtype]], batch: int
) -> Recording:
    recorder = _Recorder(batch)
    given = [torch.empty((batch, *shape), dtype=kind, device="meta") for shape, kind in inputs]
    entries = tuple(recorder.enter(tensor) for tensor in given)
    try:
        with torch.no_grad(), _Functions(recorder), recorder:
            found = module(*given)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        # It asks for contents, or torch does not know what shape an operator gives.
        lines = str(error).strip().splitlines() or [repr(error)]
        raise Unsupported(f"running without contents: {lines[0]}") from error
    outputs = (found,) if isinstance(found, Tensor) else tuple(found)
    return Recording(entries, tuple(recorder.known(item) for item in outputs), recorder.calls)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator. What is computed from inputs lives on the ``meta`` device; constants
    are what they are, and get a shadow there where both meet."""

    def __init__(self, batch: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self._batch = batch
        self._computed: dict[int, Computed] = {}
        self._shadows: dict[int, Tensor] = {}
        self._alive: list[Tensor] = []
        self._paused = False

    def enter(self, tensor: Tensor) -> Computed:
        """From now on ``tensor`` is known as computed."""
        shape = tuple(normalised(size, self._batch) for size in tensor.shape)
        found = Computed(shape, tensor.dtype)
        self._computed[id(tensor)] = found
        self._alive.append(tensor)  # or another could get its id
        return found

    def known(self, tensor: Tensor) -> Computed | Tensor:
        """What ``tensor`` is written down as."""
        return self._computed.get(id(tensor), tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Or torch imports its compiler, for nothing."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return self.call(func, args, kwargs or {})

    def call(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run an operator and write it down."""
        if self._paused:
            return target(*args, **kwargs)
        if not any(id(item) in self._computed for item in tensors((args, kwargs))):
            return self._constant(target, args, kwargs)
        if target._schema.is_mutable:
            raise Unsupported(f"{target}, which writes into its arguments")
        self._paused = True
        try:
            run = RESULTS.get(target, target)
            found = run(*mapped(args, self._shadow), **mapped(kwargs, self._shadow))
        finally:
            self._paused = False
        several = found if isinstance(found, tuple | list) else (found,)
        if not all(isinstance(item, Tensor) for item in several):
            raise Unsupported(f"{target}, which gives something else than tensors")
        if any(id(item) in self._computed for item in several):  # its argument as it was
            return found
        written = (mapped(tuple(args), self._written), mapped(dict(kwargs), self._written))
        results = tuple(self.enter(item) for item in several)
        self.calls.append(Call(target, written[0], written[1], results))
        return found

    def _constant(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What hangs on no input, computed. It stays off the device that has no contents."""
        options = dict(kwargs)
        if options.get("device") is not None:
            options["device"] = torch.device("cpu")
        self._paused = True
        try:
            found = target(*args, **options)
        finally:
            self._paused = False
        for item in tensors(found):
            if any(isinstance(normalised(size, self._batch), str) for size in item.shape):
                raise Unsupported(f"{target}, which makes a constant for each picture")
        return found

    def _shadow(self, item: Any) -> Any:
        if isinstance(item, torch.device):
            return torch.device("meta")
        if not isinstance(item, Tensor) or item.device.type == "meta":
            return item
        if id(item) not in self._shadows:
            self._shadows[id(item)] = item.detach().to("meta")
            self._alive.append(item)
        return self._shadows[id(item)]

    def _written(self, item: Any) -> Any:
        if isinstance(item, Tensor):
            return self.known(item)
        return normalised(item, self._batch) if isinstance(item, int) else item


@dataclass
class _Functions(TorchFunctionMode):
    """Hands over as one what torch would take apart before a recorder sees it."""

    recorder: _Recorder

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        whole = WHOLE.get(func)
        if whole is None:
            return func(*args, **(kwargs or {}))
        return self.recorder.call(whole, args, kwargs or {})


def normalised(size: int, batch: int) -> int | str:
    """A whole number, or how it is made of the number of pictures (``N``, ``8*N``)."""
    if isinstance(size, bool) or size <= 0 or size % batch or size > LARGEST_MULTIPLE:
        return size
    return BATCH if size == batch else f"{size // batch}*{BATCH}"


def tensors(given: Any) -> Iterator[Tensor]:
    """The tensors among arguments."""
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, Mapping):
        for item in given.values():
            yield from tensors(item)
    elif isinstance(given, tuple | list):
        for item in given:
            yield from tensors(item)


def mapped(given: Any, change: Callable[[Any], Any]) -> Any:
    """Arguments with every part that is no container changed."""
    if isinstance(given, Mapping):
        return {key: mapped(item, change) for key, item in given.items()}
    if isinstance(given, tuple | list):
        return type(given)(mapped(item, change) for item in given)
    return change(given)


def _plain(call: Call) -> tuple[Any, ...]:
    return (call.target, call.args, dict(call.kwargs), _numbers(call.results))


def _numbers(results: Sequence[Computed | Tensor]) -> list[Any]:
    return [(tuple(item.shape), item.dtype) for item in results]


def _same(one: Any, other: Any) -> bool:
    """Whether two descriptions of a call say the same; tensors by shape, or by content."""
    if isinstance(one, Computed):
        return isinstance(other, Computed) and (one.shape, one.dtype) == (other.shape, other.dtype)
    if isinstance(one, Tensor):
        if one is other:
            return True
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
