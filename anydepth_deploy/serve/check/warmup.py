"""Rules for the requests that a configuration has Triton send before a model is ready: a server
that cannot make one does not load the model, or serves it cold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from anydepth_deploy.serve.check.problem import Loaded, Problem, dims_text
from anydepth_deploy.serve.protocol import datatype
from anydepth_deploy.serve.signature import Tensor
from anydepth_deploy.serve.warmup import FOLDER

__all__ = ["check_warmup"]

BYTES = {
    **dict.fromkeys(("BOOL", "INT8", "UINT8"), 1),
    **dict.fromkeys(("BF16", "FP16", "INT16", "UINT16"), 2),
    **dict.fromkeys(("FP32", "INT32", "UINT32"), 4),
    **dict.fromkeys(("FP64", "INT64", "UINT64"), 8),
}
"""Of one value; texts have no size of their own."""


def check_warmup(model: Loaded) -> Iterator[Problem]:
    samples = model.config.model_warmup
    if samples and model.backend == "ensemble":
        yield model.problem("Triton warms no ensemble: leave model_warmup to its models")
        return
    for sample in samples:
        where = f"model_warmup '{sample.name}'"
        largest = max(model.max_batch, 1)
        if not 1 <= sample.batch_size <= largest:
            yield model.problem(
                f"{where} has batch_size {sample.batch_size}: expected 1 to {largest}"
            )
        for name in sorted(sample.inputs):
            yield from _input(model, f"{where}, input '{name}',", name, sample.inputs[name])
        missing = sorted(set(model.inputs) - set(sample.inputs) - model.optional)
        if missing:
            yield model.problem(f"{where} does not give the input '{missing[0]}': add it")


def _input(model: Loaded, where: str, name: str, given: Any) -> Iterator[Problem]:
    tensor = Tensor(name, datatype(given.data_type), tuple(given.dims))
    has = model.inputs.get(name)
    if has is None:
        # Of others: Triton completes inputs, and gives those that control sequences by itself.
        if model.inputs and not model.config.HasField("sequence_batching"):
            yield model.problem(f"{where} is no input of the model: correct the name")
        return
    if tensor.datatype != has.datatype:
        yield model.problem(
            f"{where} is TYPE_{tensor.datatype}, the model takes TYPE_{has.datatype}: correct "
            "data_type"
        )
    fits = len(tensor.dims) == len(has.dims) and all(
        mine >= 0 and theirs in (-1, mine)
        for mine, theirs in zip(tensor.dims, has.dims, strict=True)
    )
    if not fits:
        yield model.problem(
            f"{where} has dims {dims_text(tensor.dims)}, the model {dims_text(has.dims)}: give all "
            "sides, as the model takes them"
        )
        return
    yield from _data(model, where, tensor, given)


def _data(model: Loaded, where: str, tensor: Tensor, given: Any) -> Iterator[Problem]:
    kind = given.WhichOneof("input_data_type")
    if kind is None:
        yield model.problem(f"{where} has no data: set zero_data, random_data or input_data_file")
    if kind != "input_data_file":
        return
    path = model.folder / FOLDER / given.input_data_file
    if not path.is_file():
        yield model.problem(
            f"{where} is read from {FOLDER}/{given.input_data_file}, which is missing: put it there"
        )
        return
    needed = math.prod(tensor.dims) * BYTES.get(tensor.datatype, 0)
    if path.stat().st_size < needed:
        yield model.problem(
            f"{where} takes {needed} bytes, {FOLDER}/{given.input_data_file} has "
            f"{path.stat().st_size}: write it again"
        )
