"""Checkpoint files: what is accepted, what is refused, and that nothing in them is executed."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import shlex
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_detr
from fork_checkpoint import fork_modules, fork_network, write_fork_checkpoint
from safetensors.torch import save_file
from torch import Tensor, nn

from anydepth_deploy.checkpoints import checkpoint as module
from anydepth_deploy.checkpoints.checkpoint import Checkpoint, load_model, read_checkpoint
from anydepth_deploy.errors import CheckpointError
from anydepth_deploy.families.detr.config import CONFIGS
from anydepth_deploy.families.detr.model import AnyDepthDETR
from anydepth_deploy.families.family import Family
from anydepth_deploy.families.registry import find_family, recognise
from anydepth_deploy.families.shared.randomise import randomise
from anydepth_deploy.families.yolo.config import CONFIGS as YOLO_CONFIGS
from anydepth_deploy.families.yolo.model import AnyDepthYOLO

State = dict[str, Tensor]
CONV = "encoder.input_proj.0.conv.weight"


@pytest.fixture
def state(model: AnyDepthDETR) -> State:
    """The weights of `model`, in a dictionary that a test may change."""
    return dict(model.state_dict())


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def load(path: Path) -> State:
    return load_model(read_checkpoint(path)).state_dict()


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def refused(path: Path) -> str:
    """The message with which a file is refused: one line that names it."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"checkpoint {path}")
    assert "\n" not in message
    return message


# --- what is accepted ------------------------------------------------------------------------


def test_ema_comes_before_model(checkpoint: Path, model: AnyDepthDETR) -> None:
    content = torch.load(checkpoint, weights_only=True)
    assert not same(content["model"], model.state_dict())
    found = read_checkpoint(checkpoint)
    assert (found.weights, found.family.name, found.config) == (
        "ema",
        "anydepth-detr",
        CONFIGS["tiny"],
    )
    assert found.extra == {"last_epoch": 67}
    loaded = load_model(found)
    assert same(loaded.state_dict(), model.state_dict())
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def wrap_bare(state: State) -> object:
    return state


def wrap_ema_without_module(state: State) -> object:
    return {"ema": state, "model": random_detr(seed=3).state_dict()}


def wrap_model(state: State) -> object:
    return {"model": state, "ema": None, "epoch": 3}


def wrap_state_dict(state: State) -> object:
    return {"state_dict": state}


def wrap_distributed(state: State) -> object:
    return {"model": {f"module.{key}": value for key, value in state.items()}}


def wrap_distributed_twice(state: State) -> object:
    return {f"module.module.{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    ("wrap", "weights"),
    [
        (wrap_bare, "state dict"),
        (wrap_ema_without_module, "ema"),
        (wrap_model, "model"),
        (wrap_state_dict, "state dict"),
        (wrap_distributed, "model"),
        (wrap_distributed_twice, "state dict"),
    ],
)
def test_forms_of_a_file(
    tmp_path: Path, state: State, wrap: Callable[[State], object], weights: str
) -> None:
    path = saved(tmp_path / "c.pth", wrap(state))
    assert read_checkpoint(path).weights == weights
    assert same(load(path), state)


def test_the_model_shares_its_weights_with_the_checkpoint(checkpoint: Path) -> None:
    found = read_checkpoint(checkpoint)
    loaded = load_model(found).state_dict()
    assert found.state.keys() == loaded.keys()
    assert all(loaded[key].data_ptr() == x.data_ptr() for key, x in found.state.items())


def test_nothing_of_a_loaded_model_lacks_memory(checkpoint: Path) -> None:
    loaded = load_model(read_checkpoint(checkpoint))
    tensors = [*loaded.parameters(), *loaded.buffers()]
    tensors += [x for m in loaded.modules() for x in vars(m).values() if isinstance(x, Tensor)]
    assert not any(x.is_meta for x in tensors)


