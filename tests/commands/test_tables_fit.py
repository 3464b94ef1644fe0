"""Tables of commands in narrow terminals: the same words as in a wide one, none of them broken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import Run
from rich.cells import cell_len

from anydepth_deploy.pictures.shapes import write_coco

QUICK = ("--duration", 0, "--count", 9, "--warmup", 0, "--threads", 1, "--pictures", 1)


@pytest.fixture
def given(
    bundle_copy: Path, checkpoint: Path, picture: Path, tmp_path: Path, run: Run
) -> dict[str, str]:
    """What the commands are of; results of ``bench`` among it."""
    data = write_coco(tmp_path / "shapes", 3, seed=3, size=160)
    names: list[str] = []
    for depth in ("all", "base,super"):
        result = tmp_path / f"result-{len(names)}.json"
        assert run("bench", bundle_copy, "--depth", depth, *QUICK, "--out", result).code == 0
        names.append(str(result))
    return {
        "BUNDLE": str(bundle_copy),
        "CHECKPOINT": str(checkpoint),
        "PICTURE": str(picture),
        "DATA": str(data),
        "ONE": names[0],
        "TWO": names[1],
    }


def told(shown: str) -> set[str]:
    """Words, without the rules below the names of columns, and without what takes another time
    each time."""
    lasting = re.sub(r" in [0-9.]+ s(: [0-9.]+ a second)?$", "", shown, flags=re.MULTILINE)
    return set(lasting.replace("─", " ").split())


COMMANDS = (
    "inspect BUNDLE",
    "inspect BUNDLE --every",
    "verify BUNDLE --checkpoint CHECKPOINT --depth base",
    "eval BUNDLE --data DATA --depth base --match-by-rank",
    "predict BUNDLE PICTURE --threshold 0.02 --no-draw",
    "report ONE TWO",
    "report --compare ONE TWO",
)


def test_no_cell_is_broken(
    run: Run, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in COMMANDS:
        words = [given.get(word, word) for word in command.split()]
        monkeypatch.setenv("COLUMNS", "1000")
        wide = run(*words)
        assert wide.code == 0, wide.err
        if command.startswith("inspect") and "BUNDLE" in command:
            assert "gated" in wide.out
        # What is printed line by line, a terminal breaks: the rest are tables.
        lines = {*wide.out.splitlines()}
        for width in (60, 80, 100):
            monkeypatch.setenv("COLUMNS", str(width))
            shown = run(*words).out
            assert told(wide.out) - told(shown) == set(), command
            long = [line for line in shown.splitlines() if cell_len(line) > width]
            # No table has a line that is too long, but for one name.
            assert all(line in lines or len(line.split()) <= 2 for line in long), command
