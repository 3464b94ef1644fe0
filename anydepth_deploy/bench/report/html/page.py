"""Results, accuracy and pictures on one page, with the data in it that ``report`` reads back.

Everything on it was named by others. The template escapes all of it (Jinja2's autoescaping), names
are shown without characters that hide what they are, and the page's own policy allows neither
scripts nor any address: styles by their hash, pictures as data.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from anydepth_deploy.annotations.difference_files import Differences, DrawnBox, read_differences
from anydepth_deploy.bench.report.accuracies import average_precision, data_of
from anydepth_deploy.bench.report.facts import device_name, labels, printable
from anydepth_deploy.bench.report.files import BLOCK, FORMAT, VERSION
from anydepth_deploy.bench.report.html.charts import charts
from anydepth_deploy.bench.report.html.evaluated import Evaluation
from anydepth_deploy.bench.report.merge import ALWAYS, arrange, interval, notes, report_table
from anydepth_deploy.bench.results import BenchResult, plain
from anydepth_deploy.console import Table
from anydepth_deploy.documents import utc_now, write_or_refuse
from anydepth_deploy.errors import MissingExtraError, ResultError, shown
from anydepth_deploy.manifest import Manifest
from anydepth_deploy.pictures.images import load_image
from anydepth_deploy.version import __version__ as TOOL

__all__ = ["jinja", "write_html"]

LARGEST = 900
"""Pixels of the longer side of an embedded picture."""

NAME = 80
"""Characters of a name."""

NAMED = 6
"""Boxes that are named below a picture."""


def jinja() -> Any:
    """The package Jinja2. Raises :class:`MissingExtraError`."""
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError("Jinja2", "report", "a report as a page") from None
    return jinja2


def write_html(
    results: Sequence[BenchResult],
    path: str | Path,
    *,
    evaluation: Evaluation | None = None,
    differences: str | Path | None = None,
    manifests: Sequence[Manifest] = (),
) -> None:
    """Write the page, whole or not at all.

    ``evaluation``: accuracy by size and class. ``differences``: the folder that ``eval
    --save-differences`` wrote, whose pictures are put into the page. ``manifests``: of
    bundles, for the sizes of artifacts. Raises :class:`MissingExtraError` without Jinja2,
    :class:`ResultError` without results or where the file cannot be written, and
    :class:`ImageError` for differences or pictures that cannot be read.
    """
    jinja2 = jinja()
    found = arrange(results)
    told = None if differences is None else read_differences(differences)
    folder = files(__package__)
    style = "\n" + folder.joinpath("report.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    template = environment.from_string(
        folder.joinpath("report.html.jinja").read_text(encoding="utf-8")
    )
    columns, rows, alike = _told_once(report_table(found))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    text = template.render(
        style=style,
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        tool=TOOL,
        now=utc_now(),
        title=_title(found),
        headlines=[_headline(result, label) for result, label in _labelled(found)],
        charts=charts(found),
        columns=columns,
        rows=rows,
        alike=alike,
        words=("valid", "unstable", "throttled", "unknown"),
        sizes=[_sizes(result, label, manifests) for result, label in _labelled(found)],
        results=[(label, notes(result)) for result, label in _labelled(found)],
        evaluation=None if evaluation is None else _evaluated(evaluation),
        differences=None if told is None else _differences(told, Path(str(differences))),
        block=BLOCK,
        data={
            "format": FORMAT,
            "version": VERSION,
            "tool_version": TOOL,
            "results": [plain(result) for result in found],
            "evaluation": None
            if evaluation is None
            else evaluation.model_dump(mode="json", by_alias=True),
            "differences": None if told is None else told.model_dump(mode="json", by_alias=True),
        },
    )
    content = text.encode("utf-8", "backslashreplace")
    write_or_refuse(Path(path), lambda file: file.write(content), "report", ResultError)


def _told_once(table: Table) -> tuple[list[str], list[list[object]], str]:
    """Columns and rows without what is the same in all rows, and that in a sentence."""
    columns, rows = table
    alike = [
        place
        for place, name in enumerate(columns)
        if name in ("#", *ALWAYS) and len({str(row[place]) for row in rows}) == 1
    ]
    kept = [place for place in range(len(columns)) if place not in alike]
    kept.remove(columns.index("verdict"))  # beside the depth: a wide table hides its end
    kept.insert(kept.index(columns.index("depth")) + 1, columns.index("verdict"))
    words = [f"{columns[place]} {rows[0][place]}" for place in alike if columns[place] != "#"]
    return (
        [columns[place] for place in kept],
        [[row[place] for place in kept] for row in rows],
        ", ".join(words),
    )


def _labelled(results: Sequence[BenchResult]) -> list[tuple[BenchResult, str]]:
    return list(zip(results, labels(results), strict=True))


def _title(results: Sequence[BenchResult]) -> str:
    names = list(dict.fromkeys(printable(result.subject.name) for result in results))
    devices = list(dict.fromkeys(device_name(result) for result in results))
    what = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{shown(what, NAME)} on {shown(', '.join(devices[:2]), NAME)}"


def _headline(result: BenchResult, label: str) -> dict[str, str]:
    """The fastest depth against the largest one, in three figures."""
    fastest = min(result.depths, key=lambda depth: depth.latency.median_ms.value)
    slowest = max(result.depths, key=lambda depth: depth.latency.median_ms.value)
    counted = [depth for depth in result.depths if depth.macs]
    largest = max(counted, key=lambda depth: depth.macs or 0, default=slowest)
    told = {
        "label": label,
        "verdict": result.verdict.word,
        "depths": f"{printable(fastest.depth)} against {printable(largest.depth)}",
        "speedup": interval(fastest.speedup, "{:.2f}", "x"),
        "latency": f"{interval(fastest.latency.median_ms)} ms against "
        f"{interval(largest.latency.median_ms)} ms",
        "ap": "",
    }
    data = data_of(fastest)
    ends = [average_precision(depth, data) for depth in (fastest, largest)]
    if data is not None and None not in ends:
        told["ap"] = f"AP {ends[0]:.1f} against {ends[1]:.1f}"
    return told


def _sizes(result: BenchResult, label: str, manifests: Sequence[Manifest]) -> dict[str, Any]:
    """Memory of one result, and how large its artifacts are, where a bundle tells."""
    known = {item.sha256: item.bytes for manifest in manifests for item in manifest.artifacts}
    memory = result.memory
    return {
        "label": label,
        "load": f"{result.load_ms:.0f} ms",
        "before": _mib(memory.before),
        "loaded": _mib(memory.loaded),
        "peak": _mib(memory.peak),
        "device": "; ".join(
            f"{shown(name, NAME)} {_mib(size)}" for name, size in memory.device.items()
        )
        or "-",
        "artifacts": [
            (shown(name, NAME), sha256[:12], _mib(known.get(sha256)))
            for name, sha256 in result.subject.artifacts.items()
        ],
    }


def _mib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**20:.1f} MiB"


def _evaluated(found: Evaluation) -> dict[str, Any]:
    """Tables of AP by size and by class; a dash for what the data does not have."""
    heads = [f"{shown(row.depth, NAME)}, {shown(row.precision, NAME)}" for row in found.rows]
    names = list(dict.fromkeys(item.name for row in found.rows for item in row.classes))
    objects = {item.name: item.objects for row in found.rows for item in row.classes}
    by_class = [{item.name: item.ap for item in row.classes} for row in found.rows]
    return {
        "data": shown(Path(found.data).name, NAME),
        "pictures": found.pictures,
        "sha256": shown(found.data_sha256[:12]),
        "rows": [
            (
                head,
                *map(
                    _percent,
                    (row.ap, row.ap50, row.ap75, row.ap_small, row.ap_medium, row.ap_large),
                ),
            )
            for head, row in zip(heads, found.rows, strict=True)
        ],
        "heads": heads,
        "classes": [
            (shown(name, NAME), objects[name], [_percent(row.get(name)) for row in by_class])
            for name in names
        ],
        "lost": [
            (
                shown(item.name, NAME),
                shown(item.precision, NAME),
                item.objects,
                _percent(item.super),
                _percent(item.base),
                f"{item.fall:.1f}",
            )
            for item in found.lost
        ],
    }


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _differences(found: Differences, folder: Path) -> dict[str, Any]:
    """The pictures as data, with what is only in one of them in words."""
    return {
        "depths": [shown(depth, NAME) for depth in found.depths],
        "data": shown(found.data, NAME),
        "precision": shown(found.precision, NAME),
        "compared": found.compared,
        "differing": found.differing,
        "iou": f"{found.iou:g}",
        "threshold": f"{found.threshold:g}",
        "pictures": [
            {
                "name": shown(item.picture, NAME),
                "difference": f"{item.difference:.2f}",
                "sides": [
                    {
                        "depth": shown(depth, NAME),
                        "source": _embedded(folder / file),
                        "words": _only_here(boxes),
                    }
                    for depth, file, boxes in zip(found.depths, item.files, item.boxes, strict=True)
                ],
            }
            for item in found.pictures
        ],
    }


def _only_here(boxes: Sequence[DrawnBox]) -> str:
    alone = sorted((box for box in boxes if not box.matched), key=lambda box: -box.score)
    words = [f"{shown(box.name, NAME)} {box.score:.2f}" for box in alone[:NAMED]]
    more = f" and {len(alone) - NAMED} more" if len(alone) > NAMED else ""
    only = f"only here: {', '.join(words)}{more}" if words else "nothing that the other lacks"
    return f"{len(boxes)} {'box' if len(boxes) == 1 else 'boxes'}, {only}"


def _embedded(path: Path) -> str:
    """A picture as an address of data: decoded and written anew, whatever the file holds."""
    image = Image.fromarray(load_image(path))
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode()
