"""Hooks of MkDocs: pages that are generated, figures that lie beside the results they are of, links
out of docs/, and roles of Sphinx in docstrings."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # MkDocs loads this file alone

from docs_site.commands import command_page  # noqa: E402

FIGURE = re.compile(r"\.\./benchmarks/results/([\w.-]+\.png)")
ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):(<code[^>]*>)~?(?:[\w]+\.)*(\w+</code>)")


def on_files(files: Files, config: Any) -> Files:
    """Add what lies elsewhere and what is generated."""
    for picture in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        path = f"figures/{picture.name}"
        files.append(File.generated(config, path, abs_src_path=str(picture)))
    files.append(File.generated(config, "reference/commands.md", content=command_page()))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "changelog.md", content=changes.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Figures are where :func:`on_files` has put them."""
    del page, config, files
    return FIGURE.sub(r"figures/\1", markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """``:class:`~a.b.C``` of a docstring is ``C``, and a colon leads to an example, not two."""
    del page, config, files
    return ROLE.sub(r"\1\2", html).replace("::</p>", ":</p>")
