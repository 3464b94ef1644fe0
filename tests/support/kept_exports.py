"""What torch's exporter made of a module once in a run of the tests is not made again.

Exporting a tiny network takes torch half a minute, whatever its weights; dozens of tests need one.
A graph is kept under everything that it is made of but the values of the weights, which every user
of it gets anew; processes that run tests beside each other share a folder. Nothing outlives a run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import hashlib
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from once import locked
from torch import Tensor, nn

from anydepth_deploy.calibration import calibrate
from anydepth_deploy.exporting import export
from anydepth_deploy.families.shared import macs
from anydepth_deploy.families.shared.macs import Macs
from anydepth_deploy.families.shared.stages import AnyDepthModel, Size
from anydepth_deploy.graph import pieces
from anydepth_deploy.graph.pieces import Pieces
from anydepth_deploy.progress import Progress

Exporter = Callable[[nn.Module, tuple[Tensor, ...]], ir.Model]


class KeptExports:
    """Stands before ``anydepth_deploy.graph.pieces._to_onnx``; keeps graphs in ``folder``."""

    def __init__(self, exporter: Exporter, folder: Path) -> None:
        self.export, self._folder = exporter, folder
        self.made = 0

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> ir.Model:
        try:
            key = describe(module, inputs)
        except UnknownError:
            return self.export(module, inputs)
        file = self._folder / f"{key}.onnx"
        with locked(file.with_suffix(".lock")):
            if not file.exists():
                self.made += 1
                unfinished = file.with_suffix(".unfinished")
                ir.save(self.export(module, inputs), unfinished)
                unfinished.rename(file)
        # The first time, too: later passes number constants by what the exporter has named before.
        model = ir.load(file)
        weights = module.state_dict(keep_vars=True)
        for name, value in model.graph.initializers.items():
            if name in weights:
                value.const_value = ir.tensor(weights[name].detach(), name=name)
        return model


class UnknownError(Exception):
    """A module holds something that cannot be told from its like by looking at it."""


def describe(module: nn.Module, inputs: tuple[Tensor, ...]) -> str:
    """A digest of all that an export depends on, but for the values of the weights.

    Raises :class:`UnknownError`.
    """
    return _Description(module, inputs).digest()


class _Description:
    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # A weight is told by its place, so that two places with one weight differ from two weights.
        self._weights = {id(t): name for name, t in module.state_dict(keep_vars=True).items()}
        self._seen: dict[int, int] = {}
        self._hash = hashlib.sha256()
        self._add(module)
        for tensor in inputs:
            self._write("input", tensor.dtype, tuple(tensor.shape))

    def digest(self) -> str:
        return self._hash.hexdigest()

    def _write(self, *words: object) -> None:
        self._hash.update(repr(words).encode() + b"\n")

    def _add(self, value: Any) -> None:
        if value is None or isinstance(value, (bool, int, float, str, bytes, torch.dtype)):
            self._write(value)
        elif isinstance(value, enum.Enum):
            self._write(type(value).__qualname__, value.name)
        elif isinstance(value, Tensor):
            self._add_tensor(value)
        elif isinstance(value, nn.Module):
            self._add_module(value)
        elif isinstance(value, Mapping):
            self._write("mapping", len(value))
            for key, item in value.items():
                self._add(key)
                self._add(item)
        elif isinstance(value, (list, tuple)):
            self._write("sequence", len(value))
            for item in value:
                self._add(item)
        elif isinstance(value, (set, frozenset)):
            self._write("set", sorted(map(repr, value)))
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            self._write(type(value).__qualname__)
            self._add({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
        elif isinstance(value, functools.partial):
            self._add((value.func, value.args, value.keywords))
        elif isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
            if "<" in value.__qualname__:  # made in a function: another may have its name
                raise UnknownError(value.__qualname__)
            self._write(value.__module__, value.__qualname__)
        else:
            raise UnknownError(type(value).__qualname__)

    def _add_tensor(self, tensor: Tensor) -> None:
        self._write(tensor.dtype, tuple(tensor.shape))
        if id(tensor) in self._weights:
            self._write(self._weights[id(tensor)])
        else:
            self._hash.update(tensor.detach().contiguous().numpy().tobytes())

    def _add_module(self, module: nn.Module) -> None:
        known = len(self._seen)
        index = self._seen.setdefault(id(module), known)
        self._write(type(module).__module__, type(module).__qualname__, index)
        if index < known:
            return
        # A test may have put another method in its place.
        code = type(module).forward.__code__
        self._write(code.co_code, code.co_names)
        self._add(vars(module))


class KeptPieces:
    """Stands before ``export_pieces``: those of the last networks, weights and all, are at hand."""

    LAST = 4

    def __init__(self) -> None:
        self._kept: dict[str, Pieces] = {}

    def __call__(
        self, model: AnyDepthModel, size: Size, *, progress: Progress | None = None
    ) -> Pieces:
        start = (model.family, model.config, model.suppression, size)
        digest = hashlib.sha256(repr(start).encode())
        for name, tensor in model.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
        key = digest.hexdigest()
        found = self._kept.pop(key, None)
        if found is None:
            found = pieces.export_pieces(model, size, progress=progress)
        elif progress is not None:
            for index, piece in enumerate(found.pieces):
                progress(piece.prefix, index, len(found.pieces))
        self._kept[key] = found
        if len(self._kept) > self.LAST:
            del self._kept[next(iter(self._kept))]
        return found


def keep_macs(
    count: Callable[[AnyDepthModel, Size], Macs],
) -> Callable[[AnyDepthModel, Size], Macs]:
    """``count_macs`` of networks alike but for their weights, which it does not look at."""
    known: dict[str, Macs] = {}

    def kept(model: AnyDepthModel, size: Size) -> Macs:
        key = repr((model.family, model.config, model.suppression, size))
        if key not in known:
            known[key] = count(model, size)
        return known[key]

    return kept


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Keep what is exported in ``folder`` from here on."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = KeptPieces()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "_to_onnx", KeptExports(pieces._to_onnx, folder))
        patch.setattr(export, "export_pieces", kept)
        patch.setattr(export, "count_macs", keep_macs(macs.count_macs))
        patch.setattr(calibrate, "export_pieces", kept)
        yield
