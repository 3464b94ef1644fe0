"""Requests that Triton sends to a model before it says that the model is ready.

The first run of a graph takes many times as long as later ones: memory is planned and allocated,
libraries are loaded, kernels are chosen. Without these requests the first clients wait for that.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from anydepth_deploy.serve.protocol import PREFIX, messages
from anydepth_deploy.serve.signature import Tensor

__all__ = ["FOLDER", "row_file", "warm", "write_rows"]

FOLDER = "warmup"
"""In a model's folder: where Triton looks for what such requests hold."""


def warm(config: Any, name: str, inputs: Iterable[tuple[Tensor, str | None]]) -> None:
    """Add a request ``name`` to a configuration: tensors as it lists them, with all sides given,
    filled with zeros or from a file of :data:`FOLDER`."""
    sample = config.model_warmup.add(name=name, batch_size=1, count=1)
    for tensor, file in inputs:
        item = sample.inputs[tensor.name]
        item.data_type = messages().DataType.Value(f"{PREFIX}{tensor.datatype}")
        item.dims.extend(tensor.dims)
        if file is None:
            item.zero_data = True
        else:
            item.input_data_file = file


def row_file(row: int) -> str:
    """The file that holds a row of the depth table."""
    return f"row_{row}"


def write_rows(folder: Path, rows: Iterable[int]) -> None:
    """Write ``rows``, each as the one INT64 that ``depth`` of a gated graph is, below a model's
    ``folder``."""
    (folder / FOLDER).mkdir()
    for row in rows:
        (folder / FOLDER / row_file(row)).write_bytes(np.array([row], "<i8").tobytes())
