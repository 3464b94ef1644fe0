"""Comparing two results: what is refused, what is listed, and what is said of each depth."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from bench_results import fake_result, noisy

from anydepth_deploy.bench.report.compare import (
    SETTINGS,
    Comparison,
    DepthComparison,
    compare,
    comparison_notes,
    comparison_table,
)
from anydepth_deploy.bench.results import BenchResult, Estimate, Verdict
from anydepth_deploy.bench.sensors.state import Device
from anydepth_deploy.bench.statistics import ratio_of_medians
from anydepth_deploy.commands.report import print_comparison
from anydepth_deploy.errors import ResultError, UsageError

BASE, SUPER = "TTTT-T-4", "FFFF-F-6"
GOOD = Verdict(word="valid")


def known(scale: float = 1.0, *, seed: int = 0, **changes: Any) -> BenchResult:
    return fake_result(
        {BASE: noisy(10 * scale, 200, seed=seed), SUPER: noisy(15 * scale, 200, seed=seed + 1)},
        **changes,
    )


def gpu(transfers: bool, **changes: Any) -> BenchResult:
    copies = "timed" if transfers else "not timed"
    return known(
        subject={"device": "cuda", "runtime": "tensorrt"},
        settings={"transfers": transfers},
        boundaries={
            "copies to the device": copies,
            "network": "timed",
            "suppression": "timed, on the host",
            "decoding": "not timed",
        },
        devices=[Device(kind="nvidia", name="Tesla T4")],
        **changes,
    )


def cpu(**changes: Any) -> BenchResult:
    boundaries = {
        "copies to the device": "none (host memory)",
        "network": "timed",
        "suppression": "timed, in the graph",
        "decoding": "not timed",
    }
    return known(boundaries=boundaries, **changes)


MISMATCHES: list[tuple[str, dict[str, Any], str]] = [
    ("family", {"subject": {"family": "anydepth-yolo"}}, "anydepth-detr against anydepth-yolo"),
    ("config", {"subject": {"config": "r101"}}, "r50 against r101"),
    ("input-size", {"subject": {"input_size": (320, 640)}}, "640x640 against 320x640"),
    ("scenario", {"settings": {"scenario": "streams"}}, "single against streams"),
    ("mode", {"settings": {"mode": "fixed"}}, "interleaved against fixed"),
    ("mix", {"settings": {"mix": {BASE: 1.0}}}, f"none against {BASE} 1"),
    ("batch", {"settings": {"batch": 4}}, "1 against 4"),
    ("streams", {"settings": {"streams": 2}}, "1 against 2"),
    ("threads", {"settings": {"threads": 2}}, "default against 2"),
    ("rate", {"settings": {"rate": 50.0}}, "none against 50.0"),
    ("scope", {"settings": {"scope": "raw"}}, "detections against raw"),
    ("transfers", {"settings": {"transfers": False}}, "none against not timed"),
    (
        "boundaries",
        {"boundaries": {"network": "timed", "suppression": "timed", "decoding": "timed"}},
        "'decoding: not timed' against 'decoding: timed'",
    ),
    ("inputs", {"inputs": {"sha256": "d" * 64}}, "pictures (cccccccccccc) against pictures (ddd"),
]


@pytest.mark.parametrize(("name", "changes", "words"), MISMATCHES, ids=[m[0] for m in MISMATCHES])
def test_other_settings_are_refused_unless_allowed(
    name: str, changes: dict[str, Any], words: str
) -> None:
    a, b = known(), known(**changes)
    with pytest.raises(ResultError) as caught:
        compare(a, b)
    message = str(caught.value)
    assert f"cannot be compared: {name} {words}" in message
    assert message.endswith(f"--allow {name}")
    assert "\n" not in message
    found = compare(a, b, allow=(name,))
    assert [item.name for item in found.allowed] == [name]
    assert f"allowed to differ: {name} {words}" in "\n".join(comparison_notes(found))
    with pytest.raises(ResultError, match="cannot be compared"):
        compare(a, b, allow=[other for other in SETTINGS if other != name])


def test_every_setting_is_among_those_tried_here() -> None:
    assert {name for name, _, _ in MISMATCHES} | {"depths"} == set(SETTINGS)


def test_all_mismatches_are_named_at_once() -> None:
    other = known(settings={"batch": 4, "threads": 2, "scope": "raw"})
    with pytest.raises(ResultError) as caught:
        compare(known(), other, allow=("threads",))
    message = str(caught.value)
    assert "batch 1 against 4; scope detections against raw:" in message
    assert message.endswith("--allow batch,scope")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown setting thread:.*batch, streams, threads"):
        compare(known(), known(), allow=("thread",))


@pytest.mark.parametrize("mode", ["mixed", "switching"])
def test_depths_are_no_difference_where_the_modes_are(mode: str) -> None:
    """What is allowed is the mode; the depths of both are the same."""
    found = compare(known(), known(settings={"mode": mode}), allow=["mode"])
    assert [item.name for item in found.allowed] == ["mode"]


@pytest.mark.parametrize("mode", ["mixed", "switching"])
def test_depths_that_share_the_time_are_part_of_the_settings(mode: str) -> None:
    a = known(settings={"mode": mode})
    b = known(settings={"mode": mode, "depths": [BASE]})
    with pytest.raises(ResultError, match=f"depths {BASE}, {SUPER} against {BASE}:"):
        compare(a, b)
    assert compare(known(), known(settings={"depths": [BASE]})).allowed == []


def test_how_long_was_measured_may_differ() -> None:
    free = {
        "warmup_s": 9.0,
        "warmup_count": 9,
        "duration_s": 99.0,
        "count": 7,
        "repeats": 9,
        "seed": 9,
        "percentiles": [50.0],
        "locked_clocks": "1590 MHz",
    }
    found = compare(known(), known(settings=free))
    assert found.allowed == []
    compared = {item.name: (item.a, item.b) for item in found.compared}
    assert {"warm-up", "duration", "count", "seed"} <= set(compared)
    assert compared["locked clocks"] == ("none", "1590 MHz")


def test_a_gpu_that_times_its_copies_is_compared_with_a_cpu() -> None:
    found = compare(cpu(), gpu(True))
    assert found.allowed == []
    compared = {item.name: (item.a, item.b) for item in found.compared}
    assert compared["device"] == ("Intel Xeon Platinum 8481C", "Tesla T4")
    assert compared["runtime"] == ("onnxruntime", "tensorrt")
    # Where suppression happens is part of what is compared; that it is timed is not.
    assert compared["step 'suppression'"] == ("timed, in the graph", "timed, on the host")
    with pytest.raises(ResultError, match="transfers none against not timed: measure"):
        compare(cpu(), gpu(False))
    with pytest.raises(ResultError, match="transfers timed against not timed: measure"):
        compare(gpu(True), gpu(False))
    assert compare(gpu(True), gpu(False), allow=("transfers",)).depths


def test_what_is_compared_is_listed() -> None:
    b = known(
        subject={
            "runtime": "openvino",
            "precision": "int8",
            "layout": "gated",
            "weights": "shared",
            "artifacts": {"gated": "e" * 64},
            "source_sha256": "f" * 64,
        },
        host={"processor": "AMD EPYC", "packages": {"openvino": "2026.0", "numpy": "2.1.0"}},
    )
    compared = {item.name: (item.a, item.b) for item in compare(known(), b).compared}
    assert compared == {
        "checkpoint sha256": ("a" * 12, "f" * 12),
        "runtime": ("onnxruntime", "openvino"),
        "device": ("Intel Xeon Platinum 8481C", "AMD EPYC"),
        "precision": ("fp32", "int8"),
        "layout": ("stages", "gated"),
        "weights": ("none", "shared"),
        "sha256 of stages": ("b" * 12, "none"),
        "sha256 of gated": ("none", "e" * 12),
        "processor": ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "AMD EPYC"),
        "onnxruntime": ("1.23.0", "none"),
        "openvino": ("none", "2026.0"),
    }
    assert compare(known(), known()).compared == []
    assert "nothing differs" in comparison_notes(compare(known(), known()))[0]


def test_a_known_ratio_is_found() -> None:
    a, b = known(1.25), known(1.0)
    found = compare(a, b)
    assert [row.depth for row in found.depths] == [BASE, SUPER]
    for row, ours, theirs in zip(found.depths, a.depths, b.depths, strict=True):
        assert row.ratio.value == pytest.approx(1.25, rel=1e-5)
        assert row.words == "B is 1.25x faster"
        assert (row.a_ms, row.b_ms) == (ours.latency.median_ms, theirs.latency.median_ms)
        samples = [np.asarray(side.samples.latency_ns, float) for side in (ours, theirs)]
        assert row.ratio == ratio_of_medians(samples[0], samples[1], paired=False)
        assert row.ratio.low is not None
        assert row.ratio.high is not None
        assert 1.2 < row.ratio.low < 1.25 < row.ratio.high < 1.3
    assert {row.words for row in compare(b, a).depths} == {"A is 1.25x faster"}
    assert {row.words for row in compare(a, a).depths} == {"no difference seen"}


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (Estimate(value=1.2, low=1.1, high=1.3), "B is 1.20x faster"),
        (Estimate(value=0.8, low=0.7, high=0.9), "A is 1.25x faster"),
        (Estimate(value=1.2, low=1.0, high=1.4), "no difference seen"),
        (Estimate(value=0.9, low=0.8, high=1.0), "no difference seen"),
        (Estimate(value=1.2), "too few samples to say"),
    ],
)
def test_words(ratio: Estimate, words: str) -> None:
    one = Estimate(value=1.0)
    assert DepthComparison(BASE, one, one, ratio, GOOD, GOOD).words == words


def test_latency_counts_from_when_a_request_was_due() -> None:
    def late(result: BenchResult, by_ns: int) -> BenchResult:
        depths = []
        for depth in result.depths:
            due = [start - by_ns for start in depth.samples.started_ns]
            samples = depth.samples.model_copy(update={"scheduled_ns": due})
            depths.append(depth.model_copy(update={"samples": samples}))
        return result.model_copy(update={"depths": depths})

    a = fake_result({BASE: [10.0] * 20})
    (row,) = compare(late(a, 10_000_000), a).depths
    assert row.ratio.value == pytest.approx(2.0)


def test_too_few_samples_give_no_interval() -> None:
    (row,) = compare(fake_result({BASE: [2.0]}), fake_result({BASE: [1.0]})).depths
    assert row.ratio == Estimate(value=2.0)
    assert row.words == "too few samples to say"


def test_only_common_depths_are_compared() -> None:
    a = fake_result({BASE: [1.0] * 20, SUPER: [2.0] * 20})
    b = fake_result({"FFTT-F-4": [1.0] * 20, SUPER: [2.0] * 20})
    found = compare(a, b)
    assert [row.depth for row in found.depths] == [SUPER]
    assert (found.only_a, found.only_b) == ([BASE], ["FFTT-F-4"])
    assert comparison_notes(found)[-2:] == [f"only in A: {BASE}", "only in B: FFTT-F-4"]
    with pytest.raises(ResultError, match=f"no depth in common: {BASE} against FFFF-F-6"):
        compare(fake_result({BASE: [1.0]}), fake_result({SUPER: [1.0]}), allow=SETTINGS)


def test_verdicts_that_are_not_valid_are_stated() -> None:
    drift = Verdict(word="throttled", reasons=["clock\x1b[31m fell"])
    found = compare(known(), known(verdicts={BASE: drift}, subject={"verified": None}))
    columns, rows = comparison_table(found)
    cells = [dict(zip(columns, row, strict=True)) for row in rows]
    assert [row["verdicts"] for row in cells] == ["A valid, B throttled", "valid"]
    text = "\n".join(comparison_notes(found))
    assert "B is throttled" in text
    assert "B was never verified" in text
    assert "A is" not in text
    assert "\x1b" not in text


def test_the_comparison_is_printed_and_plain_data(capsys: pytest.CaptureFixture[str]) -> None:
    found = compare(known(1.25), known())
    assert isinstance(found, Comparison)
    print_comparison(found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("A: bundle r50")
    assert sum("B is 1.25x faster" in line for line in lines) == 2
    content = json.loads(json.dumps(found.to_json()))
    assert [row["words"] for row in content["depths"]] == ["B is 1.25x faster"] * 2
    assert content["depths"][0]["ratio"]["value"] == pytest.approx(1.25, rel=1e-5)
    assert content["a_verdict"] == {"word": "valid", "reasons": []}
