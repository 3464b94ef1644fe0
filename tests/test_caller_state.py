"""What an application has set in torch, NumPy and `warnings` changes nothing, and stays."""

from __future__ import annotations

import contextlib
import dataclasses
import locale
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from calibration_cases import detr_pieces, write_pictures
from comparisons import assert_equal
from conftest import random_images
from handmade import manifest
from onnx_sessions import quiet_session
from torch import Tensor, nn

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.calibration import calibrate as calibrate_module
from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.depth import DepthSpace, Gate, Predicate
from anydepth_deploy.families.shared.macs import count_macs
from anydepth_deploy.families.shared.stages import POSTPROCESS, AnyDepthModel, Size, Stage, Variant
from anydepth_deploy.families.shared.usual_state import usual_arithmetic, usual_state
from anydepth_deploy.graph.assemble import assemble_static
from anydepth_deploy.graph.passes.placement import graphs_of
from anydepth_deploy.graph.pieces import export_pieces
from anydepth_deploy.pictures.images import Geometry, prepare
from anydepth_deploy.suppression import Suppression, suppress
from anydepth_deploy.torch_runtime.runner import open_torch_runner
from anydepth_deploy.torch_runtime.session import TorchSession
from anydepth_deploy.train.config import TrainConfig
from anydepth_deploy.train.loop import train
from anydepth_deploy.verifying.graphs import verify

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DEVICES = (None, "cpu", "meta")
GRADIENTS: tuple[Callable[[], Any], ...] = (torch.enable_grad, torch.no_grad, torch.inference_mode)
ARITHMETIC = ("ignore", "warn", "raise")
FILTERS = ("error", "always", "ignore")


@dataclasses.dataclass(frozen=True)
class State:
    """What an application may have set."""

    dtype: torch.dtype = torch.float32
    device: str | None = None
    within: bool = False
    """Whether the device is that of a `with torch.device(...)`, or of the whole process."""
    autocast: bool = False
    gradients: int = 0
    arithmetic: str = "warn"
    filters: str = "error"

    @classmethod
    def drawn(cls, seed: int) -> State:
        rng = random.Random(seed)
        return cls(
            DTYPES[seed % len(DTYPES)],  # every one
            rng.choice(DEVICES),
            rng.random() < 0.5,
            rng.random() < 0.5,
            rng.randrange(len(GRADIENTS)),
            rng.choice(ARITHMETIC),
            rng.choice(FILTERS),
        )

    @contextlib.contextmanager
    def set(self) -> Iterator[None]:
        """The state, and at the end a look at whether it is still what was set."""
        with contextlib.ExitStack() as stack:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(self.dtype)
            if self.device is not None and self.within:
                stack.enter_context(torch.device(self.device))
            elif self.device is not None:
                stack.callback(torch.set_default_device, None)
                torch.set_default_device(self.device)
            stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=self.autocast))
            stack.enter_context(GRADIENTS[self.gradients]())
            stack.enter_context(np.errstate(all=self.arithmetic))  # type: ignore[arg-type]
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter(self.filters)  # type: ignore[arg-type]
            before = seen()
            yield
            assert seen() == before


WORST = State(torch.float64, "meta", False, True, 2, "raise", "error")


function_modes: Any = torch.overrides._get_current_function_mode_stack


def seen() -> dict[str, object]:
    """What there is to see of a state."""
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.empty(0).device,
        "modes": [type(mode) for mode in function_modes()],
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "cache": torch.is_autocast_cache_enabled(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "random": torch.get_rng_state().tolist()[:64],
        "threads": torch.get_num_threads(),
        "numpy": (np.geterr(), np.geterrcall()),
        "numpy random": np.random.get_state()[1].tolist()[:4],  # type: ignore[index] # noqa: NPY002
        "filters": list(warnings.filters),
        "locale": locale.setlocale(locale.LC_ALL),
    }


# --- the guard -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_whatever_was_set_is_neither_seen_nor_lost(seed: int) -> None:
    with State.drawn(seed).set():
        before = seen()
        with usual_state():
            found = seen()
            assert found["dtype"] == torch.float32
            assert torch.tensor(1.0).dtype == torch.arange(3.0).dtype == torch.float32
            assert torch.zeros(2).device.type == "cpu"
            product = torch.ones(2, 2) @ torch.ones(2, 2)
            assert product.dtype == torch.float32
            weight = torch.ones(2, requires_grad=True)
            torch.autograd.backward((weight * 2).sum())
            assert weight.grad is not None
            assert not weight.is_inference()
            np.float32(1e38) * np.float32(1e38)
            np.divide(np.float32(0), np.float32(0))
            with usual_state(), usual_arithmetic():
                assert seen()["gradients"] == (True, False)
            assert seen() == found
        assert seen() == before
        with pytest.raises(KeyError), usual_state():
            raise KeyError
        assert seen() == before


