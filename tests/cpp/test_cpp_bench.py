"""``anydepth-bench``: statistics and verdicts of ``bench``, in files that ``report`` reads."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp_build import BENCH, PATIENT, Probe, build, open_probe
from numpy.typing import NDArray
from PIL import Image

from anydepth_deploy.bench.options import Options
from anydepth_deploy.bench.report.compare import compare
from anydepth_deploy.bench.report.formats import to_csv, to_markdown
from anydepth_deploy.bench.results import BenchResult, DepthResult, read_result
from anydepth_deploy.bench.run import run_bench
from anydepth_deploy.bench.statistics import ratio_of_medians, summarise
from anydepth_deploy.bench.verdict import judge_latency
from anydepth_deploy.bench.workloads.bundle import BundleWorkload
from anydepth_deploy.bench.workloads.pictures import load_batches
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.choose import Choice
from anydepth_deploy.errors import ResultError
from anydepth_deploy.pictures.choice import choose_pictures
from anydepth_deploy.pictures.shapes import render

pytestmark = PATIENT

PERCENTS = (50.0, 90.0, 95.0, 99.0, 99.9)
EXACT = 1e-12
"""Relative: sums are added up in another order."""


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    with open_probe("sanitized") as found:
        yield found


@pytest.fixture(scope="module")
def program() -> Path:
    return build("optimised", BENCH) / BENCH


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in formats that both sides read, some in a folder of their own."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(6):
        name = f"{'more/' if index % 2 else ''}{index}.ppm"
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(render(index, 1, "val", size=64).image).save(folder / name)
    return folder


def run(program: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [str(program), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def measured(program: Path, bundle: Bundle, out: Path, *words: object) -> BenchResult:
    """A short run; the result as Python reads it."""
    short = ("--threads", 1, "--duration", 0, "--count", 12, "--warmup", 0, "--warmup-count", 1)
    done = run(program, bundle.path, *short, "--out", out, *words)
    assert (done.returncode, done.stderr) == (0, "")
    return read_result(out)


def near(expected: float | None) -> Any:
    return None if expected is None else pytest.approx(expected, rel=EXACT)


def assert_figures(row: DepthResult) -> None:
    """All figures of a depth are those of its samples; intervals are drawn by other numbers."""
    expected = summarise(row.samples.latency_ns, PERCENTS)
    assert list(row.latency.percentiles_ms) == list(expected.percentiles_ms)
    found, wanted = row.latency.model_dump(), expected.model_dump()
    for name, value in wanted.items():
        if name in ("median_ms", "percentiles_ms"):
            continue
        assert found[name] == near(value), name
    for name, value in wanted["percentiles_ms"].items():
        assert found["percentiles_ms"][name] == near(value), name
    assert row.latency.median_ms.value == near(expected.median_ms.value)
    assert (row.latency.median_ms.low is None) == (expected.median_ms.low is None)


# Statistics


def latencies(kind: str, count: int) -> NDArray[np.int64]:
    """Nanoseconds, as runs may have them."""
    rng = np.random.default_rng(count)
    values = rng.gamma(30, 2e5, count)
    if kind == "drift":
        values *= np.linspace(1, 1.4, count)
    if kind == "stalls":
        values[:: max(2, count // 12)] *= 8
    if kind in ("steady", "two speeds"):
        values = 6e6 + rng.normal(0, 2e4, count)
    if kind == "two speeds":
        values[rng.permutation(count)[: 3 * count // 10]] *= 2
    return np.asarray(values, np.int64)


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        *(("gamma", count) for count in (1, 2, 9, 10, 29, 299, 2995)),
        *itertools.product(("drift", "stalls", "steady", "two speeds"), (29, 60, 300)),
    ],
)
def test_the_same_summary_and_verdict(kind: str, count: int, probe: Probe) -> None:
    samples = latencies(kind, count)
    found = probe.call("summarise", samples=probe.give(samples), percents=PERCENTS)
    expected = summarise(samples, PERCENTS)
    for name in ("count", "minimum_ms", "mean_ms", "deviation_ms", "maximum_ms"):
        assert found[name] == near(getattr(expected, name)), name
    assert [percent for percent, _ in found["percentiles_ms"]] == list(PERCENTS)
    for (percent, value), wanted in zip(
        found["percentiles_ms"], expected.percentiles_ms.values(), strict=True
    ):
        assert value == near(wanted), percent
    assert_close(found["median_ms"], expected.median_ms)
    verdict = judge_latency(samples.astype(np.float64), expected)
    said, wanted_words = found["verdict"], verdict.model_dump()
    assert said["word"] == wanted_words["word"]
    kinds = [[reason.split(":")[0][:24] for reason in v["reasons"]] for v in (said, wanted_words)]
    assert kinds[0] == kinds[1]
    spread = [
        [reason for reason in v["reasons"] if "spread" in reason] for v in (said, wanted_words)
    ]
    assert spread[0] == spread[1]
    if kind not in ("gamma", "drift"):  # whose calls may be far apart, as they were drawn
        assert len(spread[0]) == (kind == "two speeds" and count >= 30)


def assert_close(found: dict[str, Any], expected: Any) -> None:
    """The value exactly; the interval as well as a thousand other draws can tell."""
    assert found["value"] == near(expected.value)
    assert (found["interval"] is None) == (expected.low is None)
    if found["interval"] is not None:
        low, high = found["interval"]
        width = expected.high - expected.low
        assert low == pytest.approx(expected.low, abs=0.4 * width)
        assert high == pytest.approx(expected.high, abs=0.4 * width)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("count", [5, 40, 400])
def test_the_same_ratios(paired: bool, count: int, probe: Probe) -> None:
    one, other = (latencies(kind, count).astype(np.float64) for kind in ("gamma", "drift"))
    given = {"numerator": probe.give(one), "denominator": probe.give(other), "paired": paired}
    expected = ratio_of_medians(one, other, paired=paired)
    assert_close(probe.call("ratio", **given), expected)


# Results


@pytest.mark.parametrize("mode", ["interleaved", "fixed"])
def test_a_result_that_python_reads(
    program: Path, bundle: Bundle, tmp_path: Path, mode: str
) -> None:
    result = measured(program, bundle, tmp_path / "one.json", "--mode", mode)
    assert [row.depth for row in result.depths] == [str(depth) for depth in bundle.table.ladder]
    assert [row.level for row in result.depths] == list(range(bundle.table.levels))
    assert [row.macs for row in result.depths] == [
        bundle.macs(depth)["total"] for depth in bundle.table.ladder
    ]
    for row in result.depths:
        assert_figures(row)
        assert row.latency.count == 12
        assert row.samples.started_ns == sorted(row.samples.started_ns)
    paired = mode == "interleaved"
    top = np.asarray(result.depths[-1].samples.latency_ns, np.float64)
    for row in result.depths[:-1]:
        mine = np.asarray(row.samples.latency_ns, np.float64)
        assert row.speedup is not None
        expected = ratio_of_medians(top, mine, paired=paired)
        assert row.speedup.value == near(expected.value)
    assert result.depths[-1].speedup is not None
    assert result.depths[-1].speedup.value == 1
    every = [took for row in result.depths for took in row.samples.latency_ns]
    assert result.overall.latency.mean_ms == near(np.mean(every) / 1e6)
    assert result.overall.images == result.overall.requests == len(every)
    assert result.overall.images_per_second * result.overall.wall_s == pytest.approx(len(every))
    if paired:
        rounds = [row.samples.rounds for row in result.depths]
        assert all(found == list(range(12)) for found in rounds)
        for row in result.depths:
            took = sum(row.samples.latency_ns) / 1e9
            assert row.images_per_second == near(12 / took)


def test_it_is_never_valid(program: Path, bundle: Bundle, tmp_path: Path) -> None:
    result = measured(program, bundle, tmp_path / "one.json", "--depth", "base", "--count", 60)
    for verdict in (result.verdict, *(row.verdict for row in result.depths)):
        assert verdict.word in ("unknown", "unstable")
        assert any("no sensor was read" in reason for reason in verdict.reasons)
    assert result.devices == []


def test_nobody_takes_it_for_python(program: Path, bundle: Bundle, tmp_path: Path) -> None:
    result = measured(program, bundle, tmp_path / "one.json", "--depth", "base")
    assert result.subject.runtime == "onnxruntime-cpp"
    assert set(result.host.packages) == {"anydepth-cpp", "onnxruntime"}
    assert "C++" in result.host.python
    assert result.subject.name == bundle.path.resolve().name
    (artifact,) = bundle.artifacts("gated", weights="shared")
    assert result.subject.artifacts == {artifact.name: artifact.sha256}


def test_reports_and_comparisons(
    program: Path, bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    """Beside a run of Python's on the same pictures."""
    ours = measured(
        program, bundle, tmp_path / "one.json", "--images", pictures, "--pictures", 4, "--seed", 3
    )
    workload = BundleWorkload(
        bundle,
        Choice(threads=1),
        lambda recipe: load_batches(recipe, 1, source=pictures, count=4, seed=3),
        "detections",
    )
    options = Options(duration=0, count=12, warmup=0, warmup_count=1, seed=3)
    theirs = run_bench(workload, bundle.table.ladder, options, threads=1)
    assert ours.inputs == theirs.inputs
    assert ours.boundaries == theirs.boundaries
    found = compare(ours, theirs)
    assert [str(item) for item in found.compared if item.name == "runtime"] == [
        "runtime onnxruntime-cpp against onnxruntime"
    ]
    assert len(found.depths) == bundle.table.levels
    assert found.allowed == []
    for text in (to_markdown([ours, theirs]), to_csv([ours, theirs])):
        assert "onnxruntime-cpp" in text


