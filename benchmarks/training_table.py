"""What each part of the recipe brings: a tiny AnyDepth-DETR learns base anew, with and without.

    python benchmarks/training_table.py --out table

All runs start from one trained network, whose second norm sets are forgotten: they begin as copies
of the first ones, as those of a static network that becomes any-depth do, so that super is what it
was and base has lost much. Its other weights have served base before, as a static network's have
not. Each run is one of ``train``'s on the same generated shapes, ``--steps`` long,
and differs from ``all`` in one thing; runs of one seed see the same pictures in the same order.
Average precision is that of the averaged weights on ``--val`` held-out pictures, at super and at
base. What is shown beside it is the mean of the differences to ``all`` at the same seed, and its
standard error: below about four of them, three seeds say nothing.

What is done is kept in ``--out`` and not done again where all settings are the same, a run that
was interrupted goes on: the table may be made in parts.

- ``all``: base learns from super; two norm sets in everything behind what is skipped.
- ``no distillation``: base learns from the objects only, as super does.
- ``authors' norm sets``: one set in shortcuts and in the decoder's projections.
- ``one norm set``: one everywhere; both passes share all their norms.
- ``FINE``: in the encoder's full branch, with weights of its own that begin at random within a
  trained network.
- ``DSI``: super also learns from a frozen network, ``--teacher``: a trained checkpoint whose
  encoder's coarsest map stands for the tokens of a vision transformer. It saw the same kind of
  pictures for longer than any run here: a vision transformer is another matter.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from machine import machine, write
from torch import Tensor, nn

from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.console import bar, print_line, print_table
from anydepth_deploy.families.registry import find_family, find_training
from anydepth_deploy.families.shared.detr.fine_config import FineConfig
from anydepth_deploy.families.shared.detr.model import DetrModel
from anydepth_deploy.families.shared.second_sets import is_second_set, second_set_of
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.pictures.shapes import CLASS_NAMES, render_many, write_coco
from anydepth_deploy.train.config import TrainConfig
from anydepth_deploy.train.data.shapes import TrainingPictures
from anydepth_deploy.train.loop import train

FAMILY = "anydepth-detr"

NEW = ("downsample_skip", ".short.", "decoder.input_proj.")
"""In names of the second sets that the authors' networks have not."""

ALL = "all"

START = Path("tests/support/data/anydepth-detr-tiny-one-set.pth")
TEACHER = Path("anydepth_deploy/trained/anydepth-detr-tiny-shapes.pth")


class EncoderTeacher(nn.Module):
    """The coarsest map of a trained network's encoder, at super."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        model = load_model(read_checkpoint(path))
        assert isinstance(model, DetrModel)
        self.model = model
        self.channels = int(model.config.hidden)

    def forward(self, images: Tensor) -> Tensor:
        _, encoded = self.model.maps(images, skip=False)
        return encoded[-1]


def norm_pairs(model: AnyDepthModel) -> dict[str, nn.Module]:
    """The first norm of each second one, by the name of the second."""
    modules = dict(model.named_modules())
    pairs = {
        second: module
        for name, module in modules.items()
        if (second := second_set_of(name)) in modules and is_second_set(second)
    }
    for name in modules:
        if name.endswith("downsample_skip"):
            chain = model.get_submodule(name.rpartition(".")[0]).get_submodule("downsample")
            assert isinstance(chain, nn.Sequential)
            pairs[name] = chain[-1]
    return pairs


def forget_base(model: AnyDepthModel) -> None:
    """Let second norm sets begin as copies of the first ones."""
    for second, first in norm_pairs(model).items():
        model.get_submodule(second).load_state_dict(first.state_dict())


def share_norms(model: AnyDepthModel, chosen: Callable[[str], bool]) -> None:
    """Let the second sets of these names be the first ones."""
    for second, first in norm_pairs(model).items():
        if chosen(second):
            parent, _, attribute = second.rpartition(".")
            setattr(model.get_submodule(parent), attribute, first)


def nothing(name: str) -> bool:
    return False


VARIANTS: dict[str, tuple[dict[str, Any], Callable[[str], bool]]] = {
    ALL: ({}, nothing),
    "no distillation": ({"ground_truth_share": 1.0}, nothing),
    "authors' norm sets": ({}, lambda name: any(part in name for part in NEW)),
    "one norm set": ({}, lambda name: True),
    "FINE": ({}, nothing),
    "DSI": ({"semantic_weight": 1.0}, nothing),
}
"""Settings of each, and the second norm sets that are none."""


class Table:
    """What the runs share: their folder, pictures and start."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.folder = options, Path(options.out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._pictures: TrainingPictures | None = None
        size = options.size
        val = self.folder / f"val-{options.val}-{size}" / "annotations.json"
        self.val = val if val.exists() else write_coco(val.parent, options.val, 1, "val", size=size)
        self.start = Path(options.initial)

    @property
    def pictures(self) -> TrainingPictures:
        """Drawn once, for all runs."""
        if self._pictures is None:
            options = self.options
            drawn = render_many(options.pictures, 0, "train", size=options.size, processes=1)
            self._pictures = TrainingPictures.from_arrays(drawn.images, drawn.boxes, drawn.labels)
        return self._pictures

    def run(self, name: str, seed: int) -> dict[str, Any]:
        """Average precision of one run by depth."""
        settings, shared = VARIANTS[name]

        def prepare(model: AnyDepthModel) -> None:
            forget_base(model)
            share_norms(model, shared)

        config = self._config(
            f"{name.replace(' ', '-').replace(chr(39), '')}-{seed}",
            self.options.steps,
            initial=str(self._with_fine() if name == "FINE" else self.start),
            learning_rate=5e-4,
            backbone_scale=1.0,
            seed=seed,
            **settings,
        )
        teacher = EncoderTeacher(self.options.teacher) if name == "DSI" else None
        found = self._done(config, f"{name}, seed {seed}", prepare, teacher)
        return {"variant": name, "seed": seed, **found}

    def _config(self, name: str, steps: int, **settings: Any) -> TrainConfig:
        size = self.options.size
        return TrainConfig.for_family(
            FAMILY,
            output=str(self.folder / f"{name}.pth"),
            steps=steps,
            input_size=size,
            pictures=self.options.pictures,
            batch=self.options.batch,
            val_data=str(self.val),
            evaluate_every=10**6,  # at the end alone
            save_every=100,
            **settings,
        )

    def _done(
        self,
        config: TrainConfig,
        label: str,
        prepare: Callable[[AnyDepthModel], None],
        teacher: EncoderTeacher | None,
    ) -> dict[str, Any]:
        """Train, unless the same was done before; seconds and average precision."""
        kept = Path(config.output).with_suffix(".json")
        settings = {**asdict(config), "start": self._start_sha(config)}
        settings["input_size"] = list(config.input_size)
        if kept.exists():
            before = json.loads(kept.read_text(encoding="utf-8"))
            if before["settings"] == settings:
                return {key: before[key] for key in ("seconds", "accuracy")}
        with bar(label) as progress:
            result = train(
                config,
                progress=lambda state: progress("training", state.step, config.steps),
                resume=config.partial.exists(),
                pictures=self.pictures,
                teacher=teacher,
                prepare=prepare,
            )
        found = {"seconds": round(result.seconds), "accuracy": dict(result.accuracy)}
        kept.write_text(json.dumps({"settings": settings, **found}, indent=1), encoding="utf-8")
        told = ", ".join(f"{depth} {value:.1f}" for depth, value in result.accuracy.items())
        print_line(f"{label}: {told} ({result.seconds:.0f} s)")
        return found

    def _start_sha(self, config: TrainConfig) -> str:
        return read_checkpoint(config.initial).sha256 if config.initial else ""

    def _with_fine(self) -> Path:
        """The start with FINE in its encoder, whose weights are new."""
        path = self.folder / "start-fine.pth"
        found, family = read_checkpoint(self.start), find_family(FAMILY)
        config = found.config.replace(fine=FineConfig(heads=4, feedforward=256))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = family.build(config)
            find_training(FAMILY).initialise(model)
        lost = model.load_state_dict(found.state, strict=False).unexpected_keys
        assert not lost, lost
        assert family.remember is not None
        content = {
            "ema": {"module": model.state_dict()},
            "class_names": list(CLASS_NAMES),
            "input_size": [self.options.size] * 2,
            "network": family.remember(config),
            "trained_norms": True,
        }
        torch.save(content, path)
        return path


