"""Sessions of the C++ library: the same answers as Python's, bit for bit, and the same refusals.

ONNX Runtime is called by the build with sanitizers, though not instrumented itself. OpenVINO loads
a part of itself in a way that the address sanitizer refuses: it is called by the build of users.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cpp_build
import numpy as np
import onnx
import pytest
from conftest import ROOT, random_images
from cpp_build import PATIENT, CppError, Probe, open_probe
from cpp_oracle import compare_plans, described
from edited_bundles import answer_with, edit_artifact
from numpy.typing import NDArray
from once import once
from static_bundles import KINDS, static_bundle
from trained_networks import CHECKPOINTS, FAMILIES, one_depth_bundle

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import AnyDepthError
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.families.shared.stages import Size
from anydepth_deploy.pictures.images import prepare_batch
from anydepth_deploy.pictures.shapes import render
from anydepth_deploy.runtimes.registry import runtime_computes

pytestmark = PATIENT

SIZES = {"anydepth-detr": (96, 192), "anydepth-yolo": (160, 160)}
"""Of the input: those that other tests export the networks for, too."""
WIDE = (128, 160)
"""Another size of the YOLO's, not square."""
LAYOUTS = ("gated", "set", "stages")
BETWEEN = 3
"""Depths beside the rungs that are compared."""


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    with open_probe("sanitized") as found:
        yield found


@pytest.fixture(scope="module")
def plain() -> Iterator[Probe]:
    """Without sanitizers, for OpenVINO."""
    with open_probe("optimised") as found:
        if "openvino" not in found.call("runtimes"):
            cpp_build.absent("this build has no openvino")
        yield found


def exported(family: str, folders: pytest.TempPathFactory, size: Size | None = None) -> Bundle:
    """A trained checkpoint in all layouts, with raw outputs; made once."""
    height, width = size or SIZES[family]

    def make(out: Path) -> None:
        options: dict[str, Any] = {"layouts": LAYOUTS, "raw": True}
        export_bundle(CHECKPOINTS[family], out, input_size=(height, width), **options)

    return open_bundle(once(folders, f"cpp-{family}-{height}x{width}", make))


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported(request.param, tmp_path_factory)


