"""Pictures in, network input out, exactly as the Python runtime prepares them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from anydepth_deploy.errors import AnyDepthError
from anydepth_deploy.pictures.budget import BudgetError
from anydepth_deploy.pictures.images import Geometry, prepare_batch
from anydepth_deploy.serve import limits, names
from anydepth_deploy.serve.models.metrics import ErrorMetrics
from anydepth_deploy.serve.models.settings import max_images, number, parameters, read_manifest

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """``image`` UINT8 [N, H, W, 3] in RGB -> ``images`` FP32 [N, 3, h, w] and ``geometry`` FP32
    [N, 6], by which :mod:`anydepth_deploy.serve.models.postprocess` brings boxes back, and
    ``arrived`` INT64 [1], when the picture came, in nanoseconds of the system's monotonic clock.

    Pictures of one request have one size. Errors of the caller are INVALID_ARG, and counted: more
    than a request may bring as ``limit``, everything else as ``input``.
    """

    REASONS = ("input", "limit")

    def initialize(self, args: dict[str, str]) -> None:
        """Read the configuration and the manifest, and prepare a first picture, which takes longer
        than later ones. Raises :class:`BundleError`."""
        given = parameters(args)
        self._recipe = read_manifest(args).preprocess
        self._max_images = max_images(args, given)
        self._max_pixels = number(given, names.MAX_PIXELS, limits.MAX_PIXELS)
        self._budget = limits.preparing_pixels(self._max_pixels, self._recipe.size)
        self._metrics = ErrorMetrics(given.get(names.NAME) or args["model_name"], self.REASONS)
        prepare_batch([np.zeros((7, 9, 3), np.uint8)], self._recipe)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Prepare the pictures of each request."""
        return [self._prepare(request) for request in requests]

    def _prepare(self, request: Any) -> Any:
        arrived = np.array([time.monotonic_ns()], np.int64)
        tensor = pb_utils.get_input_tensor_by_name(request, "image")
        try:
            # Before there is as much as a list of them: a million empty pictures take no bytes.
            shape = tensor.shape()
            limits.check_pictures(shape, self._max_images, self._max_pixels)
            if 0 not in shape:  # what is empty is refused in other words
                height, width = int(shape[1]), int(shape[2])
                taken = self._recipe.resizing_pixels(height, width)
                limits.check_resizing(height, width, taken, self._recipe.size)
            images, geometries = prepare_batch(
                list(tensor.as_numpy()), self._recipe, max_pixels=self._budget
            )
        except AnyDepthError as error:
            self._metrics.failed(
                "limit" if isinstance(error, (limits.LimitError, BudgetError)) else "input"
            )
            refusal = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=refusal)
        ways = np.array([_row(geometry) for geometry in geometries], np.float32)
        found = {"images": images, "geometry": ways, names.ARRIVED: arrived}
        # Repositories written before have no place for the last one.
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor(name, array) for name, array in found.items() if name in wanted
            ]
        )


def _row(geometry: Geometry) -> tuple[float, ...]:
    """Scale x, y, offset x, y, height, width."""
    return (*geometry.scale, *geometry.offset, *geometry.size)
