"""Boxes from pixels of the network input to pixels of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from anydepth_deploy.pictures.images import Geometry

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """``boxes`` FP32 [N, K, 4] and ``geometry`` FP32 [N, 6] from
    :mod:`anydepth_deploy.serve.models.preprocess` -> ``picture_boxes`` FP32 [N, K, 4], clipped to
    the picture. What the two did not get from a router and from preprocessing is INVALID_ARG."""

    def initialize(self, args: dict[str, str]) -> None:
        """Map a first box, which takes longer than later ones."""
        _map(np.zeros((1, 1, 4), np.float32), np.ones((1, 6), np.float32))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Map the boxes of each request back."""
        return [_answer(request) for request in requests]


def _answer(request: Any) -> Any:
    boxes, ways = (
        pb_utils.get_input_tensor_by_name(request, name) for name in ("boxes", "geometry")
    )
    count, other = boxes.shape()[0], ways.shape()[0]
    # Boxes of no places take no bytes, however many pictures they claim to be of.
    if count != other or not count:
        text = f"boxes are of {count} pictures, geometry of {other}: expected the same, at least 1"
    elif not np.isfinite(ways.as_numpy()).all():
        text = "geometry holds what is no number: expected what preprocessing gives"
    else:
        found = pb_utils.Tensor("picture_boxes", _map(boxes.as_numpy(), ways.as_numpy()))
        return pb_utils.InferenceResponse(output_tensors=[found])
    refusal = pb_utils.TritonError(text, pb_utils.TritonError.INVALID_ARG)
    return pb_utils.InferenceResponse(error=refusal)


def _map(boxes: NDArray[np.float32], ways: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes in the pictures that the rows of ``ways`` belong to."""
    found = [_geometry(way).to_picture(own) for own, way in zip(boxes, ways, strict=True)]
    return np.stack(found)


def _geometry(way: NDArray[np.float32]) -> Geometry:
    """What :mod:`anydepth_deploy.serve.models.preprocess` wrote as a row."""
    x, y, left, top, height, width = (float(value) for value in way)
    return Geometry((x, y), (left, top), (int(height), int(width)))
