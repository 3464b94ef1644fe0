"""Manifests for tests, whole and broken: one table for Python and C++.

Each entry of :data:`BROKEN` says what is wrong with a manifest in the words that both languages
use; :data:`TEXTS` holds what is not even a document. :data:`FIELDS` is what every version has.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from handmade import manifest
from hypothesis import strategies as st

__all__ = [
    "ARTIFACTS",
    "BROKEN",
    "CONTENT",
    "DELETED",
    "FIELDS",
    "PAST",
    "REMEDY",
    "SHA",
    "TEXTS",
    "WHOLE",
    "Broken",
    "artifact",
    "changed",
    "content",
    "edit",
    "engine",
    "measured",
    "mutated_bytes",
    "mutated_values",
    "one_depth",
    "piece",
    "places",
    "quantised",
    "static",
    "verified",
]

PAST = sorted((Path(__file__).parent / "data" / "manifests").glob("*.json"))
"""One manifest of each past format, as the version of that time wrote it."""

REMEDY = "delete the folder and export the bundle again"

CONTENT = b"what a graph would be" * 100
SHA = hashlib.sha256(CONTENT).hexdigest()


def artifact(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "file": f"{name}.onnx",
        "layout": "gated",
        "weights": "shared",
        "opset": 18,
        "bytes": len(CONTENT),
        "sha256": SHA,
        "built_with": {"torch": "2.8"},
        "build_seconds": 1.5,
        "raw": True,
        **changes,
    }


def quantised(target: str) -> dict[str, Any]:
    table = {"file": "t.json", "sha256": "b" * 64, "method": "mse", "pictures": 4}
    table |= {"depths": ["TT-1", "FF-1", "FF-2"]}
    limits = {"max_ratio": 8, "max_error": 0.25}
    return {"precision": "int8", "quantisation": {"target": target, "calibration": table, **limits}}


def engine(*capabilities: str, version: str = "10.3", **changes: Any) -> dict[str, Any]:
    return {
        "format": "tensorrt",
        "precision": "fp16",
        "engine": {
            "source": "gated",
            "source_sha256": SHA,
            "version": version,
            "device": "Orin",
            "capabilities": list(capabilities),
            "batch": {"smallest": 1, "typical": 2, "largest": 4},
            "workspace": None,
            "opset": 18,
            "layers": {"Half": 3},
            **changes,
        },
    }


def verified(passed: bool) -> dict[str, Any]:
    words = {"when": "2025-01-01T00:00:00+00:00", "reference": "gated", "device": "Orin"}
    return {"verified": {**words, "passed": passed, "depths": 8, "batches": [1, 4]}}


def static(depth: str, row: int, **changes: Any) -> dict[str, Any]:
    return {"layout": "set", "depth": depth, "row": row, "level": row, **changes}


def piece(order: int, total: int = 2, **changes: Any) -> dict[str, Any]:
    words = {"order": order, "total": total, "stage": f"s{order}", "variant": "full"}
    when = [{"gate": 0, "runs": True}, {"gate": 2, "layer": 2, "runs": False}] if order else []
    flow = {"reads": {"z": "images", "a": "x"}, "writes": {"y": "x", "b": "out"}}
    return {"layout": "stages", "piece": {**words, "when": when, **flow}, **changes}


def measured(**changes: Any) -> dict[str, Any]:
    """A ladder of the gated graph, of other rungs than the one in use."""
    return {
        "when": "2025-01-01T00:00:00+00:00",
        "device": "Orin",
        "runtime": "onnxruntime",
        "precision": "fp32",
        "layout": "gated",
        "artifacts": [SHA],
        "batch": 1,
        "threads": 2,
        "calls": 100,
        "data": {"kind": "ap", "name": "val.json", "sha256": "c" * 64, "pictures": 50},
        "versions": {"onnxruntime": "1.23.2"},
        "error": 0.7,
        "rungs": [
            {"depth": "TT-1", "milliseconds": 3.5, "p95": 4, "p99": None, "score": 70.5},
            {"depth": "TF-2", "milliseconds": 5.25, "p95": 6, "p99": 7.5, "score": 71},
            {"depth": "FF-2", "milliseconds": 6, "score": 70.75},
        ],
        **changes,
    }


ARTIFACTS = [
    artifact("gated-fp32"),
    artifact("gated-folded", weights="folded", deformable="gridsample"),
    artifact("gated-int8", **quantised("onnxruntime"), quantised=3, kept=[]),
    artifact("gated-trt-int8", **quantised("tensorrt")),
    artifact("base", **static("TT-1", 0)),
    artifact("super", **static("FF-2", 2, deformable="gridsample")),
    artifact("other", **static("TT-1", 0, deformable="gather")),
    artifact("piece-0", **piece(0)),
    artifact("piece-1", **piece(1)),
    artifact("engine-87", **engine("sm87"), **verified(True)),
    artifact("engine-75", **engine("sm75", "sm86"), file="engine_75.plan"),
    artifact("engine-set-1", **static("TT-1", 0, **engine("sm86"))),
    artifact("engine-set-2", **static("FF-2", 2, **engine("sm86", version="10.4"))),
]


def content(**changes: Any) -> dict[str, Any]:
    """A manifest with one artifact of every kind."""
    found = manifest(
        raw_outputs={"predictions": "head.out", "extra": "a"},
        suppression={"where": "host", "score_threshold": 0.01},
        results={"verify": [{"when": "now", "artifacts": [{"a": [1, 2.5, None]}]}]},
        preprocess={"size": (64, 96), "resize": "letterbox", "std": (0.1, 1, 1)},
        artifacts=copy.deepcopy(ARTIFACTS),
        measured=[measured(), measured(device="Xavier", threads=None, error=None)],
        name="cameras",
        exported_classes=["one", "two"],
        golden={
            "file": "golden.bin",
            "bytes": 5,
            "sha256": SHA,
            "pictures": 2,
            "depths": ["TT-1", "FF-2"],
        },
    )
    dumped: dict[str, Any] = {**found.model_dump(mode="json"), **changes}
    return dumped


def one_depth(**changes: Any) -> dict[str, Any]:
    """A manifest of a network without gates."""
    macs = {"total": 7, "all": 7}
    return content(
        gates=[],
        base=[],
        ladder=["full"],
        depths=[{"index": 0, "depth": "full", "level": 0, "macs": macs}],
        artifacts=[
            artifact("gated"),
            artifact("only", **static("full", 0)),
            artifact("piece", **piece(0, total=1)),
        ],
        measured=[measured(rungs=[{"depth": "full", "milliseconds": 2, "score": -1}])],
        **changes,
    )


DELETED = object()


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value below; of lists, but that of artifacts, only to the last item."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = list(enumerate(value))[0 if at == ("artifacts",) else -1 :]
    for key, item in items:
        yield (*at, key)
        yield from places(item, (*at, key))


def changed(whole: Any, at: tuple[Any, ...], value: Any) -> Any:
    found = copy.deepcopy(whole)
    inner = found
    for key in at[:-1]:
        inner = inner[key]
    if value is DELETED:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return found


def edit(at: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    way = tuple(int(word) if word.isdigit() else word for word in at.split("."))
    return lambda whole: changed(whole, way, value)


class Broken(NamedTuple):
    """A manifest that is refused. ``says``: what and where, between the file's name and the advice;
    ``advice``: None where it is the usual one."""

    change: Callable[[dict[str, Any]], Any]
    says: str
    advice: str | None = None


def put(at: str, value: Any, says: str) -> Broken:
    """One value in the place of another; ``says`` without the place."""
    return Broken(edit(at, value), f"{at}: {says}")


def whole(change: Callable[[dict[str, Any]], Any], says: str) -> Broken:
    return Broken(change, f"manifest: {says}")


INTEGER = "Input should be a valid integer"
NUMBER = "Input should be a valid number"
TEXT = "Input should be a valid string"
FLAG = "Input should be a valid boolean"
LIST = "Input should be a valid list"
OBJECT = "Input should be a valid dictionary"
MISSING = "Field required"
EXTRA = "Extra inputs are not permitted"
POSITIVE = "Input should be greater than or equal to 1"
NOT_NEGATIVE = "Input should be greater than or equal to 0"
FACTOR = "Input should be from 0.000001 to 1000000"
OFFSET = "Input should be from -1000000 to 1000000"
TABLE = "the depth table does not follow from the gates and the ladder"
ROW_1 = "row 1 of the depth table has a wrong level or no macs"
ROW_3 = "row 3 of the depth table has a wrong level or no macs"
VERSION = "Input should be 1, or text like '1.1'"
DIGEST = "String should match pattern '^[0-9a-f]{64}$'"
FILE = "String should match pattern '^[A-Za-z0-9_][A-Za-z0-9_.-]*$'"


def disagree(name: str) -> str:
    return f"layout, depth and row of the artifact {name} do not agree"


def at_most(most: int) -> str:
    return f"Input should be less than or equal to {most}"


def too_long(most: int, found: int) -> str:
    return f"List should have at most {most} items after validation, not {found}"


def other_version(version: str) -> Broken:
    """Told apart before anything else of a manifest is looked at."""
    return Broken(
        edit("version", json.loads(version)),
        f"has manifest version {json.loads(version)}, this anydepth-deploy reads version 1",
        "export it into another folder, or install the version that made it (0.1.0)",
    )


BROKEN: dict[str, Broken] = {
    # What no value of a field can be.
    "deviation of 0": put("preprocess.std.0", 0, FACTOR),
    "deviation below 0": put("preprocess.std.1", -1, FACTOR),
    "a tiny deviation": put("preprocess.std.2", 1e-320, FACTOR),
    "a scale of 0": put("preprocess.scale", 0.0, FACTOR),
    "a huge scale": put("preprocess.scale", 1e300, FACTOR),
    "a tiny scale": put("preprocess.scale", 1e-50, FACTOR),
    "a huge mean": put("preprocess.mean.1", -1e300, OFFSET),
    "no side": put("preprocess.size.1", 0, POSITIVE),
    "a side below 0": put("preprocess.size.0", -64, POSITIVE),
    "a huge side": put("preprocess.size.0", 30000, at_most(16384)),
    "a side of 2^31": put("preprocess.size.1", 2**31, at_most(16384)),
    "a side of 2^64": put("preprocess.size.1", 2**64, INTEGER),
    "a huge area": put(
        "preprocess.size", [16384, 8192], "an input of 16384 x 8192 has more than 67108864 pixels"
    ),
    "a side too many": put("preprocess.size", [64, 64, 3], too_long(2, 3)),
    "a side less": Broken(edit("preprocess.size", [64]), f"preprocess.size.1: {MISSING}"),
    "a deviation less": Broken(edit("preprocess.std", [1, 1]), f"preprocess.std.2: {MISSING}"),
    "grey beyond white": put("preprocess.padding", 256, at_most(255)),
    "grey below black": put("preprocess.padding", -1, NOT_NEGATIVE),
    "negative bytes": put("artifacts.0.bytes", -1, NOT_NEGATIVE),
    "bytes beyond 64 bits": put("artifacts.0.bytes", 2**63, INTEGER),
    "bytes of 10^400": Broken(
        lambda found: {**found, "source": {**found["source"], "bytes": 10**300}},
        f"source.bytes: {INTEGER}",
    ),
    "negative bytes of the checkpoint": put("source.bytes", -3, NOT_NEGATIVE),
    "negative parameters": put("parameters", -1, NOT_NEGATIVE),
    "operators of version 0": put("artifacts.0.opset", 0, POSITIVE),
    "operators below 0": put("artifacts.9.engine.opset", -18, POSITIVE),
    "operators of the far future": put("artifacts.0.opset", 2**40, at_most(1000)),
    "seconds below 0": put("artifacts.0.build_seconds", -0.5, NOT_NEGATIVE),
    "a batch of 2^40": put("artifacts.9.engine.batch.largest", 2**40, at_most(65536)),
    "a batch of none": put("artifacts.9.engine.batch.smallest", 0, POSITIVE),
    "scratch memory below 0": put("artifacts.9.engine.workspace", -1, NOT_NEGATIVE),
    "layers below 0": put("artifacts.9.engine.layers.Half", -3, NOT_NEGATIVE),
    "compared at -1 depths": put("artifacts.9.verified.depths", -1, NOT_NEGATIVE),
    "compared in batches of 0": put("artifacts.9.verified.batches.0", 0, POSITIVE),
    "quantised below 0": put("artifacts.2.quantised", -1, NOT_NEGATIVE),
    "a limit below 0": put("artifacts.2.quantisation.max_error", -0.25, NOT_NEGATIVE),
    "no detections": put("max_detections", 0, POSITIVE),
    "too many detections": put("max_detections", 2**31, at_most(1_000_000)),
    "negative macs": put("depths.2.macs.all", -1, NOT_NEGATIVE),
    "a group below 0": put("gates.0.group", -1, NOT_NEGATIVE),
    "a layer too many": put("gates.2.layers", 1000, at_most(999)),
    "no suppression above": put("suppression.iou_threshold", 0, "Input should be greater than 0"),
    "an overlap beyond all": put("suppression.iou_threshold", 1.5, at_most(1)),
    "all suppressed": put("suppression.score_threshold", 1, "Input should be less than 1"),
    "a score below 0": put("suppression.score_threshold", -0.5, NOT_NEGATIVE),
    "gates without an end": put(
        "gates", [{"name": "", "group": 0, "layers": 1}] * 1001, too_long(1000, 1001)
    ),
    # What is of another type.
    "a truth for a number": put("artifacts.0.opset", True, INTEGER),
    "a truth for a fraction": put("preprocess.scale", True, NUMBER),
    "a number for a truth": put("artifacts.0.raw", 1, FLAG),
    "a text for a truth": put("preprocess.antialias", "yes", FLAG),
    "a text for a number": put("parameters", "12", INTEGER),
    "a text for a fraction": put("suppression.iou_threshold", "0.7", NUMBER),
    "a fraction for a number": put("max_detections", 5.0, INTEGER),
    "a number for a text": put("family", 7, TEXT),
    "nothing for a text": put("config", None, TEXT),
    "a list for an object": put("preprocess", [], OBJECT),
    "an object for a list": put("classes", {"0": "circle"}, LIST),
    "a text for a size": put("preprocess.size", "64x64", LIST),
    "a text for an engine": put("artifacts.9.engine", "TensorRT", OBJECT),
    "results without kinds": put("results", [], OBJECT),
    "results of no list": put("results.verify", {}, LIST),
    "a result that is none": put("results.verify.0", "passed", OBJECT),
    # Versions.
    "version 2": other_version("2"),
    "version 0": other_version("0"),
    "version -1": other_version("-1"),
    "version 2.1": other_version('"2.1"'),
    "version 0.3": other_version('"0.3"'),
    "version 1.0 as text": put("version", "1.0", VERSION),
    "version 1.01": put("version", "1.01", VERSION),
    "version 1 as text": put("version", "1", VERSION),
    "a fraction for a version": put("version", 1.1, VERSION),
    "a truth for a version": put("version", True, VERSION),
    "no version at all": put("version", None, VERSION),
    "a version beyond 64 bits": put("version", 10**20, VERSION),
    "a version without an end": put("version", f"1.{'9' * 5000}", VERSION),
    "a newer minor that is wrong": Broken(
        lambda found: {**found, "version": "1.7", "later": 1, "parameters": -1},
        f"parameters: {NOT_NEGATIVE}",
        "it is of a newer version (1.7): install the version that made it (0.1.0)",
    ),
    "a newer minor that does not agree": Broken(
        lambda found: {**found, "version": "1.7", "later": 1, "ladder": ["base", "super"]},
        f"manifest: {ROW_1}",
        "it is of a newer version (1.7): install the version that made it (0.1.0)",
    ),
    "a newer minor by somebody": Broken(
        lambda found: {**found, "version": "1.7", "tool_version": "a\nb", "classes": []},
        "classes: List should have at least 1 item after validation, not 0",
        "it is of a newer version (1.7): install the version that made it",
    ),
    # Fields that nobody knows, or that are missing.
    "another format": put("format", "something else", "Input should be 'anydepth-deploy bundle'"),
    "a field that nobody knows": Broken(edit("surprise", 1), f"surprise: {EXTRA}"),
    "one inside": Broken(
        edit("artifacts.9.engine.batch.most", 1), f"artifacts.9.engine.batch.most: {EXTRA}"
    ),
    "a field less": Broken(edit("ladder", None), f"ladder: {LIST}"),
    "an empty object": Broken(lambda found: {}, f"tool_version: {MISSING}"),
    "a list": whole(lambda found: [found], OBJECT),
    "a number": whole(lambda found: 3, OBJECT),
    "nothing": whole(lambda found: None, OBJECT),
    "a text": whole(lambda found: "manifest", OBJECT),
    # Names.
    "a path": put("artifacts.0.file", "../gated.onnx", FILE),
    "a hidden file": put("artifacts.0.file", ".gated.onnx", FILE),
    "a name with a line break": put("artifacts.0.file", "gated.onnx\n", FILE),
    "no name": put("artifacts.0.file", "", FILE),
    "a digest in capitals": put("artifacts.0.sha256", SHA.upper(), DIGEST),
    "a digest cut": put("source.sha256", SHA[1:], DIGEST),
    "a precision that is none": put(
        "artifacts.0.precision", "fp64", "Input should be 'fp32', 'fp16' or 'int8'"
    ),
    # What does not agree.
    "a gate less": whole(
        lambda found: {**found, "gates": found["gates"][1:]}, "unknown depth 'TT-1'"
    ),
    "a gate more": whole(
        lambda found: {**found, "gates": [*found["gates"], {"name": "g", "group": 2}]},
        "unknown depth 'TT-1'",
    ),
    "many gates": whole(
        lambda found: {
            **found,
            "gates": [{"name": "g", "group": 0}] * 60,
            "base": [1] * 60,
            "ladder": ["base", "super"],
        },
        TABLE,
    ),
    "another base": whole(edit("base", [1, 0, 1]), "a ladder goes from base (TF-1)"),
    "a base that no gate has": whole(edit("base", [1, 2, 1]), "gate 'two' cannot be 2"),
    "a base of two gates": whole(edit("base", [1, 1]), "a depth of this model sets 3 gates"),
    "a ladder that begins elsewhere": whole(edit("ladder", ["FF-1", "FF-2"]), "a ladder goes"),
    "a ladder of one rung": whole(edit("ladder", ["TT-1"]), "a ladder goes from base"),
    "an empty ladder": whole(edit("ladder", []), "a ladder goes from base"),
    "a rung twice": whole(
        edit("ladder", ["TT-1", "FF-1", "FF-1", "FF-2"]), "a ladder names each depth once"
    ),
    "a rung that is none": whole(edit("ladder", ["TT-1", "GG-1", "FF-2"]), "unknown depth 'GG-1'"),
    "a rung of three layers": whole(edit("ladder", ["TT-1", "FF-3", "FF-2"]), "unknown depth"),
    "rows in another order": whole(lambda found: {**found, "depths": found["depths"][::-1]}, TABLE),
    "a row less": whole(lambda found: {**found, "depths": found["depths"][:-1]}, TABLE),
    "a row of another depth": whole(edit("depths.3.depth", "FF-2"), TABLE),
    "a row of another number": whole(
        edit("depths.3.index", 4), "the rows of the depth table are not numbered from 0"
    ),
    "a row of another level": whole(edit("depths.3.level", 3), ROW_3),
    "a rung without its level": whole(edit("depths.1.level", None), ROW_1),
    "no macs": whole(edit("depths.1.macs.total", 0), ROW_1),
    "macs without a total": whole(edit("depths.1.macs", {"all": 3}), ROW_1),
    "a static graph without a row": whole(edit("artifacts.4.row", None), disagree("base")),
    "a static graph of another row": whole(edit("artifacts.4.row", 1), disagree("base")),
    "a static graph of a row that is not there": whole(
        edit("artifacts.4.row", 99), disagree("base")
    ),
    "a static graph of a row below 0": put("artifacts.4.row", -1, NOT_NEGATIVE),
    "a static graph without a depth": whole(edit("artifacts.4.depth", None), disagree("base")),
    "a static graph of an empty depth": whole(edit("artifacts.4.depth", ""), disagree("base")),
    "a gated graph with a depth": whole(edit("artifacts.0.depth", "TT-1"), disagree("gated-fp32")),
    "a gated graph with a row": whole(edit("artifacts.0.row", 0), disagree("gated-fp32")),
    "a gated graph that says set": whole(edit("artifacts.0.layout", "set"), disagree("gated-fp32")),
    "a piece that says gated": whole(edit("artifacts.7.layout", "gated"), disagree("piece-0")),
    "a piece that is none": whole(edit("artifacts.7.piece", None), disagree("piece-0")),
    "a piece of a gate that is not there": whole(
        edit("artifacts.8.piece.when.0.gate", 3),
        "the piece piece-1 asks for a gate that is not there",
    ),
    "a piece of a layer that is not there": whole(
        edit("artifacts.8.piece.when.1.layer", 3),
        "the piece piece-1 asks for a gate that is not there",
    ),
    "a piece of a layer of a skip gate": whole(
        edit("artifacts.8.piece.when.0.layer", 1),
        "the piece piece-1 asks for a gate that is not there",
    ),
    "a graph with an engine": whole(
        edit("artifacts.9.format", "onnx"),
        "the artifact engine-87 is onnx, which does not go with its engine",
    ),
    "an engine without one": whole(
        edit("artifacts.9.engine", None),
        "the artifact engine-87 is tensorrt, which does not go with no engine",
    ),
    "int8 without a scheme": whole(
        edit("artifacts.2.quantisation", None),
        "the artifact gated-int8 is int8, which does not go with no quantisation",
    ),
    "fp32 with a scheme": whole(
        edit("artifacts.2.precision", "fp32"),
        "the artifact gated-int8 is fp32, which does not go with its quantisation",
    ),
    "batches that do not rise": Broken(
        edit("artifacts.9.engine.batch.typical", 5),
        "artifacts.9.engine.batch: batch sizes 1, 5, 4 do not rise",
    ),
    "an engine for nothing": put(
        "artifacts.9.engine.capabilities",
        [],
        "List should have at least 1 item after validation, not 0",
    ),
    "a measured ladder without base": whole(
        edit("measured.1.rungs.0.depth", "FT-1"),
        "the measured ladder 1: a ladder goes from base (TT-1) to super (FF-2); found: FT-1",
    ),
    "a measured rung that is none": whole(
        edit("measured.0.rungs.1.depth", "GG-1"), "the measured ladder 0: unknown depth 'GG-1'"
    ),
    "a measured ladder without rungs": put(
        "measured.0.rungs", [], "List should have at least 1 item after validation, not 0"
    ),
    "a measured ladder of nothing": put(
        "measured.0.artifacts", [], "List should have at least 1 item after validation, not 0"
    ),
    "a time below 0": put("measured.0.rungs.0.milliseconds", -1, NOT_NEGATIVE),
    "a percentile below 0": put("measured.0.rungs.0.p95", -1, NOT_NEGATIVE),
    "a score beyond all": put("measured.0.rungs.0.score", 100.5, at_most(100)),
    "a score below none": put(
        "measured.0.rungs.0.score", -2, "Input should be greater than or equal to -1"
    ),
    "a ladder on no threads": put("measured.0.threads", 0, POSITIVE),
    "a ladder in batches of 0": put("measured.0.batch", 0, POSITIVE),
    "a measure that is none": put(
        "measured.0.data.kind", "f1", "Input should be 'ap' or 'agreement'"
    ),
    "a ladder in no precision": put(
        "measured.0.precision", "fp64", "Input should be 'fp32', 'fp16', 'int8' or 'bf16'"
    ),
    "calibrated at a number": put(
        "artifacts.2.quantisation.calibration.depths", [1], "Input should be a valid list"
    )._replace(
        says="artifacts.2.quantisation.calibration.depths.0: Input should be a valid string"
    ),
    "no predictions": whole(
        edit("raw_outputs", {"boxes": "b"}),
        "suppression outside the graph needs the raw output 'predictions'",
    ),
    "a graph without raw outputs": whole(
        edit("artifacts.5.raw", False),
        "the artifact super gives no raw outputs, but suppression is not in the graph",
    ),
    "a golden file elsewhere": put("golden.file", "../golden", FILE),
    "a golden file of a size below 0": put("golden.bytes", -1, NOT_NEGATIVE),
    "a golden file of no digest": put("golden.sha256", "", DIGEST),
    "golden pictures below 0": put("golden.pictures", -1, NOT_NEGATIVE),
    "golden outputs of no depth": put(
        "golden.depths", [], "List should have at least 1 item after validation, not 0"
    ),
    "exported without classes": put(
        "exported_classes", [], "List should have at least 1 item after validation, not 0"
    ),
    "a name that is none": put("name", 3, TEXT),
    "no classes": put("classes", [], "List should have at least 1 item after validation, not 0"),
}

WHOLE = json.dumps(content())
NOT_JSON = "it is not valid JSON"
DEEP = "nested deeper than 64 levels"

TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", NOT_JSON),
    "a bracket": (b"{", NOT_JSON),
    "cut": (WHOLE[: len(WHOLE) // 2].encode(), NOT_JSON),
    "cut in a text": (WHOLE[:20].encode(), NOT_JSON),
    "more behind it": (WHOLE.encode() + b"}", NOT_JSON),
    "a zero behind it": (WHOLE.encode() + b"\0", NOT_JSON),
    "a zero in a text": (b'{"a": "\0"}', NOT_JSON),
    "a comment": (WHOLE.encode() + b"// fine", NOT_JSON),
    "one comma too many": (WHOLE[:-1].encode() + b",}", NOT_JSON),
    "zeros before a number": (b'{"version": 01}', NOT_JSON),
    "a sign before a number": (b'{"version": +1}', NOT_JSON),
    "not a number": (b'{"version": NaN}', NOT_JSON),
    "infinity": (b'{"version": Infinity}', NOT_JSON),
    "infinity below 0": (b'{"version": -Infinity}', NOT_JSON),
    "a control in a text": (b'{"a": "\n"}', NOT_JSON),
    "half an escape": (b'{"a": "\\u12"}', NOT_JSON),
    "half a pair": (b'{"a": "\\ud800"}', NOT_JSON),
    "the other half of a pair": (b'{"a": ["\\uDC00"]}', NOT_JSON),
    "a pair the wrong way round": (b'{"a": "\\udc00\\ud800"}', NOT_JSON),
    "half a pair for a key": (b'{"\\ud800": 1}', NOT_JSON),
    "single quotes": (b"{'version': 1}", NOT_JSON),
    "nested deep": (b"[" * 100_000, DEEP),
    "nested 65 levels": (b"[" * 65 + b"]" * 65, DEEP),
    "nested deep, and closed": (b'{"a":' * 5000 + b"1" + b"}" * 5000, DEEP),
    "nested deep, and then wrong": (b"[" * 65 + b"}", DEEP),
    "a key twice": (b'{"version": 1, "version": 1}', "an object has the key 'version' twice"),
    "a key twice inside": (b'{"a": [{"b": 1, "c": 2, "b": 1}]}', "an object has the key 'b' twice"),
    "a key twice, then wrong": (b'{"a": {"b": 1, "b": 1}, }', "an object has the key 'b' twice"),
    "a number without an end": (b'{"version": 1e400}', "a number is too large"),
    "digits without an end": (b'{"version": -' + b"1" * 5000 + b"}", "a number is too large"),
    "a million values": (b"[" + b"0," * 1_000_000 + b"0]", "more than 1000000 values"),
}
"""What is damaged, and how that is said."""

FIELDS: dict[int, dict[str, str]] = {
    0: {
        "Manifest": "format version tool_version created source family config parameters classes "
        "preprocess gates base ladder depths raw_outputs suppression max_detections artifacts "
        "results",
        "Source": "file sha256 bytes weights",
        "Preprocess": "size resize interpolation antialias padding channels scale mean std layout",
        "GateSpec": "name group layers",
        "DepthRow": "index depth level macs",
        "Suppression": "where score_threshold iou_threshold",
        "Artifact": "name file format layout precision quantisation quantised kept weights "
        "deformable depth piece engine verified row level raw opset bytes sha256 built_with "
        "build_seconds",
        "Quantisation": "target calibration max_ratio max_error keep quantise",
        "Calibration": "file sha256 method pictures",
        "Kept": "node op reason",
        "StagePiece": "order total stage variant when reads writes",
        "Condition": "gate layer runs",
        "EngineSpec": "source source_sha256 version device capabilities batch workspace opset "
        "detections layers",
        "BatchProfile": "smallest typical largest",
        "Verification": "when passed reference device depths batches",
    },
    1: {"DepthRow": "macs_executed", "Manifest": "said"},
    2: {
        "Calibration": "depths",
        "Manifest": "measured",
        "MeasuredLadder": "when device runtime precision layout artifacts batch threads calls data "
        "versions error rungs",
        "LadderData": "kind name sha256 pictures",
        "Rung": "depth milliseconds p95 p99 score",
    },
    3: {
        "Manifest": "name exported_classes golden",
        "GoldenFile": "file bytes sha256 pictures depths",
    },
}
"""By minor of version 1: the fields that it added, by model. Never changed, only added to."""

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64, 10**20, -(2**63) - 1, 1.0, 1e308, 1e-320]),
    st.sampled_from([float("nan"), float("inf")]),
    st.sampled_from(["", "1", "1.1", "2.0", "onnx", "TT-1", "super", "é", "\ud800", "\n", "a\0"]),
    st.sampled_from([[], {}, [1, 2], ["TT-1"], [[0]], {"name": "x"}, {"": {}}, [0.5, 0.5, 0.5]]),
)
"""Values to put in the place of another."""


@st.composite
def mutated_values(draw: st.DrawFn) -> bytes:
    """A manifest with some values replaced, taken away, repeated, or under a key of nobody's."""
    found = content()
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(list(places(found))))
        holder: Any = found
        for key in way:
            holder = holder[key]
        change = draw(st.sampled_from(["put", "put", "put", "take away", "repeat"]))
        if change == "put":
            holder[last] = copy.deepcopy(draw(ODD))
        elif change == "take away":
            del holder[last]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
        else:
            holder[draw(st.sampled_from(["later", "name", "version", "\n"]))] = 1
        if not isinstance(found, dict) or not found:
            break
    return json.dumps(found).encode()


@st.composite
def mutated_bytes(draw: st.DrawFn) -> bytes:
    """The bytes of a manifest with some of them changed, and perhaps cut."""
    found = bytearray(WHOLE.encode())
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(found) - 1))
        found[place] = draw(st.one_of(st.integers(0, 255), st.sampled_from(b'"[]{},:0e-\\')))
    return bytes(found[: draw(st.one_of(st.just(len(found)), st.integers(1, len(found))))])