def test_tied_weights_stay_tied(tmp_path: Path, state: State) -> None:
    first, second = [key for key, x in state.items() if x.shape == (64,) and "norm1.w" in key][:2]
    again = {key: x.half() for key, x in state.items()}
    again[second] = again[first]
    found = read_checkpoint(saved(tmp_path / "tied.pth", again))
    assert found.state[first].data_ptr() == found.state[second].data_ptr()
    assert torch.equal(found.state[second], state[first].half().float())


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_safetensors_by_name_and_by_content(tmp_path: Path, state: State, name: str) -> None:
    save_file(state, tmp_path / name)
    assert same(load(tmp_path / name), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path: Path, state: State, dtype: torch.dtype) -> None:
    narrow = {key: x.to(dtype) if x.is_floating_point() else x for key, x in state.items()}
    path = saved(tmp_path / "half.pth", narrow)
    floating = [x for x in read_checkpoint(path).state.values() if x.is_floating_point()]
    assert {x.dtype for x in floating} == {torch.float32}
    found = load(path)
    assert {key: x.dtype for key, x in found.items()} == {key: x.dtype for key, x in state.items()}
    assert torch.equal(found[CONV], state[CONV].to(dtype).float())


def test_what_only_training_uses_may_be_missing(tmp_path: Path, state: State) -> None:
    kept = {
        key: value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
        and not key.startswith("decoder.denoising_class_embed.")
    }
    assert len(state) - len(kept) > 10
    assert "decoder.denoising_class_embed.weight" in state
    found = load(saved(tmp_path / "lean.pth", kept))
    assert found.keys() == state.keys()
    assert same({key: found[key] for key in kept}, kept)


def test_class_names_and_input_size_beside_the_weights(tmp_path: Path, state: State) -> None:
    names = [f"thing {index}" for index in range(8)]
    content = {"model": state, "class_names": names, "input_size": [96, 128]}
    found = read_checkpoint(saved(tmp_path / "c.pth", content))
    assert (found.class_names, found.input_size) == (names, (96, 128))


def test_the_longest_class_names_and_the_largest_input(tmp_path: Path, state: State) -> None:
    names = ["x" * 100, "é ü", "猫", 7, "a", "b", "c", "d"]
    content = {"model": state, "class_names": names, "input_size": (32, 8192)}
    found = read_checkpoint(saved(tmp_path / "c.pth", content))
    assert found.class_names == [str(name) for name in names]
    assert found.input_size == (32, 8192)


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"class_names": ["one"], "input_size": [96]},
        {"class_names": "eight", "input_size": "96x128"},
        {"class_names": 8, "input_size": ["96", "128"]},
        {"class_names": [["nested"]] * 8},
        {"input_size": [[96], [128]]},
        {"input_size": [float("inf"), float("nan")]},
        {"input_size": [32_000_000, 32_000_000]},
        {"input_size": [64, 8224]},
        {"input_size": [0, 64]},
        {"input_size": [64, -64]},
        {"input_size": [64, 65]},
        {"input_size": [True, 32]},
        {"class_names": ["\x1b[31mthing"] * 8},
        {"class_names": ["two\nlines"] * 8},
        {"class_names": ["\u202egnp"] * 8},
        {"class_names": [""] * 8},
        {"class_names": ["x" * 101] * 8},
        {"class_names": [10**100] * 8},
        {"class_names": ["fine"] * 7 + ["\x07"]},
        {"class_names": ["fine"] * 7 + [None]},
    ],
)
def test_extras_that_make_no_sense_are_left_alone(
    tmp_path: Path, state: State, extra: dict[str, object]
) -> None:
    found = read_checkpoint(saved(tmp_path / "c.pth", {"model": state, **extra}))
    assert (found.class_names, found.input_size) == (None, None)


@pytest.mark.parametrize("name", ["r50", "r101", "tiny"])
@pytest.mark.parametrize("classes", [80, 3])
def test_sizes_are_told_from_shapes_alone(name: str, classes: int) -> None:
    config = CONFIGS[name].replace(classes=classes)
    with torch.device("meta"):
        shapes = {k: tuple(x.shape) for k, x in AnyDepthDETR(config).state_dict().items()}
    family, found = recognise(shapes, "checkpoint")
    assert (family.name, found) == ("anydepth-detr", config)


# --- network objects of the authors' fork ----------------------------------------------------


@pytest.fixture(scope="module")
def yolo() -> AnyDepthYOLO:
    return randomise(AnyDepthYOLO(YOLO_CONFIGS["tiny"]))


def names_of(network: AnyDepthYOLO) -> dict[int, str]:
    return {index: f"kind {index}" for index in range(network.config.classes)}


