"""Bundles as the C++ library reads them: manifests whole and broken, files, choices, trust.

The oracle is the Python package: what it accepts is read alike, what it refuses is refused with the
same class, and word for word wherever the words are its own.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cpp_build import PATIENT, CppError, Probe, open_probe
from cpp_oracle import described, outcome
from handmade import manifest
from pydantic import ValidationError

from anydepth_deploy.bundle import choose as choose_module
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.choose import choose_artifacts
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.bundle.trust import check_trust
from anydepth_deploy.errors import BundleError
from anydepth_deploy.manifest import Manifest

pytestmark = PATIENT

CONTENT = b"what a graph would be" * 100
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    with open_probe("sanitized") as found:
        yield found


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
    )
    dumped: dict[str, Any] = {**found.model_dump(mode="json"), **changes}
    return dumped


def write(folder: Path, dumped: Any) -> str:
    (folder / MANIFEST).write_text(json.dumps(dumped), encoding="utf-8")
    return str(folder)


# --- what is read ----------------------------------------------------------------------------


def test_every_field_is_read(probe: Probe, tmp_path: Path) -> None:
    folder = write(tmp_path, content())
    assert probe.call("manifest", folder=folder) == described(open_bundle(tmp_path))


def test_what_may_be_left_out(probe: Probe, tmp_path: Path) -> None:
    dumped = manifest().model_dump(mode="json", exclude_defaults=True)
    folder = write(tmp_path, dumped)
    assert probe.call("manifest", folder=folder) == described(open_bundle(tmp_path))


# --- what is refused -------------------------------------------------------------------------

DELETED = object()
HUGE = 10**20
REPLACEMENTS: tuple[Any, ...] = (DELETED, None, "text", -7, 1.5, HUGE, [], {}, [[0]], {"x": None})


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


def words_are_ours(path: Path) -> bool:
    """Whether what is wrong with a manifest is said by a check of ours, not by pydantic."""
    with pytest.raises(ValidationError) as caught:
        Manifest.model_validate(json.loads(path.read_bytes()))
    return caught.value.errors()[0]["type"] == "value_error"


def compare(
    probe: Probe, folder: Path, at: tuple[Any, ...] = (), *, stricter: bool = False
) -> bool:
    """Read a manifest in both languages; whether both took it.

    `at`: what was changed. `stricter`: this library may refuse what Python takes.
    """
    expected = outcome(lambda: described(open_bundle(folder)))
    found = outcome(lambda: probe.call("manifest", folder=str(folder)))
    if isinstance(expected, dict):
        assert found == expected or (stricter and found[0] == "BundleError"), at
        return isinstance(found, dict)
    assert not isinstance(found, dict), (at, expected)
    assert found[0] == expected[0] == "BundleError"
    if stricter:
        return False
    start = f"{folder / MANIFEST} is not a valid manifest: "
    if not expected[1].startswith(start) or words_are_ours(folder / MANIFEST):
        assert found[1] == expected[1], at
    else:  # pydantic's words; ours name a place, too, and end with the same advice
        assert found[1].startswith(start), at
        assert found[1].endswith(": delete the folder and export the bundle again"), at
    return False


def test_anything_of_another_type_is_refused(probe: Probe, tmp_path: Path) -> None:
    # A plain one, an INT8 graph, a static one, a piece and an engine.
    whole = content(artifacts=[ARTIFACTS[index] for index in (0, 2, 4, 8, 9)])
    ways = list(places(whole))
    assert len(ways) > 150
    accepted = 0
    for at in ways:
        for value in REPLACEMENTS:
            if at == ("version",) and value == HUGE:
                continue  # no version of ours, in other words
            write(tmp_path, changed(whole, at, value))
            # A file has no fewer than no bytes, and numbers end somewhere.
            stricter = value == HUGE or (at[-1] == "bytes" and value == -7)
            accepted += compare(probe, tmp_path, at, stricter=stricter)
    assert accepted > 200  # what is free: names, and all that may be left out


def test_what_nobody_knows_is_refused(probe: Probe, tmp_path: Path) -> None:
    whole = content()
    for at in [(), *places(whole)]:
        inner = whole
        for key in at:
            inner = inner[key]
        if isinstance(inner, dict):
            write(tmp_path, changed(whole, (*at, "surprise"), 1))
            compare(probe, tmp_path, (*at, "surprise"))


def edit(at: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    way = tuple(int(word) if word.isdigit() else word for word in at.split("."))
    return lambda whole: changed(whole, way, value)


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "version 2": edit("version", 2),
    "version 0": edit("version", 0),
    "another format": edit("format", "something else"),
    "a path": edit("artifacts.0.file", "../gated.onnx"),
    "a hidden file": edit("artifacts.0.file", ".gated.onnx"),
    "a name with a line break": edit("artifacts.0.file", "gated.onnx\n"),
    "no name": edit("artifacts.0.file", ""),
    "a digest in capitals": edit("artifacts.0.sha256", SHA.upper()),
    "a gate less": lambda whole: {**whole, "gates": whole["gates"][1:]},
    "a gate more": lambda whole: {**whole, "gates": [*whole["gates"], {"name": "g", "group": 2}]},
    "many gates": lambda whole: {
        **whole,
        "gates": [{"name": "g", "group": 0}] * 60,
        "base": [1] * 60,
        "ladder": ["base", "super"],
    },
    "another base": edit("base", [1, 0, 1]),
    "a base that no gate has": edit("base", [1, 2, 1]),
    "a base of two gates": edit("base", [1, 1]),
    "a ladder that begins elsewhere": edit("ladder", ["FF-1", "FF-2"]),
    "a ladder of one rung": edit("ladder", ["TT-1"]),
    "an empty ladder": edit("ladder", []),
    "a rung twice": edit("ladder", ["TT-1", "FF-1", "FF-1", "FF-2"]),
    "a rung that is none": edit("ladder", ["TT-1", "GG-1", "FF-2"]),
    "a rung of three layers": edit("ladder", ["TT-1", "FF-3", "FF-2"]),
    "rows in another order": lambda whole: {**whole, "depths": whole["depths"][::-1]},
    "a row less": lambda whole: {**whole, "depths": whole["depths"][:-1]},
    "a row of another depth": edit("depths.3.depth", "FF-2"),
    "a row of another number": edit("depths.3.index", 4),
    "a row of another level": edit("depths.3.level", 3),
    "a rung without its level": edit("depths.1.level", None),
    "no macs": edit("depths.1.macs.total", 0),
    "macs without a total": edit("depths.1.macs", {"all": 3}),
    "a static graph without a row": edit("artifacts.4.row", None),
    "a static graph of another row": edit("artifacts.4.row", 1),
    "a static graph of a row that is not there": edit("artifacts.4.row", 99),
    "a static graph of a row below 0": edit("artifacts.4.row", -1),
    "a static graph without a depth": edit("artifacts.4.depth", None),
    "a static graph of an empty depth": edit("artifacts.4.depth", ""),
    "a gated graph with a depth": edit("artifacts.0.depth", "TT-1"),
    "a gated graph with a row": edit("artifacts.0.row", 0),
    "a gated graph that says set": edit("artifacts.0.layout", "set"),
    "a piece that says gated": edit("artifacts.7.layout", "gated"),
    "a piece that is none": edit("artifacts.7.piece", None),
    "a piece of a gate that is not there": edit("artifacts.8.piece.when.0.gate", 3),
    "a piece of a layer that is not there": edit("artifacts.8.piece.when.1.layer", 3),
    "a piece of a layer of a skip gate": edit("artifacts.8.piece.when.0.layer", 1),
    "a graph with an engine": edit("artifacts.9.format", "onnx"),
    "an engine without one": edit("artifacts.9.engine", None),
    "int8 without a scheme": edit("artifacts.2.quantisation", None),
    "fp32 with a scheme": edit("artifacts.2.precision", "fp32"),
    "batches that do not rise": edit("artifacts.9.engine.batch.typical", 5),
    "an engine for nothing": edit("artifacts.9.engine.capabilities", []),
    "no predictions": edit("raw_outputs", {"boxes": "b"}),
    "a graph without raw outputs": edit("artifacts.5.raw", False),
    "no suppression above": edit("suppression.iou_threshold", 0),
    "all suppressed": edit("suppression.score_threshold", 1),
    "no detections": edit("max_detections", 0),
    "no classes": edit("classes", []),
    "no side": edit("preprocess.size", [64, 0]),
    "a side too many": edit("preprocess.size", [64, 64, 3]),
    "grey beyond white": edit("preprocess.padding", 256),
    "a layer too many": edit("gates.2.layers", 1000),
    "a list": lambda whole: [whole],
    "a number": lambda whole: 3,
    "nothing": lambda whole: None,
    "an empty object": lambda whole: {},
}


ODD_KEYS = (
    "two\nlines",
    "\x1b[31mred\x9b0m",
    "turned\u202earound\u2066",
    "\u2028\u2029\u200b\ufeff\0\x7f",
    "三角 é",
    "k" * 100_000,
    "\n" * 100_000,
    "三\U000e0041" * 400,
)


@pytest.mark.parametrize("key", ODD_KEYS, ids=range(len(ODD_KEYS)))
def test_what_a_file_says_is_one_line_of_bounded_length(
    probe: Probe, tmp_path: Path, key: str
) -> None:
    """And the same in both languages, wherever it is said."""
    whole = content()
    broken: tuple[dict[str, Any], ...] = (
        {**whole, key: 1},
        edit("artifacts.0.name", key)(edit("artifacts.0.row", 0)(whole)),
        edit("ladder.1", key)(whole),
    )
    for dumped in broken:
        write(tmp_path, dumped)
        compare(probe, tmp_path, (key[:20],))
        found = outcome(lambda: probe.call("manifest", folder=str(tmp_path)))
        assert found[0] == "BundleError"
        assert found[1].isprintable()
        assert len(found[1]) <= 1000
    write(tmp_path, broken[0])
    with pytest.raises(BundleError) as caught:
        open_bundle(tmp_path)
    found = outcome(lambda: probe.call("manifest", folder=str(tmp_path)))
    assert found[1].partition(": Extra inputs")[0] == str(caught.value).partition(": Extra")[0]
    if "\0" not in key and len(key) < 100:
        nowhere = tmp_path / key
        expected = outcome(lambda: described(open_bundle(nowhere)))
        assert outcome(lambda: probe.call("manifest", folder=str(nowhere))) == expected


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_agree_is_refused(probe: Probe, tmp_path: Path, name: str) -> None:
    write(tmp_path, BROKEN[name](content()))
    assert not compare(probe, tmp_path, (name,))


def test_suppression_in_the_graph_needs_no_raw_outputs(probe: Probe, tmp_path: Path) -> None:
    write(tmp_path, content(suppression={"where": "graph"}, raw_outputs={}))
    assert compare(probe, tmp_path)
    write(tmp_path, content(suppression=None, raw_outputs={}))
    assert compare(probe, tmp_path)


WHOLE = json.dumps(content())
DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "a bracket": b"{",
    "cut": WHOLE[: len(WHOLE) // 2].encode(),
    "cut in a text": WHOLE[:20].encode(),
    "more behind it": WHOLE.encode() + b"}",
    "a comment": WHOLE.encode() + b"// fine",
    "one comma too many": WHOLE[:-1].encode() + b",}",
    "zeros before a number": b'{"version": 01}',
    "nested deep": b"[" * 100_000,
    "nested deep, and closed": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "a control in a text": b'{"a": "\n"}',
    "half an escape": b'{"a": "\\u12"}',
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_json(probe: Probe, tmp_path: Path, name: str) -> None:
    (tmp_path / MANIFEST).write_bytes(DAMAGED[name])
    with pytest.raises(BundleError, match="is damaged"):
        open_bundle(tmp_path)
    with pytest.raises(CppError) as caught:
        probe.call("manifest", folder=str(tmp_path))
    assert caught.value.kind == "BundleError"
    assert caught.value.message.startswith(f"{tmp_path / MANIFEST} is damaged (")
    assert caught.value.message.endswith("): delete the folder and export the bundle again")
    assert "\n" not in caught.value.message


LIMITS: dict[str, tuple[bytes, str]] = {
    "a key twice": (b'{"version": 1, "version": 1}', "an object has the key 'version' twice"),
    "not a number": (b'{"version": NaN}', "is damaged"),
    "a million values": (b"[" + b"0," * 1_000_000 + b"0]", "more than 1000000 values"),
    "too large": (b" " * (1 << 24) + b" 0", "has more than 16777216 bytes"),
    "a huge input": (
        WHOLE.replace('"size": [64, 96]', '"size": [64, 65537]').encode(),
        "preprocess.size.1: Input should be less than or equal to 65536",
    ),
    "gates without an end": (
        json.dumps(content(gates=[{"name": "", "group": 0, "layers": 1}] * 1001)).encode(),
        "gates: List should have at most 1000 items",
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_what_only_this_library_refuses(probe: Probe, tmp_path: Path, name: str) -> None:
    """A service reads what others made: it costs little, and means the same to every reader."""
    content, message = LIMITS[name]
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(CppError) as caught:
        probe.call("manifest", folder=str(tmp_path))
    assert caught.value.kind == "BundleError"
    assert message in caught.value.message


def test_any_cut_is_refused(probe: Probe, tmp_path: Path) -> None:
    for size in range(0, len(WHOLE), 101):
        (tmp_path / MANIFEST).write_text(WHOLE[:size])
        with pytest.raises(CppError, match="is damaged"):
            probe.call("manifest", folder=str(tmp_path))


def test_any_byte_may_change(probe: Probe, tmp_path: Path) -> None:
    whole = WHOLE.encode()
    for place in range(0, len(whole), 131):
        for byte in (0x00, 0x22, 0x39, 0x5D, 0xFF):
            (tmp_path / MANIFEST).write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            found = outcome(lambda: probe.call("manifest", folder=str(tmp_path)))
            assert isinstance(found, dict) or found[0] == "BundleError"
            if isinstance(found, dict):
                assert found == described(open_bundle(tmp_path))


def test_what_is_no_bundle(probe: Probe, tmp_path: Path) -> None:
    assert not compare(probe, tmp_path / "nowhere")
    assert not compare(probe, tmp_path)
    for name in ("file", "m.PTH", "m.pt", "m.safetensors", "g.onnx", "e.engine", "e.plan", ".pt"):
        (tmp_path / name).write_text("")
        assert not compare(probe, tmp_path / name)
    (tmp_path / "holds" / "its").mkdir(parents=True)
    (tmp_path / "holds" / "its" / MANIFEST).write_text("{}")
    assert not compare(probe, tmp_path / "holds" / "its" / MANIFEST)
    (tmp_path / "folder" / MANIFEST).mkdir(parents=True)
    assert not compare(probe, tmp_path / "folder")
    (tmp_path / MANIFEST).write_bytes(b'{"a": "\xff"}')
    found = outcome(lambda: probe.call("manifest", folder=str(tmp_path)))
    assert found == (
        "BundleError",
        f"{tmp_path / MANIFEST} cannot be read: it is not text in UTF-8",
    )


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("state", ["whole", "missing", "folder", "cut", "longer", "altered"])
def test_files(probe: Probe, tmp_path: Path, state: str, check: bool) -> None:
    folder = write(tmp_path, content())
    path = tmp_path / "gated-fp32.onnx"
    contents = {"whole": CONTENT, "cut": CONTENT[:-1], "longer": CONTENT + b"x"}
    if state == "folder":
        path.mkdir()
    elif state != "missing":
        path.write_bytes(contents.get(state, CONTENT[:-1] + b"X"))
    bundle = open_bundle(tmp_path)
    expected = outcome(lambda: str(bundle.file(bundle.manifest.artifacts[0], check=check)))
    given = {"folder": folder, "artifact": "gated-fp32", "check": check}
    assert outcome(lambda: probe.call("file", **given)) == expected
    assert (expected == str(path)) == (state == "whole" or (state == "altered" and not check))


# --- which artifacts -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("everything")
    write(folder, content())
    return open_bundle(folder)


def names_chosen(bundle: Bundle, **given: Any) -> list[str]:
    return [item.name for item in choose_artifacts(bundle, **given)]


@pytest.mark.parametrize("device", ["sm75", "sm86", "sm120"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "tensorrt"])
def test_choices(
    probe: Probe, everything: Bundle, monkeypatch: pytest.MonkeyPatch, runtime: str, device: str
) -> None:
    monkeypatch.setattr(choose_module, "device_capability", lambda _: device)
    choices = [
        {
            "layout": layout,
            "precision": precision,
            "weights": weights,
            "target": target,
            "runtime": runtime,
        }
        for layout in (None, "gated", "set", "stages", "what")
        for precision in ("fp32", "fp16", "int8", "bf16", "fp64")
        for weights in (None, "shared", "folded")
        for target in ("onnxruntime", "tensorrt", "what")
    ]
    given = {"folder": str(everything.path), "device": device}
    found = probe.call("choose", **given, choices=choices)
    expected = [outcome(partial(names_chosen, everything, **choice)) for choice in choices]
    assert found == [list(item) for item in expected]
    assert len({str(item) for item in expected}) > 10


def test_runtimes_that_are_none(probe: Probe, everything: Bundle) -> None:
    folder = str(everything.path)
    (found,) = probe.call("choose", folder=folder, device="sm75", choices=[{"runtime": "tf"}])
    assert found == [
        "UsageError",
        "unknown runtime 'tf': expected one of onnxruntime, openvino, tensorrt",
    ]


def test_an_empty_bundle_has_nothing(probe: Probe, tmp_path: Path) -> None:
    folder = write(tmp_path, content(artifacts=[]))
    expected = outcome(lambda: choose_artifacts(open_bundle(tmp_path), None, "fp32", None))
    (found,) = probe.call("choose", folder=folder, device="", choices=[{}])
    assert found == list(expected)


@pytest.mark.parametrize(
    "engines",
    [
        [artifact("graph")],
        [artifact("a", **engine("sm75"), **verified(True))],
        [artifact("a", **engine("sm75"), **verified(False))],
        [artifact(name, **engine("sm75")) for name in "abcde"],
        [
            artifact("a", **engine("sm75")),
            artifact("b", **engine("sm75"), **verified(False)),
            artifact("c", **engine("sm75"), **verified(False), deformable="gridsample"),
        ],
    ],
)
def test_trust(
    probe: Probe, tmp_path: Path, caplog: pytest.LogCaptureFixture, engines: list[dict[str, Any]]
) -> None:
    folder = write(tmp_path, content(artifacts=engines))
    with caplog.at_level(logging.WARNING, "anydepth_deploy"):
        failure = outcome(lambda: check_trust(open_bundle(tmp_path).manifest.artifacts))
    found = outcome(lambda: probe.call("trust", folder=folder))
    assert found == (
        [record.getMessage() for record in caplog.records] if failure is None else failure
    )
