"""The configurations of a plan's models, as protobuf messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from anydepth_deploy.serve import names
from anydepth_deploy.serve.plan import Plan, Served
from anydepth_deploy.serve.protocol import PREFIX, messages
from anydepth_deploy.serve.signature import Tensor
from anydepth_deploy.serve.warmup import row_file, warm
from anydepth_deploy.version import __version__

__all__ = ["ensemble", "postprocess", "preprocess", "router", "served"]

DETECTIONS = (
    Tensor("labels", "INT64", (-1, -1)),
    Tensor("boxes", "FP32", (-1, -1, 4)),
    Tensor("scores", "FP32", (-1, -1)),
)
"""What a router gives: [N, K] and boxes [N, K, 4]."""

DEPTH_ROW = Tensor("depth_row", "INT32", (1,))
"""The row of the depth table that was run."""

ARRIVED = Tensor(names.ARRIVED, "INT64", (1,))
DEPTH = Tensor("depth", "STRING", (1,))
ROW = Tensor("row", "INT32", (1,))
IMAGE = Tensor("image", "UINT8", (-1, -1, -1, 3))
GEOMETRY = Tensor("geometry", "FP32", (-1, 6))
"""Of each picture: scale x and y, offset x and y, height and width."""


def served(plan: Plan, model: Served, device: str) -> Any:
    """Of a model that a backend executes, on ``device``: ``cpu`` or ``gpu``."""
    engine = model.artifact.engine is not None
    config = messages().ModelConfig(
        name=model.name,
        backend="tensorrt" if engine else "onnxruntime",
        platform="tensorrt_plan" if engine else "onnxruntime_onnx",
        max_batch_size=model.max_batch,
    )
    if model.signature is not None:
        outputs = [tensor for tensor in model.signature.outputs if tensor.name in plan.outputs]
        _add(config.input, _configured(model.signature.inputs, model.max_batch))
        _add(config.output, _configured(outputs, model.max_batch))
    else:
        # An engine has raw outputs, too, all of which a configuration has to list in exactly the
        # dimensions that TensorRT found: Triton asks TensorRT when none is listed.
        _add(config.input, [Tensor("images", "FP32", (3, *plan.bundle.size))])
    if model.max_batch > 1:
        batching = config.dynamic_batching
        batching.preferred_batch_size.extend(model.preferred)
        batching.max_queue_delay_microseconds = plan.options.queue_delay_us
    _instances(config, device, plan.options.instances)
    _warm_served(config, plan, model)
    parameters = {}
    if plan.options.threads is not None and device == "cpu":
        parameters["intra_op_thread_count"] = str(plan.options.threads)
    _parameters(config, plan, parameters)
    return config


def router(plan: Plan) -> Any:
    """Of the Python model that finds the model for a depth."""
    config = _python(plan, plan.names.router, 1)  # one, which keeps many requests on their way
    # Of any size here: the router says more about a wrong one than Triton, and counts it.
    _add(config.input, [Tensor("images", "FP32", (-1, 3, -1, -1))])
    _add(config.input, [DEPTH, ROW, ARRIVED], optional=True)
    _add(config.output, [*DETECTIONS, DEPTH_ROW])
    levels = {str(row): model.name for row, model in plan.levels.items()}
    _parameters(
        config,
        plan,
        {
            names.GATED: plan.gated.name if plan.gated else "",
            names.LEVELS: json.dumps(levels),
            names.MAX_IMAGES: str(plan.max_images),
            names.IN_FLIGHT: str(plan.in_flight),
            names.MAX_QUEUE: str(plan.max_queue),
            names.MAX_BATCH: str(min((item.max_batch for item in plan.levels.values()), default=0)),
            names.DEFAULT_DEPTH: plan.options.default_depth,
            names.RAW_OUTPUT: plan.raw_output,
            names.BUDGET_MS: _number(plan.options.budget_ms),
            names.MEASURED: json.dumps(plan.measured),
        },
    )
    return config


def preprocess(plan: Plan) -> Any:
    """Of the Python model that makes a network's input of pictures."""
    config = _python(plan, plan.names.preprocess, plan.options.workers)
    _add(config.input, [IMAGE])
    _add(config.output, [_images(plan), GEOMETRY, ARRIVED])
    warm(
        config, "picture", [(Tensor(IMAGE.name, IMAGE.datatype, (1, 1, 1, 3)), None)]
    )  # within any limit
    _parameters(
        config,
        plan,
        {
            names.MAX_IMAGES: str(plan.max_images),
            names.MAX_PIXELS: str(plan.options.max_pixels),
        },
    )
    return config