@pytest.mark.parametrize("entry", ["ema", "model"])
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_a_network_object(
    tmp_path: Path, yolo: AnyDepthYOLO, entry: str, half: bool, training: bool
) -> None:
    path = write_fork_checkpoint(
        tmp_path / "fork.pt",
        yolo,
        entry=entry,
        half=half,
        names=names_of(yolo),
        criterion=training,
        cuda=training,
        train_args={"imgsz": 320},
    )
    found = read_checkpoint(path)
    assert (found.family.name, found.config, found.weights) == (yolo.family, yolo.config, entry)
    assert found.class_names == list(names_of(yolo).values())
    assert found.input_size == (320, 320)
    assert found.extra["stride"] == [8, 16, 32]
    assert found.extra["nc"] == yolo.config.classes
    assert found.extra["yaml"]["scale"] == "l"
    assert found.extra["version"] == "8.3.63"
    layers = found.extra["layers"]
    assert [layer["i"] for layer in layers] == list(range(22))
    assert (layers[10]["f"], layers[0]["type"]) == ([-1, 6], "ultralytics.nn.modules.conv.Conv")
    wanted = {
        key: x.half().float() if half and x.is_floating_point() else x
        for key, x in yolo.state_dict().items()
    }
    loaded = load_model(found)
    assert same(loaded.state_dict(), wanted)
    assert not loaded.training


def test_a_network_object_as_torch_itself_reads_it(tmp_path: Path, yolo: AnyDepthYOLO) -> None:
    path = write_fork_checkpoint(tmp_path / "fork.pt", yolo, names=names_of(yolo))
    with fork_modules():
        network = torch.load(path, weights_only=False)["ema"]
    state = {k: x.float() if x.is_floating_point() else x for k, x in network.state_dict().items()}
    assert same(read_checkpoint(path).state, state)


def test_a_network_object_of_another_family(tmp_path: Path, model: AnyDepthDETR) -> None:
    path = write_fork_checkpoint(tmp_path / "fork.pt", model, half=False)
    assert same(load(path), model.state_dict())


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_network_saved_alone(tmp_path: Path, yolo: AnyDepthYOLO, wrapped: bool) -> None:
    network = fork_network(yolo, half=False, names=names_of(yolo))
    with fork_modules():
        torch.save(nn.DataParallel(network) if wrapped else network, tmp_path / "alone.pt")
    found = read_checkpoint(tmp_path / "alone.pt")
    assert (found.weights, found.class_names) == ("model", list(names_of(yolo).values()))
    assert same(load_model(found).state_dict(), yolo.state_dict())


@pytest.mark.parametrize(
    ("names", "imgsz"),
    [
        ({1: "one"}, 33),
        ({index + 1: "x" for index in range(80)}, "640"),
        ({index: index for index in range(80)}, [640]),
        ({}, None),
        (dict.fromkeys(range(7), "x"), -32),
        ("eighty", 10**9),
    ],
)
def test_metadata_of_a_network_object_cannot_break_it(
    tmp_path: Path, yolo: AnyDepthYOLO, names: Any, imgsz: Any
) -> None:
    network = fork_network(yolo, half=False, names=names_of(yolo), imgsz=imgsz)
    vars(network).update(names=names, stride="8", yaml=[network], nc=None)
    with fork_modules():
        torch.save({"ema": network, "train_args": [imgsz]}, tmp_path / "odd.pt")
    found = read_checkpoint(tmp_path / "odd.pt")
    assert (found.class_names, found.input_size) == (None, None)
    assert not {"stride", "yaml", "nc"} & found.extra.keys()
    assert same(load_model(found).state_dict(), yolo.state_dict())


def test_buffers_that_are_not_persistent_are_left_out(tmp_path: Path, yolo: AnyDepthYOLO) -> None:
    network = fork_network(yolo, half=False, names=names_of(yolo))
    network.register_buffer("anchors", torch.ones(2), persistent=False)
    network.register_buffer("absent", None)
    with fork_modules():
        torch.save({"model": network}, tmp_path / "c.pt")
    assert same(load(tmp_path / "c.pt"), yolo.state_dict())


def contain_itself(network: nn.Module) -> None:
    network.get_submodule("model.2")._modules["again"] = network


def contain_a_text(network: nn.Module) -> None:
    network._modules["text"] = "no module"  # type: ignore[assignment]


def contain_a_text_for_a_weight(network: nn.Module) -> None:
    network._parameters["text"] = "no\ntensor"  # type: ignore[assignment]


def go_deep(network: nn.Module) -> None:
    for _ in range(40):
        network._modules["deeper"] = network = nn.Sequential()


