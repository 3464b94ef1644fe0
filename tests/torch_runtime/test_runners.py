"""Checkpoints in torch, fast: eager, compiled, as CUDA graphs; FP32 and half precision."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import assert_equal
from conftest import random_images
from fake_torch_cuda import FakeTorchCuda, cuda
from numpy.typing import NDArray
from static_bundles import KINDS
from static_detrs import static_detr
from torch import Tensor, nn
from trained_networks import FAMILIES
from trained_networks import trained as trained_network

from anydepth_deploy.depth import Depth, DepthSpace, Gate, Predicate
from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import (
    BuildError,
    CheckFailedError,
    DepthError,
    DeviceError,
    InputError,
    UsageError,
)
from anydepth_deploy.families.registry import tolerances
from anydepth_deploy.families.shared.stages import POSTPROCESS, AnyDepthModel, Size, Stage, Variant
from anydepth_deploy.pictures.shapes import render
from anydepth_deploy.torch_runtime.compile import compile_function
from anydepth_deploy.torch_runtime.device import CudaGraph
from anydepth_deploy.torch_runtime.runner import TorchRunner, check_runner, open_torch_runner
from anydepth_deploy.torch_runtime.session import TorchSession
from anydepth_deploy.verifying.parity import count_unmatched

__all__ = ["cuda"]  # a fixture

PICTURES = 9
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture(scope="module")
def trained() -> dict[str, AnyDepthModel]:
    """The trained tiny networks by family. Not to be changed."""
    return {family: trained_network(family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, trained: dict[str, AnyDepthModel]) -> AnyDepthModel:
    return trained[request.param]


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.float32]:
    drawn = np.stack([render(index, 7).image for index in range(PICTURES)])
    return np.asarray(drawn.transpose(0, 3, 1, 2) / 255, np.float32, order="C")


def opened(model: AnyDepthModel, mode: Any = "eager", **options: Any) -> TorchRunner:
    given = {"device": "cpu", "precision": "fp32", "threads": 1, "transfers": True, **options}
    return open_torch_runner(model, mode=mode, **given)


# --- a network that compiles in seconds ------------------------------------------------------

GATES = 4


class _Block(nn.Module):
    """A convolution, and a refinement that may be skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.more = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor, skip: bool) -> Tensor:
        x = torch.tanh(self.conv(x))
        return x if skip else x + torch.tanh(self.more(x))


class _Ending(nn.Module):
    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert logits.dtype == torch.float32
        scores, labels = logits.sigmoid().flatten(1).topk(5, dim=1)
        return labels, scores[..., None].expand(-1, -1, 4) * 10.0, scores


class Toy(AnyDepthModel):
    """Sixteen depths: more than torch compiles of one function."""

    family = "toy"
    raw_outputs = {"logits": "logits"}  # noqa: RUF012
    config = SimpleNamespace(name="toy", input_size=(32, 64))
    space = DepthSpace(tuple(Gate(f"g{i}", 0) for i in range(GATES)), (1,) * GATES)
    ladder = (space.base, space.super)
    size_multiple = 8

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 8, 8)
        self.blocks = nn.ModuleList(_Block() for _ in range(GATES))
        self.eval().requires_grad_(False)
        self.stem.weight.mul_(scale)

    def build_stages(self, size: Size, device: torch.device) -> list[Stage]:
        names = [f"x{index}" for index in range(GATES)] + ["logits"]
        stages = [Stage("stem", "body", ("images",), ("x0",), {"full": self.stem})]
        for index, block in enumerate(self.blocks):
            variants = {"full": Variant(block, skip=False), "skipped": Variant(block, skip=True)}
            reads, binds = (names[index],), (names[index + 1],)
            stages.append(Stage(f"b{index}", "body", reads, binds, variants, (Predicate(index),)))
        outputs = ("scores-first", "detections", "scores")
        last = Stage(POSTPROCESS, "end", ("logits",), ("labels", *outputs[1:]), {"full": _Ending()})
        return [*stages, last]


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def counters() -> Iterator[Mapping[str, Any]]:
    """What torch.compile did, from a fresh start."""
    import torch._dynamo as dynamo

    dynamo.reset()
    dynamo.utils.counters.clear()
    yield dynamo.utils.counters
    dynamo.reset()


