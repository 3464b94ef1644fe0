"""Bundles as the C++ library reads them: manifests whole and broken, files, choices, trust.

The oracle is the Python package: what it accepts is read alike, what it refuses is refused with the
same class, word for word. What these words are, ``tests/bundle/test_manifest.py`` holds against the
same table (``tests/support/manifests.py``).
"""

from __future__ import annotations

import copy
import itertools
import json
import logging
import os
import platform
import shutil
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cpp_build import PATIENT, Probe, open_probe
from cpp_oracle import described, described_ladder, outcome
from fuzzing import examples
from handmade import LADDER, manifest
from hypothesis import given
from hypothesis import strategies as st
from manifests import (
    ARTIFACTS,
    BROKEN,
    CONTENT,
    DELETED,
    PAST,
    TEXTS,
    WHOLE,
    artifact,
    changed,
    content,
    edit,
    engine,
    measured,
    mutated_bytes,
    mutated_values,
    one_depth,
    places,
    quantised,
    static,
    verified,
)
from plain import is_plain
from process_memory import Peak

from anydepth_deploy.bundle import choose as choose_module
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.choose import choose_artifacts
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.bundle.measured import find_measured
from anydepth_deploy.bundle.trust import check_trust
from anydepth_deploy.errors import BundleError
from anydepth_deploy.reading.processor import processor_name
from anydepth_deploy.reading.system_files import Tree

pytestmark = PATIENT


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    with open_probe("sanitized") as found:
        yield found


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


@pytest.mark.parametrize(
    ("gates", "text"),
    [([], "full"), ([{"name": "decoder", "group": 0, "layers": 1}], "L1")],
)
def test_one_depth(probe: Probe, tmp_path: Path, gates: list[Any], text: str) -> None:
    whole = json.loads(json.dumps(one_depth()).replace('"full"', json.dumps(text)))
    whole |= {"gates": gates, "base": [1] * len(gates)}
    for item in whole["artifacts"]:
        if item.get("piece"):
            item["piece"]["variant"] = "full"
    folder = write(tmp_path, whole)
    found = probe.call("manifest", folder=folder)
    assert found == described(open_bundle(tmp_path))
    assert (found["rows"], found["levels"], found["macs"]) == ([text], 1, [7])


def test_one_depth_that_does_not_agree(probe: Probe, tmp_path: Path) -> None:
    whole = one_depth()
    condition = {"gate": 0, "layer": 0, "runs": True}
    for at, value in (
        (("ladder",), []),
        (("ladder",), ["full", "super"]),
        (("ladder", 0), "F"),
        (("base",), [1]),
        (("gates",), [{"name": "one", "group": 0}]),
        (("depths",), []),
        (("depths", 0, "depth"), "super"),
        (("depths", 0, "level"), None),
        (("depths", 0, "index"), 1),
        (("depths", 0, "macs", "total"), 0),
        (("artifacts", 1, "depth"), "base"),
        (("artifacts", 1, "row"), 1),
        (("artifacts", 2, "piece", "when"), [condition]),
    ):
        write(tmp_path, changed(whole, at, value))
        assert not compare(probe, tmp_path, (*at, value))


# --- measured ladders ------------------------------------------------------------------------