def postprocess(plan: Plan) -> Any:
    """Of the Python model that brings boxes back to the pictures."""
    config = _python(plan, plan.names.postprocess, plan.options.workers)
    boxes = DETECTIONS[1]
    _add(config.input, [boxes, GEOMETRY])
    _add(config.output, [Tensor("picture_boxes", boxes.datatype, boxes.dims)])
    box = Tensor(boxes.name, boxes.datatype, (1, 1, 4))
    warm(config, "box", [(box, None), (Tensor(GEOMETRY.name, GEOMETRY.datatype, (1, 6)), None)])
    _parameters(config, plan, {})
    return config


def ensemble(plan: Plan) -> Any:
    """Of the chain from pictures to detections in them."""
    config = messages().ModelConfig(name=plan.names.ensemble, platform="ensemble")
    _add(config.input, [IMAGE])
    _add(config.input, [DEPTH], optional=True)
    _add(config.output, [*DETECTIONS, DEPTH_ROW])

    def step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
        added = config.ensemble_scheduling.step.add(model_name=model, model_version=-1)
        added.input_map.update(inputs)
        added.output_map.update(outputs)

    step(
        plan.names.preprocess,
        {"image": "image"},
        {"images": "prepared", "geometry": "geometry", names.ARRIVED: names.ARRIVED},
    )
    step(
        plan.names.router,
        {"images": "prepared", "depth": "depth", names.ARRIVED: names.ARRIVED},
        {"labels": "labels", "boxes": "input_boxes", "scores": "scores", "depth_row": "depth_row"},
    )
    step(
        plan.names.postprocess,
        {"boxes": "input_boxes", "geometry": "geometry"},
        {"picture_boxes": "boxes"},
    )
    manifest = plan.bundle.manifest
    _parameters(
        config,
        plan,
        {names.CLASSES: json.dumps(manifest.classes), names.LADDER: json.dumps(manifest.ladder)},
    )
    return config


def _warm_served(config: Any, plan: Plan, model: Served) -> None:
    """One image; through a gated graph at depths that run all of it between them."""
    sides = (3, *plan.bundle.size)
    if model.max_batch > 0:
        warm(config, "image", [(Tensor("images", "FP32", sides), None)])
        return
    images, depth = Tensor("images", "FP32", (1, *sides)), Tensor("depth", "INT64", (1,))
    for row in plan.warm_rows:
        warm(config, row_file(row), [(images, None), (depth, row_file(row))])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.15g}"


def _images(plan: Plan) -> Tensor:
    return Tensor("images", "FP32", (-1, 3, *plan.bundle.size))


def _configured(tensors: Iterable[Tensor], max_batch: int) -> list[Tensor]:
    """As Triton is told: without the batch where it makes batches; a scalar as one number, of which
    the backend makes a scalar again."""
    return [
        Tensor(item.name, item.datatype, (item.dims[1:] if max_batch else item.dims) or (1,))
        for item in tensors
    ]


def _python(plan: Plan, name: str, instances: int) -> Any:
    config = messages().ModelConfig(name=name, backend="python")
    _instances(config, "cpu", instances)
    return config


def _instances(config: Any, device: str, count: int) -> None:
    group = messages().ModelInstanceGroup
    config.instance_group.add(
        count=count, kind=group.KIND_GPU if device == "gpu" else group.KIND_CPU
    )


def _add(field: Any, tensors: Iterable[Tensor], *, optional: bool = False) -> None:
    for tensor in tensors:
        item = field.add(
            name=tensor.name,
            data_type=messages().DataType.Value(f"{PREFIX}{tensor.datatype}"),
            dims=tensor.dims,
        )
        if optional:
            item.optional = True


def _parameters(config: Any, plan: Plan, values: Mapping[str, str]) -> None:
    common = {names.NAME: plan.names.ensemble, names.MADE_BY: f"anydepth-deploy {__version__}"}
    for key, value in {**common, **values}.items():
        config.parameters[key].string_value = value
