"""Results of ``bench`` in files: one as it was written, or all that an HTML report holds.

An HTML report carries its data in a block of JSON, which no browser executes and which is read here
with the same care as any other file.
"""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from anydepth_deploy.bench.results import BenchResult, check_result, read_result
from anydepth_deploy.errors import ResultError
from anydepth_deploy.reading.regular import TooLargeError, open_regular, read_regular
from anydepth_deploy.reading.strict_json import NotJsonError, OddJsonError, parse_json

__all__ = ["BLOCK", "FORMAT", "VERSION", "read_results"]

BLOCK = "anydepth-report"
"""The id of the block of JSON."""

FORMAT = "anydepth-deploy report"
VERSION = 1

MOST = 1 << 29
"""Bytes of a report: results, and pictures."""

MOST_VALUES = 100_000_000

REMEDY = "write it again with report --html"


def read_results(path: str | Path) -> list[BenchResult]:
    """The results in a file of ``bench`` (one) or of ``report --html`` (all of it), at least one.

    Raises :class:`ResultError`.
    """
    file = Path(path)
    return _of_page(file) if _is_page(file) else [read_result(file)]


def _is_page(path: Path) -> bool:
    """Whether a file begins like a page and not like JSON; False where it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")
    except OSError:
        return False


def _of_page(path: Path) -> list[BenchResult]:
    try:
        text = read_regular(path, MOST).decode("utf-8-sig")
    except TooLargeError:
        raise ResultError(f"report {path} has more than {MOST} bytes: {REMEDY}") from None
    except OSError as error:
        raise ResultError(f"report {path} cannot be read: {error}") from None
    except UnicodeDecodeError:
        raise ResultError(f"report {path} is not text in UTF-8: {REMEDY}") from None
    blocks = _Blocks()
    try:
        blocks.feed(text)
        blocks.close()
    except AssertionError:  # Python's parser, of declarations that are none: <![x]>
        raise ResultError(f"report {path} is no sound page: {REMEDY}") from None
    if len(blocks.found) != 1:
        raise ResultError(
            f"{path} is a page with {len(blocks.found)} blocks of data of 'anydepth-deploy report "
            "--html', expected 1: name a result that bench wrote, or such a report"
        )
    try:
        content = parse_json(blocks.found[0], most_values=MOST_VALUES)
    except (NotJsonError, OddJsonError) as error:
        raise ResultError(f"the data of report {path} is damaged ({error}): {REMEDY}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ResultError(f"the data of report {path} is not of '{FORMAT}': {REMEDY}")
    if content.get("version") != VERSION:
        raise ResultError(
            f"the data of report {path} is not of version {VERSION}, which this anydepth-deploy "
            f"reads: {REMEDY}"
        )
    results = content.get("results")
    if not isinstance(results, list) or not results:
        raise ResultError(f"report {path} holds no results: {REMEDY}")
    return [check_result(result, path) for result in results]


class _Blocks(HTMLParser):
    """The texts of all ``<script type="application/json">`` of a report."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag == "script" and said.get("id") == BLOCK:
            self._inside = said.get("type") == "application/json"
            if self._inside:
                self.found.append("")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._inside = False
