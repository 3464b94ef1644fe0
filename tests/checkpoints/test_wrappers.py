"""Networks in wrappers: read as the network itself, whatever was put around its names, or refused.

The oracle is the state dict that was wrapped: by torch's own wrappers where they can be had, else
by hand.
"""

from __future__ import annotations

import collections
import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Run
from fork_checkpoint import fork_modules, fork_network
from fuzzing import FACTOR
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.checkpoints.wrappers import unwrap
from anydepth_deploy.errors import CheckpointError
from anydepth_deploy.families.detr.model import AnyDepthDETR
from anydepth_deploy.families.yolo.model import AnyDepthYOLO

State = dict[str, Tensor]
NAMES = [f"kind {index}" for index in range(8)]
PATH = Path("c.pth")


@pytest.fixture(params=["detr", "yolo"])
def network(request: pytest.FixtureRequest) -> nn.Module:
    found: nn.Module = request.getfixturevalue(
        {"detr": "model", "yolo": "yolo_model"}[request.param]
    )
    return found


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def before(words: str, state: State) -> State:
    return {f"{words}{key}": value for key, value in state.items()}


def profiled(state: State) -> State:
    """What thop leaves behind: two numbers in every module."""
    folders = {key.rpartition(".")[0] for key in state}
    names = [f"{folder}." for folder in folders] + [""]
    zeros = {f"{name}{one}": torch.zeros(1, dtype=torch.float64) for name in names for one in OPS}
    return {**state, **zeros}


OPS = ("total_ops", "total_params")


def compiled_inside(state: State) -> State:
    """A part of the network was compiled by itself."""
    first = next(iter(state)).split(".")[0]
    return {key.replace(f"{first}.", f"{first}._orig_mod.", 1): x for key, x in state.items()}


FORMS: dict[str, Callable[[State], object]] = {
    "compiled": lambda state: {"model": before("_orig_mod.", state)},
    "compiled alone": lambda state: before("_orig_mod.", state),
    "distributed, compiled": lambda state: {"model": before("module._orig_mod.", state)},
    "compiled, distributed": lambda state: {"model": before("_orig_mod.module.", state)},
    "compiled inside": lambda state: compiled_inside(state),
    "sharded": lambda state: before("_fsdp_wrapped_module.", state),
    "profiled": lambda state: {"model": profiled(state)},
    "compiled, profiled": lambda state: {"ema": {"module": before("_orig_mod.", profiled(state))}},
    "averaged": lambda state: {
        "ema": {"n_averaged": torch.tensor(3), **before("module.", state)},
        "model": None,
    },
    "averaged, compiled": lambda state: {
        "model": {"n_averaged": torch.tensor(3), **before("module._orig_mod.", state)}
    },
    "a queue beside": lambda state: {
        "model": state,
        "losses": collections.deque([1.0, 2.0], maxlen=20),
        "times": collections.deque(),
    },
    "other containers beside": lambda state: {
        "model": state,
        "options": collections.UserDict(lr=0.1),
        "history": collections.UserList([1]),
        "chain": collections.ChainMap({"lr": 0.1}, {}),
    },
    "of a trainer": lambda state: {"state_dict": before("model.", state), "epoch": 3},
    "of a trainer, with its loss": lambda state: {
        "state_dict": {**before("net.", state), "criterion.empty_weight": torch.ones(9)}
    },
    "of a trainer, compiled": lambda state: {"state_dict": before("model._orig_mod.", state)},
    "of a trainer, averaged": lambda state: {
        "state_dict": {
            "ema.n_averaged": torch.tensor(3),
            **before("ema.module.", state),
        }
    },
    "deep in a trainer": lambda state: before("trainer.task.detector.", state),
}


@pytest.mark.parametrize("form", FORMS)
def test_wrapped_networks_are_read(tmp_path: Path, network: nn.Module, form: str) -> None:
    path = saved(tmp_path / "c.pth", FORMS[form](network.state_dict()))
    assert same(load_model(read_checkpoint(path)).state_dict(), network.state_dict())


