"""Golden outputs: they are the checkpoint's, sound artifacts agree with them, wrong ones do not.

The oracle is torch, run here on the pictures of the file.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Run
from conftest import random_detr, random_yolo
from numpy.typing import NDArray
from safetensors.numpy import load_file
from static_bundles import KINDS, static_bundle
from trained_networks import FAMILIES, lowered_bundle

import anydepth_deploy as ad
from anydepth_deploy.bundle import golden as golden_files
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.engines import open_artifacts
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.bundle.golden import Golden, decode, encode
from anydepth_deploy.depth import Depth, DepthSpace, Gate
from anydepth_deploy.documents import file_sha256
from anydepth_deploy.errors import BundleError, DepthError
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.exporting.golden import golden_depths, make_golden
from anydepth_deploy.families.registry import golden_tolerances, tolerances
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.pictures import images
from anydepth_deploy.pictures.images import Preprocess, prepare
from anydepth_deploy.verifying import golden as verifying
from anydepth_deploy.verifying.golden import GoldenReport, verify_golden


def check(bundle: Bundle, **options: Any) -> GoldenReport:
    return verify_golden(bundle, **{"threads": 1, "record": False, **options})


# --- what is in them -------------------------------------------------------------------------


@pytest.fixture(params=["detr", "yolo"])
def exported(request: pytest.FixtureRequest) -> tuple[Bundle, AnyDepthModel]:
    """A bundle of random weights, and the network."""
    prefix = "" if request.param == "detr" else "yolo_"
    bundle = request.getfixturevalue(f"{prefix}bundle")
    return bundle, request.getfixturevalue(f"{prefix}model")


def test_they_are_what_the_checkpoint_computes(exported: tuple[Bundle, AnyDepthModel]) -> None:
    """Read with the package of the format's authors."""
    bundle, model = exported
    entry = bundle.manifest.golden
    assert entry is not None
    found = load_file(bundle.path / entry.file)
    assert found["pictures"].shape == (2, 96, 128, 3)
    assert entry.depths[: len(bundle.table.ladder)] == [str(rung) for rung in bundle.table.ladder]
    inputs = np.stack([prepare(item, bundle.manifest.preprocess)[0] for item in found["pictures"]])
    for depth in entry.depths:
        with torch.inference_mode():
            raw = {key: x.numpy() for key, x in model(torch.from_numpy(inputs), depth).items()}
        if "predictions" in raw:
            cells = found["cells"]
            for name, rows in (("boxes", slice(4)), ("scores", slice(4, None))):
                wanted = np.take_along_axis(raw["predictions"][:, rows], cells[:, None], 2)
                given = np.swapaxes(found[f"{depth}.values.{name}"], 1, 2)
                np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-4)
            continue
        for picture, tokens in enumerate(found[f"{depth}.tokens"]):
            place = [list(raw["queries"][picture]).index(token) for token in tokens]
            for name in ("logits", "boxes"):
                given = found[f"{depth}.values.{name}"][picture]
                np.testing.assert_allclose(given, raw[name][picture][place], atol=1e-4)
        count = raw["queries"].shape[1]
        best = found[f"{depth}.best_tokens"][:, :count]
        assert np.array_equal(np.sort(best, 1), np.sort(raw["queries"], 1))
        scores = found[f"{depth}.best_scores"]
        assert (np.diff(scores, axis=1) <= 0).all()
        assert (scores[:, count - 1] - scores[:, count] > 1e-4).all()  # chosen by no hair


def test_pictures_tell_channels_and_sides_apart(bundle: Bundle) -> None:
    for picture in bundle.golden().pictures.astype(float):
        for other in (picture[..., ::-1], picture[::-1], picture[:, ::-1]):
            assert np.abs(picture - other).mean() > 3


