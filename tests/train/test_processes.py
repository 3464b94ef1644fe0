"""Two processes that train together: the same gradients and weights as one, and a broken run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from trained_networks import CHECKPOINTS

from anydepth_deploy.errors import DeviceError, UsageError
from anydepth_deploy.families.shared.targets import Targets
from anydepth_deploy.pictures.shapes import CLASS_NAMES, render_many
from anydepth_deploy.train import loop
from anydepth_deploy.train.config import TrainConfig
from anydepth_deploy.train.data.shapes import TrainingPictures
from anydepth_deploy.train.processes import ALONE, device_for, is_main_process, joined
from anydepth_deploy.train.start import open_start
from anydepth_deploy.train.step import Stepper

GRADIENTS = """
import sys, torch
from anydepth_deploy.train.processes import joined
from test_processes import gradients
with joined(torch.device("cpu")) as processes:
    for family in sys.argv[2:]:
        found = gradients(family, processes)
        torch.save(found, f"{sys.argv[1]}/{family}.{processes.rank}")
"""

WEIGHTS = """
import sys, torch
torch.set_num_threads(1)
from anydepth_deploy.train import train
from test_processes import short_run
train(short_run(sys.argv[1]), resume="--resume" in sys.argv)
"""


def together(
    code: str, folder: Path, *arguments: object, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run ``code``, written into ``folder``, in two processes."""
    script = folder / "script.py"
    script.write_text(code)
    done = subprocess.run(torchrun(script, arguments), env=environment(), capture_output=True,
                          text=True, timeout=300)  # fmt: skip
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def torchrun(script: Path, arguments: Sequence[object]) -> list[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return [*command, str(script), *map(str, arguments)]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def short_run(output: str, **changes: object) -> TrainConfig:
    settings: dict[str, object] = {
        "output": output, "steps": 4, "input_size": 64, "pictures": 12, "batch": 4, "warmup": 1,
        "processes": 1, "save_every": 1, "ground_truth_share": 0.5, "denoising": 0,
    }  # fmt: skip
    return TrainConfig.for_family(**{**settings, **changes})  # type: ignore[arg-type]


def learned(content: dict[str, Any]) -> torch.Tensor:
    """All that a checkpoint learns, float64 [values]; statistics of norms are counted, not learned,
    and those of half a batch are others."""
    found = {
        name: value.double().flatten()
        for name, value in content["ema"]["module"].items()
        if "running_" not in name and value.is_floating_point()
    }
    assert len(found) > 300
    return torch.cat(list(found.values()))


def gradients(family: str, processes: object = ALONE) -> dict[str, torch.Tensor]:
    """Of one step over eight pictures, by parameter, and what it says of the losses. Norms keep
    their statistics: those of half a batch are others."""
    drawn = render_many(8, 3, "train", size=96, processes=1)
    pictures = TrainingPictures.from_arrays(drawn.images, drawn.boxes, drawn.labels)
    assert not isinstance(processes, int)
    config = TrainConfig.for_family(family, initial=str(CHECKPOINTS[family]), denoising=0)
    recipe = open_start(config, CLASS_NAMES, processes).recipe  # type: ignore[arg-type]
    recipe.model.eval()
    rank, world = processes.rank, processes.world  # type: ignore[attr-defined]
    share = torch.arange(8)[rank * 8 // world : (rank + 1) * 8 // world]
    images, targets = pictures.batch(share)
    # Objects are many in one half and few in the other.
    labels = targets.labels.clone()
    if rank == world - 1:
        labels[-3:, 1:] = -1
    stepper = Stepper(recipe, processes)  # type: ignore[arg-type]
    losses = stepper.accumulate([(images, Targets(labels, targets.boxes))], distill=True)
    found = {
        name: value.grad
        for name, value in recipe.model.named_parameters()
        if value.grad is not None
    }
    return {**found, "losses": torch.tensor([losses.super_loss, losses.base_loss])}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gradients of all families in two processes, which are started once. Read only."""
    folder = tmp_path_factory.mktemp("gradients")
    together(GRADIENTS, folder, folder, *CHECKPOINTS)
    return folder


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_gradients_of_two_processes_are_those_of_one(shared: Path, family: str) -> None:
    alone = gradients(family)
    for rank in range(2):
        found = torch.load(shared / f"{family}.{rank}", weights_only=True)
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            scale = float(value.abs().max()) + 1e-3
            torch.testing.assert_close(found[name] / scale, value / scale, rtol=0, atol=1e-4)
    # What base skips has gradients of super alone, and no process forgets them.
    skipped = {"anydepth-detr": "backbone.layer1.1.conv1.weight", "anydepth-yolo": "model.2.m.1"}
    assert any(name.startswith(skipped[family]) for name in alone)


def test_a_killed_process_ends_the_run_and_another_one_goes_on(tmp_path: Path) -> None:
    """The weights at the end are those of a run that nobody killed; a batch in two processes is
    learned as one in two parts."""
    whole = loop.train(short_run(str(tmp_path / "whole.pth"), accumulate=2))
    script, output = tmp_path / "script.py", tmp_path / "parts.pth"
    script.write_text(WEIGHTS.replace("train(short", "import hang; hang.after(2); train(short"))
    (tmp_path / "hang.py").write_text(
        "import os, time\n"
        "def after(step):\n"
        "    from anydepth_deploy.train import step as module\n"
        "    plain, count = module.Stepper.step, [0]\n"
        "    def slow(self, *arguments, **options):\n"
        "        count[0] += 1\n"
        "        if count[0] > step and os.environ['RANK'] == '1':\n"
        f"            open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "            time.sleep(600)\n"
        "        return plain(self, *arguments, **options)\n"
        "    module.Stepper.step = slow\n"
    )
    process = subprocess.Popen(torchrun(script, [output]), env=environment(), text=True,
                               stderr=subprocess.PIPE)  # fmt: skip
    pid = tmp_path / "pid"
    deadline = time.monotonic() + 200
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.2)
    os.kill(int(pid.read_text()), signal.SIGKILL)
    _, told = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "SIGKILL" in told
    assert not output.exists()
    partial = torch.load(f"{output}.partial", weights_only=True)
    assert partial["step"] == 2

    together(WEIGHTS, tmp_path, output, "--resume")
    half, one, other = map(
        learned, (partial, *(torch.load(x, weights_only=True) for x in (whole.checkpoint, output)))
    )
    # Adam's first steps have the sign of gradients that are next to nothing, which rounding decides
    # in a few weights: what two steps do to all of them is compared, of which it moves 0.5 %.
    assert (other - one).norm() < 0.05 * (one - half).norm()


def test_devices() -> None:
    assert device_for("cpu") == torch.device("cpu")
    for name in ("tpu9", "mps", "nothing"):
        with pytest.raises(UsageError, match=f"unknown device '{name}'"):
            device_for(name)
    if not torch.cuda.is_available():
        assert device_for("auto") == torch.device("cpu")
        with pytest.raises(DeviceError, match="finds no NVIDIA GPU"):
            device_for("cuda:0")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2: expected a RANK below WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2, WORLD_SIZE=2: expected a RANK below"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "RANK=0, WORLD_SIZE=two: expected"),
        ({"WORLD_SIZE": "0", "RANK": "0"}, "expected a RANK below"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "-1"}, "LOCAL_RANK=-1: expected"),
    ],
)
def test_an_environment_that_is_not_of_torchrun(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, str], told: str
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with joined(torch.device("cpu")) as processes:
        assert processes == ALONE
    monkeypatch.setenv("RANK", "3")
    assert is_main_process()
    monkeypatch.delenv("RANK")
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=told), joined(torch.device("cpu")):
        pass


def test_a_batch_is_shared_equally() -> None:
    with pytest.raises(UsageError, match="16 cannot be cut into 3 equal parts"):
        TrainConfig.for_family(accumulate=3)
