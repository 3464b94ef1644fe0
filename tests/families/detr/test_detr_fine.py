"""AnyDepth-DETR with FINE in the encoder's full branch: skipped, there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from conftest import random_images
from int8 import relative
from onnx_sessions import quiet_session, rounding_session, run
from oracle_detr import run_oracle
from static_detr_cases import shapes_of

from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.depth import Depth
from anydepth_deploy.families.detr.config import CONFIGS, DetrConfig
from anydepth_deploy.families.detr.model import AnyDepthDETR
from anydepth_deploy.families.detr.recognise import recognise_detr
from anydepth_deploy.families.family import Refusal
from anydepth_deploy.families.shared.detr.fine_config import FineConfig
from anydepth_deploy.families.shared.macs import count_macs
from anydepth_deploy.families.shared.randomise import randomise
from anydepth_deploy.families.shared.recipe import total
from anydepth_deploy.graph.assemble import assemble_gated
from anydepth_deploy.graph.passes.half import to_half
from anydepth_deploy.graph.passes.placement import graphs_of
from anydepth_deploy.graph.passes.quantise import SCHEMES, quantise
from anydepth_deploy.graph.pieces import Piece, Pieces, export_pieces
from anydepth_deploy.manifest import Weights
from anydepth_deploy.pictures.images import Preprocess
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.pictures.shapes import render_many
from anydepth_deploy.torch_runtime.session import TorchSession
from anydepth_deploy.train.config import Progress, TrainConfig
from anydepth_deploy.train.data.shapes import TrainingPictures
from anydepth_deploy.train.loop import make_recipe, train

SIZE = (96, 192)
MODULES = "encoder.sa_cross_attn."
FINE_ONLY = {"Abs", "Pow", "ReduceMean", "Sqrt"}
"""Operators that nothing else in the network has."""


@pytest.fixture(scope="module")
def refined() -> AnyDepthDETR:
    return randomise(AnyDepthDETR(CONFIGS["tiny-fine"]), 3)


@pytest.fixture(scope="module")
def plain(refined: AnyDepthDETR) -> AnyDepthDETR:
    """The same weights, but those of FINE."""
    model = AnyDepthDETR(CONFIGS["tiny"])
    state = refined.state_dict()
    model.load_state_dict({key: state[key] for key in model.state_dict()}, strict=True)
    return model.eval()


@pytest.fixture(scope="module")
def pieces(refined: AnyDepthDETR) -> Pieces:
    return export_pieces(refined, SIZE)


def is_skipped(depth: Depth) -> bool:
    return bool(depth.settings[4])


@pytest.mark.parametrize("size", [(96, 192), (128, 64), (384, 640)])
@torch.no_grad()
def test_equals_the_oracle(refined: AnyDepthDETR, size: tuple[int, int]) -> None:
    images = torch.from_numpy(random_images(2, *size))
    for text in ("super", "base", "TFTF-F-2") if size[0] < 384 else ("super",):
        depth = refined.table.find(text)
        found = refined(images, depth)
        expected = run_oracle(refined, images, depth.settings)
        for n in range(2):
            order, other = found["queries"][n].argsort(), expected["queries"][n].argsort()
            assert torch.equal(found["queries"][n][order], expected["queries"][n][other])
            for key, limit in (("logits", 1e-4), ("boxes", 1e-5)):
                gap = (found[key][n][order] - expected[key][n][other]).abs().max()
                assert gap < limit, (text, key, float(gap))


@torch.no_grad()
def test_skipped_it_is_the_network_without(refined: AnyDepthDETR, plain: AnyDepthDETR) -> None:
    """Exactly, at depths of every kind; and it is not where the encoder runs in full."""
    images = torch.from_numpy(random_images(2, *SIZE))
    seen = set()
    for depth in refined.space.every[::5]:
        mine, other = refined(images, depth), plain(images, depth)
        equal = all(torch.equal(mine[name], other[name]) for name in mine)
        assert equal == is_skipped(depth), str(depth)
        seen.add(is_skipped(depth))
    assert seen == {True, False}


def test_multiply_adds(refined: AnyDepthDETR, plain: AnyDepthDETR) -> None:
    mine, other = count_macs(refined, SIZE), count_macs(plain, SIZE)
    cells, width, inner, head = (SIZE[0] // 32) * (SIZE[1] // 32), 64, 256, 16
    linear = cells * (4 * width * width + 2 * width * inner)
    attention = 2 * cells * 2 * head * head * (width // head)
    for depth in refined.space.every[::17]:
        more = 0 if is_skipped(depth) else 2 * (linear + attention)
        assert mine.at(depth)["total"] - other.at(depth)["total"] == more, str(depth)
        assert mine.at(depth)["encoder"] - other.at(depth)["encoder"] == more, str(depth)


def test_key_names(refined: AnyDepthDETR, plain: AnyDepthDETR) -> None:
    more = set(refined.state_dict()) - set(plain.state_dict())
    assert all(key.startswith(MODULES) for key in more)
    assert len(more) == 2 * 17
    assert not [key for key in more if "skip" in key]


# Graphs.


def test_the_skipped_branch_is_that_of_the_network_without(
    pieces: Pieces, plain: AnyDepthDETR
) -> None:
    """Byte for byte; and nothing of FINE is in any other piece than the encoder's full one."""
    without = {piece.prefix: piece for piece in export_pieces(plain, SIZE).pieces}
    for piece in pieces.pieces:
        same = _bytes(piece) == _bytes(without[piece.prefix])
        assert same == (piece.prefix != "encoder.full"), piece.prefix
        own = {node.op_type for node in piece.graph} & FINE_ONLY
        assert own == (FINE_ONLY if not same else set()), piece.prefix