@pytest.fixture(scope="module")
def yolo(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported("anydepth-yolo", tmp_path_factory)


@pytest.fixture(scope="module")
def host(yolo: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The YOLO as exported with suppression on the host: its raw outputs are there."""
    return suppressed(yolo, "host", tmp_path_factory.mktemp("host"))


def suppressed(bundle: Bundle, where: str, folder: Path) -> Bundle:
    """A copy of a bundle whose suppression happens elsewhere."""
    copy = Path(shutil.copytree(bundle.path, folder / "bundle"))
    content = json.loads((copy / "manifest.json").read_text())
    content["suppression"]["where"] = where
    (copy / "manifest.json").write_text(json.dumps(content))
    return open_bundle(copy)


class Cpp:
    """A session of the library, called as Python's is."""

    def __init__(self, probe: Probe, bundle: Bundle, **options: Any) -> None:
        self._probe = probe
        options.setdefault("threads", 1)
        found = probe.call("open", folder=str(bundle.path), **options)
        self._number = found["session"]
        self.depths: list[str] = found["depths"]
        self.artifacts: list[str] = found["artifacts"]

    def run(self, images: NDArray[Any], depth: Any = "super") -> Detections:
        return self._detections(
            "run",
            images=self._probe.give(images),
            shape=list(images.shape),
            type=str(images.dtype),
            depth=depth,
        )

    def run_pictures(self, pictures: list[NDArray[np.uint8]], depth: Any) -> Detections:
        given = [[self._probe.give(item), *item.shape[:2]] for item in pictures]
        return self._detections("run_pictures", pictures=given, depth=depth)

    def run_raw(self, images: NDArray[Any], depth: str = "super") -> dict[str, NDArray[Any]]:
        out = self._probe.path()
        found = self._probe.call(
            "run_raw",
            session=self._number,
            images=self._probe.give(images),
            shape=list(images.shape),
            depth=depth,
            out=out,
        )
        return taken(self._probe, found, out)

    def close(self) -> None:
        self._probe.call("close", session=self._number)

    def _detections(self, name: str, **given: Any) -> Detections:
        out = self._probe.path()
        found = self._probe.call(name, session=self._number, out=out, **given)
        shape = (found["batch"], found["places"])
        return Detections(
            self._probe.take(f"{out}.labels", np.int64, shape),
            self._probe.take(f"{out}.boxes", np.float32, (*shape, 4)),
            self._probe.take(f"{out}.scores", np.float32, shape),
        )


def taken(probe: Probe, found: dict[str, Any], out: str) -> dict[str, NDArray[Any]]:
    return {
        name: probe.take(f"{out}.{name}", item["type"], item["shape"])
        for name, item in found.items()
    }


@contextlib.contextmanager
def kept_sessions(probe: Probe) -> Iterator[Callable[..., Cpp]]:
    """Opens sessions, each once for all tests: under sanitizers opening takes a second or more."""
    sessions: dict[str, Cpp] = {}

    def open_session(bundle: Bundle, **options: Any) -> Cpp:
        key = repr((bundle.path, sorted(options.items())))
        if key not in sessions:
            sessions[key] = Cpp(probe, bundle, **options)
        return sessions[key]

    yield open_session
    for session in sessions.values():
        session.close()


@pytest.fixture(scope="module")
def sanitized_sessions(probe: Probe) -> Iterator[Callable[..., Cpp]]:
    with kept_sessions(probe) as found:
        yield found


@pytest.fixture(scope="module")
def plain_sessions(plain: Probe) -> Iterator[Callable[..., Cpp]]:
    with kept_sessions(plain) as found:
        yield found


@pytest.fixture
def opened(
    request: pytest.FixtureRequest, sanitized_sessions: Callable[..., Cpp]
) -> Callable[..., Cpp]:
    """The session of a bundle with some options, whichever probe can open it."""

    def open_session(bundle: Bundle, **options: Any) -> Cpp:
        if options.get("runtime") != "openvino":
            return sanitized_sessions(bundle, **options)
        found: Cpp = request.getfixturevalue("plain_sessions")(bundle, **options)
        return found

    return open_session


def pictures_of(bundle: Bundle, count: int) -> NDArray[np.float32]:
    """Generated pictures that the trained networks find something in, and noise at the end."""
    pictures = [render(index, 7, "val", size=160).image for index in range(count)]
    images, _ = prepare_batch(pictures, bundle.manifest.preprocess)
    if count > 1:
        images[-1] = random_images(1, *bundle.size, seed=count)[0]
    return images


def some_depths(bundle: Bundle, layout: str) -> list[str]:
    """Every rung, and where a layout holds all depths, others drawn from the rest."""
    table = bundle.table
    rest = np.random.default_rng(5).permutation(np.arange(table.levels, len(table.rows)))
    others = [] if layout == "set" else [table.rows[int(row)] for row in rest[:BETWEEN]]
    return [str(depth) for depth in (*table.ladder, *others)]


def assert_same(found: Detections, expected: Detections) -> None:
    for name in ("labels", "boxes", "scores"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other, name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_detections_as_python(
    trained: Bundle, layout: str, opened: Callable[..., Cpp]
) -> None:
    assert_the_same_detections(trained, layout, opened)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_detections_in_another_size(
    layout: str, opened: Callable[..., Cpp], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The DETR's is not square already."""
    wide = exported("anydepth-yolo", tmp_path_factory, WIDE)
    assert_the_same_detections(wide, layout, opened)
    images = pictures_of(wide, 2)
    cpp, python = opened(wide, layout=layout), wide.session(artifact=layout, threads=1)
    for name, array in python.run_raw(images, "base").items():
        np.testing.assert_array_equal(cpp.run_raw(images, "base")[name], array, name)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_same_detections_of_a_network_of_one_depth(
    layout: str,
    runtime: str,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Bit for bit, by any name of the depth; and the same refusals."""
    bundle = one_depth_bundle(tmp_path_factory, WIDE, raw=True)
    sessions = "plain_sessions" if runtime == "openvino" else "opened"
    cpp = request.getfixturevalue(sessions)(bundle, layout=layout, runtime=runtime)
    python = bundle.session(runtime=runtime, artifact=layout, threads=1)
    assert cpp.depths == ["full"]
    images = pictures_of(bundle, 2)
    expected = python.run(images)
    assert (expected.scores > 0.5).sum() > 1
    for depth in ("full", "FULL", "super", "base", "level:0", "0", 0):
        assert_same(cpp.run(images, depth), expected)
    for name, array in python.run_raw(images, "full").items():
        np.testing.assert_array_equal(cpp.run_raw(images, "full")[name], array, name)
    for depth in (1, -1, "1", "level:1", "F", "FFFFFFFF"):
        assert_refused(
            lambda depth=depth: cpp.run(images, depth),  # type: ignore[misc]
            lambda depth=depth: python.run(images, depth),  # type: ignore[misc]
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_detrs_whose_decoder_alone_stops_early(
    kind: str, layout: str, opened: Callable[..., Cpp], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Detections and raw outputs, bit for bit, at every exit."""
    bundle = static_bundle(kind, tmp_path_factory)
    options = {"layout": layout, "precision": "fp32"}
    cpp = opened(bundle, **options)
    python = bundle.session(artifact=layout, precision="fp32", threads=1)
    assert cpp.depths == ["L1", "L2", "L3"]
    images = random_images(2, *bundle.size)
    for depth in cpp.depths:
        assert_same(cpp.run(images, depth), python.run(images, depth))
    found, expected = cpp.run_raw(images, "L2"), python.run_raw(images, "L2")
    assert found.keys() == expected.keys() == {"logits", "boxes", "queries"}
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, name)


def assert_the_same_detections(trained: Bundle, layout: str, opened: Callable[..., Cpp]) -> None:
    cpp, python = opened(trained, layout=layout), trained.session(artifact=layout, threads=1)
    assert cpp.depths == [str(depth) for depth in python.depths]
    found = 0
    for batch in (1, 3):
        images = pictures_of(trained, batch)
        for depth in some_depths(trained, layout):
            expected = python.run(images, depth)
            assert_same(cpp.run(images, depth), expected)
            found += int((expected.scores > 0.5).sum())
    assert found > 10  # or nothing was compared but noise


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_raw_outputs_as_python(
    trained: Bundle, layout: str, opened: Callable[..., Cpp]
) -> None:
    cpp, python = opened(trained, layout=layout), trained.session(artifact=layout, threads=1)
    images = pictures_of(trained, 2)
    expected = python.run_raw(images, "base")
    found = cpp.run_raw(images, "base")
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, name)


@pytest.mark.parametrize("layout", ["gated", "stages"])
def test_the_same_detections_on_openvino(
    trained: Bundle, layout: str, opened: Callable[..., Cpp]
) -> None:
    cpp = opened(trained, layout=layout, runtime="openvino")
    python = trained.session("openvino", layout, threads=1)
    names = some_depths(trained, layout)
    for batch in (1, 3):
        images = pictures_of(trained, batch)
        for depth in (names[0], names[-1], "super"):
            assert_same(cpp.run(images, depth), python.run(images, depth))


def test_openvino_in_bf16_or_a_refusal(trained: Bundle, opened: Callable[..., Cpp]) -> None:
    options: dict[str, Any] = {"runtime": "openvino", "precision": "bf16", "threads": 1}
    if "bf16" not in runtime_computes("openvino"):
        assert_refused(lambda: opened(trained, **options), lambda: trained.session(**options))
        return
    images = pictures_of(trained, 1)
    assert_same(opened(trained, **options).run(images), trained.session(**options).run(images))


def test_many_batch_sizes_on_openvino(host: Bundle, opened: Callable[..., Cpp]) -> None:
    cpp, python = opened(host, runtime="openvino"), host.session("openvino", threads=1)
    for batch in (1, 5, 2, 7, 3, 1):
        images = random_images(batch, *host.size, seed=batch)
        assert_same(cpp.run(images, "base"), python.run(images, "base"))


def test_more_depths_than_openvino_keeps(host: Bundle, opened: Callable[..., Cpp]) -> None:
    cpp = opened(host, runtime="openvino", kept_depths=2)
    python = host.session("openvino", threads=1, kept_depths=2)
    images = pictures_of(host, 2)
    for depth in ("super", "base", "level:1", "super", "base"):
        assert_same(cpp.run(images, depth), python.run(images, depth))


def test_depths_by_themselves_on_onnx_runtime(trained: Bundle, opened: Callable[..., Cpp]) -> None:
    cpp = opened(trained, layout="gated", kept_depths=2)
    python = trained.session(artifact="gated", threads=1, kept_depths=2)
    whole = trained.session(artifact="gated", threads=1)
    images = pictures_of(trained, 2)
    for depth in ("super", "base", "level:1", "super", "base"):
        found = cpp.run(images, depth)
        assert_same(found, python.run(images, depth))
        np.testing.assert_allclose(found.scores, whole.run(images, depth).scores, atol=1e-5)


def test_a_graph_that_was_replaced_meanwhile(bundle_copy: Path, opened: Callable[..., Cpp]) -> None:
    bundle = open_bundle(bundle_copy)
    cpp = opened(bundle, layout="gated", kept_depths=2)
    python = bundle.session(artifact="gated", threads=1, kept_depths=2)
    for path in bundle_copy.glob("*.onnx"):
        shutil.copy(path, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
    images = random_images(1, *bundle.size)
    assert_same(cpp.run(images), python.run(images))
    message = assert_refused(lambda: cpp.run(images, "base"), lambda: python.run(images, "base"))
    assert "was replaced since this session was opened" in message


def test_whole_pictures(trained: Bundle, opened: Callable[..., Cpp]) -> None:
    sizes = ((90, 200), (160, 160), (333, 240))
    pictures = [
        np.ascontiguousarray(render(index, 3, "val", size=max(size)).image[: size[0], : size[1]])
        for index, size in enumerate(sizes)
    ]
    assert [picture.shape[:2] for picture in pictures] == list(sizes)
    found = opened(trained).run_pictures(pictures, "level:1")
    images, geometries = prepare_batch(pictures, trained.manifest.preprocess)
    expected = trained.session(threads=1).run(images, "level:1")
    boxes = np.stack(
        [way.to_picture(one) for way, one in zip(geometries, expected.boxes, strict=True)]
    )
    assert_same(found, Detections(expected.labels, boxes, expected.scores))


def test_each_image_at_its_own_depth(trained: Bundle, opened: Callable[..., Cpp]) -> None:
    cpp, python = opened(trained), trained.session(threads=1)
    images, depths = pictures_of(trained, 5), ["super", "base", "super", "level:1", "base"]
    found = cpp.run(images, depths)
    assert_same(found, python.run(images, depths))
    for index, depth in enumerate(depths):
        alone = cpp.run(images[index : index + 1], depth)
        np.testing.assert_allclose(found.scores[index], alone.scores[0], atol=1e-5)
    pictures = [render(index, 7, "val", size=160).image for index in range(3)]
    mixed = cpp.run_pictures(pictures, ["base", "super", "base"])
    for index, depth in enumerate(("base", "super", "base")):
        alone = cpp.run_pictures(pictures[index : index + 1], depth)
        np.testing.assert_allclose(mixed.scores[index], alone.scores[0], atol=1e-5)
        sure = alone.scores[0] > 0.5
        assert sure.any()
        np.testing.assert_allclose(mixed.boxes[index][sure], alone.boxes[0][sure], atol=0.01)
    few: list[str] = ["super"] * 4
    assert_refused(lambda: cpp.run(images, few), lambda: python.run(images, few))
    assert_refused(lambda: cpp.run(images, []), lambda: python.run(images, []))


def test_suppression_on_the_host(host: Bundle, opened: Callable[..., Cpp]) -> None:
    cpp, python = opened(host), host.session(threads=1)
    for batch, depth in ((1, "super"), (3, "base"), (2, "level:1")):
        images = pictures_of(host, batch)
        expected = python.run(images, depth)
        assert (expected.labels >= 0).any()
        assert_same(cpp.run(images, depth), expected)


def test_folded_weights(bundle: Bundle, opened: Callable[..., Cpp]) -> None:
    cpp = opened(bundle, weights="folded")
    assert cpp.artifacts == [item.name for item in bundle.artifacts("gated", weights="folded")]
    images = random_images(2, *bundle.size)
    expected = bundle.session(weights="folded", threads=1).run(images, "level:1")
    assert_same(cpp.run(images, "level:1"), expected)


def test_predictions_without_detections(
    host: Bundle, tmp_path: Path, opened: Callable[..., Cpp]
) -> None:
    bundle = suppressed(host, "none", tmp_path)
    cpp, python = opened(bundle), bundle.session(threads=1)
    images = random_images(1, *host.size)
    np.testing.assert_array_equal(
        cpp.run_raw(images)["predictions"], python.run_raw(images)["predictions"]
    )
    assert_refused(lambda: cpp.run(images), lambda: python.run(images))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_share_a_session(trained: Bundle, layout: str, probe: Probe) -> None:
    """From the first call on, when pieces and static graphs are still to be opened."""
    assert _race(probe, trained, layout) == 0


def _race(probe: Probe, bundle: Bundle, layout: str, *, runtime: str = "onnxruntime") -> int:
    """How many answers of four threads differ from those of one."""
    images = pictures_of(bundle, 1)
    depths = some_depths(bundle, layout)
    found = probe.call(
        "race",
        folder=str(bundle.path),
        layout=layout,
        runtime=runtime,
        threads=1,
        images=probe.give(images),
        shape=list(images.shape),
        depths=depths,
        racers=4,
        repeats=1,
    )
    assert found["answers"] == 4 * len(depths)
    return int(found["wrong"])


def test_threads_share_openvino(host: Bundle, plain: Probe) -> None:
    assert _race(plain, host, "gated", runtime="openvino") == 0


def test_threads_without_data_races(trained: Bundle) -> None:
    """The same in a build with the thread sanitizer: none but what ONNX Runtime, which is not
    instrumented, does with its own memory."""
    with open_probe("threads") as probe:
        for layout in LAYOUTS:
            assert _race(probe, trained, layout) == 0


def test_outputs_outlive_their_session(trained: Bundle, probe: Probe) -> None:
    images = pictures_of(trained, 1)
    out = probe.path()
    given = {"images": probe.give(images), "shape": list(images.shape), "out": out, "threads": 1}
    found = taken(probe, probe.call("outlive", folder=str(trained.path), **given), out)
    expected = trained.session(threads=1).run_raw(images)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, name)


# Refusals


def assert_refused(cpp: Callable[[], object], python: Callable[[], object]) -> str:
    """Both refuse, with the same class and the same words."""
    with pytest.raises(AnyDepthError) as ours:
        python()
    with pytest.raises(CppError) as theirs:
        cpp()
    assert (theirs.value.kind, theirs.value.message) == (type(ours.value).__name__, str(ours.value))
    return theirs.value.message


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 3, 128, 161), np.float32),
        np.zeros((1, 3, 160, 128), np.float32),
        np.zeros((1, 1, 128, 160), np.float32),
        np.zeros((3, 128, 160), np.float32),
        np.zeros((0, 3, 128, 160), np.float32),
        np.zeros((1, 3, 128, 160), np.float16),
        np.zeros((1, 128, 160, 3), np.uint8),
        np.zeros((), np.float32),
    ],
    ids=lambda images: f"{images.dtype}{list(images.shape)}",
)
def test_images_that_do_not_fit(
    host: Bundle, images: NDArray[Any], opened: Callable[..., Cpp]
) -> None:
    cpp, python = opened(host), host.session(threads=1)
    message = assert_refused(lambda: cpp.run(images), lambda: python.run(images))
    assert "expected" in message or "must be" in message


