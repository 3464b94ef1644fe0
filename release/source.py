"""The tree that is released: as it is, or as it is on a forge.

Package indexes show the README where none of its files are, so its links have to be absolute; where
the project lies is known to who releases it (``--repository``), not to the tree.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from release.environments import FailedError

__all__ = ["absolute", "staged", "with_urls"]

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")
"""Of Markdown, relative; an image where the first group is ``!``."""


def absolute(text: str, repository: str, ref: str) -> str:
    """Markdown whose relative links lead into ``ref`` (a tag, a branch) of ``repository``, an
    address as ``https://forge/owner/name``; images to what they are of, without a page around."""

    def linked(found: re.Match[str]) -> str:
        image, words, path = found.groups()
        kind = "raw" if image else "blob"
        return f"{image}[{words}]({repository.rstrip('/')}/{kind}/{ref}/{path})"

    return LINK.sub(linked, text)


def with_urls(pyproject: str, repository: str, ref: str) -> str:
    """``pyproject.toml`` with the addresses that indexes show."""
    address = repository.rstrip("/")
    urls = {
        "Repository": address,
        "Documentation": f"{address}/blob/{ref}/docs/index.md",
        "Changelog": f"{address}/blob/{ref}/CHANGELOG.md",
        "Issues": f"{address}/issues",
    }
    lines = "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    return f"{pyproject.rstrip()}\n\n[project.urls]\n{lines}"


def staged(root: Path, folder: Path, repository: str, ref: str) -> Path:
    """A copy in ``folder`` of what git knows of ``root``, with absolute links and addresses.

    Raises :class:`FailedError` where ``repository`` is no address, or git does not know ``root``.
    """
    if not re.fullmatch(r"https://[^\s/\"']+/[^\s\"']+", repository):
        raise FailedError(
            f"--repository: '{repository}' is no address; expected https://forge/owner/name"
        )
    if not re.fullmatch(r"[\w.][\w./-]*", ref):
        raise FailedError(f"--ref: '{ref}' is no name of a tag or branch")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        raise FailedError(f"{root}: git does not know this tree, so --repository cannot be used")
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target)
    for name, change in (("README.md", absolute), ("pyproject.toml", with_urls)):
        path = folder / name
        text = path.read_text(encoding="utf-8")
        path.write_text(change(text, repository, ref), encoding="utf-8")
    return folder
