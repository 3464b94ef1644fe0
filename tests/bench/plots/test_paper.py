"""Figures and tables for papers: size, fonts, grey, and what LaTeX reads."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_results import fake_result, four_networks
from command_line import Run, fails

from anydepth_deploy.bench.plots.paper import (
    COLOURS,
    SIZES,
    draw_paper,
    paper_figure,
    size_of_figure,
)
from anydepth_deploy.bench.report.latex import escaped, to_latex, write_latex
from anydepth_deploy.bench.report.merge import report_table
from anydepth_deploy.bench.results import BenchResult
from anydepth_deploy.errors import ResultError, UsageError


def one(**changes: Any) -> BenchResult:
    return fake_result(
        {"a_b": [10.0] * 40, "c": [20.0] * 40}, macs={"a_b": 40 * 10**9, "c": 80 * 10**9},
        ap={"a_b": 40.0, "c": 42.0}, **changes,
    )  # fmt: skip


# --- size and fonts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3.5x2.4", (3.5, 2.4)), ("8x6", (8.0, 6.0)), *SIZES.items()],
)
def test_sizes(text: str, expected: tuple[float, float]) -> None:
    assert size_of_figure(text) == expected


@pytest.mark.parametrize("text", ["3.5", "3.5x", "x2", "0x2", "3.5x1", "999x2", "-3x2", "axb", ""])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="figure size"):
        size_of_figure(text)


def test_files_have_the_size_that_was_asked_for(tmp_path: Path) -> None:
    for kind in ("pdf", "svg", "png"):
        draw_paper([one()], tmp_path / f"a.{kind}", ["accuracy"], (3.5, 2.4))
    pdf = (tmp_path / "a.pdf").read_bytes()
    assert re.search(rb"/MediaBox \[ ?0 0 252 172\.8\d* ?\]", pdf)
    svg = (tmp_path / "a.svg").read_text()
    assert re.search(r'width="252pt" height="172\.8\d*pt"', svg)
    width, height = struct.unpack(">II", (tmp_path / "a.png").read_bytes()[16:24])
    assert (width, height) == (2100, 1440)  # 600 dots an inch


def test_fonts_are_embedded_as_truetype(tmp_path: Path) -> None:
    draw_paper([one()], tmp_path / "a.pdf", ["accuracy"])
    pdf = (tmp_path / "a.pdf").read_bytes()
    parts = [pdf]
    for match in re.finditer(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        try:
            parts.append(zlib.decompress(match[1]))
        except zlib.error:
            continue
    whole = b"".join(parts)
    assert b"/FontFile2" in whole  # TrueType, which type 42 wraps
    assert b"/Type3" not in whole


def test_several_figures_stand_side_by_side_or_below_each_other() -> None:
    wide, _ = paper_figure([one()], ["speedup", "accuracy"])
    first, second = (axes.get_position() for axes in wide.axes)
    assert tuple(wide.get_size_inches()) == SIZES["page"]
    assert first.x1 < second.x0
    narrow, _ = paper_figure([one()], ["speedup", "accuracy"], (3.5, 5.0))
    first, second = (axes.get_position() for axes in narrow.axes)
    assert first.y0 > second.y1


def test_everything_is_inside_of_the_figure() -> None:
    for names in (["speedup", "accuracy"], ["distribution"]):
        page, _ = paper_figure(four_networks(), names)
        page.draw_without_rendering()
        box = page.get_tightbbox()
        width, height = page.get_size_inches()
        assert box.x0 >= -0.02
        assert box.y0 >= -0.02
        assert box.x1 <= width + 0.02
        assert box.y1 <= height + 0.02


# --- grey ----------------------------------------------------------------------------------------


def grey(colour: str) -> float:
    """Luma of a colour (ITU-R BT.601), from 0 to 1: what a copy in grey shows."""
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_colours_stay_apart_in_grey() -> None:
    values = [grey(colour) for colour in COLOURS]
    assert values == sorted(values)
    assert min(np.diff(values)) > 0.04
    assert values[-1] < 0.75  # on white


def test_results_differ_in_more_than_colour() -> None:
    page, _ = paper_figure(four_networks(), ["speedup"])
    (axes,) = page.axes
    lines = [line for line in axes.lines if line.get_gid() == "measured"]
    looks = {(str(line.get_marker()), str(line._dash_pattern)) for line in lines}  # type: ignore[attr-defined]
    assert len(looks) == len(lines) == 4
    assert len({marker for marker, _ in looks}) == 4
    (found,) = page.legends
    texts = [text.get_text() for text in found.get_texts()]
    assert "time follows multiply-adds" in texts
    assert axes.get_title(loc="left") == ""


def test_the_caption_says_what_it_is_of() -> None:
    _, said = paper_figure([one()], ["accuracy"])
    assert said[0].startswith("Measured ")
    with pytest.raises(ResultError, match="No accuracy to show"):
        paper_figure([fake_result({"a": [1.0] * 40})], ["accuracy"])


# --- LaTeX ---------------------------------------------------------------------------------------


def cells(line: str) -> list[str]:
    r"""Of a row: what is between ``&`` that nothing escapes, without the end of the row."""
    assert line.endswith(r"\\")
    return [cell.strip() for cell in re.split(r"(?<!\\)&", line[:-2])]


def plain(cell: str) -> str:
    """A cell as its reader sees it."""
    text = re.sub(r"\\texttt\{(.*)\}$", r"\1", cell)
    text = re.sub(r" \{\\footnotesize (\[.*\])\}$", r" \1", text).replace(r"\,", " ")
    for name, letter in (
        (r"\textbackslash{}", "\0"), (r"\textasciitilde{}", "~"), (r"\textasciicircum{}", "^"),
        (r"\textless{}", "<"), (r"\textgreater{}", ">"), (r"\textbar{}", "|"),
        (r"\textquotedbl{}", '"'),
    ):  # fmt: skip
        text = text.replace(name, letter)
    return re.sub(r"\\([{}&%$#_])", r"\1", text).replace("\0", "\\")


def test_the_table_holds_what_the_report_does() -> None:
    results = four_networks()
    columns, rows = report_table(results)
    lines = [line.strip() for line in to_latex(results).splitlines() if not line.startswith("%")]
    assert lines[0].startswith(r"\begin{tabular}")
    sides = re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", lines[0])
    assert sides is not None
    assert [lines[1], lines[-2], lines[-1]] == [r"\toprule", r"\bottomrule", r"\end{tabular}"]
    names = [plain(cell) for cell in cells(lines[2])]
    assert len(names) == len(sides[1])
    body = [line for line in lines[3:-2] if line != r"\midrule"]
    assert lines.count(r"\midrule") == len(results)
    assert len(body) == len(rows)
    for line, row in zip(body, rows, strict=True):
        for name, cell in zip(names, cells(line), strict=True):
            wanted = str(row[columns.index(name)]).replace("-", "--", 1)
            if cell and wanted != "--":
                assert plain(cell) == str(row[columns.index(name)])


ODD = '50% & $x_{1}^2$ #3 ~ \\cmd <a> |b| "c" é 三'


def test_letters_of_latex_are_escaped() -> None:
    text = escaped(ODD)
    assert plain(text) == ODD
    bare = re.sub(r"\\(text[a-z]+\{\}|[{}&%$#_])", "", text)
    assert not set(bare) & set('\\{}&%$#_~^<>|"')
    table = to_latex([one(subject={"config": ODD}), one()])
    (row, *_) = (line for line in table.splitlines() if "50" in line and not line.startswith("%"))
    assert escaped(ODD) in row
    assert all("\n" not in line for line in table.splitlines())


def test_braces_match_and_depths_are_typewriter(tmp_path: Path) -> None:
    write_latex([one()], tmp_path / "t.tex")
    table = (tmp_path / "t.tex").read_text()
    bare = re.sub(r"\\[{}]", "", re.sub(r"(?m)^%.*$", "", table))
    assert bare.count("{") == bare.count("}")
    assert r"\texttt{a\_b}" in table
    with pytest.raises(ResultError, match="no results"):
        to_latex([])


# --- the command -------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "r.json"
    path.write_text(one().model_dump_json())
    return path


def test_the_command(run: Run, file: Path, tmp_path: Path) -> None:
    words = ("--plot", tmp_path / "c.pdf", "--style", "paper", "--figure-size", "3.5x2.4",
             "--latex", tmp_path / "t.tex", "--figures", "accuracy")  # fmt: skip
    shown = run("report", file, *words)
    assert shown.code == 0
    told = shown.err.splitlines()
    assert told[0] == f"picture: {tmp_path / 'c.pdf'}"
    assert told[1] == f"LaTeX: {tmp_path / 't.tex'}"
    assert told[2].startswith("caption: Measured ")
    found = run("report", file, *words, "--json").json
    assert found["picture"] == str(tmp_path / "c.pdf")
    assert found["latex"] == str(tmp_path / "t.tex")
    assert found["caption"].startswith("Measured ")
    plain_report = run("report", file, "--json").json
    assert plain_report["caption"] is plain_report["latex"] is plain_report["picture"] is None


def test_what_does_not_go_together(run: Run, file: Path) -> None:
    fails(run("report", file, "--figure-size", "3x2"), 2, "--figure-size is for --style paper")
    fails(run("report", file, "--style", "paper"), 2, "--style paper is of a picture")
    words = ("report", file, "--plot", "a.pdf", "--style", "paper")
    fails(run(*words, "--figure-size", "3"), 2, "figure size '3' is not WIDTHxHEIGHT")
    fails(run("report", "--compare", file, file, "--latex", "t.tex"), 2, "no --plot, --latex")
    fails(run("report", file, "--style", "poster"), 2, "is not one of 'page', 'paper'")