@pytest.mark.parametrize("count", [3, 20])
def test_both_find_the_same_pictures(
    program: Path, bundle: Bundle, pictures: Path, tmp_path: Path, count: int
) -> None:
    """Odd names, and linked folders: the same draw from the same files."""
    folder = tmp_path / "folder"
    sound = sorted(pictures.rglob("*.ppm"))
    for name, path in zip(
        ("a.JFIF", "b.jpe", "without", "z/c.png", ".hidden.bmp", "z/d.tif"), sound, strict=True
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(path.read_bytes())
    for name in ("._a.JFIF", "z/._c.png", "README", "notes.txt", "z/.without"):
        (folder / name).write_bytes(b"P6 is how a PPM begins" if "without" in name else b"x")
    (folder / "linked").symlink_to(pictures)
    (folder / "b-link").symlink_to("z")
    (folder / "z" / "up").symlink_to(folder)
    expected = choose_pictures(folder, count, 3)
    assert len(expected.paths) == min(count, 12)
    words = ("--images", folder, "--pictures", count, "--seed", 3, "--depth", "base")
    ours = measured(program, bundle, tmp_path / "one.json", *words)
    assert (ours.inputs.count, ours.inputs.sha256) == (len(expected.paths), expected.sha256)


def test_generated_pictures_are_not_python_s(program: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Which a comparison says, and lets pass where it is allowed."""
    one = measured(program, bundle, tmp_path / "one.json", "--depth", "base")
    same = measured(program, bundle, tmp_path / "two.json", "--depth", "base")
    other = measured(program, bundle, tmp_path / "three.json", "--depth", "base", "--seed", 1)
    assert one.inputs == same.inputs
    assert one.inputs.sha256 != other.inputs.sha256
    with pytest.raises(ResultError, match="--allow inputs"):
        compare(one, other)
    assert len(compare(one, other, allow=["inputs"]).depths) == 1


@pytest.mark.parametrize("scope", ["detections", "pictures"])
def test_scopes_and_batches(program: Path, bundle: Bundle, tmp_path: Path, scope: str) -> None:
    words = ("--scope", scope, "--batch", 3, "--depth", "base,super,base", "--layout", "set")
    result = measured(program, bundle, tmp_path / "one.json", *words)
    assert [row.depth for row in result.depths] == [
        str(bundle.table.find(name)) for name in ("base", "super")
    ]
    assert result.overall.images == 3 * result.overall.requests
    timed = "timed" if scope == "pictures" else "not timed"
    assert result.boundaries["pre-processing"] == timed
    assert result.boundaries["network"] == "timed"
    assert result.subject.layout == "set"
    assert set(result.subject.artifacts) == {item.name for item in bundle.artifacts("set")}


def test_what_verify_and_eval_found(program: Path, bundle_copy: Path, tmp_path: Path) -> None:
    bundle = open_bundle(bundle_copy)
    (artifact,) = bundle.artifacts("gated", weights="shared")
    depth = str(bundle.table.ladder[0])
    tried = {"sha256": artifact.sha256, "precision": "fp32", "passed": True}
    record = {"when": "2025-01-31T12:00:00+00:00", "runtime": "onnxruntime", "artifacts": [tried]}
    bundle.record("verify", record)
    bundle.record(
        "eval",
        {
            "precision": "fp32",
            "artifacts": [{"sha256": artifact.sha256}],
            "data": "shapes",
            "pictures": 200,
            "rows": [{"depth": depth, "ap": 71.5}],
        },
    )
    result = measured(program, bundle, tmp_path / "one.json", "--depth", "base")
    assert result.subject.verified == record["when"]
    accuracy = result.depths[0].accuracy
    assert accuracy is not None
    assert (accuracy.ap, accuracy.data, accuracy.pictures) == (71.5, "shapes", 200)
    assert accuracy.data_sha256 is None

    # All of one data set: that of the most depths, though another is newer.
    names = [str(depth) for depth in bundle.table.ladder]
    evaluated = {"precision": "fp32", "artifacts": [{"sha256": artifact.sha256}], "pictures": 9}
    for data, sha, depths in (("whole", "a", names), ("part", "b", names[:1])):
        rows = [{"depth": name, "ap": 40.0 + k} for k, name in enumerate(depths)]
        bundle.record("eval", {**evaluated, "data": data, "data_sha256": sha * 64, "rows": rows})
    result = measured(program, bundle, tmp_path / "all.json", "--depth", "all")
    found = [row.accuracy for row in result.depths]
    assert [(one.ap, one.data, one.data_sha256) for one in found if one] == [
        (40.0 + k, "whole", "a" * 64) for k in range(len(names))
    ]

    bundle.record("verify", {**record, "artifacts": [{**tried, "passed": False}]})
    done = run(program, bundle.path)
    assert done.returncode == 2
    assert "failed 'verify' (fp32, onnxruntime" in done.stderr


def test_json_is_the_result_without_samples(program: Path, bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "one.json"
    words = ("--depth", "base", "--duration", 0, "--count", 3, "--warmup", 0, "--threads", 1)
    done = run(program, bundle.path, *words, "--json", "--out", out)
    content = json.loads(out.read_text())
    for row in content["depths"]:
        del row["samples"]
    assert json.loads(done.stdout) == {"schema_version": 1, **content}
    assert not list(tmp_path.glob("*.partial"))


def test_a_place_that_cannot_be_written_is_refused_first(
    program: Path, bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "folder.json").mkdir()
    for place, reason in (
        ("no/where.json", "No such file or directory"),
        ("folder.json", "Is a directory"),
    ):
        done = run(program, bundle.path, "--duration", 600, "--out", tmp_path / place)
        assert done.returncode == 2
        assert done.stdout == ""
        line = f"error: result {tmp_path / place} cannot be written: {reason}; choose another place"
        assert done.stderr == line + "\n"
    assert [path.name for path in tmp_path.iterdir()] == ["folder.json"]


def test_the_table_is_shown_though_the_file_fails(
    program: Path, bundle: Bundle, tmp_path: Path
) -> None:
    def no_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    words = ("--depth", "base", "--duration", "0", "--count", "3", "--warmup", "0")
    out = tmp_path / "one.json"
    done = subprocess.run(
        [str(program), str(bundle.path), *words, "--threads", "1", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=no_room,
    )
    assert done.returncode == 2
    assert "verdict: " in done.stdout
    assert "result: " not in done.stdout
    assert done.stderr.startswith(f"error: result {out} cannot be written: ")
    assert list(tmp_path.iterdir()) == []


def test_names_of_bundles_do_not_steer_a_terminal(
    program: Path, bundle: Bundle, tmp_path: Path
) -> None:
    words = ("--depth", "base", "--duration", 0, "--count", 3, "--warmup", 0, "--threads", 1)
    for name, told, exact in (
        ("a\x1b[31m\nb", r"a\x1b[31m\nb", "a\x1b[31m\nb"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9", r"caf\xe9"),
    ):
        link = tmp_path / name
        shutil.copytree(bundle.path, link)
        done = run(program, link, *words)
        assert done.stdout.startswith(f"{told} ("), done.stderr
        as_json = run(program, link, *words, "--json").stdout
        assert as_json.isascii()
        assert json.loads(as_json)["subject"]["name"] == exact
        assert f"/{told} does not" in run(program, tmp_path / f"no{name}" / name).stderr


def test_a_table_for_people(program: Path, bundle: Bundle) -> None:
    words = ("--duration", 0, "--count", 30, "--warmup", 0, "--threads", 1)
    done = run(program, bundle.path, *words)
    assert done.returncode == 0
    for text in (str(bundle.table.ladder[0]), "speed-up", "p90", "verdict: un", "p99 needs 299"):
        assert text in done.stdout
    assert "p99.9" not in done.stdout.splitlines()[1]  # a column that says nothing


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "nowhere"),
        ((), "one bundle is expected"),
        (("BUNDLE", "--depth", "FFF"), "unknown depth 'FFF'"),
        (("BUNDLE", "--depth", ""), "--depth names none"),
        (("BUNDLE", "--count", "0"), "--count is '0'"),
        (("BUNDLE", "--count", "1.5"), "expected a whole number"),
        (("BUNDLE", "--duration", "nan"), "--duration is 'nan'"),
        (("BUNDLE", "--mode", "switching"), "unknown mode 'switching'"),
        (("BUNDLE", "--rate", "4"), "unknown option --rate"),
        (("BUNDLE", "--seed"), "--seed needs a value"),
        (("BUNDLE", "--runtime", "torch"), "unknown runtime 'torch'"),
        (("BUNDLE", "--scope", "raw"), "export the bundle with --raw"),
        (("BUNDLE", "--images", "/nowhere.ppm"), "/nowhere.ppm"),
        (("BUNDLE", "--out", "results"), "expected a file *.json"),
        (("BUNDLE", "--percentiles", "101"), "--percentiles is '101'"),
    ],
)
def test_bad_use_is_one_line(
    program: Path, bundle: Bundle, words: tuple[str, ...], message: str
) -> None:
    given = [str(bundle.path) if word == "BUNDLE" else word for word in words]
    short = ("--count", "1", "--duration", "0", "--warmup", "0")
    done = run(program, *given, *(() if "--count" in words else short))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
