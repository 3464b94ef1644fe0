"""Packages of other families, as if pip had installed them."""

from __future__ import annotations

from pathlib import Path

from anydepth_deploy.families import registry


def write_package(folder: Path, *entries: str, name: str = "anydepth-example") -> Path:
    """What pip leaves of a package with these entry points, but for its code."""
    info = folder / f"{name.replace('-', '_')}-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    lines = [f"[{registry.GROUP}]", *entries]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


def forget() -> None:
    """What is installed is looked for anew."""
    registry._known.cache_clear()
    registry._load.cache_clear()