@pytest.mark.parametrize("count", range(12))
def test_depths_tell_any_two_gates_apart(count: int) -> None:
    """One of two is skipped, the other not, at some depth; and each is seen both ways."""
    gates = tuple(Gate(f"g{index}", 0) for index in range(count))
    space = DepthSpace(gates, (1,) * count)
    found = golden_depths(space, [space.base, space.super] if count else [space.super])
    assert len(found) <= 2 + 4
    for one, other in itertools.combinations(range(count), 2):
        assert any(depth.settings[one] != depth.settings[other] for depth in found)
    for gate in range(count):
        assert {depth.settings[gate] for depth in found} == {0, 1}


@pytest.mark.parametrize("make", [random_detr, random_yolo])
def test_large_networks_leave_little(make: Callable[..., AnyDepthModel]) -> None:
    """At 640 x 640 an item is chosen of many, and the file holds no more than 16 KiB of a quantity
    of a picture at a depth for each 4096 numbers."""
    model = make()
    depths = [model.space.base, model.space.super]
    size = (640, 640) if make is random_yolo else (320, 320)
    found = make_golden(model, depths, Preprocess.of(model.resize, size))
    content = encode(found)
    assert len(content) < 2 * 96 * 128 * 3 + 2 * 2 * (1 << 16)
    again = decode(content)
    assert encode(again) == content
    for text in (str(depth) for depth in depths):
        items = again.depths[text].items
        assert {name: array.dtype for name, array in items.values.items()} == dict.fromkeys(
            items.values, np.dtype("f4")
        )


def test_the_same_numbers_are_the_same_bytes(model: AnyDepthModel) -> None:
    recipe = Preprocess.of("stretch", (96, 160))
    one, other = (encode(make_golden(model, [model.space.super], recipe)) for _ in range(2))
    assert one == other


# --- sound artifacts -------------------------------------------------------------------------


def test_sound_graphs_agree(exported: tuple[Bundle, AnyDepthModel]) -> None:
    bundle, _ = exported
    report = check(bundle)
    assert report.passed
    assert not report.left_out
    assert report.compared_with == "golden outputs"
    assert {row.artifact for row in report.rows} == {item.name for item in bundle.artifacts()}
    assert report.batches == [[1, 3, *bundle.size], [2, 3, *bundle.size]]


def test_one_depth(one_depth_bundle: Bundle) -> None:
    report = check(one_depth_bundle)
    assert report.passed
    assert {row.depth for row in report.rows} == {"full"}


