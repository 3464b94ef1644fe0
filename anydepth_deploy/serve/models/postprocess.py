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
    the picture."""

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Map the boxes of each request back."""
        return [self._map(request) for request in requests]

    def _map(self, request: Any) -> Any:
        boxes = pb_utils.get_input_tensor_by_name(request, "boxes").as_numpy()
        ways = pb_utils.get_input_tensor_by_name(request, "geometry").as_numpy()
        found = np.stack(
            [_geometry(way).to_picture(own) for own, way in zip(boxes, ways, strict=True)]
        )
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("picture_boxes", found)])


def _geometry(way: NDArray[np.float32]) -> Geometry:
    """What :mod:`anydepth_deploy.serve.models.preprocess` wrote as a row."""
    x, y, left, top, height, width = (float(value) for value in way)
    return Geometry((x, y), (left, top), (int(height), int(width)))
