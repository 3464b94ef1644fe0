"""The command ``triton``: what it prints, and the exit status it ends with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command_line import Run, fails
from triton_bundle import graphs


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return graphs(tmp_path / "best").path


def test_a_repository_in_a_table(run: Run, made: Path, tmp_path: Path) -> None:
    result = run("triton", made, "--out", tmp_path / "models")
    assert (result.code, result.err) == (0, "")
    lines = [line.split() for line in result.out.splitlines()]
    assert ["best_gated", "onnxruntime", "any", "one", "request", "gated-fp32-shared"] in lines
    assert ["best_level_1", "onnxruntime", "FF-1", "8", "static-1"] in lines
    assert ["best_router", "python", "any", "one", "request", "-"] in lines
    assert f"tritonserver --model-repository={tmp_path / 'models'}" in result.out


def test_a_repository_in_json(run: Run, made: Path, tmp_path: Path) -> None:
    found = run(
        "triton",
        *(made, "--out", tmp_path / "models", "--json"),
        *("--name", "street", "--layout", "set", "--device", "gpu", "--default-depth", "base"),
        *("--max-batch", 4, "--queue-delay-us", 100, "--instances", 2, "--workers", 1),
    ).json
    assert found["path"] == str(tmp_path / "models")
    assert (found["name"], found["device"], found["default_depth"]) == ("street", "gpu", "base")
    assert found["models"][0] == {
        "name": "street_level_0",
        "backend": "onnxruntime",
        "max_batch": 4,
        "depth": "TT-1",
        "artifact": "static-0",
    }
    found = run(
        "triton",
        *(made, "--out", tmp_path / "auto", "--json"),
        *("--default-depth", "auto", "--budget-ms", "12.5"),
    ).json
    assert found["default_depth"] == "auto"
    assert run("triton", tmp_path / "auto", "--check").code == 0
    text = (tmp_path / "models" / "street_level_0" / "config.pbtxt").read_text()
    assert "max_queue_delay_microseconds: 100" in text
    assert "count: 2" in text


def test_checking(run: Run, made: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    run("triton", made, "--out", models)
    clean = run("triton", models, "--check")
    assert (clean.code, clean.out) == (0, f"repository {models}: no problems found\n")
    assert run("triton", "--check", models, "--json").json == {
        "schema_version": 1,
        "path": str(models),
        "problems": [],
    }

    config = models / "best_router" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "best_router"', 'name: "best"'))
    found = run("triton", models, "--check")
    fails(found, 1, f"repository {models} has 1 problem")
    assert found.out == (
        "best_router/config.pbtxt: the name is 'best', its folder is 'best_router': Triton wants "
        "the same, rename one\n"
    )
    found = run("triton", models, "--check", "--json")
    assert found.code == 1
    assert '"file": "best_router/config.pbtxt"' in found.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--out is missing"),
        (["--check", "--out", "models"], "--check takes no --out"),
        (["--check", "--name", "x"], "--check takes no --out, --name or --force"),
        (["--check", "--force"], "it writes nothing"),
        (["--out", "models", "--layout", "stages"], "cannot be served"),
        (["--out", "models", "--precision", "bf16"], "--precision fp32"),
        (["--out", "models", "--runtime", "openvino"], "--runtime"),
        (["--out", "models", "--max-batch", "0"], "--max-batch"),
        (["--out", "models", "--max-pixels", "0"], "--max-pixels"),
        (["--out", "models", "--max-queue", "0"], "--max-queue"),
        (["--out", "models", "--name", "a b"], "cannot be a model's"),
        (["--out", "models", "--default-depth", "FF"], "unknown depth 'FF'"),
        (
            ["--out", "models", "--default-depth", "auto"],
            "auto needs a budget: say with --budget-ms",
        ),
        (["--out", "models", "--budget-ms", "0"], "--budget-ms is 0.0: expected a positive number"),
        (["--out", "models", "--budget-ms", "nan"], "--budget-ms is nan"),
        (["--out", "models", "--budget-ms", "soon"], "--budget-ms"),
        (["--out", "models", "--precision", "fp16"], "has no artifact"),
    ],
)
def test_bad_use(run: Run, made: Path, words: list[str], told: str) -> None:
    fails(run("triton", made, *words), 2, told)
    assert not list(Path.cwd().iterdir())


def test_what_is_no_bundle_and_no_repository(run: Run, tmp_path: Path) -> None:
    fails(run("triton", tmp_path, "--out", "models"), 2, "is not a bundle")
    fails(run("triton", tmp_path / "none", "--check"), 2, "does not exist")


def test_a_second_time(run: Run, made: Path, tmp_path: Path) -> None:
    run("triton", made, "--out", tmp_path / "models")
    fails(run("triton", made, "--out", tmp_path / "models"), 2, "--force")
    assert run("triton", made, "--out", tmp_path / "models", "--force").code == 0


def test_without_the_extra(
    run: Run, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == "tritonclient":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    told = "pip install 'anydepth-deploy[triton]'"
    fails(run("triton", made, "--out", tmp_path / "models"), 2, told)
    fails(run("triton", tmp_path, "--check"), 2, told)