def go_wide(network: nn.Module) -> None:
    # 2 ** 20 modules in a file of a few hundred bytes
    for _ in range(20):
        child = nn.Sequential()
        network._modules["left"] = network._modules["right"] = child
        network = child


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (contain_itself, "contains itself"),
        (contain_a_text, "'text' is str; expected a module"),
        (contain_a_text_for_a_weight, "'text' is str; expected a tensor"),
        (go_deep, "32 levels"),
        (go_wide, "100000 entries"),
    ],
)
def test_a_network_object_that_is_no_tree_of_modules(
    tmp_path: Path, yolo: AnyDepthYOLO, spoil: Callable[[nn.Module], None], told: str
) -> None:
    network = fork_network(yolo, half=False, names=names_of(yolo))
    spoil(network)
    with fork_modules():
        torch.save({"ema": network}, tmp_path / "c.pt")
    assert told in refused(tmp_path / "c.pt")


# --- files that cannot be read ---------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 1e-6, 0.001, 0.1, 0.5, 0.9, 0.999, 1 - 1e-6])
@pytest.mark.parametrize("kind", ["zip", "safetensors"])
def test_truncated_files(tmp_path: Path, state: State, kind: str, share: float) -> None:
    path = tmp_path / {"safetensors": "cut.safetensors"}.get(kind, "cut.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: min(int(share * len(whole)), len(whole) - 1)])
    assert "truncated" in refused(path).removeprefix(f"checkpoint {path}")


@pytest.mark.parametrize("share", [1e-6, 0.5, 1])
def test_the_old_file_format_of_torch(tmp_path: Path, state: State, share: float) -> None:
    path = tmp_path / "old.pth"
    torch.save({"model": state}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[: 1 + int(share * path.stat().st_size)])
    message = refused(path)
    assert "torch before 1.6" in message
    assert "save its state dict anew" in message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"a text file\n" * 100,
        b'{"model": {}}',
        b"<!DOCTYPE html><html>404</html>",
        b"PK\x03\x04 not really a zip file",
        b"\x89PNG\r\n\x1a\n",
        bytes(range(256)) * 8,
        b"\x80\x02}q\x00.",
    ],
)
def test_files_of_another_kind(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.pth"
    path.write_bytes(content)
    assert "expected" in refused(path)


def test_a_script_archive(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))  # type: ignore[no-untyped-call]
    assert "TorchScript" in refused(path)


def test_folders_and_missing_files(tmp_path: Path) -> None:
    assert "is a folder" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "nothing.pth")


# --- files that hold something else ----------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([1, 2], "holds a list"),
        (torch.zeros(3), "holds a Tensor"),
        ("weights", "holds a str"),
        (None, "holds a NoneType"),
        ({}, "no weights"),
        ({"epoch": 3, "args": {"lr": 0.1}}, "found the entries epoch, args"),
        ({"ema": {"module": {}}, "model": {"a": 1}}, "its 'ema' entry is not a state dict"),
        ({"ema": None, "model": {"a": 1}}, "no weights"),
        ({1: torch.zeros(2)}, "no weights"),
        ({"two\nlines": 3}, r"two\nlines"),
        ({"roi_heads.box_head.fc6.weight": torch.zeros(2)}, "known any-depth detector"),
        ({"backbone.conv1.weight": torch.zeros(2)}, "known any-depth detector"),
    ],
)
def test_content_without_known_weights(tmp_path: Path, content: object, told: str) -> None:
    assert told in refused(saved(tmp_path / "c.pth", content))


def test_a_static_detector(tmp_path: Path, state: State) -> None:
    static = {key: value for key, value in state.items() if "_skip" not in key}
    said = refused(saved(tmp_path / "c.pth", static))
    assert "an RT-DETR with a backbone that is not known" in said


@pytest.mark.parametrize("change", ["blocks", "hidden", "layers"])
def test_an_unknown_size(tmp_path: Path, state: State, change: str) -> None:
    if change == "blocks":
        state = {key: x for key, x in state.items() if not key.startswith("backbone.layer3.2.")}
    elif change == "hidden":
        state[CONV] = torch.zeros(48, *state[CONV].shape[1:])
    else:
        state["decoder.decoder.layers.7.norm1.weight"] = torch.zeros(64)
    message = refused(saved(tmp_path / "c.pth", state))
    assert "unknown size" in message
    assert "r50 (" in message
    assert "tiny (" in message


