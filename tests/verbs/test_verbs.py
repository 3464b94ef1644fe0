"""Functions that do what the commands do: the same answers, and the same words for bad input."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import Run

import anydepth_deploy as ad
from anydepth_deploy.bench.combinations import Request
from anydepth_deploy.bench.options import Options
from anydepth_deploy.building import build as building
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.calibration.rules import KeepingRules
from anydepth_deploy.errors import BundleError, ImageError, MissingExtraError, UsageError
from anydepth_deploy.families.shared.settling import Said
from anydepth_deploy.manifest import BatchProfile
from anydepth_deploy.pictures.shapes import write_coco
from anydepth_deploy.suppression import Suppression
from anydepth_deploy.verbs import benchmark as benchmarking
from anydepth_deploy.verbs import export as exporting


def test_parity(bundle_copy: Path, checkpoint: Path, run: Run) -> None:
    """The command finds the same."""
    report = ad.verify(bundle_copy, checkpoint, depth="base", layout="set", threads=1, record=False)
    assert report.passed
    assert [row.depth for row in report.rows] == [str(ad.open_bundle(bundle_copy).table.space.base)]
    words = ("--depth", "base", "--layout", "set", "--threads", 1, "--json")
    told = run("verify", bundle_copy, "--checkpoint", checkpoint, *words).json
    assert told["passed"]
    assert json.loads(json.dumps(report.to_json()["rows"])) == told["rows"]


def test_average_precision(bundle_copy: Path, tmp_path: Path, run: Run) -> None:
    data = write_coco(tmp_path / "shapes", 4, 0)
    rows = ad.evaluate(bundle_copy, data, depth="base,super", layout="set", match_by_rank=True)
    words = ("--depth", "base,super", "--layout", "set", "--match-by-rank", "--json")
    told = run("eval", bundle_copy, "--data", data, *words).json
    found = [dataclasses.asdict(row) for row in rows]
    for plain in found:
        plain["classes"] = [
            {"class": item["name"], "ap": _or_null(item["ap"]), "objects": item["objects"]}
            for item in plain["classes"]
        ]
    assert [{key: _or_null(value) for key, value in plain.items()} for plain in found] == told[
        "rows"
    ]
    opened = ad.open_bundle(bundle_copy)
    before = opened.manifest.results["eval"]
    moved = data.rename(tmp_path / "moved.json")
    options: dict[str, Any] = {"depth": "base", "match_by_rank": True, "record": False}
    (row,) = ad.evaluate(opened, moved, tmp_path / "shapes", precision="all", **options)
    assert row.depth == rows[0].depth
    assert ad.open_bundle(bundle_copy).manifest.results["eval"] == before
    with pytest.raises(ImageError, match="do not exist"):
        ad.evaluate(opened, data)


def test_latency(bundle_copy: Path, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"duration": 0.0, "count": 3, "warmup": 0.0, "warmup_count": 1}
    found = ad.benchmark(
        ad.open_bundle(bundle_copy),
        tmp_path / "out",
        depth="base",
        batch=[1, 2],
        threads=1,
        **quick,
    )
    assert [result.settings.batch for result in found] == [1, 2]
    assert [result.settings.threads for result in found] == [1, 1]
    assert len(list((tmp_path / "out").glob("*.json"))) == 2


def test_settings_of_a_benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each goes where it belongs: one or several, of the request or of its options."""
    asked: list[Request] = []

    def bench_all(request: Request, *_: Any, **__: Any) -> list[Any]:
        asked.append(request)
        return []

    monkeypatch.setattr(benchmarking, "bench_all", bench_all)
    ad.benchmark("there", runtime="openvino", precision=["fp32", "int8"], threads=[1, None])
    ad.benchmark("there", layout="set", scenario="poisson", rate=3.0, streams=2, pictures=5)
    assert asked[0] == Request(
        Path("there"), runtimes=("openvino",), precisions=["fp32", "int8"], threads=[1, None]
    )
    assert asked[1] == Request(
        Path("there"),
        layout="set",
        streams=(2,),
        pictures=5,
        options=Options(scenario="poisson", rate=3.0),
    )
    with pytest.raises(TypeError, match="unexpected keyword argument 'durations'"):
        ad.benchmark("there", durations=3)