def test_threads_that_come_and_go() -> None:
    """The default type is the process's: float32 until the last is done, and then what it was."""
    wrong: list[torch.dtype] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(20):
            with usual_state():
                time.sleep(rng.random() / 2000)
                if (found := torch.get_default_dtype()) != torch.float32:
                    wrong.append(found)
            time.sleep(rng.random() / 2000)

    with State(torch.bfloat16).set():
        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not wrong


def test_what_is_chosen_meanwhile_stays() -> None:
    with State(torch.float16).set():
        with usual_state():
            torch.set_default_dtype(torch.float64)
            with usual_state():
                assert torch.get_default_dtype() == torch.float32
            torch.set_default_dtype(torch.bfloat16)
        assert torch.get_default_dtype() == torch.bfloat16
        torch.set_default_dtype(torch.float16)


# --- checkpoints and networks in torch --------------------------------------------------------


@pytest.mark.parametrize("family", ["detr", "yolo"])
@pytest.mark.parametrize("seed", range(4))
def test_a_checkpoint_and_its_session(
    request: pytest.FixtureRequest, family: str, seed: int
) -> None:
    prefix = "" if family == "detr" else "yolo_"
    path = request.getfixturevalue(f"{prefix}checkpoint")
    expected: AnyDepthModel = request.getfixturevalue(f"{prefix}model")
    images = random_images(1, 64, 64)
    images.setflags(write=False)  # of which torch warns by itself
    wanted = TorchSession(expected)
    depths = [expected.space.base, expected.space.super]
    answers = [(wanted.run(images, depth), wanted.run_raw(images, depth)) for depth in depths]
    for state in (dataclasses.replace(WORST, dtype=DTYPES[seed]), State.drawn(seed)):
        with state.set():
            model = load_model(read_checkpoint(path))
            session = TorchSession(model)
            found = [
                (session.run(images, depth), session.run_raw(images, depth)) for depth in depths
            ]
            runner = open_torch_runner(
                model, mode="eager", device="cpu", precision="fp32", threads=None, transfers=True
            )
            fast = runner.run(images, depths[0])
        loaded = model.state_dict()
        for name, value in expected.state_dict().items():
            other = loaded[name]
            assert (other.dtype, other.device) == (value.dtype, value.device)
            assert not other.is_inference()
            assert torch.equal(other, value)
        for (detections, raw), (others, raw_others) in zip(found, answers, strict=True):
            assert_equal(detections, others)
            assert all(np.array_equal(raw[name], raw_others[name]) for name in raw)
        np.testing.assert_allclose(fast.scores, answers[0][0].scores, atol=1e-5)


# --- exports ---------------------------------------------------------------------------------