@pytest.mark.parametrize(
    "depth", ["FFTT", "level:9", "level:-1", "", "nothing", -1, 256, 10**12, "FFFFFFFX"]
)
def test_depths_that_are_not_there(
    host: Bundle, depth: str | int, opened: Callable[..., Cpp]
) -> None:
    cpp, python = opened(host), host.session(threads=1)
    images = random_images(1, *host.size)
    assert_refused(lambda: cpp.run(images, depth), lambda: python.run(images, depth))


def test_a_static_graph_that_is_not_there(bundle: Bundle, opened: Callable[..., Cpp]) -> None:
    cpp, python = opened(bundle, layout="set"), bundle.session(artifact="set", threads=1)
    images = random_images(1, *bundle.size)
    depth = str(bundle.table.rows[-1])
    message = assert_refused(lambda: cpp.run(images, depth), lambda: python.run(images, depth))
    assert f"--depth {depth}" in message


def test_raw_outputs_that_were_not_exported(bundle: Bundle, opened: Callable[..., Cpp]) -> None:
    with pytest.raises(CppError, match=r"no outputs raw_.*export the bundle with --raw") as refused:
        opened(bundle).run_raw(random_images(1, *bundle.size))
    assert refused.value.kind == "BundleError"


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "stages"},
        {"precision": "int8"},
        {"precision": "fp12"},
        {"threads": 0},
        {"weights": "folded", "precision": "fp16"},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_options_that_name_nothing(
    bundle: Bundle, options: dict[str, Any], opened: Callable[..., Cpp]
) -> None:
    given = {"artifact" if name == "layout" else name: value for name, value in options.items()}
    assert_refused(lambda: opened(bundle, **options), lambda: bundle.session(**given))


