"""Commands run in this process: what they print, and the exit status they end with.

A plugin of the tests (``conftest.py`` names it), so its fixtures are there without being imported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from json_page import held_to_the_page
from PIL import Image

from anydepth_deploy import cli


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str
    words: tuple[str, ...] = ()

    @property
    def json(self) -> Any:
        """The document on standard output, which must hold nothing else, and what docs/json.md
        lists."""
        assert (self.code, self.err) == (0, "")
        return self.document

    @property
    def document(self) -> Any:
        """The same of a command that may have failed."""
        found = strict_json(self.out)
        held_to_the_page(self.words[0], found)
        return found


def strict_json(text: str) -> Any:
    """A document without NaN and infinities, which Python would read and others do not."""

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs a command in this process, in an empty working folder."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def call(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["anydepth-deploy", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capfd.readouterr()
        code = caught.value.code
        assert code is None or isinstance(code, int)
        return Result(code or 0, captured.out, captured.err, tuple(map(str, words)))

    return call


def fails(result: Result, code: int, *told: str) -> None:
    """One line on standard error, and no traceback."""
    assert result.code == code
    line = result.err.strip()
    assert line.startswith("error: ")
    assert "\n" not in line
    assert "Traceback" not in result.out + result.err
    for text in told:
        assert text in line


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """The file of a picture of noise, which is not square."""
    path = tmp_path / "picture.png"
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path