def ends(run: Mapping[str, Any]) -> tuple[float, float]:
    """Average precision at super and at base."""
    values = list(run["accuracy"].values())
    return values[-1], values[0]


def mean_and_spread(values: Sequence[float], *, of_mean: bool = False) -> str:
    """The mean, and the standard deviation of the values or, ``of_mean``, of their mean."""
    if len(values) < 2:
        return f"{statistics.mean(values):.2f}"
    spread = statistics.stdev(values) / (math.sqrt(len(values)) if of_mean else 1)
    return f"{statistics.mean(values):{'+' if of_mean else ''}.2f} ± {spread:.2f}"


def rows_of(runs: Sequence[Mapping[str, Any]]) -> list[list[object]]:
    """A row a variant: seeds, both average precisions, and their differences to ``all``."""
    usual = {run["seed"]: ends(run) for run in runs if run["variant"] == ALL}
    rows: list[list[object]] = []
    for name in dict.fromkeys(run["variant"] for run in runs):
        own = {run["seed"]: ends(run) for run in runs if run["variant"] == name}
        cells: list[object] = [name, len(own)]
        for place in range(2):
            cells.append(mean_and_spread([end[place] for end in own.values()]))
            gains = [own[seed][place] - usual[seed][place] for seed in own if seed in usual]
            compared = bool(gains) and name != ALL
            cells.append(mean_and_spread(gains, of_mean=True) if compared else "")
        rows.append(cells)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for what is done")
    parser.add_argument("--steps", type=int, default=300, help="of each run")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--initial", type=Path, default=START, help="an AnyDepth-DETR")
    parser.add_argument("--size", type=int, default=160, help="of the pictures, in pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pictures", type=int, default=4000, help="to train on")
    parser.add_argument("--val", type=int, default=300, help="pictures to measure on")
    parser.add_argument("--teacher", type=Path, default=TEACHER)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results")
    options = parser.parse_args()
    about = machine("torch", "numpy", "scipy")
    begun = time.monotonic()
    table = Table(options)
    # Seed by seed, so that what is there after any time compares all.
    names = options.variants.split(",")
    runs = [table.run(name, int(seed)) for seed in options.seeds.split(",") for name in names]
    columns = ["", "seeds", "super", "to all", "base", "to all"]
    print_table(f"average precision after {options.steps} steps", columns, rows_of(runs))
    print_line(f"{time.monotonic() - begun:.0f} s")
    if options.record:
        given = {name: str(value) for name, value in vars(options).items() if name != "record"}
        print(write("training-table", {"machine": about, "options": given, "runs": runs}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
