"""Merged tables: the rows, what they leave out, and every form they are written in."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from bench_results import fake_result, four_networks, network_result

from anydepth_deploy.annotations.evaluations import DataSet
from anydepth_deploy.bench.report.accuracies import main_data_set
from anydepth_deploy.bench.report.facts import common, device_name, facts, labels
from anydepth_deploy.bench.report.formats import (
    print_report,
    to_csv,
    to_json,
    to_markdown,
    write_report,
)
from anydepth_deploy.bench.report.merge import (
    arrange,
    interval,
    milliseconds,
    notes,
    raw_rows,
    report_table,
)
from anydepth_deploy.bench.results import Accuracy, BenchResult, Estimate, Verdict
from anydepth_deploy.bench.sensors.state import Device
from anydepth_deploy.commands.bench import depth_table
from anydepth_deploy.errors import ResultError, UsageError

BASE, SUPER = "TTTT-T-4", "FFFF-F-6"
ESCAPE = "\x1b[31mred\x1b[0m"


def known(**changes: Any) -> BenchResult:
    """Two depths with medians of 10 and 15 ms, 40 and 60 billion multiply-adds."""
    return fake_result(
        {BASE: [9.0, 10.0, 11.0] * 10, SUPER: [15.0] * 30},
        macs={BASE: 40 * 10**9, SUPER: 60 * 10**9},
        **changes,
    )


def gpu(name: str = "NVIDIA GeForce RTX 3090", **changes: Any) -> BenchResult:
    return known(
        subject={"runtime": "tensorrt", "device": "cuda", "precision": "fp16", "layout": None},
        settings={"transfers": True},
        devices=[Device(kind="nvidia", name=name), Device(kind="cpu", name="Xeon")],
        **changes,
    )


def as_dicts(results: list[BenchResult]) -> list[dict[str, object]]:
    columns, rows = report_table(results)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def test_one_row_for_each_result_and_depth() -> None:
    rows = as_dicts([known(), gpu()])
    assert [(row["#"], row["depth"]) for row in rows] == [
        ("1", BASE),
        ("1", SUPER),
        ("2", BASE),
        ("2", SUPER),
    ]
    assert rows[0] == {
        "#": "1",
        "network": "anydepth-detr r50",
        "device": "Intel Xeon Platinum 8481C",
        "runtime": "onnxruntime",
        "precision": "fp32",
        "layout": "stages",
        "transfers": "-",
        "depth": BASE,
        "multiply-adds": "40.00 G",
        "median ms": rows[0]["median ms"],
        "p90 ms": "11.00",
        "speed-up": rows[0]["speed-up"],
        "multiply-adds ratio": "1.50x",
        "images/s": "100.0",
        "verdict": "valid",
    }
    assert re.fullmatch(r"10\.00 \[[0-9.]+, [0-9.]+\]", str(rows[0]["median ms"]))
    assert re.fullmatch(r"1\.50x \[1\.\d\d, 1\.\d\d\]", str(rows[0]["speed-up"]))
    assert rows[1]["speed-up"] == "1.00x [1.00, 1.00]"
    assert rows[1]["multiply-adds ratio"] == "1.00x"
    assert rows[2]["device"] == "NVIDIA GeForce RTX 3090"
    assert rows[2]["layout"] == "-"
    assert rows[2]["transfers"] == "timed"


def test_columns_that_no_row_fills_are_left_out() -> None:
    # 30 samples are enough for p90 and too few for p99.
    columns, _ = report_table([known()])
    assert columns == [
        "#",
        "network",
        "device",
        "runtime",
        "precision",
        "layout",
        "depth",
        "multiply-adds",
        "median ms",
        "p90 ms",
        "speed-up",
        "multiply-adds ratio",
        "images/s",
        "verdict",
    ]
    many = fake_result({BASE: [10.0] * 300, SUPER: [15.0] * 30})
    rows = as_dicts([many])
    assert [row["p99 ms"] for row in rows] == ["10.00", "-"]


def test_accuracy_and_energy_have_columns_once_anything_is_known() -> None:
    measured = known(ap={BASE: 50.46}, depth_changes={"energy_per_image_j": 1.25})
    rows = as_dicts([measured, gpu()])
    assert [row["AP"] for row in rows] == ["50.5", "-", "-", "-"]
    assert [row["J/image"] for row in rows] == ["1.250", "1.250", "unknown", "unknown"]
    assert "energy" not in notes(measured)
    assert notes(gpu())["energy"] == "unknown"
    # -1 is how COCO metrics say that there was nothing to find.
    assert "AP" not in report_table([known(ap={BASE: -1.0})])[0]


def on_data(result: BenchResult, *data: tuple[str, int, str | None] | None) -> BenchResult:
    """The result with the AP of its depths measured on these data sets, one each."""
    depths = [
        depth.model_copy(
            update={
                "accuracy": found
                and Accuracy(ap=40.0 + k, data=found[0], pictures=found[1], data_sha256=found[2])
            }
        )
        for k, (depth, found) in enumerate(zip(result.depths, data, strict=True))
    ]
    return result.model_copy(update={"depths": depths})


def test_accuracy_on_different_data_has_a_column_each() -> None:
    val, test = ("val.json", 100, "a" * 64), ("test.json", 20, "b" * 64)
    rows = as_dicts([on_data(known(), val, test), on_data(gpu(), test, None)])
    assert [(row["AP on val.json"], row["AP on test.json"]) for row in rows] == [
        ("40.0", "-"),
        ("-", "41.0"),
        ("-", "40.0"),
        ("-", "-"),
    ]
    assert "AP" not in rows[0]
    # One name, two contents; and results of before hashes were kept.
    other = ("val.json", 100, None)
    columns, _ = report_table([on_data(known(), val, other)])
    assert [name for name in columns if name.startswith("AP")] == [
        "AP on val.json, 100 pictures, sha256 aaaaaaaaaaaa",
        "AP on val.json, 100 pictures, no sha256",
    ]
    assert [row["AP"] for row in as_dicts([on_data(known(), other, other)])] == ["40.0", "41.0"]
    told = notes(on_data(known(), val, other))["accuracy"]
    assert told == (
        "AP on val.json, 100 pictures, sha256 aaaaaaaaaaaa; "
        "AP on val.json, 100 pictures, sha256 unknown"
    )
    assert "accuracy" not in notes(known())
    assert [row["ap_data_sha256"] for row in raw_rows([on_data(known(), val, None)])] == [
        "a" * 64,
        None,
    ]


def test_one_data_set_stands_for_a_result() -> None:
    val, test = ("val.json", 100, "a" * 64), ("test.json", 20, "b" * 64)
    columns, rows = depth_table(on_data(known(), val, val))
    assert [row[columns.index("AP")] for row in rows] == ["40.0", "41.0"]
    columns, rows = depth_table(on_data(known(), test, val))
    assert [row[columns.index("AP")] for row in rows] == ["40.0", "-"]
    assert "AP" not in depth_table(known(ap={BASE: -1.0}))[0]
    older = on_data(known(when="2026-01-01T00:00:00+00:00"), val, None)
    assert main_data_set([older, on_data(known(), test, None)]) == DataSet(*test)
    assert main_data_set([older, on_data(known(), test, val)]) == DataSet(*val)
    assert main_data_set([known()]) is None


def test_without_multiply_adds_there_is_no_ratio() -> None:
    rows = as_dicts(
        [fake_result({BASE: [10.0], SUPER: [15.0]}, macs={BASE: None, SUPER: 6 * 10**9})]
    )
    assert [row["multiply-adds"] for row in rows] == ["-", "6.00 G"]
    assert "multiply-adds ratio" not in rows[0]


def test_settings_are_columns_where_results_differ() -> None:
    rows = as_dicts([known(), known(settings={"batch": 4, "threads": 2})])
    assert [row["batch"] for row in rows] == ["1", "1", "4", "4"]
    assert [row["threads"] for row in rows] == ["-", "-", "2", "2"]
    assert not {"streams", "scenario", "scope", "measured"} & set(rows[0])


def test_duplicates_stand_together_the_newest_last() -> None:
    new = known(when="2026-05-21T00:00:00+02:00")
    older = known(when="2026-05-20T21:59:59Z")
    other = gpu()
    assert arrange([new, other, older]) == [older, new, other]
    assert [row["measured"] for row in as_dicts([new, other, older])][::2] == [
        "2026-05-20T21:59:59Z",
        "2026-05-21T00:00:00+02:00",
        "2026-05-20T12:00:00+00:00",
    ]
    # Two GPUs in the same machine are two machines.
    two = [gpu("A", when="2026-05-22T00:00:00Z"), gpu("B")]
    assert arrange(two) == two
    with pytest.raises(ResultError, match="no results"):
        report_table([])


def test_notes_say_what_the_figures_are_of() -> None:
    reasons = {BASE: Verdict(word="unstable", reasons=["latency drifted"])}
    told = notes(known(verdicts=reasons, subject={"verified": None}))
    assert told["timed"] == "network: timed; suppression: timed; decoding: not timed"
    assert "onnxruntime 1.23.0" in told["host"]
    assert "8 cores" in told["host"]
    assert told["verdict"] == f"unstable: latency drifted. not valid: {BASE}"
    assert told["verified"].startswith("never")
    assert "2026-05-19" in notes(known())["verified"]
    assert told["inputs"] == f"16 pictures (pictures), sha256 {'c' * 12}"
    assert (
        "clocks held at 1590 MHz"
        in notes(known(settings={"locked_clocks": "1590 MHz"}))["settings"]
    )
    assert "clocks" not in told["settings"]
    assert "random" not in " ".join(told.values())


def test_a_reason_of_one_depth_only_is_said_there() -> None:
    result = known(verdicts={BASE: Verdict(word="unstable", reasons=["latency drifted"])})
    quiet = result.model_copy(update={"verdict": Verdict(word="unstable")})
    assert f"{BASE} unstable: latency drifted" in notes(quiet)["verdict"]


def test_csv_holds_every_figure_unrounded() -> None:
    name = 'a "b", c;\nd'
    results = [known(subject={"name": name}), gpu()]
    read = list(csv.reader(io.StringIO(to_csv(results))))
    assert len(read) == 1 + 4
    assert all(len(line) == len(read[0]) for line in read)
    assert len(set(read[0])) == len(read[0])
    first = dict(zip(read[0], read[1], strict=True))
    depth = results[0].depths[0]
    assert float(first["median_ms"]) == depth.latency.median_ms.value
    assert float(first["median_low_ms"]) == depth.latency.median_ms.low
    assert depth.speedup is not None
    assert float(first["speedup_high"]) == depth.speedup.high
    assert first["p90_ms"] == "11.0"
    assert first["p99_ms"] == ""
    assert (first["macs"], first["macs_ratio"]) == (str(40 * 10**9), "1.5")
    assert (first["count"], first["batch"], first["threads"]) == ("30", "1", "")
    assert float(first["images_per_second"]) == pytest.approx(100)
    assert first["name"] == ascii(name)  # one line for each row, whatever names hold
    assert [line[read[0].index("device")] for line in read[1:]] == [
        "Intel Xeon Platinum 8481C",
        "Intel Xeon Platinum 8481C",
        "NVIDIA GeForce RTX 3090",
        "NVIDIA GeForce RTX 3090",
    ]


def test_csv_has_the_percentiles_of_all_results() -> None:
    a = fake_result({BASE: [10.0] * 30}, percentiles=(50, 75))
    b = fake_result({BASE: [10.0] * 30}, percentiles=(50, 9.5))
    columns = to_csv([a, b]).splitlines()[0].split(",")
    assert [name for name in columns if re.fullmatch(r"p[\d.]+_ms", name)] == [
        "p9.5_ms",
        "p50_ms",
        "p75_ms",
    ]
    assert [row["p75_ms"] for row in raw_rows([a, b])] == [10.0, None]


def test_markdown_is_a_table_and_notes() -> None:
    results = [known(subject={"config": "a|b<i>"}), gpu()]
    lines = to_markdown(results).splitlines()
    columns, rows = report_table(results)
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(rows)
    for line in table:
        assert len(re.split(r"(?<!\\)\|", line)) == len(columns) + 2
    assert table[1].split(" | ")[columns.index("median ms")] == "---:"
    assert table[1].split(" | ")[columns.index("runtime")] == "---"
    assert "anydepth-detr a\\|b\\<i>" in table[2]
    headings = [line for line in lines if line.startswith("## ")]
    assert headings == ["## All results", "## Result 1", "## Result 2"]
    assert sum(line.startswith("- timed:") for line in lines) == 1


def test_text_says_once_what_all_rows_share(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(four_networks())
    text = capsys.readouterr().out
    assert "All rows: device Intel Xeon Platinum 8481C, runtime onnxruntime" in text
    head = next(line for line in text.splitlines() if "median ms" in line)
    assert head.split()[:3] == ["#", "network", "depth"]
    assert max(len(line) for line in text.splitlines() if " valid" in line) <= 140
    assert text.count("verified:") == 1
    assert sum("1.51x [" in line for line in text.splitlines()) == 1


def test_a_wide_table_becomes_two(capsys: pytest.CaptureFixture[str]) -> None:
    results = [known(), gpu(), known(settings={"batch": 4})]
    print_report(results)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    heads = [line for line in lines if line[:1] == ["#"]]
    assert heads[0][:4] == ["#", "device", "runtime", "precision"]
    assert "batch" in heads[0]
    assert "median" not in heads[0]
    assert heads[1][:3] == ["#", "depth", "MACs"]
    # The first has one row for each result, the second one for each depth, too.
    assert sum(line[:1] == ["2"] for line in lines) == 1 + 2


def test_names_do_not_reach_the_terminal_as_commands(capsys: pytest.CaptureFixture[str]) -> None:
    result = known(
        subject={"name": ESCAPE, "config": ESCAPE, "runtime": ESCAPE, "layout": f"a\n{ESCAPE}"},
        host={"processor": ESCAPE, "system": ESCAPE, "packages": {ESCAPE: "1\r"}},
        boundaries={ESCAPE: ESCAPE},
        inputs={"source": ESCAPE},
        when=ESCAPE,
        verdicts={BASE: Verdict(word="unstable", reasons=[ESCAPE])},
    )
    odd = result.model_copy(
        update={"depths": [d.model_copy(update={"depth": ESCAPE}) for d in result.depths]}
    )
    for style in ("text", "markdown", "csv"):
        write_report([odd, odd, known()], style)
        text = capsys.readouterr().out
        assert "\\x1b[31mred" in text
        assert not [char for char in text if not char.isprintable() and char != "\n"]


def test_json_is_plain_and_holds_all_but_samples() -> None:
    results = [known(), gpu()]
    content = json.loads(json.dumps(to_json(results)))
    assert [row["depth"] for row in content["rows"]] == [BASE, SUPER] * 2
    assert content["rows"][0]["median_ms"] == 10.0
    assert content["results"][1]["subject"]["runtime"] == "tensorrt"
    assert content["results"][0]["boundaries"] == results[0].boundaries
    assert "started_ns" not in json.dumps(content)


def test_reports_are_written_whole_or_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for style in ("text", "markdown", "csv"):
        write_report([known()], style)
        shown = capsys.readouterr().out
        write_report([known()], style, tmp_path / "deep" / style)
        assert (tmp_path / "deep" / style).read_text() == shown
        assert capsys.readouterr().out == ""
    with pytest.raises(UsageError, match="text or markdown or csv"):
        write_report([known()], "html")
    with pytest.raises(ResultError, match="cannot be written"):
        write_report([known()], "csv", tmp_path / "deep" / "csv" / "more")
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == [
        "csv",
        "markdown",
        "text",
    ]


@pytest.mark.parametrize(
    ("processor", "name"),
    [
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "Intel Xeon Platinum 8481C"),
        ("AMD Ryzen 9 5950X 16-Core Processor", "AMD Ryzen 9 5950X"),
        ("Intel(R) Core(TM) i7-10700 CPU @ 2.90GHz", "Intel Core i7-10700"),
        ("Cortex-A78AE", "Cortex-A78AE"),
        ("", "unknown processor"),
    ],
)
def test_processors_have_short_names(processor: str, name: str) -> None:
    assert device_name(known(host={"processor": processor})) == name


def test_labels_name_what_tells_results_apart() -> None:
    assert labels([known()]) == ["anydepth-detr r50"]
    assert labels([known(), gpu()]) == [
        "anydepth-detr r50, Intel Xeon Platinum 8481C, onnxruntime, fp32, layout stages",
        "anydepth-detr r50, NVIDIA GeForce RTX 3090, tensorrt, fp16, transfers timed",
    ]
    assert labels([known(), known(settings={"threads": 2})]) == [
        "anydepth-detr r50, default threads",
        "anydepth-detr r50, threads 2",
    ]
    assert labels([known(), known(subject={"name": "mine"})]) == [
        "anydepth-detr r50, r50",
        "anydepth-detr r50, mine",
    ]
    again = known(when="2026-05-21")
    assert labels([known(), again])[1] == "anydepth-detr r50, 2026-05-21"
    assert labels([known(), known()]) == ["anydepth-detr r50, #1", "anydepth-detr r50, #2"]
    assert set(common([known(), gpu()])) >= {"anydepth-detr r50", "640x640", "batch 1"}
    assert "fp32" not in common([known(), gpu()])
    assert facts(known())["rate"] == "-"


def test_figures_have_four_digits_and_intervals() -> None:
    assert milliseconds(None) == interval(None) == "-"
    shown = [milliseconds(value) for value in (0.12346, 1.23467, 12.347, 123.47)]
    assert shown == ["0.123", "1.235", "12.35", "123.5"]
    assert interval(Estimate(value=12.0)) == "12.00"
    assert interval(Estimate(value=12.0, low=11.5, high=12.5)) == "12.00 [11.50, 12.50]"
    assert interval(Estimate(value=1.5, low=1.25, high=2), "{:.1f}", "x") == "1.5x [1.2, 2.0]"


def test_two_networks_of_the_same_machine_are_two_results() -> None:
    rows = as_dicts([network_result("anydepth-yolo", "s"), network_result("anydepth-detr", "r50")])
    assert len(rows) == 10
    assert rows[0]["multiply-adds ratio"] == "1.44x"  # 11.4 / 7.9
    assert rows[5]["multiply-adds ratio"] == "1.70x"
