"""Rules for a model's files: they are there, and what they hold is what its configuration says."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path

from anydepth_deploy.errors import BundleError
from anydepth_deploy.serve.check.problem import Loaded, Problem, dims_text
from anydepth_deploy.serve.signature import Signature, Tensor, read_signature

__all__ = ["check_files"]

FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan", "python": "model.py"}
"""What a backend looks for in the folder of a version, unless told otherwise."""


def check_files(model: Loaded) -> Iterator[Problem]:
    versions = model.versions()
    if not versions:
        yield Problem(
            f"{model.folder.name}/1", "is missing: a model, and an ensemble, has a numbered folder"
        )
    policy = model.config.version_policy
    if policy.HasField("specific"):
        for number in policy.specific.versions:
            if number not in [int(version.name) for version in versions]:
                yield model.problem(
                    f"version_policy asks for version {number}, which has no folder: make one, or "
                    "leave it out"
                )
    standard = FILES.get(model.backend)
    name = model.config.default_model_filename or standard
    for version in versions if name and model.backend != "ensemble" else []:
        path = version / str(name)
        file = f"{model.folder.name}/{version.name}/{name}"
        if not path.exists():
            yield Problem(file, f"is missing: {model.file} needs it, put the model there")
        elif path.is_file() and path.stat().st_size == 0:
            yield Problem(file, "is empty: put the model there")
        elif model.backend == "onnxruntime" and path.is_file():
            yield from _onnx(model, file, path)


def _onnx(model: Loaded, file: str, path: Path) -> Iterator[Problem]:
    try:
        stat = path.stat()
        has = _signature(path, stat.st_mtime_ns, stat.st_size)
    except BundleError as error:
        yield Problem(file, str(error))
        return
    for kind, configured, mine in (
        ("input", model.inputs, has.inputs),
        ("output", model.outputs, has.outputs),
    ):
        tensors = {tensor.name: tensor for tensor in mine}
        for name, tensor in configured.items():
            if name not in tensors:
                yield model.problem(
                    f"{kind} '{name}' is not in {file}, which has {', '.join(tensors)}: correct "
                    "the name"
                )
            else:
                yield from _agree(model, kind, tensor, tensors[name], file)
    missing = [tensor.name for tensor in has.inputs if tensor.name not in model.inputs]
    if missing and not model.completed(model.inputs):
        yield model.problem(f"{file} takes '{missing[0]}', which is no input here: add it")
    if not model.config.output and not model.completed(model.outputs):
        yield model.problem(f"no output is listed: add those of {file} that are wanted")


@functools.lru_cache(maxsize=64)
def _signature(path: Path, changed: int, size: int) -> Signature:
    """Once for a file, though several configurations speak of it."""
    return read_signature(path)


def _agree(model: Loaded, kind: str, tensor: Tensor, mine: Tensor, file: str) -> Iterator[Problem]:
    if tensor.datatype != mine.datatype:
        yield model.problem(
            f"{kind} '{tensor.name}' is TYPE_{tensor.datatype}, in {file} it is "
            f"TYPE_{mine.datatype}: correct data_type"
        )
    dims = _reshaped(model, kind, tensor)
    if not mine.dims:  # the backend makes a scalar of one value
        fits = math.prod(dims) == 1 and -1 not in dims
        wanted = "[1]"
    else:
        full = (-1, *dims) if model.max_batch > 0 else dims
        fits = len(full) == len(mine.dims) and all(
            given == side or (kind == "input" and side == -1)
            for given, side in zip(full, mine.dims, strict=True)
        )
        wanted = dims_text(mine.dims)
        if model.max_batch > 0:
            wanted += " with the batch, which dims leave out"
            if mine.dims[0] != -1:
                yield model.problem(
                    f"max_batch_size is {model.max_batch}, but the batch of '{tensor.name}' in "
                    f"{file} is {mine.dims[0]}: set max_batch_size to 0"
                )
                return
    if not fits:
        yield model.problem(
            f"{kind} '{tensor.name}' has dims {dims_text(dims)}, {file} has {wanted}: correct dims"
        )


def _reshaped(model: Loaded, kind: str, tensor: Tensor) -> tuple[int, ...]:
    """The dimensions that the backend gets."""
    items = model.config.input if kind == "input" else model.config.output
    item = next(item for item in items if item.name == tensor.name)
    return tuple(item.reshape.shape) if item.HasField("reshape") else tensor.dims
