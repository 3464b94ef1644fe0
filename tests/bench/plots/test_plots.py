"""Pictures of results: what is drawn where, and what is said where there is nothing to draw."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from bench_results import NETWORKS, fake_result, four_networks, network_result

from anydepth_deploy.bench.plots.page import (
    DEFAULT_FIGURES,
    FIGURES,
    ONE_DEPTH_FIGURES,
    draw,
    figure,
)
from anydepth_deploy.bench.results import BenchResult, Verdict
from anydepth_deploy.bench.sensors.state import Device
from anydepth_deploy.errors import MissingExtraError, ResultError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

BASE, MIDDLE, SUPER = "TTTT-T-4", "FFTT-F-4", "FFFF-F-6"
HEADLINE = "1.70x for 2.6 AP (r50)"


def known(**changes: Any) -> BenchResult:
    """Medians of 10, 15 and 20 ms; 40, 60 and 80 billion multiply-adds."""
    return fake_result(
        {BASE: [10.0] * 40, MIDDLE: [15.0] * 40, SUPER: [20.0] * 40},
        macs={BASE: 40 * 10**9, MIDDLE: 60 * 10**9, SUPER: 80 * 10**9},
        **changes,
    )


def panel(results: list[BenchResult], name: str) -> Axes:
    (axes,) = figure(results, [name]).axes
    return axes


def lines(axes: Axes, gid: str) -> list[Line2D]:
    return [line for line in axes.lines if line.get_gid() == gid]


def points(axes: Axes, gid: str) -> list[tuple[float, float]]:
    return [
        (float(x), float(y)) for line in lines(axes, gid) for x, y in np.asarray(line.get_xydata())
    ]


def legend(owner: Any) -> list[str]:
    found = owner.get_legend() if hasattr(owner, "get_legend") else owner.legends[0]
    return [] if found is None else [text.get_text() for text in found.get_texts()]


def caption(page: Figure) -> str:
    return " ".join(text.get_text() for text in page.texts if text.get_gid() == "caption")


def tags(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts if text.get_gid() == "tag"]


def test_speedup_stands_at_multiply_adds_and_measured_time() -> None:
    axes = panel([known(subject={"config": "tiny"})], "speedup")
    (line,) = lines(axes, "measured")
    assert np.asarray(line.get_xydata()) == pytest.approx(
        np.array([[1.0, 1.0], [80 / 60, 20 / 15], [2.0, 2.0]])
    )
    assert line.get_label() == "anydepth-detr tiny"
    ((x, y), (right, top)) = points(axes, "diagonal")
    assert (x, right) == (y, top)
    assert legend(axes) == ["time follows multiply-adds"]
    assert tags(axes) == [MIDDLE, BASE]
    assert lines(axes, "published") == []
    assert "ratio" in axes.get_xlabel()
    assert "ratio" in axes.get_ylabel()


def test_speedup_has_the_intervals_of_every_depth() -> None:
    from matplotlib.collections import LineCollection

    result = network_result("anydepth-detr", "r101")
    axes = panel([result], "speedup")
    bars = [
        np.asarray(part)
        for found in axes.collections
        if isinstance(found, LineCollection)
        for part in found.get_segments()
    ]
    expected = [
        [
            (128e9 / (depth.macs or 1), depth.speedup.low),
            (128e9 / (depth.macs or 1), depth.speedup.high),
        ]
        for depth in reversed(result.depths)
        if depth.speedup
    ]
    assert np.array(bars) == pytest.approx(np.array(expected))


def test_published_points_are_those_of_the_networks_measured() -> None:
    page = figure(four_networks(), ["speedup"])
    (axes,) = page.axes
    assert len(lines(axes, "measured")) == 4
    # Of the small YOLO: latencies, at the ratio of multiply-adds that was counted here.
    s = 11.4 / 7.9
    assert sorted(points(axes, "published")) == pytest.approx(
        np.array(
            sorted(
                [
                    (67.028 / 39.505, 67.028 / 39.505),
                    (128 / 70.271, 128 / 70.271),
                    (44.473 / 31.013, 44.473 / 31.013),
                    (s, 5.20 / 3.24),
                    (s, 23.37 / 14.45),
                    (s, 42.12 / 25.12),
                ]
            )
        )
    )
    for line in lines(axes, "published"):
        assert line.get_markerfacecolor() == "none"
        colours = {m.get_color() for m in lines(axes, "measured")}
        assert line.get_color() in colours
    assert legend(axes) == [
        "published, multiply-adds",
        "published, TensorRT FP16 RTX 3090 720x1280",
        "published, TensorRT FP16 Jetson Orin Nano 576x1024",
        "published, TensorRT FP16 Jetson Orin Nano 720x1280",
        "time follows multiply-adds",
    ]
    said = caption(page)
    assert "1.82x for 2.0 AP (r101)" in said
    assert HEADLINE in said
    assert "ratios of multiply-adds, not of measured time" in said
    assert {"r101, published 1.82x", "r50, published 1.70x", "s, published 1.68x"} <= set(
        tags(axes)
    )


def test_only_networks_among_the_results_have_published_points() -> None:
    page = figure([network_result("anydepth-yolo", "l")], ["speedup"])
    assert points(page.axes[0], "published") == [pytest.approx((44.473 / 31.013,) * 2)]
    assert "AP (" not in caption(page)
    # Latencies of a depth that was not measured have no place on the axis.
    some = network_result("anydepth-yolo", "s")
    without = some.model_copy(update={"depths": some.depths[1:]})
    assert points(panel([without], "speedup"), "published") == []


def test_accuracy_of_the_artifact_is_solid_and_published_accuracy_hollow() -> None:
    measured = known(ap={BASE: 40.0, SUPER: 44.0})
    other = network_result("anydepth-yolo", "l")
    page = figure([measured, other], ["accuracy"])
    (axes,) = page.axes
    (solid,) = lines(axes, "measured")
    (hollow,) = lines(axes, "published")
    assert np.asarray(solid.get_xydata()).tolist() == [[10.0, 40.0], [20.0, 44.0]]
    assert solid.get_markerfacecolor() == solid.get_color()
    medians = {depth.depth: depth.latency.median_ms.value for depth in other.depths}
    assert np.asarray(hollow.get_xydata()).tolist() == [
        [medians["TTTTTTTT"], 52.0],
        [medians["FFFFFFFF"], 53.9],
    ]
    assert hollow.get_markerfacecolor() == "white"
    assert legend(axes) == ["AP and latency measured here", "AP published, latency measured here"]
    assert sorted(tags(axes)) == sorted([BASE, SUPER, "TTTTTTTT", "FFFFFFFF"])
    assert "AP measured on val.json, 100 pictures" in caption(page)
    assert "not of the artifacts timed" in caption(page)


def test_measured_accuracy_takes_the_place_of_published() -> None:
    axes = panel([known(ap={BASE: 40.0})], "accuracy")
    assert points(axes, "measured") == [(10.0, 40.0)]
    assert points(axes, "published") == [(20.0, 53.1)]


def test_published_and_measured_accuracy_are_never_joined() -> None:
    axes = panel([known(ap={BASE: 40.0})], "accuracy")
    assert sorted(np.asarray(line.get_xdata()).size for line in lines(axes, "line")) == [1, 1]
    whole = panel([known(ap={BASE: 40.0, SUPER: 44.0})], "accuracy")
    (line,) = lines(whole, "line")
    assert np.asarray(line.get_xydata()).tolist() == [[10.0, 40.0], [20.0, 44.0]]


def test_accuracy_on_other_data_is_left_out_and_named() -> None:
    """One data set a picture: that of the most depths."""
    measured = known(ap={BASE: 40.0, SUPER: 44.0})
    accuracy = measured.depths[0].accuracy
    assert accuracy is not None
    elsewhere = accuracy.model_copy(update={"ap": 90.0, "data_sha256": "a" * 64, "pictures": 7})
    mixed = measured.model_copy(
        update={
            "depths": [
                measured.depths[0].model_copy(update={"accuracy": elsewhere}),
                *measured.depths[1:],
            ]
        }
    )
    page = figure(
        [mixed, network_result("anydepth-yolo", "l", ap={"TTTTTTTT": 50.0})], ["accuracy"]
    )
    (axes,) = page.axes
    assert points(axes, "measured")[0] == (20.0, 44.0)
    assert all(ap != 90.0 for _, ap in points(axes, "measured"))
    assert "AP measured on val.json, 100 pictures" in caption(page)
    assert "on other data is left out: val.json, 7 pictures" in caption(page)


@pytest.mark.parametrize(
    "subject",
    [{"input_size": (320, 320)}, {"precision": "int8"}, {"config": "tiny"}],
    ids=["size", "int8", "network"],
)
def test_published_accuracy_that_does_not_hold_is_not_drawn(subject: dict[str, Any]) -> None:
    result = known(subject=subject)
    with pytest.raises(ResultError, match=r"nothing to draw: No accuracy to show.*eval"):
        figure([result], ["accuracy"])
    page = figure([result], ["distribution", "accuracy"])
    assert page.axes[1].lines[:] == []
    (text,) = page.axes[1].texts
    assert text.get_text().replace("\n", " ").startswith("No accuracy to show: AP of none")


def test_one_depth_has_no_speedup() -> None:
    result = fake_result({SUPER: [10.0] * 30})
    with pytest.raises(ResultError, match="two depths"):
        figure([result], ["speedup"])
    assert len(figure([result]).axes) == 2  # AP of this depth is published
    unknown = fake_result({BASE: [1.0] * 9, SUPER: [2.0] * 9}, macs={BASE: 1, SUPER: None})
    with pytest.raises(ResultError, match="multiply-adds"):
        figure([unknown], ["speedup"])


def test_results_of_single_depths_show_what_they_have() -> None:
    """By default: there is no curve, so the requests themselves."""
    result = fake_result({"full": [10.0] * 30}, subject={"family": "yolov12", "config": "tiny"})
    page = figure([result])
    assert [axes.get_title(loc="left") for axes in page.axes] == [
        "Distribution of latency, every request",
        "Accuracy against latency",
    ]
    assert lines(page.axes[0], "samples")
    rated = fake_result({"full": [10.0] * 30}, ap={"full": 40.0})
    assert points(figure([rated]).axes[1], "measured") == [(10.0, 40.0)]
    assert DEFAULT_FIGURES[0] not in ONE_DEPTH_FIGURES
    two = figure([result, known()])
    assert two.axes[0].get_title(loc="left") == "Measured speed-up against multiply-adds saved"


def test_distribution_holds_every_sample() -> None:
    values = [5.0, 1.0, 2.0, 2.0, 90.0]
    result = fake_result({BASE: values, SUPER: [100.0] * 40}, percentiles=(50, 90))
    axes = panel([result], "distribution")
    small, large = lines(axes, "samples")
    assert np.asarray(small.get_xydata()) == pytest.approx(
        np.array([[1, 1.0], [2, 0.8], [2, 0.6], [5, 0.4], [90, 0.2]])
    )
    assert len(np.asarray(large.get_xydata())) == 40
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    assert left < 1
    assert right > 100
    assert bottom < 1 / 40
    assert top > 1
    # Five samples are enough for a median and too few for p90.
    marks = [np.asarray(line.get_xydata()) for line in lines(axes, "percentiles")]
    assert marks[0] == pytest.approx(np.array([[2.0, 0.5]]))
    assert marks[1] == pytest.approx(np.array([[100.0, 0.5], [100.0, 0.1]]))
    assert {"p50", "p90"} <= {text.get_text() for text in axes.texts}
    assert points(axes, "largest") == [(90.0, 0.2), pytest.approx((100.0, 1 / 40))]
    assert tags(axes) == [BASE, SUPER]


def test_throughput_joins_what_differs_only_in_batch_streams_or_rate() -> None:
    def at(batch: int, **settings: Any) -> BenchResult:
        return fake_result({BASE: [10.0 * batch] * 300}, settings={"batch": batch, **settings})

    results = [at(4), at(1), at(2, streams=2, scenario="streams"), at(1, threads=2)]
    axes = panel(results, "throughput")
    assert points(axes, "median") == pytest.approx(
        np.array([[10, 100], [20, 50], [40, 25], [10, 100]])
    )
    assert points(axes, "p99") == points(axes, "median")
    (sweep,) = lines(axes, "sweep")
    assert np.asarray(sweep.get_xdata()).tolist() == [10, 20, 40]
    assert "the same but for batch, streams or rate" in legend(axes)


def test_throughput_of_two_gpus_is_not_joined() -> None:
    def on(name: str, batch: int) -> BenchResult:
        return known(
            subject={"device": "cuda"},
            settings={"batch": batch},
            devices=[Device(kind="nvidia", name=name)],
        )

    assert len(lines(panel([on("T4", 1), on("T4", 2)], "throughput"), "sweep")) == 3
    assert lines(panel([on("T4", 1), on("L4", 2)], "throughput"), "sweep") == []


def test_throughput_without_p99_has_medians_only() -> None:
    axes = panel([known()], "throughput")
    assert len(points(axes, "median")) == 3
    assert points(axes, "p99") == []
    assert legend(axes) == ["median"]


def test_depths_that_share_the_time_have_one_throughput() -> None:
    mixed = known(settings={"mode": "mixed"}, depth_changes={"images_per_second": None})
    axes = panel([mixed], "throughput")
    overall = mixed.overall
    assert points(axes, "median") == [(overall.latency.median_ms.value, overall.images_per_second)]
    assert tags(axes) == ["mixed"]


@pytest.mark.parametrize(
    ("word", "label"),
    [("unstable", "unstable"), ("throttled", "throttled"), ("unknown", "unknown clocks")],
)
@pytest.mark.parametrize("name", list(FIGURES))
def test_verdicts_that_are_not_valid_are_marked(name: str, word: Any, label: str) -> None:
    blamed = known(
        ap={BASE: 40.0, MIDDLE: 41.0, SUPER: 42.0},
        verdicts={MIDDLE: Verdict(word=word, reasons=["because"])},
    )
    page = figure([blamed], [name])
    assert legend(page) == [f"anydepth-detr r50 ({label})"]
    assert "verdict is not valid" in legend(page.axes[0])
    expected = {
        "speedup": (80 / 60, 20 / 15),
        "accuracy": (15.0, 41.0),
        "distribution": (15.0, 0.5),
        "throughput": (15.0, 1000 / 15),
    }
    assert points(page.axes[0], "not valid") == [pytest.approx(expected[name])]
    told = "Not known to be valid" if word == "unknown" else "Not valid"
    assert f"{told}: because." in caption(page)
    good = figure([known(ap={BASE: 40.0})], [name])
    assert legend(good) == ["anydepth-detr r50"]
    assert lines(good.axes[0], "not valid") == []
    assert "valid:" not in caption(good)


def test_pages_say_on_what_and_when() -> None:
    page = figure([known(), known(when="2026-06-01T00:00:00Z", settings={"threads": 2})])
    assert DEFAULT_FIGURES == ("speedup", "accuracy")
    assert [axes.get_title(loc="left") for axes in page.axes] == [
        "Measured speed-up against multiply-adds saved",
        "Accuracy against latency",
    ]
    assert legend(page) == ["anydepth-detr r50, default threads", "anydepth-detr r50, threads 2"]
    said = caption(page)
    assert "Measured 2026-05-20 to 2026-06-01" in said
    assert "Intel Xeon Platinum 8481C" in said
    assert "onnxruntime" in said


def boxes(page: Figure, axes: Axes, gids: tuple[str, ...]) -> Iterator[Any]:
    for text in axes.texts:
        if text.get_gid() in gids and not text.get_rotation():
            yield text.get_window_extent()


@pytest.mark.parametrize("name", ["speedup", "accuracy", "throughput"])
def test_labels_of_four_networks_do_not_overlap(name: str) -> None:
    page = figure(four_networks(), [name])
    (axes,) = page.axes
    found = list(boxes(page, axes, ("tag",)))
    assert len(found) >= {"speedup": 16, "accuracy": 8, "throughput": 14}[name]
    for place, box in enumerate(found):
        for other in found[:place]:
            assert not box.overlaps(other)
        frame = axes.get_window_extent()
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        assert frame.y0 <= box.y0
        assert box.y1 <= frame.y1


def crowded() -> list[BenchResult]:
    """Thirty depths that take the same time, and one that takes a hundredth of it."""
    return [fake_result({"one": [1.0] * 9, **{f"depth {k}": [100.0] * 9 for k in range(30)}})]


@pytest.mark.parametrize(("make", "count"), [(four_networks, 20), (crowded, 31)])
def test_names_of_depths_stand_side_by_side(
    make: Callable[[], list[BenchResult]], count: int
) -> None:
    from matplotlib.text import Text

    page = figure(make(), ["distribution"])
    page.draw_without_rendering()
    (axes,) = page.axes
    texts = [text for text in axes.texts if text.get_gid() == "tag"]
    assert len(texts) == count
    # Without the lines to their curves.
    found = sorted((Text.get_window_extent(text) for text in texts), key=lambda box: box.x0)
    frame = axes.get_window_extent()
    for box in found:
        assert frame.x0 - 12 <= box.x0
        assert box.x1 <= frame.x1 + 12
        assert axes.transData.transform((1, 1))[1] < box.y0
        assert box.y1 <= frame.y1
    for box, other in itertools.pairwise(found):
        assert not box.overlaps(other)


def test_text_is_drawn_as_it_is() -> None:
    odd = known(
        subject={"config": "$x_{", "layout": "\x1b[31m$"}, inputs={"source": "$"}, ap={BASE: 1.0}
    )
    page = figure([odd, known(subject={"config": "$y$"})], list(FIGURES))
    page.draw_without_rendering()
    assert legend(page)[0].startswith(r"anydepth-detr \$x_{, layout '\x1b[31m\$'")


def test_every_kind_of_file_is_written(tmp_path: Path) -> None:
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    for kind, start in starts.items():
        file = tmp_path / "deep" / f"page.{kind.upper()}"
        draw([known()], file, ["speedup"])
        assert file.read_bytes().startswith(start)
    assert len(list((tmp_path / "deep").iterdir())) == 3


def test_a_page_of_all_figures_is_wide_enough_to_read(tmp_path: Path) -> None:
    from matplotlib.image import imread

    draw(four_networks(), tmp_path / "page.png", list(FIGURES))
    height, width = imread(tmp_path / "page.png").shape[:2]
    assert width >= 1600
    assert height >= 1600
    assert len(NETWORKS) == 4


def test_what_cannot_be_drawn_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"page\.docx.*\.png or \.pdf or \.svg"):
        draw([known()], tmp_path / "page.docx")
    with pytest.raises(UsageError, match="unknown figure 'speed': expected speedup or accuracy"):
        draw([known()], tmp_path / "page.png", ["speed"])
    with pytest.raises(UsageError, match="no figure is named"):
        draw([known()], tmp_path / "page.png", [])
    with pytest.raises(ResultError, match="no results to draw"):
        draw([], tmp_path / "page.png")
    (tmp_path / "file").touch()
    with pytest.raises(ResultError, match="cannot be written"):
        draw([known()], tmp_path / "file" / "page.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"anydepth-deploy\[plot\]"):
        draw([known()], tmp_path / "page.png")
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_reporting_needs_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys, anydepth_deploy.bench.plots.page, anydepth_deploy.bench.report.formats\n"
        "import anydepth_deploy.bench.report.compare, anydepth_deploy.bench.report.published\n"
        "assert not {'torch', 'matplotlib', 'onnxruntime', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
