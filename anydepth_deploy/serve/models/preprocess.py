"""Pictures in, network input out, exactly as the Python runtime prepares them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from anydepth_deploy.errors import AnyDepthError
from anydepth_deploy.pictures.images import Geometry, prepare_batch
from anydepth_deploy.serve.models.settings import read_manifest

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """``image`` UINT8 [N, H, W, 3] in RGB -> ``images`` FP32 [N, 3, h, w] and ``geometry`` FP32
    [N, 6], by which :mod:`anydepth_deploy.serve.models.postprocess` brings boxes back.

    Pictures of one request have one size. Errors of the caller are INVALID_ARG.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Read the manifest. Raises :class:`BundleError`."""
        self._recipe = read_manifest(args).preprocess

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Prepare the pictures of each request."""
        return [self._prepare(request) for request in requests]

    def _prepare(self, request: Any) -> Any:
        pictures = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        try:
            images, geometries = prepare_batch(list(pictures), self._recipe)
        except AnyDepthError as error:
            refusal = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=refusal)
        ways = np.array([_row(geometry) for geometry in geometries], np.float32)
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor("images", images), pb_utils.Tensor("geometry", ways)]
        )


def _row(geometry: Geometry) -> tuple[float, ...]:
    """Scale x, y, offset x, y, height, width."""
    return (*geometry.scale, *geometry.offset, *geometry.size)