def test_graphs_made_for_another_runtime(bundle_copy: Path, opened: Callable[..., Cpp]) -> None:
    content = json.loads((bundle_copy / "manifest.json").read_text())
    calibration = {"file": "table.json", "sha256": "0" * 64, "method": "entropy", "pictures": 4}
    scheme = {"target": "tensorrt", "calibration": calibration, "max_ratio": 4, "max_error": 0.1}
    content["artifacts"][0].update({"precision": "int8", "quantisation": scheme})
    (bundle_copy / "manifest.json").write_text(json.dumps(content))
    bundle = open_bundle(bundle_copy)
    options: dict[str, Any] = {"runtime": "openvino", "precision": "int8", "target": "tensorrt"}
    message = assert_refused(lambda: opened(bundle, **options), lambda: bundle.session(**options))
    assert "made for tensorrt" in message


def test_rungs_of_int8_that_a_set_lacks(bundle_copy: Path, opened: Callable[..., Cpp]) -> None:
    """The advice names precision and target, in the same words."""
    content = json.loads((bundle_copy / "manifest.json").read_text())
    calibration = {"file": "table.json", "sha256": "0" * 64, "method": "entropy", "pictures": 4}
    scheme = {"target": "openvino", "calibration": calibration, "max_ratio": 4, "max_error": 0.1}
    (first, *_) = (item for item in content["artifacts"] if item["layout"] == "set")
    first.update({"precision": "int8", "quantisation": scheme})
    content["artifacts"] = [first]
    (bundle_copy / "manifest.json").write_text(json.dumps(content))
    bundle = open_bundle(bundle_copy)
    options: dict[str, Any] = {"runtime": "openvino", "precision": "int8"}
    cpp, python = opened(bundle, **options), bundle.session(**options)
    images = random_images(1, *bundle.size)
    message = assert_refused(lambda: cpp.run(images), lambda: python.run(images))
    assert message.endswith("--precision int8 --target openvino', or use the gated graph")