def test_keys_that_do_not_fit_are_listed(tmp_path: Path, state: State) -> None:
    norm = "encoder.lateral_convs.0.norm_skippable.running_var"
    gone = state.pop(norm)
    state["surplus.weight"] = torch.zeros(2)
    state["lines\nof\x1b[31mkeys"] = torch.zeros(2)
    state[CONV] = state[CONV][:, :5].clone()
    state["decoder.enc_output.0.bias"] = torch.full_like(
        state["decoder.enc_output.0.bias"], float("inf")
    )
    message = refused(saved(tmp_path / "c.pth", state))
    assert gone.numel() == 64
    assert "does not fit anydepth-detr tiny" in message
    assert f"1 missing keys: {norm}" in message
    assert "2 unexpected keys: surplus.weight, 'lines\\nof\\x1b[31mkeys'" in message
    assert f"1 wrong shapes: {CONV} [64, 5, 1, 1] (expected [64, 128, 1, 1])" in message
    assert "1 not numbers: decoder.enc_output.0.bias" in message


def test_long_lists_of_keys_are_cut(tmp_path: Path, state: State) -> None:
    lean = {key: value for key, value in state.items() if "norm2" not in key}
    message = refused(saved(tmp_path / "c.pth", lean))
    missing = len(state) - len(lean)
    assert missing > 6
    assert f"{missing} missing keys: " in message
    assert f"and {missing - 6} more" in message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn])
def test_weights_that_are_not_numbers(tmp_path: Path, state: State, dtype: torch.dtype) -> None:
    state[CONV] = state[CONV].clone().to(dtype)
    state[CONV].flatten()[0] = float("nan")
    message = refused(saved(tmp_path / "c.pth", state))
    assert f"1 not numbers: {CONV}" in message


def sparse(value: Tensor) -> Tensor:
    return value.to_sparse()


def elsewhere(value: Tensor) -> Tensor:
    return value.to("meta")


def imaginary(value: Tensor) -> Tensor:
    return value.to(torch.complex64)


def enormous(value: Tensor) -> Tensor:
    # 4 bytes in the file that claim to be terabytes.
    return value.new_zeros(1).expand(10**12, *value.shape[1:])


@pytest.mark.parametrize("change", [sparse, elsewhere, imaginary, enormous])
def test_tensors_that_are_not_plain(
    tmp_path: Path, state: State, change: Callable[[Tensor], Tensor]
) -> None:
    state["decoder.enc_score_head.weight"] = change(state["decoder.enc_score_head.weight"])
    message = refused(saved(tmp_path / "c.pth", state))
    assert "1 tensors are not plain dense numbers" in message
    assert "decoder.enc_score_head.weight" in message


@pytest.mark.parametrize("prefixes", [("", "module."), ("module.", "module.module.")])
def test_the_same_weight_twice(tmp_path: Path, state: State, prefixes: tuple[str, str]) -> None:
    value = state.pop(CONV)
    state |= {prefix + CONV: value for prefix in prefixes}
    message = refused(saved(tmp_path / "c.pth", state))
    assert "more than once, but for the prefix 'module.'" in message
    assert message.endswith(": " + ", ".join(prefix + CONV for prefix in prefixes))


@pytest.mark.parametrize("family", ["detr", "yolo"])
def test_a_detector_without_classes(
    tmp_path: Path, state: State, yolo: AnyDepthYOLO, family: str
) -> None:
    if family == "yolo":
        state = yolo.state_dict()
        heads = [key for key in state if re.match(r"model\.21\.cv3\.\d\.2\.", key)]
    else:
        heads = [key for key in state if "score_head" in key]
    assert len(heads) > 3
    state |= {key: state[key][:0].clone() for key in heads}
    message = refused(saved(tmp_path / "c.pth", state))
    assert f"an AnyDepth-{family.upper()} without classes" in message
    assert "expected at least one class" in message


@pytest.mark.parametrize(
    ("kind", "size", "name"),
    [
        ("F4", 1, "torch.float4_e2m1fn_x2"),
        ("F8_E8M0", 2, "torch.float8_e8m0fnu"),
        ("C64", 16, "torch.complex64"),
    ],
)
def test_safetensors_with_numbers_that_cannot_be_widened(
    tmp_path: Path, kind: str, size: int, name: str
) -> None:
    header = {"x": {"dtype": kind, "shape": [2], "data_offsets": [0, size]}}
    raw = json.dumps(header).encode()
    path = tmp_path / "c.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(size))
    message = refused(path)
    assert f"holds numbers of type {name}; expected floating point or integer" in message
    assert "save it in float16 or float32" in message