def _bytes(piece: Piece) -> bytes:
    serialised: bytes = ir.to_proto(piece.graph).SerializeToString()
    return serialised


def _quantities(
    model: AnyDepthDETR, images: np.ndarray, depth: Depth, found: dict[str, np.ndarray]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], float]:
    """Logits and boxes of a graph beside torch's, which takes over the choice of queries, and the
    gap of that choice."""
    raw = {name.removeprefix("raw_"): array for name, array in found.items() if "raw_" in name}
    oracle = TorchSession(model)
    expected, _, gap = oracle.compare(images, depth, raw)
    mine = oracle.outputs.quantities(raw)
    return {name: (mine[name], expected[name]) for name in ("logits", "boxes")}, gap


@pytest.mark.parametrize(("weights", "every"), [("shared", 7), ("folded", 7), ("shared", 1)])
def test_one_gated_graph_equals_torch_at_every_row(
    refined: AnyDepthDETR, pieces: Pieces, weights: Weights, every: int
) -> None:
    proto = ir.to_proto(assemble_gated(pieces, refined.table, weights, raw=True))
    onnx.checker.check_model(proto, full_check=True)
    session, images = quiet_session(proto), random_images(2, *SIZE)
    levels = range(refined.table.levels)
    for row in [*levels, *range(len(levels), len(refined.table.rows), every)]:
        found = run(session, images=images, depth=np.asarray(row))
        pairs, choice = _quantities(refined, images, refined.table.rows[row], found)
        for name, limit in (("logits", 1e-4), ("boxes", 1e-5)):
            mine, expected = pairs[name]
            assert np.abs(mine - expected).max() < limit, (row, name)
        assert choice < 1e-4


def test_half_precision_equals_torch_at_every_rung(refined: AnyDepthDETR, pieces: Pieces) -> None:
    """Rounded wherever the graph says. Limits are those of random weights: rounding these alone,
    and nothing that is computed, shows as much behind attention."""
    model = assemble_gated(pieces, refined.table, raw=True)
    to_half(model)
    session = rounding_session(model)
    images = verification_batches(Preprocess.of(refined.resize, SIZE), seed=5)[1]
    for row, depth in enumerate(refined.table.ladder):
        found = run(session, images=images, depth=np.asarray(row))
        pairs, choice = _quantities(refined, images, depth, found)
        for name, limit in (("logits", 6e-3), ("boxes", 2e-3)):
            assert relative(*pairs[name]) < limit, (str(depth), name)
        assert choice < 0.02


@pytest.mark.parametrize("scheme", ["onnxruntime", "tensorrt", "openvino"])
def test_eight_bits_leave_it_in_float(refined: AnyDepthDETR, pieces: Pieces, scheme: str) -> None:
    """Everything from the pools to the product: only what convolutions give enters rounded."""
    model = assemble_gated(pieces, refined.table, "folded", raw=True)
    placed = quantise(model, SCHEMES[scheme], lambda _: (-3.0, 3.0), lambda _, reason: reason)
    assert sum(len(item.convolutions) for item in placed) > 50
    (graph,) = [g for g in graphs_of(model.graph) if any(n.op_type == "Pow" for n in g)]
    count = 0
    for start in [node for node in graph if node.op_type == "Resize" and _is_linear(node)]:
        if [node.op_type for node in start.outputs[0].consumers()] != ["Mul"]:
            continue  # a map that is joined
        count += 1
        kinds = {node.op_type for node in _before(start)}
        assert {*FINE_ONLY, "AveragePool", "LayerNormalization", "MatMul"} <= kinds
        assert not kinds & {"QuantizeLinear", "DequantizeLinear", "Conv"}
    assert count == 2