# --- eager -----------------------------------------------------------------------------------


@pytest.mark.parametrize("transfers", [True, False])
def test_eager_is_the_reference(
    model: AnyDepthModel, pictures: NDArray[np.float32], transfers: bool
) -> None:
    runner, reference = opened(model, transfers=transfers), TorchSession(model)
    assert runner.captured is None
    assert runner.memory_bytes() == {}
    for depth, batch in itertools.product(model.ladder, (1, 3)):
        images = pictures[:batch]
        expected = reference.run(images, depth)
        assert_equal(runner.run(images, depth), expected)
        raw = reference.run_raw(images, depth)
        found = runner.run_raw(images, str(depth))
        assert {name: found[name].tobytes() for name in found} == {
            name: raw[name].tobytes() for name in raw
        }
        prepared = runner.prepare(images)
        ends = runner.run_prepared(prepared, depth)
        assert all(
            np.array_equal(ends[name].numpy(), getattr(expected, name))
            for name in ("labels", "boxes", "scores")
        )
        heads = runner.run_prepared(prepared, depth, raw=True)
        assert set(heads) == set(raw)


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 0.0), ("bf16", 0.04)])
@pytest.mark.parametrize("kind", KINDS)
def test_detrs_whose_decoder_alone_stops_early(kind: str, precision: str, limit: float) -> None:
    """Eager is the reference at every exit, bit for bit; BF16 is near it."""
    model = static_detr(*KINDS[kind])
    runner, reference = opened(model, precision=precision), TorchSession(model)
    images = random_images(2, 96, 160)
    for depth in model.ladder:
        found = runner.run_raw(images, str(depth))
        if not limit:
            expected = reference.run_raw(images, depth)
            np.testing.assert_array_equal(found["queries"], expected["queries"])
        else:  # of the queries that were chosen
            expected = reference.compare(images, depth, found)[0]
        for name in ("logits", "boxes"):
            gap = np.linalg.norm(np.subtract(found[name], expected[name]))
            assert gap <= limit * np.linalg.norm(expected[name]), name


def test_images_in_any_memory(toy: Toy) -> None:
    runner, images = opened(toy), random_images(2, 32, 64)
    expected = runner.run(images, "base")
    locked = images.copy()
    locked.flags.writeable = False
    wide = np.zeros((2, 3, 32, 128), np.float32)
    wide[..., ::2] = images
    for other in (locked, wide[..., ::2]):
        assert_equal(runner.run(other, "base"), expected)


def test_images_that_are_none(toy: Toy) -> None:
    runner = opened(toy)
    for wrong, told in (
        (np.zeros((1, 3, 32, 64)), r"found float64 \[1, 3, 32, 64\]"),
        (np.zeros((0, 3, 32, 64), np.float32), r"found float32 \[0, 3, 32, 64\]"),
        (np.zeros((1, 1, 32, 64), np.float32), r"found float32 \[1, 1, 32, 64\]"),
        (None, "found NoneType"),
    ):
        with pytest.raises(InputError, match=told):
            runner.run(wrong, "base")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="input size 32x60"):
        runner.run(np.zeros((1, 3, 32, 60), np.float32), "base")
    with pytest.raises(DepthError):
        runner.run(random_images(1, 32, 64), "level:2")


def test_warming_takes_the_size_of_the_configuration(toy: Toy) -> None:
    runner = opened(toy)
    shapes: list[tuple[int, ...]] = []
    toy.stem.register_forward_hook(lambda _, inputs, __: shapes.append(tuple(inputs[0].shape)))
    runner.warm("base", 2)
    runner.warm("super", 1, (64, 32))
    assert shapes == [(2, 3, 32, 64), (1, 3, 64, 32)]


def test_a_closed_runner(toy: Toy) -> None:
    runner = opened(toy)
    runner.warm("base")
    runner.close()
    runner.close()
    with pytest.raises(UsageError, match="this runner is closed: open the checkpoint again"):
        runner.run(random_images(1, 32, 64), "base")