class _Ramp(nn.Module):
    """Constants and factories without a type of their own, as networks are full of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("steps", torch.linspace(0, 1, 16))

    def forward(self, images: Tensor, skip: bool) -> Tensor:
        x = torch.tanh(self.conv(images))
        if not skip:
            ramp = torch.arange(x.shape[-1]) / x.shape[-1] + torch.full((x.shape[-1],), 0.1)
            x = x * (ramp + self.get_buffer("steps")) + torch.zeros_like(x)
        return x


class _Ending(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores, labels = x.flatten(1).sigmoid().topk(5, dim=1)
        return labels, scores[..., None] * torch.tensor([1.0, 2.0, 3.0, 4.0]), scores


class Ramp(AnyDepthModel):
    """One gate, two stages."""

    family = "ramp"
    raw_outputs = {"logits": "logits"}  # noqa: RUF012
    config = SimpleNamespace(name="ramp", input_size=(16, 16))
    space = DepthSpace((Gate("g", 0),), (1,))
    ladder = (space.base, space.super)
    size_multiple = 8

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = _Ramp()
        self.eval().requires_grad_(False)

    def build_stages(self, size: Size, device: torch.device) -> list[Stage]:
        variants = {
            "full": Variant(self.body, skip=False),
            "skipped": Variant(self.body, skip=True),
        }
        outputs = ("labels", "detections", "scores")
        return [
            Stage("body", "body", ("images",), ("logits",), variants, (Predicate(0),)),
            Stage(POSTPROCESS, "end", ("logits",), outputs, {"full": _Ending()}),
        ]


def static_graph(model: AnyDepthModel) -> bytes:
    """Super as a file."""
    found = export_pieces(model, (16, 16))
    graph = assemble_static(found, model.space.super)
    kinds = {
        value.dtype for part in graphs_of(graph.graph) for node in part for value in node.outputs
    }
    assert not kinds & {ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
    return bytes(ir.to_proto(graph).SerializeToString(deterministic=True))


def test_an_export_is_the_same_in_every_state() -> None:
    model = Ramp()
    expected = static_graph(model)
    images = random_images(2, 16, 16)
    labels, boxes, scores = quiet_session(expected).run(
        ["labels", "boxes", "scores"], {"images": images}
    )
    with torch.no_grad():
        wanted = model.detect(torch.from_numpy(images), model.space.super)
    assert np.array_equal(labels, wanted["labels"].numpy())
    np.testing.assert_allclose(boxes, wanted["boxes"].numpy(), atol=1e-5)
    np.testing.assert_allclose(scores, wanted["scores"].numpy(), atol=1e-5)
    for state in (WORST, dataclasses.replace(WORST, dtype=torch.bfloat16, within=True)):
        with state.set():
            with usual_state():  # a network is its maker's, and so is its type
                model = Ramp()
            assert static_graph(model) == expected


def test_multiply_adds_are_the_same() -> None:
    model = Ramp()
    expected = count_macs(model, (16, 16)).at(model.space.super)
    assert expected == {"total": 16 * 16 * 4 * 27, "body": 16 * 16 * 4 * 27}
    for seed in range(8):
        with State.drawn(seed).set():
            assert count_macs(model, (16, 16)).at(model.space.super) == expected


# --- whole commands' work --------------------------------------------------------------------


def test_a_range_table_is_the_same(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate_module, "export_pieces", lambda *_, **__: detr_pieces())
    monkeypatch.setattr(calibrate_module, "_depths", lambda _, table, __: [*table.ladder])
    pictures = write_pictures(tmp_path / "pictures", 2)

    def calibrated(name: str) -> Any:
        out = tmp_path / name
        _, found = calibrate_module.calibrate(checkpoint, pictures, out, probe=0, threads=1)
        return found.model_dump(exclude={"created"})

    expected = calibrated("plain.json")
    with WORST.set():
        assert calibrated("worst.json") == expected


def test_a_verdict_is_the_same(bundle: Bundle, checkpoint: Path) -> None:
    images = [random_images(2, 160, 160)]

    def verified() -> Any:
        found = verify(
            bundle,
            str(checkpoint),
            images,
            depths=[bundle.table.space.base],
            layout="set",
            threads=1,
            record=False,
        )
        assert found.passed
        return found.rows

    expected = verified()
    with WORST.set():
        assert verified() == expected


def test_a_session_gives_the_same(bundle: Bundle) -> None:
    images = random_images(2, 160, 160)
    expected = bundle.session(threads=1).run(images, "base")
    with WORST.set():
        assert_equal(bundle.session(threads=1).run(images, "base"), expected)


@pytest.mark.parametrize("family", ["anydepth-detr", "anydepth-yolo"])
def test_training_gives_the_same_weights(tmp_path: Path, family: str) -> None:
    def trained(name: str) -> Path:
        config = TrainConfig.for_family(
            family,
            output=str(tmp_path / f"{name}.pth"),
            steps=2,
            input_size=64,
            pictures=4,
            batch=2,
            warmup=1,
            threads=0,
            processes=1,
            save_every=0,
            ground_truth_share=0.5,
        )
        return train(config).checkpoint

    def weights(path: Path) -> dict[str, Tensor]:
        return dict(torch.load(path)["ema"]["module"])

    expected = weights(trained("plain"))
    with WORST.set():
        path = trained("worst")
    again = weights(path)
    assert again.keys() == expected.keys()
    for name, value in expected.items():
        assert again[name].dtype == value.dtype
        assert torch.equal(again[name], value), name


# --- arrays ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_arrays_that_are_not_finite(seed: int) -> None:
    """Engines may give anything: what is made of it is told by the numbers, not by NumPy."""
    rng = np.random.default_rng(seed)
    predictions = rng.normal(0, 10, (2, 7, 30)).astype(np.float32)
    strange = np.array([np.nan, np.inf, -np.inf, 3e38, 1e-45], np.float32)
    places = rng.random(predictions.shape) < 0.2
    predictions[places] = rng.choice(strange, int(places.sum()))
    predictions[:, 4:] = rng.random((2, 3, 30), np.float32)
    rule = Suppression(where="host")
    geometry = Geometry((3.4e38, 2.0), (0.5, -3.4e38), (90, 120))
    with np.errstate(all="ignore"):
        expected = suppress(predictions, rule, 20)
        boxes = geometry.to_picture(expected.boxes)
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        found = suppress(predictions, rule, 20)
        moved = geometry.to_picture(found.boxes)
        prepare(np.zeros((5, 7, 3), np.uint8), manifest().preprocess)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(moved, boxes)
