"""Sessions: one set of calls, whatever artifact lies underneath."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from comparisons import assert_close, assert_equal
from conftest import RUNGS, random_images
from edited_bundles import edit_artifact
from numpy.typing import NDArray

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.depth import Depth
from anydepth_deploy.detections import Detections
from anydepth_deploy.documents import file_sha256
from anydepth_deploy.errors import (
    BundleError,
    DepthError,
    InputError,
    MissingExtraError,
    UsageError,
)
from anydepth_deploy.families.detr.model import AnyDepthDETR
from anydepth_deploy.runtimes.vnni import lacks_vnni

SIDE = 160
KINDS = [("gated", "shared"), ("gated", "folded"), ("set", None)]


@pytest.fixture(scope="module")
def sessions(bundle: Bundle) -> dict[str, Session]:
    return {
        f"{layout} {weights}": bundle.session(artifact=layout, weights=weights, threads=1)
        for layout, weights in KINDS
    }


@pytest.fixture(scope="module")
def gated(sessions: dict[str, Session]) -> Session:
    return sessions["gated shared"]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("level", range(4))
def test_all_layouts_answer_what_the_checkpoint_answers(
    sessions: dict[str, Session], model: AnyDepthDETR, level: int, batch: int
) -> None:
    images = random_images(batch, SIDE, SIDE, seed=level)
    with torch.inference_mode():
        found = model.detect(torch.from_numpy(images), level)
    expected = Detections(found["labels"].numpy(), found["boxes"].numpy(), found["scores"].numpy())
    assert expected.labels.shape == (batch, 100)
    for session in sessions.values():
        answer = session.run(images, f"level:{level}")
        assert answer.labels.dtype == np.int64
        assert answer.boxes.dtype == answer.scores.dtype == np.float32
        assert len(answer) == batch
        assert_close(answer, expected)


def test_depths_give_different_answers(gated: Session) -> None:
    # Otherwise a graph that ignores its depth would pass for one that obeys it.
    images = random_images(1, SIDE, SIDE)
    scores = [gated.run(images, level).scores for level in range(4)]
    for one in range(4):
        for other in range(one):
            assert np.abs(scores[one] - scores[other]).max() > 1e-3


@pytest.mark.parametrize("kind", [f"{layout} {weights}" for layout, weights in KINDS])
def test_a_depth_may_be_written_in_many_ways(sessions: dict[str, Session], kind: str) -> None:
    session = sessions[kind]
    images = random_images(1, SIDE, SIDE)
    expected = session.run(images, RUNGS[1])
    spelled: list[Any] = ["level:1", f" {RUNGS[1].lower()} ", 1, np.int64(1), np.uint8(1)]
    spelled.append(session.table.find(RUNGS[1]))
    for depth in spelled:
        assert_equal(session.run(images, depth), expected)
    assert_equal(session.run(images), session.run(images, "super"))
    assert_equal(session.run(images, "base"), session.run(images, 0))


@pytest.mark.parametrize("kind", [f"{layout} {weights}" for layout, weights in KINDS])
def test_each_image_at_its_own_depth(sessions: dict[str, Session], kind: str) -> None:
    """Whatever the order; images of one depth run together, once."""
    session = sessions[kind]
    images = random_images(5, *session.size, seed=3)
    names = ["super", "base", "level:1", "super", "base"]
    rows = [session.table.row(name) for name in names]
    expected = [session.run(images[i : i + 1], name) for i, name in enumerate(names)]
    for depths in (names, rows, np.asarray(rows), tuple(session.table.rows[row] for row in rows)):
        found = session.run(images, depths)
        assert found.labels.dtype == np.int64
        for index, alone in enumerate(expected):
            assert_close([*found][index], alone)


def test_images_of_one_depth_run_together(gated: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    run = Session._run

    def counted(session: Session, images: Any, depth: Any, outputs: Any) -> Any:
        calls.append((len(images), depth))
        return run(session, images, depth, outputs)

    monkeypatch.setattr(Session, "_run", counted)
    images = random_images(4, *gated.size)
    gated.run(images, [3, 0, 3, 3])
    assert sorted(calls) == [(1, 0), (3, 3)]
    calls.clear()
    gated.run(images, ["base"] * 4)
    assert calls == [(4, 0)]


@pytest.mark.parametrize("depths", [["super"] * 3, [], ["super"] * 5])
def test_another_number_of_depths(gated: Session, depths: list[str]) -> None:
    with pytest.raises(InputError, match=rf"{len(depths)} depths for 4 images: expected one for"):
        gated.run(random_images(4, *gated.size), depths)


def test_depths_that_can_be_run(sessions: dict[str, Session], bundle: Bundle) -> None:
    assert sessions["gated shared"].depths == bundle.table.rows
    assert sessions["set None"].depths == bundle.table.ladder
    assert len(bundle.table.rows) == 96


def test_the_last_row(gated: Session, model: AnyDepthDETR) -> None:
    images = random_images(1, SIDE, SIDE)
    text = str(gated.table.rows[-1])
    with torch.inference_mode():
        expected = model.detect(torch.from_numpy(images), text)
    np.testing.assert_allclose(gated.run(images, 95).scores, expected["scores"], atol=1e-5)


def transposed(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))


def strided(images: NDArray[np.float32]) -> NDArray[np.float32]:
    wide: NDArray[np.float32] = np.zeros((*images.shape[:3], 2 * images.shape[3]), np.float32)
    wide[..., ::2] = images
    return np.asarray(wide[..., ::2])


def flipped(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(images[:, :, ::-1].copy()[:, :, ::-1])


def read_only(images: NDArray[np.float32]) -> NDArray[np.float32]:
    images = images.copy()
    images.flags.writeable = False
    return images


@pytest.mark.parametrize("change", [transposed, strided, flipped, read_only])
def test_any_memory_layout(
    gated: Session, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> None:
    images = random_images(2, SIDE, SIDE)
    changed = change(images)
    assert np.array_equal(changed, images)
    assert change is read_only or not changed.flags.c_contiguous
    assert_equal(gated.run(changed, "base"), gated.run(images, "base"))


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (np.zeros((1, 3, SIDE, SIDE), np.float64), "float64 [1, 3, 160, 160]"),
        (np.zeros((1, 3, SIDE, SIDE), np.uint8), "uint8 [1, 3, 160, 160]"),
        (np.zeros((1, 3, SIDE, SIDE), np.float16), "float16 [1, 3, 160, 160]"),
        (np.zeros((1, 3, SIDE, SIDE), ">f4"), ">f4 [1, 3, 160, 160]"),
        (np.zeros((3, SIDE, SIDE), np.float32), "float32 [3, 160, 160]"),
        (np.zeros((1, SIDE, SIDE, 3), np.float32), "float32 [1, 160, 160, 3]"),
        (np.zeros((1, 1, SIDE, SIDE), np.float32), "float32 [1, 1, 160, 160]"),
        (np.zeros((1, 3, 128, SIDE), np.float32), "float32 [1, 3, 128, 160]"),
        (np.zeros((1, 3, 640, 640), np.float32), "float32 [1, 3, 640, 640]"),
        (np.zeros((0, 3, SIDE, SIDE), np.float32), "float32 [0, 3, 160, 160]"),
        (np.float32(1), "float32 []"),
        ([[0.0]], "list []"),
        (None, "NoneType []"),
    ],
)
def test_images_of_the_wrong_kind(gated: Session, images: Any, found: str) -> None:
    with pytest.raises(InputError) as caught:
        gated.run(images, "base")
    message = str(caught.value)
    assert message.startswith("images must be float32 [N, 3, 160, 160] with N >= 1; found ")
    assert message.endswith(found)


@pytest.mark.parametrize("kind", ["gated shared", "set None"])
@pytest.mark.parametrize(
    "depth", ["FFFF-F-9", "nonsense", "level:4", "level:-1", -1, 96, True, Depth((9,), "9"), None]
)
def test_depths_that_are_not_there(sessions: dict[str, Session], kind: str, depth: Any) -> None:
    with pytest.raises(DepthError):
        sessions[kind].run(random_images(1, SIDE, SIDE), depth)


def test_a_depth_that_the_set_has_no_graph_of(sessions: dict[str, Session]) -> None:
    with pytest.raises(BundleError, match=r"no static graph of depth TTTT-T-1") as caught:
        sessions["set None"].run(random_images(1, SIDE, SIDE), "TTTT-T-1")
    message = str(caught.value)
    assert f"it has {', '.join(RUNGS)}" in message
    assert "'export --layout set --depth TTTT-T-1', or use the gated graph" in message


# --- raw outputs -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gated shared", "set None"])
def test_raw_outputs_must_be_asked_for(sessions: dict[str, Session], kind: str) -> None:
    with pytest.raises(BundleError, match=r"no outputs raw_logits.*--raw.*raw=True"):
        sessions[kind].run_raw(random_images(1, SIDE, SIDE), "base")


@pytest.mark.parametrize(("layout", "weights"), KINDS)
def test_raw_outputs(bundle: Bundle, model: AnyDepthDETR, layout: str, weights: str | None) -> None:
    session = bundle.session(artifact=layout, weights=weights, raw=True)
    images = random_images(2, SIDE, SIDE)
    raw = session.run_raw(images, RUNGS[1])
    assert {name: array.shape for name, array in raw.items()} == {
        "logits": (2, 60, 8),
        "boxes": (2, 60, 4),
        "queries": (2, 60),
    }
    with torch.inference_mode():
        expected = model(torch.from_numpy(images), RUNGS[1])
    for image in range(2):  # a query is known by its token
        mine, theirs = raw["queries"][image], expected["queries"][image].numpy()
        assert set(mine) == set(theirs)
        for name in ("logits", "boxes"):
            np.testing.assert_allclose(
                raw[name][image][np.argsort(mine)],
                expected[name][image].numpy()[np.argsort(theirs)],
                atol=1e-4,
            )
    found, again = session.run_both(images, RUNGS[1])
    assert_equal(found, session.run(images, RUNGS[1]))
    assert all(np.array_equal(again[name], raw[name]) for name in raw)


# --- threads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["gated", "set"])
def test_several_threads_with_mixed_depths(bundle: Bundle, layout: str) -> None:
    session = bundle.session(artifact=layout, threads=1)  # fresh: graphs of a set open on use
    work = [(level, seed) for seed in range(3) for level in range(4)]
    found: dict[tuple[int, int], Detections] = {}
    errors: list[BaseException] = []
    ready = threading.Barrier(4)

    def run(mine: list[tuple[int, int]]) -> None:
        try:
            ready.wait()
            for level, seed in mine:
                images = random_images(1 + seed % 2, SIDE, SIDE, seed)
                found[level, seed] = session.run(images, level)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=run, args=(work[start::4][::-1],)) for start in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    serial = bundle.session(artifact=layout, threads=1)
    for level, seed in work:
        expected = serial.run(random_images(1 + seed % 2, SIDE, SIDE, seed), level)
        assert_equal(found[level, seed], expected)


# --- opening ---------------------------------------------------------------------------------


def test_what_is_opened_by_default(bundle: Bundle) -> None:
    assert bundle.session().depths == bundle.table.rows


def test_unknown_runtimes_and_artifacts(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=r"unknown runtime 'caffe': expected one of onnxruntime"):
        bundle.session(runtime="caffe")
    has = "it has: gated fp32 folded, gated fp32 shared, set fp32 folded"
    for options, wanted in (
        ({"artifact": "stages"}, "stages fp32"),
        ({"precision": "fp16"}, "fp16"),
        ({"precision": "int8", "target": "tensorrt"}, "int8 for tensorrt"),
        ({"precision": "int8", "runtime": "openvino"}, "int8 for openvino"),
        ({"artifact": "set", "weights": "shared"}, "set fp32 shared"),
    ):
        with pytest.raises(BundleError, match=f"no artifact '{wanted}'") as caught:
            bundle.session(**options)  # type: ignore[arg-type]
        assert has in str(caught.value)
        target = wanted.partition(" for ")[2]
        assert (f"--target {target}' adds it" if target else "' adds it") in str(caught.value)
    with pytest.raises(UsageError, match=r"unknown precision 'int4': expected fp32, fp16, int8"):
        bundle.session(precision="int4")


@pytest.mark.parametrize("threads", [0, -1])
def test_too_few_threads(bundle: Bundle, threads: int) -> None:
    with pytest.raises(UsageError, match=f"threads is {threads}: expected at least 1"):
        bundle.session(threads=threads)


def test_without_onnxruntime(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'anydepth-deploy\[onnxruntime\]'"):
        bundle.session()


def test_without_onnx(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert bundle.session(artifact="gated").run(random_images(1, SIDE, SIDE), 0)
    raw = bundle.session(artifact="gated", raw=True)  # they are there without it
    found = raw.run_raw(random_images(1, SIDE, SIDE), 0)
    assert all(np.isfinite(array).all() for array in found.values())
    assert "logits" in found


def test_a_file_that_is_no_graph(bundle_copy: Path) -> None:
    content = json.loads((bundle_copy / MANIFEST).read_text())
    for item in content["artifacts"]:
        path = bundle_copy / item["file"]
        path.write_bytes(b"not a graph")
        item.update(bytes=path.stat().st_size, sha256=file_sha256(path))
    (bundle_copy / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"onnx is not a whole ONNX graph \(byte 0: ") as caught:
        open_bundle(bundle_copy).session(artifact="gated")
    assert "\n" not in str(caught.value)


def test_a_graph_that_no_runtime_loads(bundle_copy: Path) -> None:
    for item in open_bundle(bundle_copy).artifacts("gated"):
        edit_artifact(bundle_copy, item.name, unknown_operator)
    with pytest.raises(BundleError, match=r"ONNX Runtime .* cannot load .*onnx") as caught:
        open_bundle(bundle_copy).session(artifact="gated")
    assert "\n" not in str(caught.value)


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "NoSuchOperator"


# --- the deployment half stands alone --------------------------------------------------------

RUN = """
import json, sys, time
began = time.perf_counter()
import anydepth_deploy as ad
seconds = time.perf_counter() - began
imported = sorted(sys.modules)
if len(sys.argv) > 1:
    import numpy as np
    bundle = ad.open_bundle(sys.argv[1])
    for layout in ("gated", "set"):
        session = bundle.session(artifact=layout)
        found = session.run(np.zeros((1, 3, *session.size), np.float32), "base")
        assert found.labels.shape == (1, 100)
    picture = np.zeros((50, 70, 3), np.uint8)
    session.run(ad.prepare_batch([picture], bundle.manifest.preprocess)[0], "super")