def test_threads_of_torch(toy: Toy) -> None:
    before = torch.get_num_threads()
    try:
        opened(toy, threads=2)
        assert torch.get_num_threads() == 2
        opened(toy, threads=None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"threads": 0}, "threads is 0: expected at least 1, or none given for torch's own choice"),
        ({"precision": "int8"}, "unknown precision 'int8': torch has fp32, fp16, bf16"),
        ({"mode": "fast"}, "unknown mode 'fast' of torch: expected eager, compile, cudagraph"),
        ({"device": "tpu"}, "unknown device 'tpu' of torch: expected cpu or cuda"),
        (
            {"mode": "cudagraph"},
            "torch-cudagraph needs an NVIDIA GPU: use --device cuda, or --runtime torch or "
            "torch-compile (modes eager and compile in Python)",
        ),
    ],
)
def test_options_that_are_none(toy: Toy, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        opened(toy, **options)
    assert str(caught.value) == told


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("mode", ["eager", "compile", "cudagraph"])
def test_without_a_gpu(toy: Toy, mode: str) -> None:
    with pytest.raises(DeviceError, match=r"^torch \S+ finds no NVIDIA GPU: install a torch with"):
        opened(toy, mode, device="cuda")


@pytest.mark.parametrize("mode", ["eager", "compile"])
def test_several_threads(toy: Toy, mode: str, counters: Mapping[str, Any]) -> None:
    runner, reference = opened(toy, mode, backend="eager"), TorchSession(toy)
    images = random_images(3, 32, 64)
    work = [(depth, batch) for depth in toy.space.every[:4] for batch in (1, 3)]
    found: dict[tuple[int, Depth, int], Detections] = {}
    errors: list[BaseException] = []

    def go(number: int) -> None:
        try:
            for depth, batch in work:
                found[number, depth, batch] = runner.run(images[:batch], depth)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=go, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    assert len(found) == 3 * len(work)
    for (_, depth, batch), answer in found.items():
        assert_equal(answer, reference.run(images[:batch], depth))


# --- half precision --------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_finds_what_fp32_finds(
    model: AnyDepthModel, pictures: NDArray[np.float32], precision: str
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    runner, reference = opened(model, precision=precision), TorchSession(model)
    limits = tolerances(model.family, (160, 160), precision)
    seen = 0
    for depth, images in itertools.product(model.ladder, (pictures[:1], pictures[1:4])):
        found, wanted = runner.run(images, depth), reference.run(images, depth)
        assert found.boxes.dtype == found.scores.dtype == np.float32
        assert found.labels.dtype == np.int64
        confident, lonely = count_unmatched(found, wanted, limits)
        seen += confident
        assert lonely <= len(images) - 1
        raw = runner.run_raw(images, depth)
        assert {array.dtype.name for array in raw.values()} <= {"float32", "int64"}
        check_runner(runner, reference, images, depth)
    assert seen > 12 * len(model.ladder)
    assert all(
        value.dtype == before[name].dtype and torch.equal(value, before[name])
        for name, value in model.state_dict().items()
    )


@pytest.mark.parametrize("transfers", [True, False])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_computes_in_it(
    model: AnyDepthModel, pictures: NDArray[np.float32], precision: str, transfers: bool
) -> None:
    """Weights are cast ahead: autocast would do it in every call."""
    runner = opened(model, precision=precision, transfers=transfers)
    inner = runner._model
    assert inner is not None
    dtypes: list[torch.dtype] = []
    for module in inner.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _, __, output: dtypes.append(output.dtype))
    prepared = runner.prepare(pictures[:1])
    assert isinstance(prepared, Tensor)
    assert prepared.dtype == (torch.float32 if transfers else DTYPES[precision])
    runner.run_prepared(prepared, "super")
    assert len(dtypes) > 50
    assert set(dtypes) == {DTYPES[precision]}
    wide = {n for n, v in inner.named_parameters() if v.ndim > 1 and v.dtype == torch.float32}
    assert wide <= {"decoder.denoising_class_embed.weight"}  # only training reads it