def test_exports(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    asked: list[Any] = []

    def export_bundle(*words: Any, **options: Any) -> Bundle:
        asked.append((words, options))
        return bundle

    monkeypatch.setattr(exporting, "export_bundle", export_bundle)
    assert ad.export("c.pth", "out", depth="base", precision=["fp16"]) is bundle
    assert asked == [(("c.pth", "out"), {"depth": "base", "precision": ["fp16"]})]


def test_engines(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        building, "build_bundle", lambda path, **options: asked.append((path, options))
    )
    ad.build(bundle, "tensorrt", layouts=["set"])
    ad.build("there", runtime="tensorrt-rtx", capabilities=["sm75"])
    assert asked == [
        (bundle.path, {"runtime": "tensorrt", "layouts": ["set"]}),
        ("there", {"runtime": "tensorrt-rtx", "capabilities": ["sm75"]}),
    ]
    monkeypatch.setitem(sys.modules, "anydepth_deploy.building.build", None)
    with pytest.raises(ModuleNotFoundError):  # of ours: no extra brings it
        ad.build(bundle, "tensorrt")
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "anydepth_deploy.building.build")
    monkeypatch.setattr("builtins.__import__", _without(__import__, "onnx_ir"), raising=True)
    with pytest.raises(MissingExtraError, match=r"anydepth-deploy\[tensorrt\]"):
        ad.build(bundle, "tensorrt")


def _without(original: Any, package: str) -> Any:
    def found(name: str, *rest: Any, **options: Any) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named '{package}'", name=package)
        return original(name, *rest, **options)

    return found


def test_what_is_refused(bundle: Bundle, checkpoint: Path, tmp_path: Path) -> None:
    for error, told, call in (
        (
            UsageError,
            "golden outputs are of pictures of their own: leave the pictures out",
            lambda: ad.verify(bundle, images=tmp_path),
        ),
        (
            UsageError,
            "engines are compared with the graphs of their bundle, or its golden outputs: leave",
            lambda: ad.verify(bundle, checkpoint, runtime="tensorrt"),
        ),
        (UsageError, "unknown runtime", lambda: ad.verify(bundle, checkpoint, runtime="abacus")),
        (
            ImageError,
            "neither a picture nor a folder",
            lambda: ad.verify(bundle, checkpoint, images=tmp_path / "none.png"),
        ),
        (BundleError, "does not exist", lambda: ad.evaluate(tmp_path / "none", "val.json")),
        (
            BundleError,
            "has no artifact 'int8",
            lambda: ad.evaluate(bundle, "val.json", precision=["fp32", "int8"]),
        ),
    ):
        with pytest.raises(error, match=told) as caught:
            call()
        assert "\n" not in str(caught.value)


# --- one name for one thing --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"layout": "gated,set"}, {"layouts": ["gated", "set"]}),
        ({"layouts": ["set"]}, {"layouts": ["set"]}),
        ({"precision": "fp32, fp16"}, {"precision": ["fp32", "fp16"]}),
        ({"target": "tensorrt"}, {"targets": ["tensorrt"]}),
        ({"targets": ["tensorrt"]}, {"targets": ["tensorrt"]}),
        ({"weights": "folded"}, {"weights": ["folded"]}),
        ({"size": "384x640"}, {"input_size": (384, 640)}),
        ({"size": 320}, {"input_size": (320, 320)}),
        ({"size": (64, 96)}, {"input_size": (64, 96)}),
        ({"input_size": (64, 96)}, {"input_size": (64, 96)}),
        ({"keep": "layer1,*Conv_3"}, {"rules": KeepingRules(keep=("layer1", "*Conv_3"))}),
        ({"max_error": 0.2, "keep": ["a"]}, {"rules": KeepingRules(keep=("a",), max_error=0.2)}),
        ({"nms": "host"}, {"suppression": Suppression(where="host")}),
        ({"nms_iou": 0.5}, {"suppression": Suppression(iou_threshold=0.5)}),
        ({"sampling": "discrete"}, {"said": Said(sampling="discrete")}),
        ({"depth": "base", "force": True}, {"depth": "base", "force": True}),
    ],
)
def test_names_of_an_export(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, given: dict[str, Any], meant: dict[str, Any]
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(exporting, "export_bundle", lambda *_, **options: asked.append(options))
    ad.export("c.pth", "out", **given)
    assert asked == [meant]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"layout": "set"}, {"layouts": ["set"]}),
        ({"target": "t4,l4"}, {"capabilities": ["t4", "l4"]}),
        ({"precision": "fp16"}, {"precision": ["fp16"]}),
        ({"batch": "1,4,16"}, {"batch": BatchProfile(smallest=1, typical=4, largest=16)}),
        ({"batch": 4}, {"batch": BatchProfile(smallest=4, typical=4, largest=4)}),
        ({"batch": (1, 8)}, {"batch": BatchProfile(smallest=1, typical=1, largest=8)}),
        ({"workspace": "2GiB"}, {"workspace": 2 << 30}),
        ({"workspace": 5}, {"workspace": 5}),
    ],
)
def test_names_of_a_build(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], meant: dict[str, Any]
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(building, "build_bundle", lambda *_, **options: asked.append(options))
    ad.build("there", "tensorrt-rtx", **given)
    assert asked == [{"runtime": "tensorrt-rtx", **meant}]