def test_what_torch_itself_wraps(tmp_path: Path, model: AnyDepthDETR) -> None:
    average: Any = get_ema_multi_avg_fn(0.999)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    path = saved(tmp_path / "c.pth", {"model": model.state_dict(), "ema": averaged.state_dict()})
    found = read_checkpoint(path)
    assert found.weights == "ema"
    assert same(load_model(found).state_dict(), model.state_dict())
    parallel = nn.DataParallel(copy.deepcopy(model))
    path = saved(tmp_path / "c.pth", parallel.state_dict())
    assert same(load_model(read_checkpoint(path)).state_dict(), model.state_dict())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_torch_compiles(tmp_path: Path, model: AnyDepthDETR) -> None:
    compiled: Any = torch.compile(model)
    state = compiled.state_dict()
    assert all(key.startswith("_orig_mod.") for key in state)
    path = saved(tmp_path / "c.pth", state)
    assert same(load_model(read_checkpoint(path)).state_dict(), model.state_dict())


def test_safetensors_in_a_wrapper(tmp_path: Path, model: AnyDepthDETR) -> None:
    save_file(before("_orig_mod.", model.state_dict()), tmp_path / "c.safetensors")
    found = read_checkpoint(tmp_path / "c.safetensors")
    assert same(load_model(found).state_dict(), model.state_dict())


def test_a_network_object_in_wrappers(tmp_path: Path, yolo_model: AnyDepthYOLO) -> None:
    names = {index: f"kind {index}" for index in range(yolo_model.config.classes)}
    inner = fork_network(yolo_model, half=False, names=names)
    for module in inner.modules():
        for name in OPS:
            module.register_buffer(name, torch.zeros(1, dtype=torch.float64))
    with fork_modules():
        averaged = AveragedModel(nn.DataParallel(inner))
        # A function of the averaging is among its attributes, which no pickle of torch's holds.
        vars(averaged).update(avg_fn=None, multi_avg_fn=None)
        torch.save({"ema": averaged}, tmp_path / "c.pt")
    found = read_checkpoint(tmp_path / "c.pt")
    assert same(load_model(found).state_dict(), yolo_model.state_dict())
    assert found.class_names == list(names.values())


# --- any composition of wrappers -------------------------------------------------------------

WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
FOREIGN = ("model.", "net.", "student.", "ema_model.", "detector.core.", "x.")


@pytest.mark.parametrize("seed", range(40 * FACTOR))
def test_any_wrappers(network: nn.Module, seed: int) -> None:
    rng = random.Random(seed)
    wanted = network.state_dict()
    state, told = dict(wanted), []
    inside = rng.choices(WRAPPERS, k=rng.randrange(3))
    inner = "".join(inside)
    if inside[:1] == ["module."] and rng.random() < 0.5:
        state = {"n_averaged": torch.tensor(2), **before(inner, state)}
        told.append("counters of averages (n_averaged)")
    else:
        state = before(inner, state)
    told += [f"'{word}'" for word in inside]
    if rng.random() < 0.4:
        foreign = rng.choice(FOREIGN)
        state = before(foreign, state)
        told.append(f"the prefix '{foreign.split('.')[0]}." if inner else f"the prefix '{foreign}'")
    outside = rng.choices(WRAPPERS, k=rng.randrange(3))
    state = before("".join(outside), state)
    told += [f"'{word}'" for word in outside]
    if rng.random() < 0.4:
        state = profiled(state)
        told.append("counters of a profiler (")
    keys = list(state)
    rng.shuffle(keys)
    found = unwrap(PATH, {key: state[key] for key in keys})
    assert same(found.tensors, wanted)
    notes = "\n".join(found.notes)
    for text in told:
        assert text in notes
    assert bool(found.notes) == (state.keys() != wanted.keys())


# --- what is refused, or left as it is ---------------------------------------------------------


def refused(tmp_path: Path, content: object) -> str:
    path = saved(tmp_path / "c.pth", content)
    with pytest.raises(CheckpointError) as caught:
        load_model(read_checkpoint(path))
    message = str(caught.value)
    assert message.startswith(f"checkpoint {path}")
    assert "\n" not in message
    return message


def test_two_networks_in_one_file(tmp_path: Path, network: nn.Module) -> None:
    state = network.state_dict()
    message = refused(tmp_path, {**before("student.", state), **before("teacher.", state)})
    assert "holds 2 networks, whose names begin with student., teacher." in message
    assert "save the state dict of the one to deploy alone" in message


def test_a_network_and_something_else(tmp_path: Path, network: nn.Module) -> None:
    state = {**before("model.", network.state_dict()), "tracker.memory": torch.zeros(3, 4)}
    message = refused(tmp_path, state)
    assert "a network whose names begin with model., and 1 tensors that are no part" in message
    assert "tracker.memory" in message


