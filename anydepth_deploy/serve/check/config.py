"""Rules for one configuration by itself: names, tensors, batches, instances.

What Triton's core checks when it loads a model, and what it does not: names that occur twice.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from anydepth_deploy.serve import names
from anydepth_deploy.serve.budgets import budget_of
from anydepth_deploy.serve.check.problem import BACKENDS, Loaded, Problem, dims_text
from anydepth_deploy.serve.protocol import messages

__all__ = ["RESERVED", "check_config"]

RESERVED = frozenset(
    {"binary_data_output", "headers", "priority", "sequence_end", "sequence_id", "sequence_start"}
    | {"timeout"}
)
"""Request parameters that the server keeps for itself, as it does all that begin with ``triton_``:
a model never sees them."""


def check_config(model: Loaded) -> Iterator[Problem]:
    yield from _names(model)
    yield from _backend(model)
    for kind, items in (("input", model.config.input), ("output", model.config.output)):
        yield from _unique(model, kind, items)
        for item in items:
            yield from _tensor(model, kind, item)
    yield from _batches(model)
    yield from _instances(model)
    yield from _parameters(model)


def _names(model: Loaded) -> Iterator[Problem]:
    name, folder = model.config.name, model.folder.name
    if name and name != folder:
        yield model.problem(
            f"the name is '{name}', its folder is '{folder}': Triton wants the same, rename one"
        )


def _backend(model: Loaded) -> Iterator[Problem]:
    config = model.config
    if not model.backend:
        yield model.problem(
            f"no backend is named (platform '{config.platform}'): set backend, e.g. "
            '"onnxruntime", or platform "ensemble"'
        )
    of_platform = BACKENDS.get(config.platform)
    if config.platform == "ensemble" and config.backend:
        yield model.problem(f"an ensemble has no backend, found '{config.backend}': leave it out")
    elif config.backend and of_platform not in (None, config.backend):
        yield model.problem(
            f"platform '{config.platform}' goes with backend '{of_platform}', found "
            f"'{config.backend}': leave platform out"
        )
    ensemble, steps = model.backend == "ensemble", config.HasField("ensemble_scheduling")
    if steps and not ensemble:
        yield model.problem('it has steps, but not platform "ensemble": set it')
    if ensemble and not config.ensemble_scheduling.step:
        yield model.problem("the ensemble has no steps: list them in ensemble_scheduling")


def _unique(model: Loaded, kind: str, items: Any) -> Iterator[Problem]:
    for name, count in Counter(item.name for item in items).items():
        if count > 1:
            yield model.problem(f"{kind} '{name}' is there {count} times: keep one of them")


def _tensor(model: Loaded, kind: str, item: Any) -> Iterator[Problem]:
    where = f"{kind} '{item.name}'"
    if not item.name:
        yield model.problem(f"an {kind} has no name: name it")
    if item.data_type == messages().TYPE_INVALID:
        yield model.problem(f"{where} has no data_type: give one, e.g. TYPE_FP32")
    dims = tuple(item.dims)
    if not dims:
        yield model.problem(f"{where} has no dims: give them, [ 1 ] for a scalar")
    yield from _sizes(model, where, "dims", dims)
    if item.HasField("reshape"):
        yield from _reshape(model, where, dims, tuple(item.reshape.shape))


def _sizes(model: Loaded, where: str, what: str, dims: tuple[int, ...]) -> Iterator[Problem]:
    wrong = [side for side in dims if side < 1 and side != -1]
    if wrong:
        yield model.problem(
            f"{where} has {what} {dims_text(dims)}: expected numbers from 1, or -1 for any"
        )


def _reshape(
    model: Loaded, where: str, dims: tuple[int, ...], shape: tuple[int, ...]
) -> Iterator[Problem]:
    yield from _sizes(model, where, "reshape", shape)
    if not shape and model.max_batch == 0:
        yield model.problem(
            f"{where} is reshaped to a scalar, which Triton takes with max_batch_size > 0 only: "
            "leave reshape out, backends make a scalar of dims [ 1 ] by themselves"
        )
    elif _blocks(dims) != _blocks(shape):
        yield model.problem(
            f"{where} cannot be reshaped from {dims_text(dims)} to {dims_text(shape)}: expected "
            "as many values"
        )


def _blocks(dims: tuple[int, ...]) -> list[int]:
    """Values between sides that are free: what reshaping has to keep."""
    found: list[list[int]] = [[]]
    for side in dims:
        if side == -1:
            found.append([])
        else:
            found[-1].append(side)
    return [math.prod(block) for block in found]


def _batches(model: Loaded) -> Iterator[Problem]:
    config, largest = model.config, model.max_batch
    if largest < 0:
        yield model.problem(f"max_batch_size is {largest}: expected 0 for none, or more")
    if model.backend == "onnxruntime" and largest > 0 and model.optional:
        yield model.problem(
            f"optional input '{min(model.optional)}' with max_batch_size {largest}: ONNX Runtime's "
            "backend takes either of them only, set max_batch_size to 0"
        )
    if not config.HasField("dynamic_batching"):
        return
    if largest < 1:
        yield model.problem(
            f"dynamic_batching with max_batch_size {largest} batches nothing: leave it out, or set "
            "max_batch_size"
        )
    for size in config.dynamic_batching.preferred_batch_size:
        if not 1 <= size <= max(largest, 0):
            yield model.problem(
                f"preferred_batch_size {size} is not within 1 and max_batch_size {largest}: choose "
                "another"
            )
    if model.backend == "ensemble":
        yield model.problem("an ensemble makes no batches: leave dynamic_batching to its models")


def _instances(model: Loaded) -> Iterator[Problem]:
    group = messages().ModelInstanceGroup
    groups = model.config.instance_group
    if model.backend == "ensemble" and groups:
        yield model.problem("an ensemble has no instances: leave instance_group out")
        return
    for item in groups:
        kind = group.Kind.Name(item.kind)
        if item.count < 0:
            yield model.problem(f"instance_group has count {item.count}: expected 1 or more")
        if item.kind == group.KIND_CPU and item.gpus:
            yield model.problem("instance_group is KIND_CPU and names gpus: choose one of them")
        if model.backend == "tensorrt" and item.kind == group.KIND_CPU:
            yield model.problem("an engine of TensorRT cannot be KIND_CPU: use KIND_GPU")
        if model.backend == "python" and model.owner is not None and item.kind != group.KIND_CPU:
            yield model.problem(f"{kind}, but this Python model computes on the CPU: use KIND_CPU")
        if model.variant == "cpu" and item.kind == group.KIND_GPU:
            yield model.problem("KIND_GPU in the variant for CPUs: use KIND_CPU")
        if (
            model.variant == "gpu"
            and model.backend in ("onnxruntime", "tensorrt")
            and item.kind == group.KIND_CPU
        ):
            yield model.problem("KIND_CPU in the variant for GPUs: use KIND_GPU")


def _parameters(model: Loaded) -> Iterator[Problem]:
    for key in names.LIMITS if model.owner is not None else ():
        text = model.parameter(key)
        if text is not None and not re.fullmatch("[1-9][0-9]{0,17}", text):
            yield model.problem(
                f"parameter '{key}' is {text[:40]!a}: expected a number from 1 on; write the "
                "repository again"
            )
    if not model.is_router:
        return
    text = model.parameter(names.BUDGET_MS)
    if text and budget_of(text) is None:
        yield model.problem(
            f"parameter '{names.BUDGET_MS}' is {text[:40]!a}: expected a positive number of "
            "milliseconds; write the repository again"
        )
    for key in names.ROUTER:
        if model.parameter(key) is None:
            yield model.problem(f"the router has no parameter '{key}': write the repository again")
    for name in sorted(model.optional):
        if name not in RESERVED and not name.startswith("triton_"):
            continue
        yield model.problem(
            f"optional input '{name}' may come as a parameter of a request, but the server keeps "
            "that name for itself: choose another"
        )
