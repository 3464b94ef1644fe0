"""``report``: results of several runs as a table and pictures, or two of them compared."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anydepth_deploy.bench.plots.paper import size_of_figure
from anydepth_deploy.bench.report.formats import STYLES
from anydepth_deploy.commands.options import Json, one_of, words_of
from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import ResultError, UsageError, in_one_line

if TYPE_CHECKING:
    from anydepth_deploy.bench.report.compare import Comparison
    from anydepth_deploy.bench.results import BenchResult

__all__ = ["print_comparison", "report"]


def report(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULT...", help="Files that bench wrote, or HTML reports."),
    ],
    plot: Annotated[Path | None, typer.Option(help="Picture to draw (.png, .pdf, .svg).")] = None,
    figures: Annotated[
        str | None,
        typer.Option(
            help="speedup, accuracy, distribution, throughput, or several; default: "
            "speedup,accuracy, of single depths distribution,accuracy."
        ),
    ] = None,
    style: Annotated[
        str,
        one_of(
            ("page", "paper"),
            help="Of the picture; paper: of --figure-size, without title and caption, readable in "
            "grey, fonts embedded.",
        ),
    ] = "page",
    figure_size: Annotated[
        str | None,
        typer.Option(
            help="With --style paper: WIDTHxHEIGHT in inches, column (3.5x2.8) or page "
            "(7.16x3.0); default: column, for several figures page.",
        ),
    ] = None,
    latex: Annotated[
        Path | None, typer.Option(help="File for the table in LaTeX (booktabs).")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="File for a page with curves, tables and pictures, and the data in it."),
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(help="With --html: what eval --json printed, for AP by size and class."),
    ] = None,
    differences: Annotated[
        Path | None,
        typer.Option(help="With --html: the folder that eval --save-differences wrote."),
    ] = None,
    bundle: Annotated[
        list[Path] | None,
        typer.Option(help="With --html: a bundle that was measured, for the sizes of artifacts."),
    ] = None,
    format: Annotated[str, one_of(STYLES, help="Of the table.")] = "text",
    out: Annotated[Path | None, typer.Option(help="File for the table.")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare two results, depth by depth.")
    ] = False,
    allow: Annotated[
        str,
        typer.Option(help="With --compare: settings that may differ all the same, e.g. threads."),
    ] = "",
    json: Json = False,
) -> None:
    """Merge results of several devices and runtimes into a table and pictures, or compare two."""
    if allow and not compare:
        raise UsageError("--allow is for --compare")
    if compare and any(file is not None for file in (plot, out, latex, html)):
        raise UsageError("--compare takes two results and no --plot, --latex, --html or --out")
    # Only a page may hold two: what else there is can be refused before anything is read.
    alone = len(results) == 1 and results[0].suffix.lower() not in (".html", ".htm")
    if compare and (alone or len(results) > 2):
        raise UsageError(f"--compare takes two results, {len(results)} are named")
    for name, given in (
        ("--evaluation", evaluation),
        ("--differences", differences),
        ("--bundle", bundle),
    ):
        if given and html is None:
            raise UsageError(f"{name} is for a page: name it with --html, e.g. report.html")
    if figure_size is not None and style != "paper":
        raise UsageError("--figure-size is for --style paper: a page is as large as it has to be")
    if style == "paper" and plot is None:
        raise UsageError("--style paper is of a picture: name it with --plot, e.g. curve.pdf")
    size = None if figure_size is None else size_of_figure(figure_size)
    if json and (format != "text" or out is not None):
        raise UsageError("--json is a format of its own: leave --format and --out out")

    from anydepth_deploy import console
    from anydepth_deploy.bench.report import formats
    from anydepth_deploy.bench.report.files import read_results

    found = [result for path in results for result in read_results(path)]
    if compare and len(found) != 2:
        raise UsageError(f"--compare takes two results, the files hold {len(found)}")
    for file, what in ((plot, "picture"), (latex, "table"), (out, "report"), (html, "report")):
        if file is not None:
            try_to_write(file, what, ResultError)
    if compare:
        _compare(found, results, words_of(allow), json)
        return
    if html is not None:  # first: what it reads may be refused, and then nothing is written
        _write_html(found, html, evaluation, differences, bundle or [])
    caption: list[str] = []
    if plot is not None:
        from anydepth_deploy.bench.plots.page import draw
        from anydepth_deploy.bench.plots.paper import draw_paper

        names = None if figures is None else words_of(figures)
        if style == "paper":
            caption = draw_paper(found, plot, names, size)
        else:
            draw(found, plot, names)
    if latex is not None:
        from anydepth_deploy.bench.report.latex import write_latex

        write_latex(found, latex)
    if json:
        written = {"picture": plot, "latex": latex, "html": html}
        files = {name: None if file is None else str(file) for name, file in written.items()}
        told = {**formats.to_json(found), **files, "caption": " ".join(caption) or None}
        console.print_json(told)
        return
    formats.write_report(found, format, out)
    # A table on standard output may go to a file: what else there is to say does not belong there.
    for file, what in ((plot, "picture"), (latex, "LaTeX"), (html, "page"), (out, "table")):
        if file is not None:
            print(in_one_line(f"{what}: {file}"), file=sys.stderr)
    for sentence in caption:
        print(in_one_line(f"caption: {sentence}"), file=sys.stderr)


def _write_html(
    found: Sequence[BenchResult],
    html: Path,
    evaluation: Path | None,
    differences: Path | None,
    bundles: Sequence[Path],
) -> None:
    from anydepth_deploy.bench.report.html import write_html
    from anydepth_deploy.bench.report.html.evaluated import read_evaluation
    from anydepth_deploy.bundle.files import read_manifest

    write_html(
        found,
        html,
        evaluation=None if evaluation is None else read_evaluation(evaluation),
        differences=differences,
        manifests=[read_manifest(path) for path in bundles],
    )


def _compare(
    found: Sequence[BenchResult], results: Sequence[Path], allow: Sequence[str], json: bool
) -> None:
    from anydepth_deploy import console
    from anydepth_deploy.bench.report.compare import compare

    comparison = compare(found[0], found[1], allow=allow)
    if json:
        console.print_json({"files": [str(path) for path in results], **comparison.to_json()})
        return
    print_comparison(comparison)


def print_comparison(found: Comparison) -> None:
    """What A and B are, the table, and the notes, on standard output."""
    from anydepth_deploy.bench.report.compare import comparison_notes, comparison_table
    from anydepth_deploy.bench.report.merge import notes
    from anydepth_deploy.console import print_line, print_table

    for name, result in (("A", found.a), ("B", found.b)):
        told = notes(result)
        print_line(f"{name}: {told['subject']}; measured {told['measured']}")
    columns, rows = comparison_table(found)
    print_table("Median latency, and A over B with its 95 % interval", columns, rows)
    for line in comparison_notes(found):
        print_line(line)