def test_runtimes_that_are_not_there(bundle: Bundle, probe: Probe) -> None:
    with pytest.raises(CppError, match="unknown runtime 'tensorflow': expected") as refused:
        Cpp(probe, bundle, runtime="tensorflow")
    assert refused.value.kind == "UsageError"
    if "tensorrt" not in probe.call("runtimes"):
        with pytest.raises(CppError, match=r"no runtime 'tensorrt'.*-DANYDEPTH_TENSORRT=ON") as no:
            Cpp(probe, bundle, runtime="tensorrt")
        assert no.value.kind == "UsageError"


def test_the_same_onnx_runtime(probe: Probe) -> None:
    import onnxruntime

    assert probe.call("runtimes")["onnxruntime"] == onnxruntime.__version__


def test_files_that_were_altered(bundle_copy: Path, opened: Callable[..., Cpp]) -> None:
    bundle = open_bundle(bundle_copy)
    for artifact in bundle.artifacts("gated"):
        path = bundle_copy / artifact.file
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    assert_refused(lambda: opened(bundle), bundle.session)


@pytest.mark.parametrize(
    ("runtime", "name"), [("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")]
)
def test_files_that_no_runtime_loads(
    bundle_copy: Path, runtime: str, name: str, opened: Callable[..., Cpp]
) -> None:
    for artifact in open_bundle(bundle_copy).artifacts("gated"):
        edit_artifact(bundle_copy, artifact.name, unknown_operator)
    bundle = open_bundle(bundle_copy)
    with pytest.raises(CppError, match=rf"{name} [0-9.]+ cannot load .*\.onnx: ") as refused:
        opened(bundle, runtime=runtime)
    assert refused.value.kind == "BundleError"
    assert "\n" not in refused.value.message


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "NoSuchOperator"