def test_a_model_in_training_is_left_as_it_is(toy: Toy) -> None:
    toy.train()
    runner = opened(toy)
    runner.warm("base")
    assert toy.training
    assert runner._model is not toy
    assert runner._model is not None
    assert not runner._model.training


# --- compiled --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_equals_eager(
    trained: dict[str, AnyDepthModel],
    family: str,
    pictures: NDArray[np.float32],
    counters: Mapping[str, Any],
) -> None:
    """Inductor takes minutes for a whole network; what comes before it is tested here."""
    model = trained[family]
    runner, reference = opened(model, "compile", backend="aot_eager"), TorchSession(model)
    work = [("base", 1), ("level:1", 1), ("super", 2)]
    for depth, batch in work:
        for images in (pictures[:batch], pictures[1 : 1 + batch]):
            found, wanted = runner.run(images, depth), reference.run(images, depth)
            np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
            np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-3)
            assert np.array_equal(found.labels, wanted.labels)
        raw, heads = runner.run_raw(images, depth), reference.run_raw(images, depth)
        for name, array in heads.items():
            np.testing.assert_allclose(raw[name].astype(float), array.astype(float), atol=1e-3)
    # One for each program, and one for its ending where that is not suppression on the host.
    pieces = 1 if model.suppression is not None else 2
    assert counters["stats"]["unique_graphs"] == pieces * len(work)
    assert not counters["graph_break"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("transfers", [True, False])
def test_nothing_is_compiled_twice(
    toy: Toy, precision: str, transfers: bool, counters: Mapping[str, Any]
) -> None:
    """Six depths in two batch sizes: torch gives up on a function after eight."""
    import torch._dynamo as dynamo

    runner = opened(toy, "compile", precision=precision, transfers=transfers, backend="eager")
    reference = opened(toy, precision=precision, transfers=transfers)
    images = random_images(3, 32, 64)
    every = toy.space.every[:6]
    for _ in range(2):
        for depth, batch in itertools.product(every, (1, 3)):
            chosen = images[::3] if batch == 1 else images  # one picture in odd strides, too
            assert_equal(runner.run(chosen, depth), reference.run(chosen, depth))
            runner.run_prepared(runner.prepare(images[:batch]), depth)
            runner.run_raw(images[:batch], depth)
    assert 2 * len(every) > dynamo.config.recompile_limit
    assert counters["stats"]["unique_graphs"] == 2 * 2 * len(every)
    assert not counters["graph_break"]


@pytest.mark.parametrize(
    ("precision", "depths"), [("fp32", "base,super"), ("bf16", "base,super"), ("bf16", "base")]
)
def test_inductor(
    toy: Toy,
    precision: str,
    depths: str,
    counters: Mapping[str, Any],
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    runner, reference = opened(toy, "compile", precision=precision), TorchSession(toy)
    for depth in depths.split(","):
        images = random_images(2, 32, 64)
        found, wanted = runner.run(images, depth), reference.run(images, depth)
        np.testing.assert_allclose(
            found.scores, wanted.scores, atol=1e-5 if precision == "fp32" else 5e-3
        )
        check_runner(runner, reference, images, depth)
    assert counters["stats"]["unique_graphs"] == 2 * len(depths.split(","))
    assert runner.captured is None


def forget_compilers() -> None:
    """torch remembers which compiler there is, and what it can do: without one, nothing."""
    from torch._inductor import cpp_builder, cpu_vec_isa

    kept = [value for module in (cpp_builder, cpu_vec_isa) for value in vars(module).values()]
    methods = [item for value in kept if isinstance(value, type) for item in vars(value).values()]
    for remembered in (*kept, *methods):
        if isinstance(remembered, functools._lru_cache_wrapper):
            remembered.cache_clear()


def test_without_a_compiler(
    toy: Toy, counters: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    forget_compilers()
    try:
        # Not by monkeypatch: it takes the settings for a class, and would leave none behind.
        with config.patch("cpp.cxx", (str(tmp_path / "g++"),)), pytest.raises(UsageError) as caught:
            opened(toy, "compile").warm("base")
    finally:
        forget_compilers()
    assert str(caught.value) == (
        "torch.compile needs a C++ compiler, and finds none: install g++ (or name one with CXX); "
        "or use --runtime torch (mode eager in Python)"
    )


def test_what_cannot_be_compiled(counters: Mapping[str, Any]) -> None:
    def broken(x: Tensor) -> tuple[Tensor, ...]:
        torch._dynamo.graph_break()
        return (x,)

    with pytest.raises(BuildError) as caught:
        compile_function(broken, [torch.zeros(1)], backend="eager")
    message = str(caught.value)
    assert message.startswith("torch.compile cannot compile this network (")
    assert message.endswith("): use --runtime torch (mode eager in Python), or another torch")
    assert "\n" not in message


# --- CUDA, with a stand-in -------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eager", "cudagraph"])
@pytest.mark.parametrize("transfers", [True, False])
def test_a_gpu_gives_what_the_cpu_gives(
    cuda: FakeTorchCuda,
    model: AnyDepthModel,
    pictures: NDArray[np.float32],
    mode: str,
    transfers: bool,
) -> None:
    runner, reference = opened(model, mode, device="cuda", transfers=transfers), TorchSession(model)
    assert runner.captured is (False if mode == "cudagraph" else None)
    work = [("base", 1), ("super", 2)]
    for _ in range(2):
        for depth, batch in work:
            for images in (pictures[:batch], pictures[1 : 1 + batch]):
                assert_equal(runner.run(images, depth), reference.run(images, depth))
                raw, heads = runner.run_raw(images, depth), reference.run_raw(images, depth)
                for name, array in heads.items():
                    np.testing.assert_array_equal(raw[name], array)
    if mode == "cudagraph":
        assert bool(runner.captured)
        # Suppression is a loop on the host, and not recorded.
        pieces = 1 if model.suppression is not None else 2
        assert len(cuda.graphs) == pieces * len(work)
        launches = sum(graph.launches for graph in cuda.graphs)
        # Of each program 4 raw runs of the body, and 4 of all its pieces.
        assert launches == len(work) * (4 + 4 * pieces)
    else:
        assert not cuda.graphs
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_prepared_inputs_are_kept(cuda: FakeTorchCuda, toy: Toy) -> None:
    """A graph reads its own memory, not that of the first caller."""
    runner, reference = opened(toy, "cudagraph", device="cuda", transfers=False), TorchSession(toy)
    batches = [random_images(2, 32, 64, seed) for seed in range(3)]
    prepared = [runner.prepare(images) for images in batches]
    for _ in range(2):
        for images, item in zip(batches, prepared, strict=True):
            found = runner.run_prepared(item, "super")
            expected = reference.run(images, "super")
            assert np.array_equal(found["scores"].numpy(), expected.scores)


@pytest.mark.parametrize("mode", ["eager", "cudagraph"])
def test_which_copies_are_made(cuda: FakeTorchCuda, toy: Toy, mode: str) -> None:
    images = random_images(1, 32, 64)
    runner = opened(toy, mode, device="cuda", transfers=False)
    item = runner.prepare(images)
    runner.run_prepared(item, "base")
    cuda.calls.clear()
    runner.run_prepared(item, "base")
    runner.run_prepared(item, "base", raw=True)
    assert cuda.calls == {"synchronize": 2}
    runner = opened(toy, mode, device="cuda", transfers=True)
    item = runner.prepare(images)
    runner.run_prepared(item, "base")
    cuda.calls.clear()
    runner.run_prepared(item, "base")
    assert cuda.calls == {"pinned": 3, "synchronize": 1}
    cuda.calls.clear()
    runner.run(images, "base")
    assert cuda.calls == {"pin": 1, "pinned": 3, "synchronize": 1}


def test_answers_outlive_the_next_run(cuda: FakeTorchCuda, toy: Toy) -> None:
    runner = opened(toy, "cudagraph", device="cuda")
    first = runner.run(random_images(1, 32, 64, 0), "super")
    kept = first.scores.copy()
    runner.run(random_images(1, 32, 64, 1), "super")
    assert np.array_equal(first.scores, kept)


def test_memory_of_a_gpu(cuda: FakeTorchCuda, toy: Toy) -> None:
    runner = opened(toy, device="cuda")
    assert cuda.calls["reset"] == 1
    cuda.peak = 1000
    assert runner.memory_bytes() == {"peak allocated": 1000, "peak reserved": 2000}
    runner.close()
    assert cuda.calls["empty_cache"] == 1


def test_what_cannot_be_recorded(cuda: FakeTorchCuda) -> None:
    def waits(x: Tensor) -> tuple[Tensor, ...]:
        return (x + x.sum().item(),)

    with torch.inference_mode(), pytest.raises(DeviceError) as caught:
        CudaGraph(waits, [torch.zeros(2)])
    assert str(caught.value) == (
        "this network cannot be recorded as a CUDA graph (CUDA error: operation not permitted when "
        "stream is capturing): use --runtime torch or torch-compile (modes eager and compile in "
        "Python)"
    )


@pytest.mark.parametrize("mode", ["eager", "cudagraph"])
def test_too_little_memory(
    cuda: FakeTorchCuda, toy: Toy, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(toy.stem, "forward", full)
    with pytest.raises(DeviceError) as caught:
        opened(toy, mode, device="cuda").warm("base")
    assert str(caught.value) == (
        "not enough memory on the GPU (CUDA out of memory. Tried to allocate 2 GiB.): use smaller "
        "batches"
    )


# --- is it the same network? -----------------------------------------------------------------


class Other:
    """Answers as a session does, at another depth than it is asked for, or with other scores."""

    def __init__(self, session: TorchSession, depth: str | None = None, shift: float = 0.0) -> None:
        self.session, self.depth, self.shift = session, depth, shift

    def run(self, images: NDArray[np.float32], depth: Any) -> Detections:
        found = self.session.run(images, self.depth or depth)
        found.scores[0] += np.float32(self.shift)
        return found


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_another_depth_is_another_network(
    model: AnyDepthModel, pictures: NDArray[np.float32], precision: str
) -> None:
    runner, session = opened(model, precision=precision), TorchSession(model)
    check_runner(runner, session, [pictures[:4], pictures[4:]], "super")
    with pytest.raises(CheckFailedError) as caught:
        check_runner(runner, Other(session, "base"), pictures, "super")
    message = str(caught.value)
    assert message.startswith(f"eager in {precision} at depth {model.space.super}: scores are 0.")
    assert "is not worth timing" in message
    assert "\n" not in message


def test_how_far_scores_may_be(toy: Toy) -> None:
    session, images = TorchSession(toy), random_images(5, 32, 64)
    runner = opened(toy)
    check_runner(runner, Other(session, shift=0.9e-3), images, "super")
    with pytest.raises(CheckFailedError, match=r"scores are 0\.0011 .* expected at most 0\.001:"):
        check_runner(runner, Other(session, shift=1.1e-3), images, "super")
    with pytest.raises(CheckFailedError, match="scores are nan"):
        check_runner(runner, Other(session, shift=float("nan")), images, "super")
    runner = opened(toy, precision="bf16")
    check_runner(runner, Other(session, shift=0.2), [images, images], "super")  # 2 of 10 pictures
    few, many = [images[:1]] * 7, [images[:1]] * 8
    check_runner(runner, Other(session, shift=0.2), few, "super")
    with pytest.raises(CheckFailedError, match=r"at most 0\.25:"):
        check_runner(runner, Other(session, shift=0.3), few, "super")
    with pytest.raises(CheckFailedError, match=r"in the median picture, expected at most 0\.03:"):
        check_runner(runner, Other(session, shift=0.2), many, "super")


def test_another_number_of_detections(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Detections(*(np.zeros((1, 0, *last), np.float32) for last in ((), (4,), ())))
    other: Any = SimpleNamespace(run=lambda *_: nothing)
    with pytest.raises(CheckFailedError, match="scores are inf"):
        check_runner(opened(toy), other, random_images(1, 32, 64), "super")