def test_prefixes_of_what_nobody_knows_stay(tmp_path: Path) -> None:
    state = {f"model.layer{index}.weight": torch.zeros(2) for index in range(4)}
    assert unwrap(PATH, state).tensors.keys() == state.keys()
    assert unwrap(PATH, state).notes == ()
    message = refused(tmp_path, state)
    assert "not the weights of a known any-depth detector" in message
    assert "its 4 keys begin with model.layer0.weight" in message


def test_a_static_network_in_a_wrapper(tmp_path: Path, model: AnyDepthDETR) -> None:
    static = {key: value for key, value in model.state_dict().items() if "_skip" not in key}
    said = refused(tmp_path, before("model.", static))
    assert "an RT-DETR with a backbone that is not known" in said


def test_a_weight_that_both_names_mean(tmp_path: Path, model: AnyDepthDETR) -> None:
    state = dict(model.state_dict())
    key = next(iter(state))
    message = refused(tmp_path, {**state, f"_orig_mod.{key}": state[key]})
    assert "more than once, but for the prefix '_orig_mod.'; expected each once" in message
    assert message.endswith(f": {key}, _orig_mod.{key}")


@pytest.mark.parametrize("name", OPS)
def test_weights_that_are_called_like_counters(
    tmp_path: Path, model: AnyDepthDETR, name: str
) -> None:
    """Only what a profiler leaves, one number, is passed over."""
    message = refused(tmp_path, {**model.state_dict(), f"backbone.{name}": torch.zeros(4, 4)})
    assert f"1 unexpected keys: backbone.{name}" in message


def test_a_count_of_averages_belongs_to_a_wrapper(tmp_path: Path, model: AnyDepthDETR) -> None:
    message = refused(tmp_path, {**model.state_dict(), "n_averaged": torch.tensor(3)})
    assert "1 unexpected keys: n_averaged" in message


@pytest.mark.parametrize("groups", [1, 8, 9, 1000])
def test_many_beginnings_take_no_time(groups: int) -> None:
    state = {f"a{index % groups}.b.c.d.e.{index}": torch.zeros(1) for index in range(20_000)}
    assert unwrap(PATH, state).tensors.keys() == state.keys()


# --- class names -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "beside",
    [
        {"class_names": NAMES},
        {"class_names": tuple(NAMES)},
        {"class_names": dict(enumerate(NAMES))},
        {"names": NAMES},
        {"names": tuple(NAMES)},
        {"names": dict(enumerate(NAMES))},
        {"names": {str(index): name for index, name in enumerate(NAMES)}},
        {"names": {name: index for index, name in enumerate(NAMES)}},
        {"class_names": ["too", "few"], "names": NAMES},
        {"class_names": NAMES, "names": NAMES[::-1]},
    ],
)
@pytest.mark.parametrize("place", ["a training file", "among the weights"])
def test_class_names_beside_the_weights(
    tmp_path: Path, model: AnyDepthDETR, beside: dict[str, Any], place: str
) -> None:
    state = model.state_dict()
    content = {"model": state, **beside} if place == "a training file" else {**state, **beside}
    found = read_checkpoint(saved(tmp_path / "c.pth", content))
    assert found.class_names == NAMES
    assert found.notes == ()
    assert same(found.state, state)


def test_class_names_that_do_not_fit_are_named(tmp_path: Path, model: AnyDepthDETR) -> None:
    content = {"model": model.state_dict(), "names": ["one", "two"]}
    found = read_checkpoint(saved(tmp_path / "c.pth", content))
    assert found.class_names is None
    assert found.notes == ("left out: class names that do not fit 8 classes or cannot be shown",)


# --- what inspect says -----------------------------------------------------------------------


def test_inspect_names_what_was_left_out(run: Run, tmp_path: Path, model: AnyDepthDETR) -> None:
    state = before("model._orig_mod.", model.state_dict())
    state |= {f"model.backbone.{name}": torch.zeros(1) for name in OPS}
    path = saved(tmp_path / "c.pth", {"state_dict": state, "names": NAMES})
    shown = run("inspect", path)
    assert (shown.code, shown.err) == (0, "")
    notes = [line for line in shown.out.splitlines() if line.startswith("left out: ")]
    assert notes == [
        "left out: 2 counters of a profiler (total_ops, total_params)",
        "left out: the prefix '_orig_mod.' of torch's wrappers before names of weights",
        "left out: the prefix 'model.' before all names of weights, of an unknown wrapper",
    ]
    assert read_checkpoint(path).class_names == NAMES


def test_inspect_has_nothing_to_say_of_a_plain_file(run: Run, checkpoint: Path) -> None:
    assert run("inspect", checkpoint, "--json").json["notes"] == []
