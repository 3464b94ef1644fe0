"""Boxes of pictures that meet the input in either way: from Python and from Triton's models."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import anydepth_deploy as ad
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.pictures.images import Preprocess, Resize

MODELS = "anydepth_deploy.serve.models"
SIZES = ((90, 200), (160, 160), (301, 77))


class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> NDArray[Any]:
        return self.array

    def shape(self) -> tuple[int, ...]:
        return self.array.shape


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Preprocessing and postprocessing, with a stand-in for the module that only a server has."""
    utils = SimpleNamespace(
        Tensor=Tensor,
        InferenceResponse=SimpleNamespace,
        get_input_tensor_by_name=lambda request, name: request.given[name],
        TritonError=SimpleNamespace,
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    names = ("metrics", "preprocess", "postprocess")
    for name in names:
        monkeypatch.delitem(sys.modules, f"{MODELS}.{name}", raising=False)
    found = {name: importlib.import_module(f"{MODELS}.{name}") for name in names}
    monkeypatch.setattr(found["preprocess"], "ErrorMetrics", lambda *_: SimpleNamespace())
    yield SimpleNamespace(**found)
    for name in names:
        sys.modules.pop(f"{MODELS}.{name}", None)


def call(model: Any, *wanted: str, **given: NDArray[Any]) -> dict[str, NDArray[Any]]:
    request = SimpleNamespace(
        given={name: Tensor(name, array) for name, array in given.items()},
        requested_output_names=lambda: wanted,
    )
    (answer,) = model.execute([request])
    return {tensor.name: tensor.array for tensor in answer.output_tensors}


@pytest.mark.parametrize("usual", ["stretch", "letterbox"])
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_triton_gives_the_boxes_of_results(
    triton: Any, bundle_copy: Path, usual: Resize, resize: Resize
) -> None:
    content = json.loads((bundle_copy / MANIFEST).read_text())
    size = tuple(content["preprocess"]["size"])
    recipe = Preprocess.of(usual, (size[0], size[1]), resize)
    content["preprocess"] = recipe.model_dump(mode="json")
    (bundle_copy / MANIFEST).write_text(json.dumps(content))
    pre, post = triton.preprocess.TritonPythonModel(), triton.postprocess.TritonPythonModel()
    pre.initialize(
        {
            "model_repository": str(bundle_copy.parent),
            "model_version": bundle_copy.name,
            "model_name": "tiny_preprocess",
            "model_config": json.dumps({"parameters": {}}),
        }
    )
    found = 0
    with ad.load(bundle_copy) as detector:
        for number, sides in enumerate(SIZES):
            picture = np.random.default_rng(number).integers(0, 256, (*sides, 3), np.uint8)
            (result,) = detector(picture, "base", threshold=0.3)
            ready = call(pre, "images", "geometry", image=picture[None])
            answer = detector.session.run(ready["images"], "base")
            boxes = call(post, "picture_boxes", boxes=answer.boxes, geometry=ready["geometry"])[
                "picture_boxes"
            ]
            kept = (answer.scores[0] >= 0.3) & (answer.labels[0] >= 0)
            assert result.boxes.tolist() == boxes[0][kept].tolist()
            assert result.scores.tolist() == answer.scores[0][kept].tolist()
            # And by the sentence that describes it.
            ratio = min(size[0] / sides[0], size[1] / sides[1])
            tall, wide = (round(side * ratio) for side in sides)
            if resize == "stretch":
                tall, wide = size
            left, top = (size[1] - wide) // 2, (size[0] - tall) // 2
            plain = (answer.boxes[0][kept] - [left, top, left, top]) * (
                [sides[1] / wide, sides[0] / tall] * 2
            )
            np.testing.assert_allclose(
                result.boxes, np.clip(plain, 0, [sides[1], sides[0]] * 2), atol=1e-3
            )
            found += len(result)
    assert found > 3
