"""``--json``: one object on standard output, however a command ends.

What each command's document holds is checked wherever a test reads one (``command_line.py``).
"""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Run, strict_json
from json_page import documented

import anydepth_deploy.commands.shapes as shapes_module
from anydepth_deploy import console, errors
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.cli import COMMANDS
from anydepth_deploy.output import answers
from anydepth_deploy.output.answers import wants_json

NAMES = [row.name for row in COMMANDS]


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_every_command_takes_json_and_is_on_the_page(row: Any) -> None:
    module = importlib.import_module(f"anydepth_deploy.commands.{row.module}")
    assert "json" in inspect.signature(getattr(module, row.module)).parameters
    assert all(documented()[row.name])


def test_the_page_lists_no_other() -> None:
    assert {*documented()} == {*NAMES}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (name, words)
        for name in NAMES
        for words in (["--nonsense"], ["--nonsense", "3"], [])
        if words or name not in ("demo", "doctor")  # which need none
    ],
)
def test_options_that_are_not_understood(run: Run, name: str, words: list[str]) -> None:
    found = run(name, *words, "--json")
    assert found.code == 2
    error = found.document["error"]
    assert [*found.document] == ["schema_version", "error"]
    assert error["kind"] == "UsageError"
    assert error["exit_status"] == 2
    assert found.err == f"error: {error['message']}\n"
    without = run(name, *words)
    assert (without.code, without.out, without.err) == (2, "", found.err)


@pytest.mark.parametrize("words", [["--json"], ["nonsense", "--json"], ["--json", "inspect"]])
def test_no_command(run: Run, words: list[str]) -> None:
    found = run(*words)
    assert found.code == 2
    document = strict_json(found.out)
    assert document["schema_version"] == 1
    assert found.err == f"error: {document['error']['message']}\n"


def test_bad_input(run: Run, tmp_path: Path) -> None:
    found = run("inspect", tmp_path / "none.pth", "--json")
    error = found.document["error"]
    assert (found.code, error["kind"], error["exit_status"]) == (2, "CheckpointError", 2)
    assert found.err == f"error: {error['message']}\n"
    assert issubclass(getattr(errors, error["kind"]), errors.AnyDepthError)


@pytest.mark.parametrize(
    ("raised", "status", "kind"),
    [
        (KeyboardInterrupt(), 130, "KeyboardInterrupt"),
        (RuntimeError("a bug\x1b[31m"), 3, "RuntimeError"),
        (MemoryError("all gone"), 2, "MemoryError"),
        (errors.CheckFailedError("no"), 1, "CheckFailedError"),
        (ModuleNotFoundError("no torch", name="torch"), 2, "MissingExtraError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_happens(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    status: int,
    kind: str,
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(shapes_module, "try_to_write", fail)
    found = run("shapes", "--out", "s", "--json")
    error = found.document["error"]
    assert (found.code, error["exit_status"], error["kind"]) == (status, status, kind)
    assert found.err == f"error: {error['message']}\n"
    assert found.err.count("\n") == 1
    plain = run("shapes", "--out", "s")
    assert (plain.code, plain.out, plain.err) == (status, "", found.err)


def test_an_error_behind_the_document_is_in_it(
    run: Run, bundle: Bundle, picture: Path, tmp_path: Path
) -> None:
    """``predict`` names what it skipped, and fails in the end."""
    folder = tmp_path / "street"
    folder.mkdir()
    picture.rename(folder / "a.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:60])
    found = run("predict", bundle.path, folder, "--no-draw", "--json")
    assert found.code == 2
    document = found.document
    assert [Path(item["image"]).name for item in document["predictions"]] == ["a.png"]
    assert [Path(item["image"]).name for item in document["skipped"]] == ["b.png"]
    assert document["error"]["kind"] == "ImageError"
    assert found.err == f"error: {document['error']['message']}\n"


def test_a_failed_check_is_in_the_document(run: Run, tmp_path: Path) -> None:
    found = run("triton", tmp_path, "--check", "--json")
    document = found.document
    assert found.code == document["error"]["exit_status"] == 1
    assert document["problems"]
    assert document["error"]["kind"] == "CheckFailedError"


def test_a_document_outside_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"schema_version": 7, "b": float("inf")})
    found = strict_json(capsys.readouterr().out)
    assert found == {"schema_version": 7, "b": None}
    console.print_json({"b": 1, "schema_version": 7})
    assert [*json.loads(capsys.readouterr().out)] == ["schema_version", "b"]


def test_a_command_has_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    with answers.answering(wanted=False) as answer:
        console.print_json({"a": 1})
        assert capsys.readouterr().out == ""
        answer.fail("BundleError", "late", 2)
    assert strict_json(capsys.readouterr().out) == {
        "schema_version": 1,
        "a": 1,
        "error": {"kind": "BundleError", "message": "late", "exit_status": 2},
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("inspect b --json", True),
        ("--json", True),
        ("predict b a.png --format json", True),
        ("predict b a.png --format=json", True),
        ("predict b a.png --format csv", False),
        ("predict b -- --json", False),
        ("inspect json", False),
        ("", False),
    ],
)
def test_what_asks_for_json(words: str, expected: bool) -> None:
    assert wants_json(words.split()) is expected
