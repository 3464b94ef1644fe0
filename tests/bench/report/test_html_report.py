"""The page of a report: its figures, the data in it, and names that want to be more than text."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_results import fake_result
from command_line import Run, fails
from html_reports import HOSTILE, SHOWN, differences, evaluation, hostile_page, two_results
from page_reader import Page
from PIL import Image

from anydepth_deploy.bench.report.files import read_results
from anydepth_deploy.bench.report.html import write_html
from anydepth_deploy.bench.report.html.charts import charts, ticks
from anydepth_deploy.bench.report.html.evaluated import read_evaluation
from anydepth_deploy.bench.results import Accuracy, BenchResult, write_result
from anydepth_deploy.errors import MissingExtraError, ResultError


def page_of(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def results() -> list[BenchResult]:
    return two_results()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, results: list[BenchResult]) -> Path:
    """A page with everything; read only."""
    folder = tmp_path_factory.mktemp("page")
    path = folder / "report.html"
    told = differences(folder / "differences")
    write_html(results, path, evaluation=evaluation(), differences=told)
    return path


# --- figures ------------------------------------------------------------------------------------


def estimate(text: str) -> tuple[float, ...]:
    """``12.34 [12.31, 12.40]``, with or without a unit."""
    return tuple(float(number) for number in re.findall(r"[0-9.]+", text))


def test_the_figures_are_those_of_the_results(whole: Path, results: list[BenchResult]) -> None:
    rows = page_of(whole).table("depth", "median ms", "verdict")
    depths = [(result, depth) for result in results for depth in result.depths]
    assert len(rows) == len(depths)
    for row, (result, depth) in zip(rows, depths, strict=True):
        assert row["depth"] == depth.depth
        assert row["precision"] == result.subject.precision
        assert row["verdict"] == depth.verdict.word
        middle = depth.latency.median_ms
        assert estimate(row["median ms"]) == pytest.approx(
            (middle.value, middle.low, middle.high), rel=1e-3
        )
        assert depth.speedup is not None
        assert estimate(row["speed-up"])[0] == pytest.approx(depth.speedup.value, abs=5.1e-3)
        assert float(row["p90 ms"]) == pytest.approx(depth.latency.percentiles_ms["90"], rel=1e-3)
        assert depth.accuracy is not None
        assert float(row["AP"]) == pytest.approx(depth.accuracy.ap, abs=0.051)
        assert float(row["images/s"]) == pytest.approx(depth.images_per_second, rel=1e-3)


def test_what_is_the_same_is_said_once(whole: Path) -> None:
    page = page_of(whole)
    assert "All rows: network anydepth-detr r50, device Intel Xeon Platinum 8481C, " in page.text
    assert "latency drifted" in page.text
    assert "onnxruntime 1.23.0" in page.text
    assert "8 cores, memory 32.0 GB" in page.text


def test_accuracy_by_size_and_class(whole: Path) -> None:
    page = page_of(whole)
    sizes = page.table("depth", "small", "medium", "large")
    assert [row["AP"] for row in sizes] == ["48.1", "50.9"]
    assert [sizes[0][name] for name in ("small", "medium", "large")] == ["20.5", "40.2", "-"]
    by_class = page.table("class", "objects", "TTTT-T-4, fp32")
    assert by_class == [
        {"class": "dog", "objects": "7", "TTTT-T-4, fp32": "49.1", "FFFF-F-6, fp32": "51.9"},
        {"class": "cat", "objects": "0", "TTTT-T-4, fp32": "-", "FFFF-F-6, fp32": "-"},
    ]
    (lost,) = page.table("class", "falls by")
    assert [*lost.values()] == ["dog", "fp32", "7", "51.9", "49.1", "2.8"]


def test_pictures_are_in_the_page(whole: Path) -> None:
    page = page_of(whole)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    colours = []
    for item in pictures:
        kind, _, content = (item["src"] or "").partition(",")
        assert kind == "data:image/jpeg;base64"
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
        assert pixels.shape == (10, 20, 3)
        colours.append(pixels.mean(axis=(0, 1)).round().tolist())
    assert np.allclose(colours, [[255, 0, 0], [0, 0, 255]], atol=3)
    assert pictures[0]["alt"] == "dog.jpg at FFFF-F-6: 2 boxes, only here: dog 0.90"
    assert pictures[1]["alt"] == "dog.jpg at TTTT-T-4: 1 box, nothing that the other lacks"
    assert "They differ on 20 of 50 pictures of val.json" in page.text


def test_points_are_where_their_figures_are(results: list[BenchResult]) -> None:
    accuracy, work = charts(results)
    for chart in (accuracy, work):
        marks = [
            np.polyfit([float(tick.text) for tick in axis], [tick.at for tick in axis], 1)
            for axis in (chart.x_ticks, chart.y_ticks)
        ]
        for line, result in zip(chart.lines, results, strict=True):
            ordered = sorted(result.depths, key=lambda depth: depth.latency.median_ms.value)
            for point, depth in zip(line.points, ordered, strict=True):
                x = np.polyval(marks[0], depth.latency.median_ms.value)
                assert depth.accuracy is not None
                assert depth.macs is not None
                figure = depth.accuracy.ap if chart is accuracy else depth.macs / 1e9
                y = np.polyval(marks[1], figure)
                assert (point.x, point.y) == pytest.approx((x, y))
                assert point.valid == (depth.verdict.word == "valid")
                assert depth.depth in point.lines
                left, top, width, height = point.tip
                assert left >= 0
                assert top >= 0
                assert left + width <= chart.width
                assert top + height <= chart.height


def test_curves_need_two_points() -> None:
    assert charts([fake_result({"TT-1": [1.0] * 30})]) == []
    without = fake_result({"a": [1.0] * 30, "b": [2.0] * 30}, macs={"a": 1, "b": None})
    assert charts([without]) == []
    same = fake_result({"a": [1.0] * 30, "b": [1.0] * 30}, macs={"a": 5, "b": 5})
    assert len(charts([same])) == 1


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 6, [0, 1, 2, 3, 4, 5, 6]),
        (47.7, 50.9, [47, 48, 49, 50, 51]),
        (0.14, 0.22, [0.14, 0.16, 0.18, 0.2, 0.22]),
        (5, 5, [5, 6]),
        (0, 0, [0, 0.2]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    found = ticks(low, high)
    assert found == expected


# --- data ---------------------------------------------------------------------------------------


def test_the_page_holds_the_results(whole: Path, results: list[BenchResult]) -> None:
    assert read_results(whole) == results
    (block,) = page_of(whole).raw["script"]
    content = json.loads(block)
    assert content["format"] == "anydepth-deploy report"
    assert content["evaluation"]["lost"][0]["class"] == "dog"
    assert content["differences"]["pictures"][0]["boxes"][0][0]["class"] == "dog"


def test_a_page_is_taken_wherever_a_result_is(
    run: Run, tmp_path: Path, results: list[BenchResult], whole: Path
) -> None:
    files = [write_result(tmp_path / f"{k}.json", result) for k, result in enumerate(results)]
    pages = [tmp_path / f"{k}.html" for k in range(2)]
    for result, page in zip(results, pages, strict=True):
        write_html([result], page)
    expected = run("report", "--compare", *files, "--json").json
    for given in (pages, [files[0], pages[1]], [whole]):
        found = run("report", "--compare", *given, "--json").json
        assert found["depths"] == expected["depths"]
        assert found["compared"] == expected["compared"]
    assert (
        run("report", whole, "--json").json["rows"] == run("report", *files, "--json").json["rows"]
    )
    again = tmp_path / "again.html"
    assert run("report", whole, "--html", again, "--json").json["html"] == str(again)
    assert read_results(again) == results
    fails(run("report", "--compare", whole, files[0]), 2, "takes two results, the files hold 3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "<!doctype html><p>hello</p>", "a page with 0 blocks of data"),
        (lambda text: text + text, "a page with 2 blocks of data"),
        (lambda text: text.replace('{"format":', '{"format:'), "is damaged"),
        (lambda text: text.replace("anydepth-deploy report", "other"), "is not of"),
        (lambda text: text.replace('report","version":1', 'report","version":2'), "of version 1"),
        (lambda text: re.sub(r'"results":\[.*\],"eval', '"results":[],"eval', text), "no results"),
        (lambda text: text.replace('"load_ms":800.0', '"load_ms":"x"'), "load_ms"),
        (lambda text: text.replace('"load_ms":800.0', '"load_ms":NaN'), "damaged"),
        (lambda text: text.replace('type="application/json"', ""), "0 blocks"),
        (lambda text: "\ud800" + text, "UTF-8"),
    ],
)
def test_damaged_pages(
    run: Run, tmp_path: Path, results: list[BenchResult], change: Any, message: str
) -> None:
    path = tmp_path / "page.html"
    write_html(results[:1], path)
    text = path.read_text(encoding="utf-8")
    changed = change(text)
    assert changed != text
    path.write_bytes(b"<p>" + changed.encode("utf-8", "surrogatepass"))
    fails(run("report", path), 2, str(path), message)


def test_a_page_that_the_parser_gives_up(run: Run, tmp_path: Path) -> None:
    """Python 3.11's, at a declaration that is none; later ones read on."""
    path = tmp_path / "page.html"
    path.write_text("<p><![x]>")
    told = run("report", path)
    assert told.code == 2
    assert "is no sound page" in told.err or "0 blocks of data" in told.err


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (Accuracy(ap=40, data="v", pictures=9), Accuracy(ap=50, data="v", pictures=9), True),
        (Accuracy(ap=-1, data="v", pictures=9), Accuracy(ap=-1, data="v", pictures=9), False),
        (
            Accuracy(ap=40, data="v", pictures=9, data_sha256="a" * 64),
            Accuracy(ap=50, data="v", pictures=9, data_sha256="b" * 64),
            False,
        ),
        (Accuracy(ap=40, data="v", pictures=9), None, False),
    ],
)
def test_accuracy_of_other_data_is_not_compared(
    tmp_path: Path, one: Accuracy, other: Accuracy | None, told: bool
) -> None:
    """Neither at the head nor where a point is looked at."""
    (result, _) = two_results()
    depths = [depth.model_copy(update={"accuracy": None}) for depth in result.depths]
    depths[0] = depths[0].model_copy(update={"accuracy": one})
    depths[-1] = depths[-1].model_copy(update={"accuracy": other})
    path = tmp_path / "page.html"
    write_html([result.model_copy(update={"depths": depths})], path)
    text = path.read_text(encoding="utf-8").partition("<script")[0]
    assert ("AP 40.0 against 50.0" in text or "AP 50.0 against 40.0" in text) == told
    assert "AP -1" not in text
    assert not ("AP 40.0" in text and "AP 50.0" in text and not told)


