"""Networks of both families behind a real Triton server: it answers what sessions answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import random_images
from numpy.typing import NDArray
from triton_serving import PROTOCOLS, Arrays, environment, infer, serve, text, until, write

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.depth import Depth
from anydepth_deploy.detections import Detections
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.pictures.images import prepare_batch
from anydepth_deploy.serve.check.repository import check_repository
from anydepth_deploy.suppression import Suppression
from triton_server.prometheus import total
from triton_server.server import LocalServer

# The first test may have to wait for two exports and for the server's environment.
pytestmark = pytest.mark.timeout(1200)

FAMILIES = ("detr", "yolo")
NAMES = (*FAMILIES, "host")
"""Of the bundles that are served; ``host``: a YOLO whose detections the router suppresses."""


@dataclass(frozen=True)
class Served:
    """The server, and what it serves by name."""

    server: LocalServer
    repository: Path
    bundles: dict[str, Bundle]

    def session(self, name: str, depth: Depth) -> Session:
        """What the server should run for ``depth``: the static graph where there is one."""
        bundle = self.bundles[name]
        layout = "set" if bundle.artifacts("set", depth=depth) else "gated"
        return bundle.session(artifact=layout, threads=1)


@pytest.fixture(scope="module")
def host_bundle(yolo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The gated graph of `yolo_checkpoint` without suppression."""
    return export_bundle(
        yolo_checkpoint,
        tmp_path_factory.mktemp("triton") / "host",
        layouts=["gated"],
        suppression=Suppression(where="host", score_threshold=0.0012),
    )


@pytest.fixture(scope="module")
def served(
    bundle: Bundle,
    yolo_bundle: Bundle,
    host_bundle: Bundle,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    environment()
    folder = tmp_path_factory.mktemp("triton")
    bundles = dict(zip(NAMES, (bundle, yolo_bundle, host_bundle), strict=True))
    for name, item in bundles.items():
        write(item, folder / "repository", name)
    # Nothing is left for the server to find out: this repository says all it has to.
    options = ["--disable-auto-complete-config"]
    with serve(folder / "repository", folder / "log", options=options) as server:
        yield Served(server, folder / "repository", bundles)


def images_of(bundle: Bundle, count: int) -> NDArray[np.float32]:
    return random_images(count, *bundle.size, seed=count)


def pictures_of(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Pictures of large squares in bright colours: random weights see something in them."""
    rows, columns = -(-height // 32), -(-width // 32)
    squares = np.random.default_rng(3).integers(0, 2, (count, rows, columns, 3), np.uint8) * 255
    pictures = squares.repeat(32, 1).repeat(32, 2)[:, :height, :width]
    return np.ascontiguousarray(pictures, np.uint8)


def assert_same(found: Arrays, expected: Detections) -> None:
    """The same numbers, bit by bit."""
    assert (expected.scores > 0).any()
    for name in ("labels", "boxes", "scores"):
        array = getattr(expected, name)
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array), name


def test_every_model_is_ready(served: Served) -> None:
    assert not check_repository(served.repository)
    tritonclient = pytest.importorskip("tritonclient.http")
    with tritonclient.InferenceServerClient(served.server.http) as client:
        states = {row["name"]: row["state"] for row in client.get_model_repository_index()}
    assert set(states) == {path.name for path in served.repository.iterdir()}
    assert set(states.values()) == {"READY"}
    assert len(states) == 9 + 10 + 5


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", NAMES)
def test_every_rung_equals_the_session(served: Served, name: str, protocol: str) -> None:
    bundle = served.bundles[name]
    images = images_of(bundle, 2)
    for level, depth in enumerate(bundle.table.ladder):
        found = infer(
            served.server, protocol, f"{name}_router", {"images": images, "depth": text(str(depth))}
        )
        assert_same(found, served.session(name, depth).run(images, depth))
        assert found["depth_row"].tolist() == [level]


@pytest.mark.parametrize("name", NAMES)
def test_depths_outside_the_ladder_run_in_the_gated_graph(served: Served, name: str) -> None:
    bundle = served.bundles[name]
    images = images_of(bundle, 1)
    rows = [bundle.table.levels, len(bundle.table.rows) - 1]
    for row in rows:
        found = infer(served.server, "http", f"{name}_router", {"images": images}, {"depth": row})
        expected = bundle.session(artifact="gated", threads=1).run(images, row)
        assert_same(found, expected)
        assert found["depth_row"].tolist() == [row]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_any_size_go_through_the_ensemble(
    served: Served, name: str, protocol: str
) -> None:
    bundle = served.bundles[name]
    for size in ((90, 210), (333, 120)):
        pictures = pictures_of(3, *size)
        images, ways = prepare_batch(list(pictures), bundle.manifest.preprocess)
        for depth in ("base", "super"):
            found = infer(served.server, protocol, name, {"image": pictures, "depth": text(depth)})
            chosen = bundle.table.find(depth)
            expected = served.session(name, chosen).run(images, chosen)
            boxes = np.stack(
                [way.to_picture(own) for way, own in zip(ways, expected.boxes, strict=True)]
            )
            assert_same(found, Detections(expected.labels, boxes, expected.scores))
            assert found["depth_row"].tolist() == [bundle.table.row(depth)]


def test_the_ensemble_forwards_parameters(served: Served) -> None:
    picture = np.random.default_rng(4).integers(0, 256, (1, 80, 60, 3), np.uint8)
    for name in FAMILIES:
        for parameters, depth in (({"depth": "level:1"}, 1), ({"row": 5}, 5), (None, "super")):
            found = infer(served.server, "http", name, {"image": picture}, parameters)
            assert found["depth_row"].tolist() == [served.bundles[name].table.row(depth)]


def test_metrics_tell_depths_apart(served: Served) -> None:
    table = served.bundles["yolo"].table
    images = images_of(served.bundles["yolo"], 1)
    depth = table.rows[-2]
    labels = {"model": "yolo", "depth": str(depth)}
    assert total(served.server.metrics(), "anydepth_requests_total", **labels) == 0
    for _ in range(3):
        infer(served.server, "grpc", "yolo_router", {"images": images, "depth": text(str(depth))})

    def counted(name: str, **more: str) -> float:
        return total(served.server.metrics(), name, **labels, **more)

    assert until(lambda: counted("anydepth_request_duration_seconds_count") == 3)
    assert counted("anydepth_requests_total") == 3
    assert 0 < counted("anydepth_request_duration_seconds_sum") < 60
    assert counted("anydepth_request_duration_seconds_bucket", le="+Inf") == 3