def test_names_of_a_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []

    def bench_all(request: Request, *_: Any, **__: Any) -> list[Any]:
        asked.append(request)
        return []

    monkeypatch.setattr(benchmarking, "bench_all", bench_all)
    ad.benchmark(
        "c.pth",
        precision="fp32,fp16",
        size="64x96",
        mix="base=3,super=1",
        percentiles="50,99",
        images="street",
        sampling="discrete",
    )
    assert asked == [
        Request(
            Path("c.pth"),
            precisions=("fp32", "fp16"),
            size=(64, 96),
            images=Path("street"),
            said=Said(sampling="discrete"),
            options=Options(mix={"base": 3.0, "super": 1.0}, percentiles=(50.0, 99.0)),
            runtimes=(),
        )
    ]


def test_two_names_of_one_thing() -> None:
    for call in (
        lambda: ad.export("c.pth", "out", layout="set", layouts=["set"]),
        lambda: ad.export("c.pth", "out", size=64, input_size=(64, 64)),
        lambda: ad.export("c.pth", "out", nms="host", suppression=Suppression(where="host")),
        lambda: ad.build("there", "tensorrt", target="t4", capabilities=["sm75"]),
    ):
        with pytest.raises(TypeError):
            call()


PYTHON_ONLY = {"record", "progress", "note"}
COMMAND_ONLY = {"json", "every", "ladder_out", "strict", "format", "workspace", "timing_cache"}
BUILT = {"format", "batch", "workspace", "timing_cache"}
"""Options of ``export`` that are those of ``build``."""


@pytest.mark.parametrize(
    ("module", "verb"),
    [("export", ad.export), ("build", ad.build), ("bench", ad.benchmark),
     ("verify", ad.verify), ("evaluate", ad.evaluate)],
)  # fmt: skip
def test_every_option_of_a_command_is_an_argument_of_its_verb(module: str, verb: Any) -> None:
    """By signature where a verb names its arguments, else by what it says of them."""
    command = importlib.import_module(f"anydepth_deploy.commands.{module}")
    options = {*inspect.signature(getattr(command, module)).parameters} - COMMAND_ONLY
    options -= BUILT if module == "export" else set()
    taken = {*inspect.signature(verb).parameters}
    if "options" in taken or "settings" in taken:
        names = {*Request.__annotations__, *Options.__annotations__, *Said.__annotations__}
        taken |= {*re.findall(r"``([a-z_]+)``", verb.__doc__)} | names
    assert options - taken == set()


@pytest.mark.parametrize(("name", "also"), [("eval", "evaluate"), ("bench", "benchmark")])
def test_commands_by_the_names_of_verbs(run: Run, name: str, also: str) -> None:
    assert run(also, "--help").out == run(name, "--help").out
    assert f"\n  {also} " not in run("--help").out


def _or_null(value: object) -> object:
    """What stands for a figure that the data does not have: -1 in Python, null in JSON."""
    return None if value == -1 else value