def _is_linear(node: ir.Node) -> bool:
    return node.attributes["mode"].as_string() == "linear"


def _before(node: ir.Node) -> Iterator[ir.Node]:
    """``node`` and what it is computed from, back to what is pooled, or is not."""
    waiting, seen = [node], {node}
    while waiting:
        found = waiting.pop()
        yield found
        # A coarser map that is not pooled goes straight to its tokens.
        if found.op_type == "AveragePool" or _takes_a_map(found):
            continue
        for value in found.inputs:
            before = None if value is None else value.producer()
            if before is not None and before not in seen:
                seen.add(before)
                waiting.append(before)


def _takes_a_map(node: ir.Node) -> bool:
    """Whether this makes tokens of a map that was not pooled."""
    value = node.inputs[0]
    if node.op_type != "Reshape" or value is None or value.shape is None:
        return False
    before = value.producer()
    pooled = before is not None and before.op_type == "AveragePool"
    return len(value.shape) == 4 and value.shape[1] == 64 and not pooled


# Files.


def test_recognised_by_its_keys(refined: AnyDepthDETR, tmp_path: Path) -> None:
    torch.save({"ema": {"module": refined.state_dict()}}, tmp_path / "c.pth")
    found = read_checkpoint(tmp_path / "c.pth")
    assert (found.family.name, found.config) == ("anydepth-detr", CONFIGS["tiny-fine"])
    assert (found.chosen, found.assumed) == ({}, {})  # there is but one form of it
    images = torch.from_numpy(random_images(1, 96, 96))
    with torch.no_grad():
        assert torch.equal(load_model(found)(images)["logits"], refined(images)["logits"])


def test_any_size_may_have_it(refined: AnyDepthDETR) -> None:
    with torch.device("meta"):
        model = AnyDepthDETR(CONFIGS["r50"].replace(fine=FineConfig()))
    found = recognise_detr(shapes_of(model.state_dict()))
    assert isinstance(found, DetrConfig)
    assert (found.name, found.fine, found.blocks) == ("r50-fine", FineConfig(), (3, 4, 6, 3))
    shapes = {
        key: shape
        for key, shape in shapes_of(refined.state_dict()).items()
        if f"{MODULES}1" not in key
    }
    refusal = recognise_detr(shapes)
    assert isinstance(refusal, Refusal)
    assert refusal.reason.startswith("an AnyDepth-DETR with FINE in 1 places")


# Training.


def test_the_base_pass_does_not_touch_it() -> None:
    recipe = make_recipe(TrainConfig.for_family(model="tiny-fine", input_size=64))
    drawn = render_many(2, seed=0, size=64)
    pictures = TrainingPictures.from_arrays(drawn.images, drawn.boxes, drawn.labels)
    images, targets = pictures.batch(torch.arange(2))
    recipe.model.train()
    generator = torch.Generator().manual_seed(0)
    modules = {n: p for n, p in recipe.model.named_parameters() if n.startswith(MODULES)}
    terms = recipe.base_pass(images, targets, None, generator)
    total(terms).backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is None for value in modules.values())
    terms, _ = recipe.super_pass(images, targets, generator)
    total(terms).backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is not None and value.grad.any() for value in modules.values())


def test_it_trains(tmp_path: Path) -> None:
    """A few steps on a few pictures: both losses fall, and the file is such a network."""
    losses: list[Progress] = []
    config = TrainConfig.for_family(
        model="tiny-fine",
        output=str(tmp_path / "fine.pth"),
        steps=24,
        input_size=64,
        pictures=4,
        batch=4,
        warmup=5,
        learning_rate=2e-3,
        denoising=16,
        threads=0,
        processes=1,
        save_every=0,
        ground_truth_share=1.0,
    )
    train(config, progress=losses.append)
    first, last = losses[:5], losses[-5:]
    for name in ("super_loss", "base_loss"):
        before, after = (sum(getattr(p, name) for p in part) for part in (first, last))
        assert after < 0.9 * before, name
    found = read_checkpoint(config.output)
    assert found.config.fine == CONFIGS["tiny-fine"].fine
    start = make_recipe(config).model.state_dict()
    key = f"{MODULES}1.out_proj.weight"
    assert not torch.equal(found.state[key], start[key])
