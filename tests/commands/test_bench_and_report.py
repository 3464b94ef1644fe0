"""`bench` and `report` from the command line."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Run, fails
from conftest import RUNGS

from anydepth_deploy.bench.results import BenchResult, read_result, write_result
from anydepth_deploy.bundle.bundle import open_bundle

QUICK = ("--duration", 0, "--count", 12, "--warmup", 0, "--threads", 1, "--pictures", 2)


@pytest.fixture(scope="module")
def measured(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Results of the same bundle, the second with another batch size."""
    import shutil

    from anydepth_deploy.bench.combinations import Request, bench_all
    from anydepth_deploy.bench.options import Options

    source = request.getfixturevalue("bundle").path
    folder = tmp_path_factory.mktemp("measured")
    bundle = Path(shutil.copytree(source, folder / "tiny"))
    options = Options(duration=0, count=12, warmup=0)
    paths = []
    for batch in (1, 2):
        asked = Request(bundle, batches=(batch,), threads=(1,), pictures=2, options=options)
        ((path, _),) = bench_all(asked, folder / f"b{batch}.json")
        paths.append(path)
    return paths[0], paths[1]


def test_bench(run: Run, bundle_copy: Path) -> None:
    found = run("bench", bundle_copy, "--depth", "all", *QUICK)
    assert found.code == 0, found.err
    for depth in RUNGS:
        assert depth in found.out
    assert "timed: network" in found.out
    assert "pre-processing" in found.out.split("not timed:")[1].splitlines()[0]
    assert "never verified" in found.out
    assert "p99 needs 299" in found.out
    assert "verdict: " in found.out
    file = Path(found.out.split("result: ")[1].strip())
    assert file.parent == Path("results")
    assert {row.latency.count for row in read_result(file).depths} == {12}
    assert len(open_bundle(bundle_copy).manifest.results["bench"]) == 1


def test_bench_as_json(run: Run, bundle_copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    (found,) = run(
        "bench", bundle_copy, "--depth", "base,super", *QUICK, "--out", out, "--json"
    ).json["results"]
    assert found["file"] == str(out)
    assert [row["depth"] for row in found["depths"]] == [str(RUNGS[0]), str(RUNGS[-1])]
    assert all("samples" not in row for row in found["depths"])
    assert found["verdict"]["word"] == read_result(out).verdict.word
    assert found["settings"]["depths"] == [str(RUNGS[0]), str(RUNGS[-1])]


def test_strict_fails_on_any_other_verdict(run: Run, bundle_copy: Path) -> None:
    """Nine samples are never valid."""
    words = ("--duration", 0, "--count", 9, "--warmup", 0, "--pictures", 2)
    assert run("bench", bundle_copy, *words).code == 0
    found = run("bench", bundle_copy, *words, "--strict")
    fails(found, 1, "--strict", "not valid")
    assert "result: " in found.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--depth", "FFFF"), "unknown depth 'FFFF'"),
        (("--batch", "0"), "--batch '0' is not a list of whole numbers from 1"),
        (("--threads", "two"), "--threads 'two' is not a list of whole numbers from 1"),
        (("--streams", "2"), "choose --scenario streams"),
        (("--scenario", "poisson"), "needs --rate"),
        (("--percentiles", "50,most"), "are not numbers"),
        (("--mode", "mixed", "--mix", "base"), "is not a list of weights"),
        (("--runtime", "torch"), "'torch' runs checkpoints"),
        (("--runtime", "onnxruntime-cuda"), "CUDAExecutionProvider"),
        (("--images", "none"), "none is neither a picture nor a folder"),
        (("--precision", "int8"), "has no artifact"),
        (("--lock-clocks", "1000"), "cpupower"),
    ],
)
def test_bench_refuses(run: Run, bundle_copy: Path, words: tuple[str, ...], told: str) -> None:
    fails(run("bench", bundle_copy, *QUICK[:6], *words), 2, told)
    assert not Path("results").exists()


def test_bench_of_what_is_not_there(run: Run, tmp_path: Path) -> None:
    fails(run("bench", tmp_path / "none.pth"), 2, "none.pth")
    (tmp_path / "empty").mkdir()
    fails(run("bench", tmp_path / "empty"), 2, "is not a bundle")
    (tmp_path / "text.pth").write_text("no checkpoint", encoding="utf-8")
    fails(run("bench", tmp_path / "text.pth"), 2, "text.pth")


