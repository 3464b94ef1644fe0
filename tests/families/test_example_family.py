"""A family of another package: all the commands take it, without a line changed here.

It is the one in ``examples/family``, whose entry point is put before this process without pip.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, random_images
from installed_families import forget, write_package

from anydepth_deploy import cli
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.errors import BundleError, CheckpointError, UsageError
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.families import registry
from anydepth_deploy.families.family import Family
from anydepth_deploy.families.shared.randomise import randomise
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.pictures.shapes import write_coco
from anydepth_deploy.torch_runtime.session import TorchSession
from anydepth_deploy.train.config import TrainConfig

EXAMPLE = ROOT / "examples" / "family"
NAME = "anydepth-example"
DEPTHS = ("TT", "FT", "FF", "TF")
SIZE = (64, 128)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    """The example as if it were installed."""
    written = (EXAMPLE / "pyproject.toml").read_text()
    (entry,) = re.findall(
        r'^\[project\.entry-points\."anydepth_deploy\.families"\]\n(.+)$', written, re.M
    )
    folder = write_package(tmp_path_factory.mktemp("site"), entry.replace('"', ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(folder), str(EXAMPLE), *sys.path])
        forget()
        yield registry.find_family(NAME)
    forget()


@pytest.fixture(scope="module")
def network(example: Family) -> AnyDepthModel:
    model: AnyDepthModel = example.build(example.sizes["small"])
    return randomise(model, 3)


@pytest.fixture(scope="module")
def checkpoint(network: AnyDepthModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("example") / "example.pth"
    torch.save(network.state_dict(), path)
    return path


Run = Callable[..., Any]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process: its document, or the line that it fails with."""

    def call(*words: object) -> Any:
        monkeypatch.setattr(sys, "argv", ["anydepth-deploy", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capfd.readouterr()
        return captured.err if caught.value.code else json.loads(captured.out)

    return call


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "example"
    export_bundle(
        checkpoint,
        out,
        layouts=["gated", "set", "stages"],
        depth="every",
        precision=["fp32", "fp16"],
        input_size=SIZE,
        raw=True,
    )
    return out


@pytest.fixture
def bundle(exported: Path) -> Bundle:
    return open_bundle(exported)


def test_it_is_told_from_its_shapes(checkpoint: Path, example: Family) -> None:
    found = read_checkpoint(checkpoint)
    assert (found.family, found.config) == (example, example.sizes["small"])
    assert registry.names() == (*registry.BUILT_IN, NAME)
    assert list(example.size_names) == [f"{NAME}-small"]


def oracle(model: Any, images: np.ndarray, depth: str) -> dict[str, np.ndarray]:
    """The network written down once more, from its layers."""
    with torch.inference_mode():
        x = model.stem(torch.from_numpy(images))
        for block, letter in zip(model.blocks, depth, strict=True):
            if letter == "F":
                x = x + block.norm(block.conv(x)).relu()
        found = model.head(x).permute(0, 2, 3, 1)
        count, height, width, _ = found.shape
        x_of = (torch.arange(width) * 8 + 4).expand(height, width)
        y_of = (torch.arange(height) * 8 + 4)[:, None].expand(height, width)
        reach = 8 + 8 * torch.nn.functional.softplus(found[..., :4])
        left, top, right, bottom = reach.unbind(-1)
        corners = torch.stack([x_of - left, y_of - top, x_of + right, y_of + bottom], -1)
        return {
            "confidences": found[..., 4:].sigmoid().reshape(count, height * width, -1).numpy(),
            "corners": corners.reshape(count, -1, 4).numpy(),
        }


@pytest.mark.parametrize("layout", ["gated", "set", "stages"])
def test_artifacts_compute_what_the_network_does(
    bundle: Bundle, network: AnyDepthModel, example: Family, layout: str
) -> None:
    session = bundle.session(artifact=layout, raw=True, threads=1)
    assert [str(depth) for depth in session.depths] == list(DEPTHS)
    seen: list[np.ndarray] = []
    for count, depth in itertools.product((1, 3), DEPTHS):
        images = random_images(count, *SIZE, seed=count)
        found, raw = session.run_both(images, depth)
        expected = oracle(network, images, depth)
        for name, array in expected.items():
            assert np.allclose(raw[name], array, rtol=0, atol=1e-4), (name, depth)
        follows = example.outputs.detections(raw, SIZE, bundle.manifest.max_detections, None)
        assert np.array_equal(found.labels, follows.labels)
        assert np.array_equal(found.boxes, follows.boxes)
        assert found.labels.shape == (count, 50)
        seen.append(raw["confidences"].astype(np.float32))
    for one, other in itertools.combinations(seen[: len(DEPTHS)], 2):
        assert np.abs(one - other).max() > 1e-3  # or the depth would not matter


def test_commands_take_it(run: Run, bundle: Bundle, checkpoint: Path, tmp_path: Path) -> None:
    told = run("inspect", checkpoint, "--json")
    assert (told["family"], told["config"]) == (NAME, "small")
    assert [row["depth"] for row in told["depths"]] == list(DEPTHS)
    macs = [row["macs"]["total"] for row in told["depths"]]
    assert macs[0] < macs[1] == macs[3] < macs[2]
    report = run("verify", bundle.path, "--checkpoint", checkpoint, "--depth", "every", "--json")
    assert report["passed"]
    assert {row["precision"] for row in report["rows"]} == {"fp32", "fp16"}
    assert {row["depth"] for row in report["rows"]} == set(DEPTHS)
    assert set(report["rows"][0]["differences"]) == {"confidences", "corners"}
    data = write_coco(tmp_path / "data", 4, 5, "val", size=SIZE[1])
    named = ("--data", data, "--images", tmp_path / "data", "--match-by-rank")
    rows = run("eval", bundle.path, *named, "--json")
    found = rows if isinstance(rows, list) else rows["rows"]
    assert [row["depth"] for row in found] == ["TT", "FT", "FF"]


def largest(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())


def test_a_wrong_network_is_found(bundle: Bundle, checkpoint: Path) -> None:
    model = load_model(read_checkpoint(checkpoint))
    images = random_images(2, *SIZE)
    raw = bundle.session(artifact="gated", raw=True, threads=1).run_raw(images, "FT")
    limits = registry.tolerances(NAME, SIZE, "fp32").raw
    for depth in DEPTHS:
        expected, _, gap = TorchSession(model).compare(images, model.space.parse(depth), raw)
        errors = {name: largest(raw[name], expected[name]) for name in limits}
        near = all(errors[name] <= limit for name, limit in limits.items())
        assert (near, gap) == (depth == "FT", 0.0)


def test_what_it_does_not_offer_is_refused(example: Family) -> None:
    with pytest.raises(BundleError, match=f"'{NAME}' has no tolerances for engines in fp32"):
        registry.engine_tolerances(NAME, SIZE, "fp32")
    with pytest.raises(BundleError, match=f"'{NAME}' has no tolerances for int8"):
        registry.tolerances(NAME, SIZE, "int8")
    with pytest.raises(UsageError, match=f"family '{NAME}' cannot be trained: choose one of any"):
        TrainConfig.for_family(NAME)
    with pytest.raises(UsageError, match=f"unknown family 'x': choose one of .*, {NAME}$"):
        TrainConfig.for_family("x")
    with pytest.raises(BundleError, match=f"engines of the family 'x': expected .* or {NAME}$"):
        registry.engine_tolerances("x", SIZE, "fp32")


def test_options_of_commands_know_it(example: Family, tmp_path: Path) -> None:
    """In a process of its own: options are made when a command is imported."""
    paths = [path for path in sys.path if (Path(path) / "anydepth_example-0.1.dist-info").is_dir()]
    code = (
        f"import sys; sys.path[:0] = {[*paths, str(EXAMPLE)]!r}\n"
        "from anydepth_deploy.cli import main\n"
        "main()"
    )
    for family, told in (
        (NAME, f"family '{NAME}' cannot be trained: choose one of anydepth-detr, anydepth-yolo"),
        ("x", f"'{list(registry.BUILT_IN)[-1]}', '{NAME}'"),
    ):
        words = ["train", "--family", family, "--out", str(tmp_path / "c.pth")]
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert told in done.stderr
        assert done.stderr.count("\n") == 1


def test_its_refusals_are_told(tmp_path: Path, network: AnyDepthModel) -> None:
    state = network.state_dict()
    path = tmp_path / "c.pth"
    torch.save({key: value for key, value in state.items() if "blocks" not in key}, path)
    with pytest.raises(CheckpointError, match=r"c\.pth: the example without its blocks"):
        read_checkpoint(path)
    torch.save({"neck.weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=rf"families: .*, {NAME}\); its 1 keys"):
        read_checkpoint(path)


def test_describing_it_needs_no_torch(example: Family) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from anydepth_example import FAMILY\n"
        "import anydepth_deploy.families.registry as registry\n"
        "print(FAMILY.outputs.tolerances((64, 64), 'fp16') is not None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=EXAMPLE
    )
    assert done.stdout.strip() == "True"
