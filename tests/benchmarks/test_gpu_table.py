"""What the steps of ``make gpu`` ask for, and what they make of the answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from fake_gpu_calls import MACHINE
from gpu import device, steps, torch_parity, work
from gpu.needs import NEEDS, Needs
from gpu.step import LONGEST, Check, Done, Run
from gpu.steps import table
from trained_networks import FAMILIES

from anydepth_deploy.cli import app
from anydepth_deploy.runtimes.registry import RUNTIMES
from anydepth_deploy.torch_runtime.runner import TorchRunner


def test_steps_have_names_for_files_and_end_in_time() -> None:
    names = [step.name for step in table()]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)
    assert all(0 < step.limit <= LONGEST == 8 * 60 for step in table())
    assert {need for step in table() for need in step.needs} <= NEEDS.keys()


def test_every_gpu_runtime_has_steps_for_every_family() -> None:
    names = {step.name for step in table()}
    assert {f"anydepth-{family}" for family in work.families()} == set(FAMILIES)
    for runtime in (row.name for row in RUNTIMES.values() if row.on_device):
        for family in work.families():
            for precision in ("fp32", "fp16", "int8"):
                assert f"{runtime}-{family}-{precision}" in names
        assert any(name.startswith(f"curve-{runtime}-") for name in names)
    for mode in ("parity", "eager", "cudagraph", "compile"):
        assert {f"torch-{mode}-{family}" for family in work.families()} <= names


class Recorder(Run):
    """Runs nothing: every command is taken down, and answered as if it had passed."""

    def _python(self, words: list[str], what: str, libraries: bool) -> Done:
        self.checks.append(Check(what, 0, 0.0))
        self.commands: list[tuple[list[str], bool]]
        self.commands.append((words, libraries))
        for flag in ("--out", "--plot"):
            if flag in words:
                self._make(words[words.index(flag) + 1], words)
        return Done(True, None)

    def _make(self, path: str, words: list[str]) -> None:
        if "export" in words:
            Path(path).mkdir()
        elif "shapes" in words:
            Path(path).mkdir()
            (Path(path) / "000000.png").touch()
        elif "bench" in words:
            Path(path).mkdir(exist_ok=True, parents=True)
            state = {"clocks_mhz": {"sm": 1005.0}}
            devices = [{"kind": "nvidia", "name": "T4", "unknown": [], "states": [state]}]
            (Path(path) / "r.json").write_text(json.dumps({"devices": devices}), encoding="utf-8")
        elif "--plot" in words:
            Path(path).touch()


@pytest.fixture
def commands(tmp_path: Path) -> list[tuple[str, list[str], bool]]:
    """What all steps of the table would run, in their order: step, words after the interpreter, and
    whether libraries of wheels are found."""
    found = []
    for step in table():
        everything = Needs(MACHINE, dict.fromkeys(NEEDS, lambda machine: None))
        run = Recorder(tmp_path / step.name, tmp_path / "shared", 0.0, everything)
        run.commands = []
        run.folder.mkdir()
        step.do(run)
        found += [(step.name, words, libraries) for words, libraries in run.commands]
    return found


def test_the_command_line_takes_what_steps_ask_for(
    commands: list[tuple[str, list[str], bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options and their values are parsed by the package's own commands, which are not run."""
    monkeypatch.chdir(device.ROOT)
    group: Any = typer.main.get_command(app)
    seen = set()
    for step, words, _ in commands:
        if words[:2] != ["-m", "anydepth_deploy"]:
            continue
        context = group.make_context("anydepth-deploy", words[2:])
        name, command, rest = group.resolve_command(context, words[2:])
        assert command is not None, (step, words)
        found = command.make_context(name, rest, parent=context)
        assert found.params["json"] is True, (step, words)
        seen.add(name)
    assert seen == {
        *("bench", "build", "calibrate", "eval", "export", "predict", "report", "shapes", "verify"),
    }


def test_what_steps_name_is_there(commands: list[tuple[str, list[str], bool]]) -> None:
    runtimes = {*RUNTIMES, "torch", "torch-compile", "torch-cudagraph"}
    for step, words, libraries in commands:
        named = words[words.index("--runtime") + 1] if "--runtime" in words else None
        assert named is None or named in runtimes, (step, words)
        assert libraries == (named is not None and named.startswith("onnxruntime")), (step, words)
        if words[0] != "-m":
            assert (device.ROOT / words[0]).is_file(), (step, words)
        elif words[1].startswith("benchmarks."):
            assert (device.ROOT / f"{words[1].replace('.', '/')}.py").is_file(), (step, words)