def test_bench_of_an_artifact_that_failed_verify(run: Run, bundle_copy: Path) -> None:
    bundle = open_bundle(bundle_copy)
    tried = [
        {"name": item.name, "sha256": item.sha256, "precision": "fp32", "passed": False}
        for item in bundle.artifacts()
    ]
    bundle.record("verify", {"when": "2025-01-01", "runtime": "onnxruntime", "artifacts": tried})
    fails(run("bench", bundle_copy, *QUICK), 2, "failed 'verify'", "2025-01-01")


def test_report(run: Run, measured: tuple[Path, Path]) -> None:
    found = run("report", *measured)
    assert found.code == 0, found.err
    for depth in RUNGS:
        assert found.out.count(str(depth)) >= 2
    assert "batch" in found.out
    assert "unknown" in found.out or "unstable" in found.out


def test_report_as_csv_and_markdown(run: Run, measured: tuple[Path, Path], tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run("report", *measured, "--format", "csv").out)))
    assert len(rows) == 2 * len(RUNGS)
    expected = [
        row.latency.median_ms.value for path in measured for row in read_result(path).depths
    ]
    assert [float(row["median_ms"]) for row in rows] == pytest.approx(expected)
    out = tmp_path / "deep" / "report.md"
    found = run("report", *measured, "--format", "markdown", "--out", out)
    assert found.code == 0
    assert f"table: {out}" in found.err
    assert out.read_text(encoding="utf-8").count(f"| {RUNGS[0]} |") == 2


def test_report_with_a_picture(run: Run, measured: tuple[Path, Path], tmp_path: Path) -> None:
    picture = tmp_path / "curve.png"
    found = run("report", *measured, "--plot", picture, "--json").json
    assert found["picture"] == str(picture)
    assert len(found["rows"]) == 2 * len(RUNGS)
    assert picture.read_bytes().startswith(b"\x89PNG")
    every = "speedup,distribution,throughput"
    assert run("report", *measured, "--plot", tmp_path / "all.svg", "--figures", every).code == 0


def test_comparison(run: Run, measured: tuple[Path, Path], tmp_path: Path) -> None:
    fails(run("report", "--compare", *measured), 2, "batch", "1", "2")
    allowed = run("report", "--compare", *measured, "--allow", "batch")
    assert allowed.code == 0, allowed.err
    for depth in RUNGS:
        assert str(depth) in allowed.out
    slower = read_result(measured[0]).model_dump(mode="json")
    for row in slower["depths"]:
        samples = row["samples"]
        samples["ended_ns"] = [
            start + 2 * (end - start)
            for start, end in zip(samples["started_ns"], samples["ended_ns"], strict=True)
        ]
        row["latency"]["median_ms"]["value"] *= 2
    other = tmp_path / "slower.json"
    write_result(other, BenchResult.model_validate(slower))
    found = run("report", "--compare", other, measured[0], "--json").json
    assert [row["ratio"]["value"] for row in found["depths"]] == pytest.approx(
        [2.0] * len(RUNGS), rel=1e-6
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--compare",), "--compare takes two results"),
        (("--allow", "batch"), "--allow is for --compare"),
        (("--json", "--format", "csv"), "--json is a format of its own"),
        (("--plot", "curve.gif"), "curve.gif"),
        (("--plot", "curve.png", "--figures", "pie"), "pie"),
    ],
)
def test_report_refuses(
    run: Run, measured: tuple[Path, Path], words: tuple[str, ...], told: str
) -> None:
    fails(run("report", measured[0], *words), 2, told)


def test_reports_of_what_is_no_result(run: Run, measured: tuple[Path, Path]) -> None:
    fails(run("report", "none.json"), 2, "none.json does not exist")
    Path("bad.json").write_text('{"format": "other"}', encoding="utf-8")
    fails(run("report", measured[0], "bad.json"), 2, "bad.json is not a result")
    fails(run("report", measured[0], "--format", "csv", "--out", "bad.json/x"), 2, "bad.json")


BLOCKED = """
import sys
from importlib.abc import MetaPathFinder

class Block(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "onnx_ir", "scipy", "matplotlib", "pynvml"}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Block())
from anydepth_deploy.cli import main
main()
"""


def test_bundles_are_measured_and_reported_without_torch(bundle_copy: Path, tmp_path: Path) -> None:
    """What a device has: numpy and a runtime."""
    out = tmp_path / "r.json"
    for words in (
        ["bench", str(bundle_copy), "--depth", "base", *map(str, QUICK), "--out", str(out)],
        ["report", str(out)],
    ):
        found = subprocess.run(
            [sys.executable, "-c", BLOCKED, *words], capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stderr
    drawn = subprocess.run(
        [sys.executable, "-c", BLOCKED, "report", str(out), "--plot", str(tmp_path / "a.png")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert drawn.returncode == 2
    assert "pip install 'anydepth-deploy[plot]'" in drawn.stderr