def test_the_same_measured_ladder_holds(
    probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every order of four ladders that differ in one thing each, and several numbers of
    threads."""
    here = processor_name()
    kinds = [
        measured(device=here, threads=2, when="two"),
        measured(device=here, threads=None, when="none"),
        measured(device="another", threads=2, when="elsewhere"),
        measured(device=here, threads=2, when="other", artifacts=["d" * 64]),
    ]
    for order in itertools.permutations(kinds):
        folder = write(tmp_path, content(measured=list(order)))
        bundle = open_bundle(tmp_path)
        chosen = [item for item in bundle.manifest.artifacts if item.name == "gated-fp32"]
        for threads in (None, 2, 3):
            found = find_measured(bundle.manifest, chosen, "onnxruntime", "fp32", threads)
            assert found.here is not None
            asked = {"folder": folder, "artifacts": ["gated-fp32"], "threads": threads}
            assert probe.call("find_measured", **asked) == [
                described_ladder(found.here),
                [described_ladder(item) for item in found.elsewhere],
            ]
            assert [item.when for item in found.elsewhere] == ["elsewhere"]
            assert probe.call("find_measured", **asked, precision="fp16") == [None, []]
            assert probe.call("find_measured", **asked, runtime="openvino") == [None, []]


@pytest.mark.parametrize(
    "files",
    [
        {"proc/cpuinfo": "processor\t: 0\nmodel name\t: Some  Xeon (R) \nmodel name : other\n"},
        {"proc/cpuinfo": "flags : fpu\n", "proc/device-tree/model": "NVIDIA Jetson Orin\0"},
        {"proc/cpuinfo": "model name"},
        {},
    ],
)
def test_processors_have_one_name(
    probe: Probe, tmp_path: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(platform, "processor", lambda: "")
    found = processor_name(Tree(tmp_path))
    assert probe.call("processor_name", root=str(tmp_path)) == found
    assert found in ("Some Xeon (R)", "NVIDIA Jetson Orin", platform.machine())


# --- what is refused -------------------------------------------------------------------------

REPLACEMENTS: tuple[Any, ...] = (
    *(DELETED, None, "text", "", "1", True, [], {}, [[0]], {"x": None}),
    *(-7, 0, 1.0, 1.5, 1e300, 10**6, 2**31, 2**63 - 1, 2**63, 10**20),
)


def compare(probe: Probe, folder: Path, at: tuple[Any, ...] = ()) -> bool:
    """Read a manifest in both languages, which say the same, word for word; whether both took it.

    `at`: what was changed.
    """
    expected = outcome(lambda: described(open_bundle(folder)))
    found = outcome(lambda: probe.call("manifest", folder=str(folder)))
    assert found == expected, at
    if isinstance(found, dict):
        return True
    assert found[0] == "BundleError"
    return False


def test_long_keys_over_many_values_take_no_memory(probe: Probe, tmp_path: Path) -> None:
    """A value knows where it is without a copy of all the keys above it."""
    records: list[Any] = [{}] * 5000
    whole = write(tmp_path, content(results={"a" * 100_000: records}))
    with Peak(probe.pid) as peak:
        assert probe.call("manifest", folder=whole) == described(open_bundle(tmp_path))
    assert peak.grown < 100_000_000  # copies would be 500 MB
    write(tmp_path, content(results={"a" * 100: {"": [*records, 5]}}))
    assert not compare(probe, tmp_path)
    write(tmp_path, content(results={"a" * 100: [*records, 5]}))
    assert not compare(probe, tmp_path)


def test_anything_of_another_type_is_refused(probe: Probe, tmp_path: Path) -> None:
    # A plain one, an INT8 graph, a static one, a piece and an engine.
    whole = content(artifacts=[ARTIFACTS[index] for index in (0, 2, 4, 8, 9)])
    ways = list(places(whole))
    assert len(ways) > 150
    accepted = 0
    for at in ways:
        for value in REPLACEMENTS:
            write(tmp_path, changed(whole, at, value))
            accepted += compare(probe, tmp_path, (*at, value))
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
        assert is_plain(found[1])
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
    write(tmp_path, BROKEN[name].change(content()))
    assert not compare(probe, tmp_path, (name,))


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_no_json(probe: Probe, tmp_path: Path, name: str) -> None:
    (tmp_path / MANIFEST).write_bytes(TEXTS[name][0])
    assert not compare(probe, tmp_path, (name,))


def test_suppression_in_the_graph_needs_no_raw_outputs(probe: Probe, tmp_path: Path) -> None:
    write(tmp_path, content(suppression={"where": "graph"}, raw_outputs={}))
    assert compare(probe, tmp_path)
    write(tmp_path, content(suppression=None, raw_outputs={}))
    assert compare(probe, tmp_path)


def test_any_cut_is_refused(probe: Probe, tmp_path: Path) -> None:
    for size in range(0, len(WHOLE), 101):
        (tmp_path / MANIFEST).write_text(WHOLE[:size])
        assert not compare(probe, tmp_path, (size,))


@examples(100)
@given(data=st.data())
def test_values_in_the_place_of_others(probe: Probe, mutated: Path, data: st.DataObject) -> None:
    (mutated / MANIFEST).write_bytes(data.draw(mutated_values()))
    compare(probe, mutated)


@examples(100)
@given(data=st.data())
def test_bytes_in_the_place_of_others(probe: Probe, mutated: Path, data: st.DataObject) -> None:
    (mutated / MANIFEST).write_bytes(data.draw(mutated_bytes()))
    compare(probe, mutated)


@pytest.fixture(scope="module")
def mutated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated")


# --- versions --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAST, ids=lambda path: path.stem)
def test_past_formats(probe: Probe, tmp_path: Path, path: Path) -> None:
    shutil.copy(path, tmp_path / MANIFEST)
    assert compare(probe, tmp_path)
    dumped = json.loads(path.read_text())
    del dumped["version"]
    write(tmp_path, dumped)
    assert compare(probe, tmp_path)


NEWER: dict[str, Any] = {
    "nothing new": content(version="1.7"),
    "one field": content(version="1.7", later=[1]),
    "an odd name": content(version="1.7", **{"la\nter": None}),
    "everywhere": content(
        version="1.12",
        later={"of": "all"},
        preprocess={"size": [64, 64], "gamma": 2.2},
        gates=[{**gate, "width": 3} for gate in content()["gates"]],
        artifacts=[{**artifact("a", **engine("sm87", device=None, host="x")), "cost": 1}],
    ),
}


@pytest.mark.parametrize("name", NEWER)
def test_fields_of_a_newer_minor_are_left_out(
    probe: Probe, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    folder = write(tmp_path, NEWER[name])
    with caplog.at_level(logging.WARNING, "anydepth_deploy"):
        assert compare(probe, tmp_path)
    assert probe.call("warnings", folder=folder) == [item.getMessage() for item in caplog.records]
    assert len(caplog.records) == (name != "nothing new")


# --- what is no file, or no bundle -----------------------------------------------------------


def test_what_is_no_file(probe: Probe, tmp_path: Path) -> None:
    path = tmp_path / MANIFEST
    os.mkfifo(path)
    assert not compare(probe, tmp_path)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(tmp_path)  # names of sockets are short
        made.bind(MANIFEST)
        os.chdir(here)
    assert not compare(probe, tmp_path)
    for target in ("/dev/zero", "/dev/null", tmp_path, MANIFEST, "nowhere"):
        path.unlink()
        path.symlink_to(target)
        assert not compare(probe, tmp_path)
    path.unlink()
    write(tmp_path, content())
    path.rename(tmp_path / "elsewhere")
    path.symlink_to("other")
    (tmp_path / "other").symlink_to("elsewhere")
    assert compare(probe, tmp_path)


def test_the_largest_file(probe: Probe, tmp_path: Path) -> None:
    whole = WHOLE.encode()
    path = tmp_path / MANIFEST
    path.write_bytes(whole.rjust(1 << 24))
    assert compare(probe, tmp_path)
    path.write_bytes(whole.rjust((1 << 24) + 1))
    assert not compare(probe, tmp_path)


def test_a_file_without_an_end(probe: Probe, tmp_path: Path) -> None:
    with (tmp_path / MANIFEST).open("wb") as file:
        file.truncate(1 << 40)  # takes no room
    assert not compare(probe, tmp_path)


def test_a_mark_at_the_beginning(probe: Probe, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(WHOLE, encoding="utf-8-sig")
    assert compare(probe, tmp_path)
    (tmp_path / MANIFEST).write_bytes(b"\xef\xbb\xbf" * 2 + WHOLE.encode())
    assert not compare(probe, tmp_path)
    (tmp_path / MANIFEST).write_text(WHOLE, encoding="utf-16")
    assert not compare(probe, tmp_path)


@pytest.mark.parametrize("label", [-2, -1, 0, 2, 3, 80, 2**62])
def test_names_of_labels(probe: Probe, tmp_path: Path, label: int) -> None:
    folder = write(tmp_path, content())
    expected = outcome(lambda: open_bundle(tmp_path).class_name(label))
    assert outcome(lambda: probe.call("class_name", folder=folder, label=label)) == expected
    assert isinstance(expected, str) == (0 <= label < 3)


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
    assert not compare(probe, tmp_path)


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


@pytest.fixture(scope="module", params=["for two targets", "for three", "a rung"])
def everything(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("everything")
    found = content()
    for item in list(found["artifacts"]) if request.param == "for three" else ():
        if (item["quantisation"] or {}).get("target") == "onnxruntime":
            other = copy.deepcopy(item)
            other["quantisation"]["target"] = "openvino"
            other.update(name=f"{item['name']}-openvino", file=f"openvino-{item['file']}")
            found["artifacts"].append(other)
    if request.param == "a rung":  # of the set for OpenVINO, and all of that for ONNX Runtime
        for target, rungs in (("openvino", LADDER[:1]), ("onnxruntime", LADDER)):
            for row, depth in enumerate(rungs):
                given = {**static(depth, row), **quantised(target)}
                found["artifacts"].append(artifact(f"{target}-{row}", **given))
    assert request.param == "for two targets" or len(found["artifacts"]) > len(
        content()["artifacts"]
    )
    write(folder, found)
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
        for target in (None, "onnxruntime", "tensorrt", "openvino", "what")
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