# --- names --------------------------------------------------------------------------------------

HARMLESS = """html head meta title style body main header h1 h2 h3 p div section span svg g line
text polyline circle rect ul li small table thead tbody tr th td figure figcaption img strong dl
dt dd footer code script"""


def test_names_are_text(tmp_path: Path) -> None:
    path = hostile_page(tmp_path)
    page = page_of(path)
    assert {tag for tag, _ in page.tags} <= {*HARMLESS.split()}
    assert not page.comments
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "anydepth-report"}]
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert not {"href", "srcset", "action"} & {*attributes}
        source = attributes.get("src")
        assert source is None or source.startswith("data:image/jpeg;base64,")
    assert page.text.count(SHOWN) > 15  # read as what it is
    assert "{{7*7}}" in page.text
    assert "\u202e" not in page.text
    assert "\x1b" not in page.text
    assert page.table("class", "falls by")[0]["class"].endswith("<!--")
    (first, _) = read_results(path)
    assert first.subject.name == HOSTILE


def test_the_policy(whole: Path) -> None:
    page = page_of(whole)
    (policy,) = [
        attributes["content"] or ""
        for tag, attributes in page.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    (style,) = page.raw["style"]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    assert rules == {
        "default-src": ["'none'"],
        "style-src": [f"'sha256-{digest}'"],
        "img-src": ["data:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    assert "url(" not in style
    assert "@import" not in style
    assert "://" not in page.text + style


# --- bad input ----------------------------------------------------------------------------------


def test_options_that_belong_together(run: Run, tmp_path: Path, results: list[BenchResult]) -> None:
    file = write_result(tmp_path / "a.json", results[0])
    for words, message in (
        (("--evaluation", "e.json"), "--evaluation is for a page"),
        (("--differences", "d"), "--differences is for a page"),
        (("--bundle", "b"), "--bundle is for a page"),
        (("--compare", file, "--html", "r.html"), "no --plot, --latex, --html or --out"),
        (("--html", "r.html", "--evaluation", "none.json"), "none.json does not exist"),
        (("--html", "r.html", "--differences", "none"), "differences.json does not exist"),
        (("--html", "r.html", "--bundle", "none"), "bundle none does not exist"),
        (("--html", "no\0where.html"), ""),
    ):
        plot = () if "--compare" in words else ("--plot", "p.png")
        fails(run("report", file, *words, *plot), 2, message)
        assert not Path("r.html").exists()
        assert not Path("p.png").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "has version 2"),
        ({"format": "x"}, "is not a"),
        ({"pictures": [{}]}, "pictures.0.picture: Field required"),
        ({"depths": ["one"]}, "depths"),
    ],
)
def test_damaged_differences(
    run: Run, tmp_path: Path, results: list[BenchResult], changes: dict[str, Any], message: str
) -> None:
    file = write_result(tmp_path / "a.json", results[0])
    folder = differences(tmp_path / "d", **changes)
    fails(run("report", file, "--html", "r.html", "--differences", folder), 2, message)
    assert not Path("r.html").exists()


def test_differences_name_files_of_their_folder(
    run: Run, tmp_path: Path, results: list[BenchResult]
) -> None:
    file = write_result(tmp_path / "a.json", results[0])
    folder = differences(tmp_path / "d")
    path = folder / "differences.json"
    content = json.loads(path.read_text())
    Image.new("RGB", (9, 9)).save(tmp_path / "01-x.pred.png")
    for name in ("../01-x.pred.png", str(tmp_path / "01-x.pred.png"), "01-x.pred.png\n", "a.png"):
        content["pictures"][0]["files"][0] = name
        path.write_text(json.dumps(content))
        fails(run("report", file, "--html", "r.html", "--differences", folder), 2, "files.0")
    (folder / "01-FFFF-F-6.pred.png").write_bytes(b"no picture")
    content["pictures"][0]["files"][0] = "01-FFFF-F-6.pred.png"
    path.write_text(json.dumps(content))
    fails(run("report", file, "--html", "r.html", "--differences", folder), 2, "01-FFFF-F-6")
    assert not Path("r.html").exists()


def test_what_is_no_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    for text in ("{}", "[]", '{"schema_version": 1, "error": {"message": "no"}}', "x"):
        path.write_text(text)
        with pytest.raises(ResultError, match=r"eval BUNDLE --data FILE --json"):
            read_evaluation(path)


def test_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, results: list[BenchResult]
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'anydepth-deploy\[report\]'"):
        write_html(results, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