@pytest.mark.parametrize("kind", KINDS)
def test_static_detrs_and_chains(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = static_bundle(kind, tmp_path_factory)
    report = check(bundle)
    assert report.passed
    assert {"stages-fp32-*", "stages-fp16-*"} <= {row.artifact for row in report.rows}


@pytest.mark.parametrize("family", FAMILIES)
def test_trained_networks_in_every_precision(
    family: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = lowered_bundle(family, tmp_path_factory)[0]
    report = check(bundle)
    assert report.passed
    assert {row.precision for row in report.rows} == {"fp32", "fp16", "int8"}
    assert {item.name for item in bundle.artifacts()} == {row.artifact for row in report.rows}
    for row in report.rows:  # with room to spare
        limits = golden_tolerances(family, bundle.size, row.precision)[row.exchanged > 0].raw
        assert all(row.differences[name] < 0.7 * limit for name, limit in limits.items())


def test_openvino_agrees(bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    assert check(bundle, runtime="openvino", layout="gated").passed


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_limits(family: str, precision: str) -> None:
    """FP32 has to be equal; of other precisions queries of another choice are allowed for."""
    with_checkpoint = tolerances(family, (160, 160), precision)
    same, other = golden_tolerances(family, (160, 160), precision)
    judged = {name: limit for name, limit in with_checkpoint.raw.items() if limit}
    assert same.raw == judged
    assert same.approximate == (precision != "fp32")
    assert other.approximate
    assert all(judged[name] < other.raw[name] for name in judged)
    assert same.selection == other.selection == with_checkpoint.selection


# --- wrong ones ------------------------------------------------------------------------------


class OtherDepths:
    """A session whose graph was made with other gates: it computes ``turn(depth)``."""

    def __init__(self, session: Any, turn: Callable[[Depth], Depth]) -> None:
        self._session, self._turn = session, turn
        self.detects = session.detects

    def run_both(self, images: NDArray[np.float32], depth: Depth) -> Any:
        return self._session.run_both(images, self._turn(depth))


def swapped(space: DepthSpace, one: int, other: int) -> Callable[[Depth], Depth]:
    def turn(depth: Depth) -> Depth:
        settings = list(depth.settings)
        settings[one], settings[other] = settings[other], settings[one]
        return space.depth(settings)

    return turn


def stuck(space: DepthSpace, gate: int, setting: int) -> Callable[[Depth], Depth]:
    def turn(depth: Depth) -> Depth:
        settings = list(depth.settings)
        settings[gate] = setting
        return space.depth(settings)

    return turn


def test_any_two_swapped_gates_and_any_stuck_one_are_found(
    exported: tuple[Bundle, AnyDepthModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, _ = exported
    space = bundle.table.space
    skips = [place for place, gate in enumerate(space.gates) if not gate.layers]
    faults = {
        f"{one} and {other} swapped": swapped(space, one, other)
        for one, other in itertools.combinations(skips, 2)
    }
    for place in skips:
        for setting in (0, 1):
            faults[f"{place} stuck at {setting}"] = stuck(space, place, setting)
    session = open_artifacts(bundle, bundle.artifacts("gated")[:1], threads=1, raw=True)
    known: dict[Any, Any] = {}

    class Known:
        detects = session.detects

        def run_both(self, images: NDArray[np.float32], depth: Depth) -> Any:
            key = images.tobytes(), depth
            if key not in known:
                known[key] = session.run_both(images, depth)
            return known[key]

    for fault, turn in faults.items():
        monkeypatch.setattr(
            verifying, "open_artifacts", lambda *_, turn=turn, **__: OtherDepths(Known(), turn)
        )
        report = check(bundle, layout="gated")
        assert not report.passed, fault
        wrong = {row.depth for row in report.rows if not row.passed}
        tried = [space.parse(text) for text in bundle.golden().depths]
        assert wrong == {str(depth) for depth in tried if turn(depth) != depth}, fault


def test_a_graph_of_another_checkpoint(bundle_copy: Path, tmp_path: Path) -> None:
    """Its hash is right, and it says to be of the same checkpoint."""
    other = tmp_path / "other.pth"
    torch.save(random_detr(seed=5).state_dict(), other)
    foreign = export_bundle(other, tmp_path / "foreign")
    bundle = open_bundle(bundle_copy)
    mine = bundle.artifacts("gated")[0]
    content = (foreign.path / foreign.artifacts("gated")[0].file).read_bytes()
    content = content.replace(
        foreign.manifest.source.sha256.encode(), bundle.manifest.source.sha256.encode()
    )
    (bundle_copy / mine.file).write_bytes(content)
    replace_entry(
        bundle_copy, mine.name, bytes=len(content), sha256=file_sha256(bundle_copy / mine.file)
    )
    report = check(open_bundle(bundle_copy))
    assert {row.artifact for row in report.rows if not row.passed} == {mine.name}
    assert all(not row.passed for row in report.rows if row.artifact == mine.name)


def replace_entry(folder: Path, name: str | None, **changes: Any) -> None:
    """Change what the manifest says of an artifact, or of the golden outputs."""
    path = folder / MANIFEST
    content = json.loads(path.read_text())
    entries = [item for item in content["artifacts"] if item["name"] == name]
    (entries[0] if name is not None else content["golden"]).update(changes)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("wrong", ["BGR", "upside down", "other fit", "other scale"])
def test_wrong_preprocessing(
    exported: tuple[Bundle, AnyDepthModel], monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    bundle, _ = exported
    recipe = bundle.manifest.preprocess
    changes = {
        "BGR": lambda array: array[:, ::-1],
        "upside down": lambda array: array[:, :, ::-1],
        "other scale": lambda array: array * np.float32(255 / 256),
    }
    if wrong == "other fit":
        fit = "letterbox" if recipe.resize == "stretch" else "stretch"
        other = recipe.model_copy(update={"resize": fit})
        bundle = Bundle(bundle.path, bundle.manifest.model_copy(update={"preprocess": other}))
    else:
        monkeypatch.setattr(
            verifying,
            "prepare_batch",
            lambda *given: (
                np.ascontiguousarray(changes[wrong](images.prepare_batch(*given)[0])),
                [],
            ),
        )
    report = check(bundle, layout="gated")
    assert all(not row.passed for row in report.rows)


def test_fewer_queries_and_other_shapes_fail(bundle: Bundle) -> None:
    golden = bundle.golden()
    for changes in ({"items": golden.items + 1}, {"tokens": golden.tokens}):
        damaged = dataclasses.replace(golden, **changes)
        other = Bundle(bundle.path, bundle.manifest)
        other.golden = lambda damaged=damaged: damaged  # type: ignore[method-assign]
        assert check(other, layout="gated").passed == (changes.get("tokens") is not None)


# --- depths, words, records ------------------------------------------------------------------


def test_chosen_depths(bundle: Bundle) -> None:
    report = check(bundle, depths=[bundle.table.space.base], layout="gated")
    assert {row.depth for row in report.rows} == {str(bundle.table.space.base)}
    golden = bundle.golden()
    odd = next(depth for depth in bundle.table.rows if str(depth) not in golden.depths)
    with pytest.raises(DepthError, match=f"has no golden outputs at {odd}; it has them at "):
        check(bundle, depths=[odd])


def test_static_graphs_of_other_depths_are_left_out(
    checkpoint: Path, bundle: Bundle, tmp_path: Path
) -> None:
    odd = next(str(d) for d in bundle.table.rows if str(d) not in bundle.golden().depths)
    made = export_bundle(checkpoint, tmp_path / "b", layouts=["set"], depth=f"super,{odd}")
    report = check(made)
    assert report.passed
    assert report.left_out == [f"static-fp32-{odd}"]


def test_command(bundle_copy: Path, run: Run) -> None:
    words = ("verify", bundle_copy, "--layout", "gated", "--threads", 1)
    told = run(*words)
    assert told.code == 0
    assert "parity with golden outputs (onnxruntime)" in told.out
    assert "rows equal the golden outputs" in told.out
    found = run(*words, "--json").json
    assert found["compared_with"] == "golden outputs"
    assert found["passed"]
    record = open_bundle(bundle_copy).manifest.results["verify"][-1]
    assert record["compared_with"] == "golden outputs"
    assert all(item["passed"] for item in record["artifacts"])
    assert "compared_with" in run("verify", bundle_copy, "--json").json


def test_a_difference_ends_with_1(bundle_copy: Path, run: Run) -> None:
    path = bundle_copy / MANIFEST
    content = json.loads(path.read_text())
    content["preprocess"]["mean"] = [0.1, 0.0, 0.0]
    path.write_text(json.dumps(content))
    told = run("verify", bundle_copy, "--layout", "gated")
    assert told.code == 1
    assert "rows differ from the golden outputs by more than fp32: " in told.err
    assert len(told.err.strip().splitlines()) == 1
    assert not open_bundle(bundle_copy).manifest.results["verify"][-1]["passed"]


# --- files -----------------------------------------------------------------------------------


def without_golden(folder: Path) -> None:
    """As a version before wrote it."""
    path = folder / MANIFEST
    content = json.loads(path.read_text())
    (folder / content["golden"]["file"]).unlink()
    for field in ("golden", "name", "exported_classes"):
        del content[field]
    content["version"] = "1.2"
    path.write_text(json.dumps(content))


def test_an_old_bundle_gets_them_by_the_same_command(
    bundle_copy: Path, checkpoint: Path, run: Run
) -> None:
    without_golden(bundle_copy)
    before = {path.name: path.read_bytes() for path in bundle_copy.glob("*.onnx")}
    told = run("verify", bundle_copy)
    assert told.code == 2
    assert told.err == (
        f"error: bundle {bundle_copy} has no golden outputs to compare with: export it again as it "
        "was exported, which adds them and keeps its artifacts, or name the checkpoint to compare "
        "with\n"
    )
    words = ("--layout", "gated,set", "--weights", "shared,folded")
    assert run("export", checkpoint, "--out", bundle_copy, *words).code == 0
    assert {path.name: path.read_bytes() for path in bundle_copy.glob("*.onnx")} == before
    assert run("verify", bundle_copy, "--layout", "gated").code == 0


Damage = Callable[[Path], None]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut, r"golden.safetensors has \d+ bytes, the manifest says \d+; the file was altered"),
        (flip, r"are damaged \(sha256 [0-9a-f]{12}…, the manifest says [0-9a-f]{12}…\): export"),
        (Path.unlink, "the file of golden outputs golden.safetensors is missing; export it again"),
    ],
)
def test_damaged_files_are_one_line_and_made_anew(
    bundle_copy: Path, checkpoint: Path, run: Run, damage: Damage, told: str
) -> None:
    sound = (bundle_copy / "golden.safetensors").read_bytes()
    damage(bundle_copy / "golden.safetensors")
    found = run("verify", bundle_copy)
    assert found.code == 2
    assert re.search(told, found.err)
    assert len(found.err.strip().splitlines()) == 1
    export_bundle(checkpoint, bundle_copy)
    (named,) = bundle_copy.glob("golden*")
    assert named.name == open_bundle(bundle_copy).manifest.golden.file  # type: ignore[union-attr]
    assert named.read_bytes() == sound


def edited(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The file with another header."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def shape(name: str, *sides: int) -> Callable[[dict[str, Any]], None]:
    return lambda header: header[name].update(shape=list(sides))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda _: b"", "it is cut short"),
        (lambda content: content[:100], "it is cut short"),
        (lambda content: content[:-4], "the bytes of '.*' are not those of its shape"),
        (lambda _: (2).to_bytes(8, "little") + b"[]", "its header is no object"),
        (lambda _: (2).to_bytes(8, "little") + b"{]", "its header is not valid JSON"),
        (lambda _: (2).to_bytes(8, "little") + b"{}", "it has no '__metadata__'"),
        (lambda x: edited(x, shape("pictures", 2, 64, 192, 3)), None),
        (lambda x: edited(x, shape("pictures", 2, 3, 96, 128)), "the shape of 'pictures' is"),
        (lambda x: edited(x, shape("pictures", 2, 96, 128, 4)), "not those of its shape"),
        (lambda x: edited(x, shape("TTTT-T-3.values.boxes", 2, 30, 8)), "the shape of 'TTTT-T-3.v"),
        (lambda x: edited(x, shape("pictures", 2, -96, -128, 3)), "not those of its shape"),
        (lambda x: edited(x, lambda h: h.pop("TTTT-T-3.tokens")), "it has no 'TTTT-T-3.tokens'"),
        (lambda x: edited(x, lambda h: h.pop("pictures")), "it has no 'pictures'"),
        (lambda x: edited(x, lambda h: h["__metadata__"].update(version="2")), "another version"),
        (
            lambda x: edited(x, lambda h: h["__metadata__"].update(items="9" * 99)),
            "items or tokens",
        ),
        (lambda x: edited(x, lambda h: h["pictures"].update(dtype="F64")), "it has no 'F64'"),
        (lambda x: edited(x, lambda h: h["__metadata__"].update(tokens="9")), "no distinct places"),
    ],
)
def test_files_of_another_content(
    bundle_copy: Path, change: Callable[[bytes], bytes], told: str | None
) -> None:
    """Their hashes are right: somebody made them."""
    path = bundle_copy / "golden.safetensors"
    path.write_bytes(change(path.read_bytes()))
    replace_entry(bundle_copy, None, bytes=path.stat().st_size, sha256=file_sha256(path))
    bundle = open_bundle(bundle_copy)
    if told is None:
        assert not check(bundle, layout="gated").passed
        return
    with pytest.raises(BundleError, match=told) as caught:
        bundle.golden()
    assert "\n" not in str(caught.value)


def test_values_that_are_no_numbers(bundle: Bundle) -> None:
    golden = bundle.golden()
    text, found = next(iter(golden.depths.items()))
    values = {name: array.copy() for name, array in found.items.values.items()}
    values["boxes"][0, 0, 0] = np.nan
    items = dataclasses.replace(found.items, values=values)
    depths = {**golden.depths, text: dataclasses.replace(found, items=items)}
    with pytest.raises(ValueError, match=r"there are values at .* that are no numbers"):
        decode(encode(dataclasses.replace(golden, depths=depths)))


def test_the_choice_of_tokens(bundle: Bundle) -> None:
    golden = bundle.golden()
    for text, found in golden.depths.items():
        scores = golden.choice(text)
        assert scores is not None
        assert found.best_scores is not None
        assert found.best_tokens is not None
        for row, tokens, best in zip(scores, found.best_tokens, found.best_scores, strict=True):
            assert np.array_equal(row[tokens], best)
            others = np.setdiff1d(np.arange(golden.tokens), tokens)
            assert (row[others] == best[-1]).all()


def test_interrupted_exports_are_taken_up_again(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was being written, nothing of it shows; the graph that was done is not made anew."""
    out = tmp_path / "b"
    with monkeypatch.context() as patch:

        def fail(golden: Golden) -> bytes:
            raise KeyboardInterrupt

        patch.setattr("anydepth_deploy.exporting.golden.encode", fail)
        with pytest.raises(KeyboardInterrupt):
            export_bundle(checkpoint, out)
    assert not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr("anydepth_deploy.exporting.export.export_pieces", pytest.fail)
        made = export_bundle(checkpoint, out)
    assert check(made).passed
    assert sorted(path.name for path in out.iterdir()) == [
        "gated-fp32-shared.onnx",
        "golden.safetensors",
        "manifest.json",
    ]


def test_replacing_with_another_size_makes_them_anew(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    before = export_bundle(checkpoint, out, input_size=(96, 160)).golden()
    again = export_bundle(checkpoint, out, input_size=(160, 96), force=True)
    assert check(again).passed
    assert len([*out.glob("golden*")]) == 1
    assert encode(again.golden()) != encode(before)
    kept = export_bundle(checkpoint, out, force=True, classes=names(tmp_path, again.classes))
    assert encode(kept.golden()) == encode(again.golden())


def names(folder: Path, classes: list[str]) -> Path:
    path = folder / "names.txt"
    path.write_text("".join(f"new {name}\n" for name in classes))
    return path


# --- on a device -----------------------------------------------------------------------------

BLOCKED = """
import sys
from importlib.abc import MetaPathFinder

class Block(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "onnx_ir", "onnxscript", "scipy", "safetensors",
                                  "matplotlib", "faster_coco_eval"}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Block())
from anydepth_deploy.cli import main
main()
"""


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_without_torch(bundle_copy: Path, runtime: str) -> None:
    words = ["verify", str(bundle_copy), "--layout", "gated", "--runtime", runtime]
    found = subprocess.run(
        [sys.executable, "-c", BLOCKED, *words], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert "equal the golden outputs" in found.stdout


def test_the_reader_is_the_one_of_the_verb(bundle: Bundle) -> None:
    report = ad.verify(bundle, layout="gated", threads=1, record=False)
    assert isinstance(report, GoldenReport)
    assert report.passed
    assert golden_files.SUFFIX == ".safetensors"


def test_a_copy_of_the_folder_proves_itself_anywhere(bundle: Bundle, tmp_path: Path) -> None:
    moved = shutil.copytree(bundle.path, tmp_path / "elsewhere")
    assert check(open_bundle(moved), layout="gated", depths=[bundle.table.space.super]).passed
