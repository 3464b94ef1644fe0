"""Published points: their figures, their sources, and what their ratios are of."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest
from pydantic import ValidationError

from anydepth_deploy.bench.report.published import Published, PublishedPoint, load_published
from anydepth_deploy.families.registry import find_family

DETR_SUPER, DETR_BASE = "FFFF-F-6", "TTTT-T-4"
YOLO_SUPER, YOLO_BASE = "FFFFFFFF", "TTTTTTTT"


def content() -> dict[str, Any]:
    file = resources.files("anydepth_deploy.bench.report") / "published.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def ratios(family: str, config: str) -> dict[str, Any]:
    found = load_published().ratios(family, config)
    assert len({ratio.label for ratio in found}) == len(found)
    return {ratio.label: (ratio.point.depth, ratio.ratio) for ratio in found}


@pytest.mark.parametrize(
    ("config", "giga", "base_giga", "ap", "base_ap", "ratio"),
    [
        ("r50", 67.028, 39.505, 53.1, 50.5, 1.697),
        ("r101", 128.0, 70.271, 54.6, 52.6, 1.822),
    ],
)
def test_detr(
    config: str, giga: float, base_giga: float, ap: float, base_ap: float, ratio: float
) -> None:
    published = load_published()
    by_depth = {point.depth: point for point in published.of("anydepth-detr", config)}
    assert set(by_depth) == {DETR_SUPER, DETR_BASE}
    for depth, work, score in ((DETR_SUPER, giga, ap), (DETR_BASE, base_giga, base_ap)):
        point = by_depth[depth]
        assert (point.macs, point.ap, point.dataset) == (round(work * 1e9), score, "COCO val2017")
        assert point.input_size == (640, 640)
        assert point.latency_ms is None
        assert published.accuracy("anydepth-detr", config, str(depth), (640, 640)) is point
    assert ratios("anydepth-detr", config) == {
        "published, multiply-adds": (DETR_BASE, pytest.approx(ratio, abs=5e-4))
    }


def test_headlines_are_ratios_of_multiply_adds_and_follow_from_the_points() -> None:
    published = load_published()
    assert [str(item) for item in published.headlines] == [
        "1.82x for 2.0 AP (r101)",
        "1.70x for 2.6 AP (r50)",
    ]
    assert "not of measured time" in published.note
    for headline in published.headlines:
        (ratio,) = published.ratios(headline.family, headline.config)
        assert headline.quantity == ratio.quantity == "multiply-adds"
        assert headline.ratio == round(ratio.ratio, 2)
        assert ratio.full.ap is not None
        assert ratio.point.ap is not None
        assert headline.ap_loss == pytest.approx(ratio.full.ap - ratio.point.ap)


def test_yolo() -> None:
    assert ratios("anydepth-yolo", "l") == {
        "published, multiply-adds": (YOLO_BASE, pytest.approx(44.473 / 31.013))
    }
    # Of the small one multiply-adds are not published, but latency on two devices at two sizes.
    found = ratios("anydepth-yolo", "s")
    assert {label: (depth, round(ratio, 2)) for label, (depth, ratio) in found.items()} == {
        "published, TensorRT FP16 RTX 3090 720x1280": (YOLO_BASE, 1.60),
        "published, TensorRT FP16 Jetson Orin Nano 576x1024": (YOLO_BASE, 1.62),
        "published, TensorRT FP16 Jetson Orin Nano 720x1280": (YOLO_BASE, 1.68),
    }
    scores = {
        (point.config, point.depth): point.ap
        for point in load_published().points
        if point.family == "anydepth-yolo" and point.ap is not None
    }
    assert scores == {
        ("l", YOLO_SUPER): 53.9,
        ("l", YOLO_BASE): 52.0,
        ("s", YOLO_SUPER): 47.9,
        ("s", YOLO_BASE): 45.1,
    }
    times = {
        (point.device, point.input_size, point.depth): point.latency_ms
        for point in load_published().points
        if point.latency_ms
    }
    assert times == {
        ("RTX 3090", (720, 1280), YOLO_BASE): 3.24,
        ("RTX 3090", (720, 1280), YOLO_SUPER): 5.20,
        ("Jetson Orin Nano", (576, 1024), YOLO_BASE): 14.45,
        ("Jetson Orin Nano", (576, 1024), YOLO_SUPER): 23.37,
        ("Jetson Orin Nano", (720, 1280), YOLO_BASE): 25.12,
        ("Jetson Orin Nano", (720, 1280), YOLO_SUPER): 42.12,
    }


def test_static_networks_have_no_depth_and_no_ratio() -> None:
    published = load_published()
    for config, rate in (("r50", 108), ("r101", 74)):
        (point,) = published.of("rt-detr", config)
        assert (point.depth, point.images_per_second, point.batch) == (None, rate, 1)
        assert (point.device, point.runtime, point.precision) == ("Tesla T4", "TensorRT", "fp16")
        assert point.source == "RT-DETR paper"
        assert published.ratios("rt-detr", config) == []


def test_depths_are_depths_of_their_networks() -> None:
    for point in load_published().points:
        assert point.source
        if point.depth is not None:
            ladder = find_family(point.family).sizes[point.config].ladder
            assert point.depth in {str(ladder[0]), str(ladder[-1])}


def test_accuracy_holds_at_its_own_input_size_only() -> None:
    published = load_published()
    assert published.accuracy("anydepth-detr", "r50", DETR_BASE, (320, 320)) is None
    assert published.accuracy("anydepth-detr", "tiny", DETR_BASE, (640, 640)) is None
    # This depth of this network has a latency there, but no AP.
    assert published.accuracy("anydepth-yolo", "s", YOLO_BASE, (720, 1280)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"ap": None, "macs": None, "dataset": None},
        {"dataset": None},
        {"latency_ms": 3.0},
        {"latency_ms": -3.0, "device": "x", "runtime": "y", "precision": "z"},
        {"source": ""},
        {"ap": 531.0},
        {"surprise": 1},
    ],
)
def test_points_are_checked(changes: dict[str, Any]) -> None:
    point = content()["points"][0]
    PublishedPoint.model_validate(point)
    with pytest.raises(ValidationError):
        PublishedPoint.model_validate({**point, **changes})


def test_the_file_says_what_it_is() -> None:
    with pytest.raises(ValidationError):
        Published.model_validate({**content(), "version": 2})