print(json.dumps({"seconds": seconds, "imported": imported, "after": sorted(sys.modules)}))
"""


def in_another_process(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-c", RUN, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def test_running_a_bundle_imports_no_torch(bundle: Bundle) -> None:
    found = in_another_process(str(bundle.path))
    heavy = {"torch", "onnx", "onnx_ir", "onnxscript", "safetensors", "scipy", "faster_coco_eval"}
    assert "onnxruntime" in found["after"]
    assert not heavy & set(found["after"])
    assert not any(name.startswith("anydepth_deploy.families") for name in found["after"])
    assert "onnxruntime" not in found["imported"]


def test_importing_takes_less_than_half_a_second() -> None:
    assert min(in_another_process()["seconds"] for _ in range(3)) < 0.5


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "flags: sse4_2 avx2", True),
        ("x86_64", "flags: avx2 avx512_vnni", False),
        ("AMD64", "flags: avx2 avx_vnni", False),
        ("x86_64", None, None),
        ("aarch64", None, False),
    ],
)
def test_where_8_bit_sums_may_saturate(
    monkeypatch: pytest.MonkeyPatch, machine: str, flags: str | None, expected: bool | None
) -> None:
    def read(*_: object, **__: object) -> str:
        if flags is None:
            raise FileNotFoundError
        return flags

    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(Path, "read_text", read)
    assert lacks_vnni.__wrapped__() is expected