MOST = 100
"""Detections of an image in the bundle of the DETR."""


@pytest.mark.parametrize(
    ("labels", "boxes", "scores"),
    [
        ((1, 5000), (1, 1, 4), (1, 1)),
        ((1, 7), (1, 8, 4), (1, 7)),
        ((1, 7), (1, 7, 4), (1, 6)),
        ((1, 7), (1, 7, 5), (1, 7)),
        ((1, 7), (2, 7, 4), (1, 7)),
        ((2, 7), (2, 7, 4), (2, 7)),
        ((0, 7), (0, 7, 4), (0, 7)),
        ((1, MOST + 1), (1, MOST + 1, 4), (1, MOST + 1)),
    ],
    ids=str,
)
def test_detections_that_do_not_belong_together(
    bundle_copy: Path,
    labels: tuple[int, ...],
    boxes: tuple[int, ...],
    scores: tuple[int, ...],
    opened: Callable[..., Cpp],
) -> None:
    """What comes later would read and write beyond the shorter of them."""
    answers: dict[str, NDArray[Any]] = {
        "labels": np.zeros(labels, np.int64),
        "boxes": np.ones(boxes, np.float32),
        "scores": np.ones(scores, np.float32),
    }
    bundle = answering(bundle_copy, answers)
    cpp, python = opened(bundle), bundle.session(threads=1)
    images = random_images(1, *bundle.size)
    message = assert_refused(lambda: cpp.run(images), lambda: python.run(images))
    assert message == (
        f"the artifact gives labels {list(labels)}, boxes {list(boxes)} and scores {list(scores)}, "
        f"expected [1, K], [1, K, 4] and [1, K] with one K of at most {MOST}: export it again"
    )
    with pytest.raises(CppError, match="with one K of at most"):
        cpp.run_pictures([np.zeros((90, 200, 3), np.uint8)], "super")


