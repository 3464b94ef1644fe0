"""What the command line says of itself: help, and what shells complete."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Run

from anydepth_deploy.cli import COMMANDS
from anydepth_deploy.commands.options import family_names
from anydepth_deploy.manifest import LAYOUTS

NAMES = [row.name for row in COMMANDS]

LISTING = """
import sys
from anydepth_deploy.cli import main
sys.argv = ["anydepth-deploy", {words}]
try:
    main()
except SystemExit as done:
    print(sorted(sys.modules), done.code, file=sys.stderr)
"""


@pytest.mark.parametrize("words", ["'--help'", "'-h'", "'--version'", ""])
def test_commands_are_listed_without_importing_them(words: str) -> None:
    found = subprocess.run(
        [sys.executable, "-c", LISTING.format(words=words)],
        capture_output=True,
        text=True,
        check=True,
    )
    modules, _, code = found.stderr.strip().rpartition(" ")
    assert int(code) == (0 if words else 2)
    names = set(re.findall(r"'([^']+)'", modules))
    heavy = {"numpy", "PIL", "pydantic", "torch", "onnx", "matplotlib", "typer.rich_utils"}
    assert heavy & names == set()
    assert "anydepth_deploy.cli" in names
    assert [name for name in names if name.startswith("anydepth_deploy.commands")] == []
    assert "--version" in words or all(f"\n  {name} " in found.stdout for name in NAMES)


def test_every_command_is_listed_in_words_of_its_own() -> None:
    folder = Path(inspect.getfile(importlib.import_module("anydepth_deploy.commands"))).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "options"}
    assert {row.module for row in COMMANDS} == modules
    for row in COMMANDS:
        module = importlib.import_module(f"anydepth_deploy.commands.{row.module}")
        told = inspect.getdoc(getattr(module, row.module))
        assert told is not None
        assert told.splitlines()[0] == row.help


@pytest.mark.parametrize("width", [80, 100])
def test_lines_of_the_list_are_whole(run: Run, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = run("--help").out
    assert max(map(len, shown.splitlines())) <= width
    told = " ".join(shown.split())
    for row in COMMANDS:
        assert f"{row.name} {row.help}" in told


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [80, 100])
def test_help_of_a_command(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = run(name, "--help")
    assert (shown.code, shown.err) == (0, "")
    assert run(name, "-h").out == shown.out
    # A flag takes no value, and has no opposite unless that exists.
    assert "<bool>" not in shown.out
    assert "BOOLEAN" not in shown.out
    assert "--no-json" not in shown.out
    (line,) = (line for line in shown.out.splitlines() if " --help " in line)
    assert re.fullmatch(r"[│|] +--help +-h +Show this message and exit\. *[│|]", line)


@pytest.mark.parametrize(
    ("name", "headings"),
    [
        ("export", ("Options", "Depths and artifacts", "Network", "INT8", "Engines")),
        ("bench", ("Options", "Requests", "Time and statistics", "Pictures", "GPU")),
        ("calibrate", ("Options", "Pictures", "Ranges", "Network", "Execution")),
        ("build", ("Options", "Depths and artifacts", "Engines")),
        ("verify", ("Options", "Depths and artifacts", "Execution")),
        ("eval", ("Options", "Depths and artifacts", "Execution")),
        ("train", ("Options", "Run", "Pictures")),
        ("triton", ("Options", "Depths and artifacts", "Server")),
    ],
)
def test_options_of_long_commands_are_in_groups(
    run: Run, name: str, headings: tuple[str, ...]
) -> None:
    shown = run(name, "--help").out
    for heading in headings:
        assert f"─ {heading} ─" in shown


MARKS = re.compile(r"[│|─╭╮╰╯]")
DECORATION = "[](),.:;*"


def tokens(shown: str) -> set[str]:
    """Words of help without what its boxes and brackets add to them."""
    words = {word.strip(DECORATION) for word in MARKS.sub(" ", shown).split()}
    return {word for word in words if not re.fullmatch(r"-h|/|[\d.]*(<=)?x?([<>]=[\d.]+)?", word)}


@pytest.mark.parametrize("name", NAMES)
def test_no_word_of_help_is_broken(run: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Against the same help where there is room for all."""
    monkeypatch.setenv("COLUMNS", "2000")
    whole = tokens(run(name, "--help").out)
    for width in (60, 80, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        shown = run(name, "--help").out
        assert max(map(len, shown.splitlines())) <= width
        assert whole - tokens(shown) == set()


@pytest.fixture
def complete(run: Run, monkeypatch: pytest.MonkeyPatch) -> object:
    """What bash would offer after these words, the last of which is not finished."""

    def call(*words: str) -> list[str]:
        monkeypatch.setenv("_ANYDEPTH_DEPLOY_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", " ".join(("anydepth-deploy", *words)))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        found = run()
        monkeypatch.delenv("_ANYDEPTH_DEPLOY_COMPLETE")
        assert (found.code, found.err) == (0, "")
        return found.out.split()

    return call


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ([""], NAMES),
        (["ev"], ["eval"]),
        (["export", "--nms"], ["--nms", "--nms-score", "--nms-iou"]),
        (["verify", "b", "--layout", ""], [*LAYOUTS]),
        (["predict", "--precision", "f"], ["fp32", "fp16"]),
        (["train", "--family", ""], [*family_names()]),
        (["bench", "b", "--scenario", "s"], ["single", "streams"]),
        (["triton", "b", "--device", ""], ["auto", "cpu", "gpu"]),
    ],
)
def test_shells_complete(complete: object, words: list[str], offered: list[str]) -> None:
    assert callable(complete)
    assert complete(*words) == offered


def test_completion_is_shown_and_installed(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    script = run("--show-completion", "bash").out
    assert "_ANYDEPTH_DEPLOY_COMPLETE=complete_bash" in script
    done = run("--install-completion", "bash")
    assert (done.code, done.err) == (0, "")
    assert "bash completion installed in " in done.out
    (installed,) = (tmp_path / ".bash_completions").iterdir()
    assert installed.read_text().strip() == script.strip()