def test_every_engine_is_built_verified_and_timed(
    commands: list[tuple[str, list[str], bool]],
) -> None:
    for name in ("build", "verify", "bench"):
        for runtime in ("tensorrt", "tensorrt-rtx"):
            for layout in ("gated", "set", "stages"):
                for precision in ("fp32", "fp16", "int8"):
                    wanted = {name, runtime, layout, precision}
                    steps_of = {step for step, words, _ in commands if wanted <= set(words)}
                    for family in work.families():
                        assert f"{runtime}-{family}-{precision}" in steps_of


def test_curves_are_drawn_by_runtime_and_layout(tmp_path: Path) -> None:
    for name in ("curve-tensorrt-set-r50", "curve-tensorrt-set-yolo-l", "curve-tensorrt-gated-r50"):
        runs = tmp_path / name / "runs"
        runs.mkdir(parents=True)
        (runs / "result.json").touch()
    run = Recorder(tmp_path / "curve-pictures", tmp_path / "shared", 0.0, Needs(MACHINE, {}))
    run.commands = []
    run.folder.mkdir()
    steps.curve_pictures(run)
    assert [path.name for path in sorted(run.pictures.iterdir())] == [
        "curve-tensorrt-gated.png",
        "curve-tensorrt-set.png",
    ]
    assert sum(word.endswith("result.json") for words, _ in run.commands for word in words) == 3


def test_a_bundle_is_made_once(tmp_path: Path) -> None:
    run = Recorder(tmp_path / "one", tmp_path / "shared", 0.0, Needs(MACHINE, {}))
    run.commands = []
    family = next(iter(work.families()))
    bundle = work.tiny_bundle(run, family)
    made = len(run.commands)
    assert made == 3
    assert work.tiny_bundle(run, family) == bundle
    assert len(run.commands) == made
    mine = work.copy_of(run, bundle)
    (mine / "engine").touch()
    assert work.copy_of(run, bundle) == mine
    assert (mine / "engine").exists()
    assert not (bundle / "engine").exists()


# Figures.


def test_figures_are_taken_from_what_bench_writes() -> None:
    """Of a result that is in the repository."""
    path = device.ROOT / "benchmarks" / "results" / "curve-onnxruntime-fp32" / "r50.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    found = work.bench_figures(result)
    assert [row["depth"] for row in found["depths"]] == [row["depth"] for row in result["depths"]]
    assert "samples" not in json.dumps(found)
    assert found["depths"][0]["median_ms"] == result["depths"][0]["latency"]["median_ms"]


def test_figures_are_taken_from_what_verify_says() -> None:
    def row(depth: str, apart: float, passed: bool) -> dict[str, Any]:
        return {"artifact": "gated", "depth": depth, "differences": {"b": apart}, "passed": passed}

    rows = [row("base", 1e-6, True), row("super", 0.5, False)]
    report = {"runtime": "tensorrt", "passed": False, "rows": rows, "left_out": []}
    found = work.parity_figures(report)
    assert found["largest"] == {"gated": {"b": 0.5}}
    assert found["failed"] == rows[1:]
    assert found["compared"] == 2


# A checkpoint on one device against another.


def parity(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    checkpoint = str(next(reversed(work.families().values())))
    words = ["--device", "cpu", "--modes", "eager", "--precisions", "fp32"]
    monkeypatch.setattr(sys, "argv", ["torch_parity", checkpoint, *words])
    try:
        torch_parity.main()
    finally:
        rows = json.loads(capsys.readouterr().out)
    return rows


def test_torch_parity(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU agrees with itself, at every rung and at a size that is not square."""
    rows = parity(capsys, monkeypatch)
    assert all(row["error"] is None and max(row["raw"].values()) == 0 for row in rows)
    assert len(rows) == 2 * len({row["depth"] for row in rows})
    assert len({tuple(row["size"]) for row in rows}) == 2


def test_torch_parity_of_another_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compared runs at base whatever it is asked for."""
    run = TorchRunner.run
    seen = []

    def wrong(self: TorchRunner, images: Any, depth: Any) -> Any:
        seen.append(depth)
        return run(self, images, "base" if len(seen) % 2 else depth)

    monkeypatch.setattr(TorchRunner, "run", wrong)
    with pytest.raises(SystemExit, match="1"):
        parity(capsys, monkeypatch)