@pytest.mark.parametrize("shape", [(1, 8, 40), (1, 5, 40), (1, 4, 40), (2, 7, 40), (0, 7, 40)])
def test_predictions_that_cannot_be_suppressed(
    host: Bundle, tmp_path: Path, shape: tuple[int, ...], opened: Callable[..., Cpp]
) -> None:
    copy = Path(shutil.copytree(host.path, tmp_path / "bundle"))
    name = host.artifacts("gated")[0].name
    arrays: dict[str, NDArray[Any]] = {"raw_predictions": np.ones(shape, np.float32)}
    arrays |= {"labels": np.zeros((1, 1), np.int64), "boxes": np.ones((1, 1, 4), np.float32)}
    arrays["scores"] = np.ones((1, 1), np.float32)
    answer_with(copy, name, arrays)
    bundle = open_bundle(copy)
    cpp, python = opened(bundle), bundle.session(threads=1)
    images = random_images(1, *bundle.size)
    message = assert_refused(lambda: cpp.run(images), lambda: python.run(images))
    rows = 4 + len(bundle.manifest.classes)
    assert message == (
        f"the artifact gives predictions as float32 {list(shape)}, expected float32 "
        f"[1, {rows}, A]: export it again"
    )


def answering(folder: Path, answers: dict[str, NDArray[Any]]) -> Bundle:
    """The bundle, whose gated graphs give these arrays."""
    for artifact in open_bundle(folder).artifacts("gated"):
        answer_with(folder, artifact.name, answers)
    return open_bundle(folder)