def test_safetensors_of_8_bits(tmp_path: Path, state: State) -> None:
    state[CONV] = state[CONV].to(torch.float8_e4m3fn)
    save_file(state, tmp_path / "c.safetensors")
    assert torch.equal(load(tmp_path / "c.safetensors")[CONV], state[CONV].float())


# --- files that attack -----------------------------------------------------------------------


class Call:
    """Unpickles as the result of a call: what a hostile file is made of."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments

    def __call__(self) -> None:
        """Only what can be called may stand where a function is expected."""


def payload(kind: str, mark: Path) -> Call:
    """An object that makes the file ``mark`` when it is unpickled."""
    command = f"echo > {shlex.quote(str(mark))}"
    if kind == "os.system":
        return Call(os.system, command)
    if kind == "eval":
        return Call(eval, f"open({str(mark)!r}, 'w').close()")
    if kind == "getattr chain":
        return Call(Call(getattr, Call(__import__, "os"), "system"), command)
    assert kind == "exec in a class"
    return Call(Call(type, "X", (), {"run": Call(os.system, command)}))


KINDS = ["os.system", "eval", "getattr chain", "exec in a class"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_attacks_work_on_a_plain_unpickler(tmp_path: Path, kind: str) -> None:
    mark = tmp_path / "executed"
    pickle.loads(pickle.dumps(payload(kind, mark)))
    assert mark.exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "pickle protocol 0"])
@pytest.mark.parametrize("place", ["alone", "beside the weights"])
def test_nothing_in_a_file_is_executed(
    tmp_path: Path, state: State, kind: str, form: str, place: str
) -> None:
    mark, path = tmp_path / "executed", tmp_path / "hostile.pth"
    hostile = payload(kind, mark)
    content = hostile if place == "alone" else {"model": state, "optimizer": hostile}
    if form == "zip":
        torch.save(content, path)
    elif form == "legacy":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        content = hostile if place == "alone" else {"model": {}, "optimizer": hostile}
        path.write_bytes(pickle.dumps(content, protocol=0 if "0" in form else 4))
    message = refused(path)
    assert not mark.exists()
    if form == "zip":
        assert "would have to be executed and was not" in message
    elif form != "pickle protocol 0":
        assert "torch before 1.6" in message


def test_a_hand_written_pickle(tmp_path: Path) -> None:
    mark, path = tmp_path / "executed", tmp_path / "hostile.pth"
    program = b"cos\nsystem\n(S'echo > %s'\ntR." % shlex.quote(str(mark)).encode()
    pickle.loads(program)
    assert mark.exists()
    mark.unlink()
    path.write_bytes(program)
    refused(path)
    assert not mark.exists()


# --- damaged files ---------------------------------------------------------------------------


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, removed, repeated or inserted."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(changed))
        kind = rng.randrange(5)
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del changed[at : at + rng.randrange(1, 16)]
        elif kind == 3:
            changed[at:at] = changed[at : at + rng.randrange(1, 16)]
        else:
            changed[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 8)))
    return bytes(changed)


def known(shapes: dict[str, tuple[int, ...]], origin: str) -> tuple[Family, Any]:
    return find_family("anydepth-detr"), CONFIGS["tiny"]


@pytest.mark.parametrize("form", ["zip", "safetensors"])
def test_damaged_files_are_read_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    # A few weights are enough here, so that hundreds of files can be tried.
    monkeypatch.setattr(module, "recognise", known)
    weights = {"backbone.conv1.weight": torch.rand(4, 3), "encoder.bias": torch.rand(3).half()}
    path = tmp_path / {"safetensors": "c.safetensors"}.get(form, "c.pth")
    if form == "safetensors":
        save_file(weights, path)
    else:
        content = {"ema": {"module": weights}, "epoch": 3, "input_size": [64, 64]}
        torch.save(content, path)
    whole = path.read_bytes()
    rng = random.Random(0)
    read = 0
    for _ in range(400):
        path.write_bytes(mutate(whole, rng))
        try:
            found = read_checkpoint(path)
        except CheckpointError as error:
            message = str(error)
        else:
            message = ""
            read += 1
            assert isinstance(found, Checkpoint)
            assert all(isinstance(value, Tensor) for value in found.state.values())
        assert "\n" not in message
    assert 0 < read < 400
