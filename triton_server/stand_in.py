"""What the stand-ins for Triton's backends have in common: tests and the demo only.

Triton's ``onnxruntime`` and ``tensorrt`` backends come with NVIDIA's containers and not from PyPI.
A backend may also be written in Python and is then found under its name; so a repository for
production loads unchanged in a local server. What works with stand-ins has a right configuration,
wiring, routing, pre- and post-processing, batching and metrics, with the core and the Python
backend of a real server. It says **nothing** about the backends they stand for: their execution,
their options, GPUs and speed are not tested.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

__all__ = ["StandIn"]

Arrays = Mapping[str, NDArray[np.generic]]


class StandIn:
    """Runs the ONNX graph in the version folder's ``FILE`` on the CPU, with one thread unless the
    configuration says otherwise; requests that Triton batches run as one."""

    FILE: str

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph. Raises ``TritonModelException`` where it is missing or damaged, or the
        configuration names what it does not have."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"], args["model_version"])
        path = folder / (config.get("default_model_filename") or self.FILE)
        threads = config.get("parameters", {}).get("intra_op_thread_count", {})
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = int(threads.get("string_value", 1))
        settings.log_severity_level = 4  # errors reach the server as exceptions
        try:
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise pb_utils.TritonModelException(f"{path} cannot be loaded: {reason}") from None
        self._batches = config["max_batch_size"] > 0
        self._ranks = {value.name: len(value.shape) for value in self._session.get_inputs()}
        self._outputs = [output["name"] for output in config["output"]]
        has = {value.name for value in self._session.get_outputs()}
        named = {value["name"] for value in config["input"]}
        if named != set(self._ranks) or not has.issuperset(self._outputs):
            raise pb_utils.TritonModelException(
                f"the configuration names inputs {sorted(named)} and outputs {self._outputs}, "
                f"{path} has {sorted(self._ranks)} and {sorted(has)}"
            )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run ``requests``: as one batch, where the model has batches."""
        feeds = [self._feeds(request) for request in requests]
        if not self._batches or len(feeds) == 1:
            return [_response(self._run(own)) for own in feeds]
        found = self._run({name: np.concatenate([own[name] for own in feeds]) for name in feeds[0]})
        ends = np.cumsum([len(next(iter(own.values()))) for own in feeds])[:-1]
        parts = {name: np.split(array, ends) for name, array in found.items()}
        return [
            _response({name: arrays[index] for name, arrays in parts.items()})
            for index in range(len(feeds))
        ]

    def _feeds(self, request: Any) -> Arrays:
        """Inputs by name; a scalar of the graph arrives with one dimension."""
        arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        return {
            name: array.reshape(()) if self._ranks[name] == 0 else array
            for name, array in arrays.items()
        }

    def _run(self, feeds: Arrays) -> Arrays:
        found = self._session.run(self._outputs, dict(feeds))
        return dict(zip(self._outputs, found, strict=True))


def _response(arrays: Arrays) -> Any:
    return pb_utils.InferenceResponse(
        output_tensors=[pb_utils.Tensor(name, array) for name, array in arrays.items()]
    )