def test_preloading_opens_everything(bundle: Bundle, opened: Callable[..., Cpp]) -> None:
    cpp = opened(bundle, layout="set", preload=True)
    images = random_images(1, *bundle.size)
    python: Session = bundle.session(artifact="set", threads=1)
    assert_same(cpp.run(images, "base"), python.run(images, "base"))
    assert len(cpp.artifacts) == len(bundle.artifacts("set"))


# TensorRT


def test_tensorrt_compiles() -> None:
    """Against the headers of an SDK; nothing of it can run without a GPU."""
    root, compiler = os.environ.get("TENSORRT_ROOT"), shutil.which("c++")
    if not root:
        pytest.skip("TENSORRT_ROOT names no TensorRT to compile against")
    if compiler is None:
        cpp_build.absent("there is no c++ here")
    cuda = Path(os.environ.get("CUDA_ROOT", "/usr/local/cuda"))
    warnings = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
    sources = sorted((ROOT / "cpp" / "src" / "runtimes").glob("tensorrt*.cpp"))
    assert len(sources) > 2
    for source in (*sources, ROOT / "cpp" / "src" / "runtimes" / "cuda.cpp"):
        includes = [f"-I{ROOT / 'cpp' / folder}" for folder in ("include", "src")]
        system = [f"-isystem{folder}" for folder in (Path(root) / "include", cuda / "include")]
        cpp_build.call(
            [compiler, "-std=c++17", *warnings, *includes, *system, "-fsyntax-only", str(source)]
        )


# --- bundles as they are exported ------------------------------------------------------------


def test_the_manifest_of_an_export(probe: Probe, trained: Bundle) -> None:
    assert probe.call("manifest", folder=str(trained.path)) == described(trained)


def test_the_pieces_of_an_export_at_every_depth(probe: Probe, trained: Bundle) -> None:
    pieces = {item.name: item.piece for item in trained.artifacts("stages") if item.piece}
    assert len(pieces) > 4
    compare_plans(probe, pieces, trained.table.rows)
