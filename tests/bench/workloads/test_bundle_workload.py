"""Bundles under measurement: what is timed is the depth that was asked for, and only what can be
trusted is timed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RUNGS
from fake_bench import FakeSensor
from PIL import Image

from anydepth_deploy.bench.combinations import Request, bench_all, result_name
from anydepth_deploy.bench.options import Options
from anydepth_deploy.bench.results import BenchResult, Scope, read_result
from anydepth_deploy.bench.run import run_bench
from anydepth_deploy.bench.workloads.bundle import BundleWorkload
from anydepth_deploy.bench.workloads.pictures import Batches, load_batches
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.choose import Choice
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.depth import Depth
from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import BundleError, DepthError, ImageError, UsageError
from anydepth_deploy.pictures.images import Preprocess
from anydepth_deploy.runtimes.registry import RUNTIMES

QUICK = Options(duration=0.0, count=12, warmup=0.0, warmup_count=1)


def inputs(batch: int = 1, count: int = 4) -> Callable[[Preprocess], Batches]:
    return lambda recipe: load_batches(recipe, batch, count=count)


def opened(bundle: Bundle, scope: Scope = "detections", batch: int = 1, **choice: Any) -> Any:
    return BundleWorkload(bundle, Choice(**{"threads": 1, **choice}), inputs(batch), scope)


def both(request: pytest.FixtureRequest) -> list[Bundle]:
    return [request.getfixturevalue(name) for name in ("bundle", "yolo_bundle")]


@pytest.mark.parametrize("layout", ["gated", "set"])
@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_timed_is_the_depth(
    request: pytest.FixtureRequest, layout: str, batch: int
) -> None:
    """Every call gives what a session of its own gives for the same pictures and depth."""
    for found in both(request):
        workload = opened(found, batch=batch, layout=layout)
        workload.load(found.table.ladder)
        session = found.session(artifact=layout, threads=1)
        seen = []
        for depth in found.table.ladder:
            for item, images in enumerate(workload.batches.prepared):
                result = workload.call(depth)(item)
                expected = session.run(images, depth)
                assert images.shape[0] == batch
                assert np.array_equal(result.scores, expected.scores)
                assert np.array_equal(result.boxes, expected.boxes)
                seen.append(result.scores)
        assert not np.array_equal(seen[0], seen[-1])
        workload.close()


def test_raw_outputs_and_whole_pictures(request: pytest.FixtureRequest) -> None:
    for found in both(request):
        session = found.session(artifact="gated", threads=1, raw=True)
        depth = found.table.ladder[0]
        raw = opened(found, "raw")
        raw.load([depth])
        images = raw.batches.prepared[1]
        for name, array in session.run_raw(images, depth).items():
            assert np.array_equal(raw.call(depth)(1)[name], array)
        whole = opened(found, "pictures")
        whole.load([depth])
        (boxes,) = whole.call(depth)(1)
        prepared, geometries = whole.batches.prepare(1)
        expected = geometries[0].to_picture(session.run(prepared, depth).boxes[0])
        assert np.array_equal(boxes, expected)


def test_boundaries_are_said(request: pytest.FixtureRequest) -> None:
    detr, yolo = both(request)
    assert opened(detr).boundaries()["suppression"] == "none needed"
    assert opened(yolo).boundaries()["suppression"] == "timed, in the graph"
    assert opened(yolo, "raw").boundaries()["suppression"] == "not run"
    for found in (detr, yolo):
        assert opened(found).boundaries()["pre-processing"] == "not timed"
        assert opened(found, "pictures").boundaries()["pre-processing"] == "timed"
        assert opened(found).boundaries()["copies to the device"] == "none (host memory)"


def with_results(bundle: Bundle, **results: list[dict[str, Any]]) -> Bundle:
    return Bundle(bundle.path, bundle.manifest.model_copy(update={"results": results}))


def verified(bundle: Bundle, *, passed: bool, when: str = "2025", **changes: Any) -> dict[str, Any]:
    tried = [
        {"name": item.name, "sha256": item.sha256, "precision": "fp32", "passed": passed}
        for item in bundle.artifacts()
    ]
    return {"when": when, "runtime": "onnxruntime", "artifacts": tried, **changes}


def test_an_artifact_that_failed_verify_is_not_timed(bundle: Bundle) -> None:
    failed = with_results(bundle, verify=[verified(bundle, passed=False)])
    with pytest.raises(BundleError, match=r"gated-fp32-shared .* failed 'verify'.* again"):
        opened(failed)
    # A newer comparison counts, and so does what was computed by something else.
    later = verified(bundle, passed=True, when="2026")
    repaired = with_results(bundle, verify=[verified(bundle, passed=False), later])
    assert opened_subject(repaired).verified == "2026"
    elsewhere = verified(bundle, passed=False, runtime="openvino")
    assert opened_subject(with_results(bundle, verify=[elsewhere])).verified is None
    worse = with_results(bundle, verify=[later, verified(bundle, passed=False)])
    with pytest.raises(BundleError, match="failed 'verify'"):
        opened(worse)


def opened_subject(bundle: Bundle) -> Any:
    workload = opened(bundle)
    workload.load(bundle.table.ladder[:1])
    return workload.subject()


def test_what_was_never_verified_is_said(bundle: Bundle) -> None:
    assert opened_subject(with_results(bundle)).verified is None
    other = verified(bundle, passed=True)
    for item in other["artifacts"]:
        item["sha256"] = "0" * 64
    assert opened_subject(with_results(bundle, verify=[other])).verified is None


def test_accuracy_is_that_of_the_very_artifact(bundle: Bundle) -> None:
    depth = bundle.table.ladder[0]
    (item,) = bundle.artifacts("gated", weights="shared")

    def evaluated(sha: str, ap: float, precision: str = "fp32") -> dict[str, Any]:
        return {
            "precision": precision,
            "artifacts": [{"name": "a", "sha256": sha}],
            "data": "val.json",
            "pictures": 50,
            "rows": [{"depth": str(depth), "ap": ap}],
        }

    found = with_results(
        bundle,
        eval=[
            evaluated(item.sha256, 10.0),
            evaluated(item.sha256, 20.0),
            evaluated("0" * 64, 30.0),
            evaluated(item.sha256, 40.0, "bf16"),
        ],
    )
    accuracy = opened(found).accuracy(depth)
    assert (accuracy.ap, accuracy.data, accuracy.pictures) == (20.0, "val.json", 50)
    assert opened(found).accuracy(bundle.table.ladder[1]) is None


def test_accuracy_is_of_one_data_set(bundle: Bundle) -> None:
    base, _, *rest = depths = bundle.table.ladder
    (item,) = bundle.artifacts("gated", weights="shared")

    def evaluated(data: str, ap: dict[Any, float], **more: Any) -> dict[str, Any]:
        return {
            "precision": "fp32",
            "artifacts": [{"name": "a", "sha256": item.sha256}],
            "data": data,
            "pictures": 50,
            "rows": [{"depth": str(depth), "ap": value} for depth, value in ap.items()],
            **more,
        }

    def shown(*records: dict[str, Any]) -> list[tuple[str, float, str | None] | None]:
        workload = opened(with_results(bundle, eval=list(records)))
        workload.load(depths)
        found = [workload.accuracy(depth) for depth in depths]
        workload.close()
        return [row and (row.data, row.ap, row.data_sha256) for row in found]

    every = {depth: 10.0 + place for place, depth in enumerate(depths)}
    whole = evaluated("val.json", every, data_sha256="a" * 64)
    part = evaluated("val.json", {base: 90.0}, data_sha256="b" * 64)
    assert shown(whole, part) == [("val.json", every[depth], "a" * 64) for depth in depths]
    # Of as many depths, the newest; of one data set, each depth's newest.
    again = evaluated("val.json", dict.fromkeys(depths, 50.0), data_sha256="b" * 64)
    assert shown(again, whole)[0] == ("val.json", every[base], "a" * 64)
    assert shown(whole, again, part)[:2] == [
        ("val.json", 90.0, "b" * 64),
        ("val.json", 50.0, "b" * 64),
    ]
    # Without a hash, by name and number of pictures.
    old = evaluated("old.json", {base: 1.0, rest[0]: 2.0})
    fewer = evaluated("old.json", {base: 3.0}, pictures=7)
    found = shown(old, fewer)
    assert (found[0], found[1]) == (("old.json", 1.0, None), None)
    # What is no evaluation is passed over.
    assert shown({"ap": 1.0}, {**old, "rows": None}, {**old, "artifacts": [1]}) == [None] * len(
        depths
    )


def test_a_depth_that_no_static_graph_holds_is_refused(bundle: Bundle) -> None:
    missing = bundle.table.rows[-1]
    workload = opened(bundle, layout="set")
    with pytest.raises(BundleError, match=rf"no static graph of depth {missing}; it has .*--depth"):
        workload.load([missing])


def test_transfers_are_not_there_on_a_processor(bundle: Bundle) -> None:
    for transfers in (True, False):
        with pytest.raises(UsageError, match="not there on a CPU"):
            BundleWorkload(bundle, Choice(), inputs(), "detections", transfers=transfers)


def test_predictions_without_suppression_are_measured_raw(yolo_bundle: Bundle) -> None:
    rule = yolo_bundle.manifest.suppression
    assert rule is not None
    none = rule.model_copy(update={"where": "none"})
    manifest = yolo_bundle.manifest.model_copy(update={"suppression": none})
    found = Bundle(yolo_bundle.path, manifest)
    workload = opened(found)
    with pytest.raises(UsageError, match="measure it with --scope raw"):
        workload.load(found.table.ladder)


def test_a_batch_that_engines_do_not_take_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anydepth_deploy.manifest import BatchProfile

    workload = opened(bundle, batch=3)
    session = bundle.session()
    session.batch = BatchProfile(smallest=1, typical=1, largest=2)
    monkeypatch.setattr(Bundle, "session", lambda *_, **__: session)
    with pytest.raises(UsageError, match=r"a batch of 3: the engines of .* take 1 to 2"):
        workload.load(bundle.table.ladder)


# Inputs


def test_pictures_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    recipe = Preprocess(size=(64, 96))
    for index in range(6):
        picture = np.random.default_rng(index).integers(0, 256, (50, 70 + index, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    one = load_batches(recipe, 2, source=tmp_path, count=4, seed=1)
    same = load_batches(recipe, 2, source=tmp_path, count=4, seed=1)
    other = load_batches(recipe, 2, source=tmp_path, count=4, seed=2)
    assert one.inputs == same.inputs
    assert one.inputs.sha256 != other.inputs.sha256
    assert [batch.shape for batch in one.prepared] == [(2, 3, 64, 96)] * 2
    assert all(np.array_equal(a, b) for a, b in zip(one.prepared, same.prepared, strict=True))


@pytest.mark.parametrize(
    ("batch", "count", "batches"), [(1, 3, 3), (2, 5, 2), (4, 4, 1), (5, 2, 1)]
)
def test_batches_of_few_pictures(batch: int, count: int, batches: int) -> None:
    found = load_batches(Preprocess(size=(64, 64)), batch, count=count)
    assert len(found) == batches
    assert {images.shape for images in found.prepared} == {(batch, 3, 64, 64)}
    assert found.inputs.count == count
    assert found.inputs.source == "generated"
    assert all(images.std() > 0.05 for images in found.prepared)


def test_pictures_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="holds no picture"):
        load_batches(Preprocess(size=(64, 64)), 1, source=tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"a\.png"):
        load_batches(Preprocess(size=(64, 64)), 1, source=tmp_path)


# Runs and files


def test_a_bundle_end_to_end(bundle_copy: Path, tmp_path: Path) -> None:
    seen: list[Path] = []
    request = Request(bundle_copy, threads=(1,), options=QUICK, pictures=2)
    found = bench_all(request, tmp_path / "results", each=lambda path, result: seen.append(path))
    ((path, result),) = found
    assert seen == [path]
    assert read_result(path) == result
    assert path.parent == tmp_path / "results"
    assert [row.depth for row in result.depths] == list(RUNGS)
    assert {row.latency.count for row in result.depths} == {12}
    assert result.subject.artifacts == {
        item.name: item.sha256
        for item in open_bundle(bundle_copy).artifacts("gated", weights="shared")
    }
    assert result.settings.threads == 1
    assert result.memory.loaded is None or result.memory.loaded > 0
    (record,) = open_bundle(bundle_copy).manifest.results["bench"]
    assert [row["depth"] for row in record["rows"]] == list(RUNGS)
    assert all("samples" not in row for row in record["rows"])
    assert str(tmp_path) not in json.dumps(record)


def test_all_combinations_each_in_a_file(bundle_copy: Path, tmp_path: Path) -> None:
    request = Request(
        bundle_copy,
        depth="base,super",
        runtimes=("onnxruntime", "openvino"),
        batches=(1, 2),
        threads=(1,),
        pictures=2,
        options=QUICK,
    )
    found = bench_all(request, tmp_path / "results")
    assert [(result.subject.runtime, result.settings.batch) for _, result in found] == [
        ("onnxruntime", 1),
        ("onnxruntime", 2),
        ("openvino", 1),
        ("openvino", 2),
    ]
    assert len({path for path, _ in found}) == 4
    assert sorted((tmp_path / "results").iterdir()) == sorted(path for path, _ in found)


def test_file_names_say_what_was_measured(bundle: Bundle) -> None:
    workload = opened(bundle)
    result = run_bench(workload, bundle.table.ladder, QUICK, sensors=[FakeSensor()], threads=1)
    name = result_name(result)
    assert name.startswith("tiny_onnxruntime_fp32_gated_single_interleaved_b1_t1_20")
    assert name.endswith(".json")
    strange = result.model_copy(
        update={"subject": result.subject.model_copy(update={"name": "../ä b\n/c"})}
    )
    assert "/" not in result_name(strange)
    assert not result_name(strange).startswith(".")
    assert result_name(strange).isprintable()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"runtimes": ("tensorflow",)}, "tensorflow"),
        ({"runtimes": ("torch",)}, "'torch' runs checkpoints"),
        ({"runtimes": ("onnxruntime", "onnxruntime")}, "something twice"),
        ({"precisions": ()}, "names nothing"),
        ({"precisions": ("int4",)}, "unknown precision 'int4'"),
        ({"device": "cuda"}, "--device is for torch"),
        ({"size": (64, 64)}, "--size is for checkpoints"),
        ({"transfers": False}, "not there on a CPU"),
        ({"lock_clocks": 1200}, "cpupower"),
    ],
)
def test_requests_that_make_no_sense(
    bundle: Bundle, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    before = (bundle.path / MANIFEST).read_bytes()
    with pytest.raises(UsageError, match=told) as caught:
        bench_all(replace(Request(bundle.path, options=QUICK), **changes), tmp_path / "results")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "results").exists()
    assert (bundle.path / MANIFEST).read_bytes() == before


def test_unknown_depths(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(DepthError, match="unknown depth 'XXXX'"):
        bench_all(Request(bundle.path, depth="XXXX", options=QUICK), tmp_path)
    with pytest.raises(DepthError, match="level:9"):
        bench_all(Request(bundle.path, depth="level:9", options=QUICK), tmp_path)


def test_places_for_results(bundle: Bundle, tmp_path: Path) -> None:
    request = Request(bundle.path, batches=(1, 2), options=QUICK)
    with pytest.raises(UsageError, match=r"is one file for 2 results: give a folder"):
        bench_all(request, tmp_path / "a.json")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match=r"is a file: expected a folder"):
        bench_all(request, tmp_path / "file")


def test_combinations_that_do_not_go_together_are_found_before_anything_runs(
    bundle: Bundle, tmp_path: Path
) -> None:
    request = Request(bundle.path, streams=(1, 2), options=QUICK)
    with pytest.raises(UsageError, match="scenario single has one stream"):
        bench_all(request, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_every_runtime_says_where_it_computes() -> None:
    on_host = {name for name, row in RUNTIMES.items() if not row.on_device}
    assert on_host == {"onnxruntime", "openvino"}


class Recorder:
    """Stands for a session and counts."""

    detects, batch, captured = True, None, None

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.memory: dict[str, Any] = {}

    def load(self, depths: Any) -> None:
        pass

    def run(self, images: Any, depth: Depth) -> Detections:
        self.ran.append(str(depth))
        return Detections(
            np.zeros((1, 1), np.int64),
            np.zeros((1, 1, 4), np.float32),
            np.zeros((1, 1), np.float32),
        )

    def close(self) -> None:
        self.ran.append("closed")


def test_a_session_is_closed_after_the_run(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Recorder()
    monkeypatch.setattr(Bundle, "session", lambda *_, **__: session)
    result: BenchResult = run_bench(opened(bundle), bundle.table.ladder, QUICK)
    assert session.ran[-1] == "closed"
    assert session.ran.count(str(bundle.table.ladder[0])) == 12 + 2
    assert result.overall.requests == 12 * len(bundle.table.ladder)
