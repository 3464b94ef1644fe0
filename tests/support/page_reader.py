"""What a page of HTML holds, by the standard library's parser: tags, attributes, tables, texts."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """``tables``: rows of cells, the head first. ``text``: all that is shown, tables included.
    ``raw``: what is in ``style`` and ``script``, by tag. ``tags``: with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.raw: dict[str, list[str]] = {"style": [], "script": []}
        self.text = ""
        self.comments: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag in self.raw:
            self.raw[tag].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside in self.raw:
            self.raw[inside][-1] += data
            return
        self.text += data
        if {"td", "th"} & {*self._open}:
            self.tables[-1][-1][-1] += data

    def table(self, *heads: str) -> list[dict[str, str]]:
        """The one table that has these columns, a row each."""
        (found,) = [item for item in self.tables if {*heads} <= {*item[0]}]
        return [dict(zip(found[0], row, strict=True)) for row in found[1:]]
