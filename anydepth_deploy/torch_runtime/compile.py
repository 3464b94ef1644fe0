"""torch.compile for networks whose depth is decided: never a second compilation of anything."""

from __future__ import annotations

import types
import warnings
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from anydepth_deploy.errors import BuildError, UsageError
from anydepth_deploy.torch_runtime.network import Function

__all__ = ["compile_function"]

EAGER = "--runtime torch (mode eager in Python)"

COMPILERS = {
    "InvalidCxxCompiler": "a C++ compiler, and finds none: install g++ (or name one with CXX)",
    "TritonMissing": "the package 'triton', which is not installed: pip install triton",
    "GPUTooOldForTriton": "a GPU of compute capability 7.0 or newer",
}
"""What torch.compile lacks, by the name of its error."""


def compile_function(function: Function, inputs: Sequence[Tensor], *, backend: str) -> Function:
    """``function`` compiled for ``inputs`` and tensors of their shapes; they are run once.

    Raises :class:`UsageError` where a compiler is missing, :class:`BuildError` for a function that
    cannot be compiled as a whole.
    """
    compiled = cast(
        Function,
        torch.compile(_own_code(function), backend=backend, dynamic=False, fullgraph=True),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's, of its own parts
            compiled(*inputs)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever compilers raise
        raise _explained(error) from None
    return compiled


def _own_code(function: Function) -> Function:
    """The same function with a code object of its own.

    torch counts compilations by code object and falls back to eager after a few: all depths share
    one, and each would look like a change of the one before.
    """
    assert isinstance(function, types.FunctionType)
    code = function.__code__.replace()
    return types.FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )


def _explained(error: Exception) -> Exception:
    """One line for a person."""
    for cause in _causes(error):
        lacking = COMPILERS.get(type(cause).__name__)
        if lacking is not None:
            return UsageError(f"torch.compile needs {lacking}; or use {EAGER}")
    while isinstance(inner := getattr(error, "inner_exception", None), Exception):
        error = inner  # the outer ones only say who raised it
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return BuildError(
        f"torch.compile cannot compile this network ({first}): use {EAGER}, or another torch"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__
