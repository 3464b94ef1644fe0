"""What each part of the recipe brings: tiny AnyDepth-DETRs, trained with and without it.

    python benchmarks/training_table.py --steps 3000 --seeds 0,1,2 --out table

Every run is one of ``train``'s on generated shapes, from nothing, and differs from ``all`` in one
thing. Average precision is that of the averaged weights on 500 held-out pictures, at super and at
base. Runs that are done are kept in ``--out`` and not done again. Differences below the spread of
seeds say nothing.

- ``all``: base learns from super after the first tenth; two norm sets in everything behind what is
  skipped.
- ``no distillation``: base learns from the objects only, as super does.
- ``authors' norm sets``: one set in shortcuts and in the decoder's projections.
- ``one norm set``: one everywhere; both passes share all their norms.
- ``FINE``: in the encoder's full branch.
- ``DSI``: super also learns from a frozen network, ``--teacher``: a trained checkpoint whose
  encoder's coarsest map stands for the tokens of a vision transformer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import machine, write
from torch import Tensor, nn

from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.console import bar, print_table
from anydepth_deploy.families.shared.detr.model import DetrModel
from anydepth_deploy.families.shared.second_sets import is_second_set, second_set_of
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.pictures.shapes import write_coco
from anydepth_deploy.train.config import TrainConfig
from anydepth_deploy.train.loop import train

NEW = ("downsample_skip", "decoder.input_proj.")
"""In names of the second sets that the authors' networks have not."""


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


def share_norms(chosen: Callable[[str], bool]) -> Callable[[AnyDepthModel], None]:
    """Let the second sets of these names be the first ones."""

    def prepare(model: AnyDepthModel) -> None:
        modules = dict(model.named_modules())
        for name in modules:
            second = second_set_of(name)
            if second in modules and is_second_set(second) and chosen(second):
                parent, _, attribute = second.rpartition(".")
                setattr(model.get_submodule(parent), attribute, modules[name])
        for name in modules:
            if name.endswith("downsample_skip") and chosen(name):
                block = model.get_submodule(name.rpartition(".")[0])
                chain = block.get_submodule("downsample")
                assert isinstance(chain, nn.Sequential)
                block.downsample_skip = chain[-1]

    return prepare


VARIANTS: dict[str, tuple[dict[str, Any], Callable[[AnyDepthModel], None] | None]] = {
    "all": ({}, None),
    "no distillation": ({"ground_truth_share": 1.0}, None),
    "authors' norm sets": ({}, share_norms(lambda name: any(part in name for part in NEW))),
    "one norm set": ({}, share_norms(lambda name: True)),
    "FINE": ({"model": "tiny-fine"}, None),
    "DSI": ({"semantic_weight": 1.0}, None),
}


def run(name: str, seed: int, steps: int, folder: Path, val: Path, teacher: Path) -> dict[str, Any]:
    """Average precision of one run by depth; from the file of an earlier one, where there is."""
    kept = folder / f"{name.replace(' ', '-').replace(chr(39), '')}-{seed}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        if found["steps"] == steps:
            return found
    settings, prepare = VARIANTS[name]
    config = TrainConfig.for_family(
        **{
            "output": str(folder / f"{kept.stem}.pth"),
            "steps": steps,
            "seed": seed,
            "val_data": str(val),
            "evaluate_every": 1000,
            "save_every": 0,
            **settings,
        }
    )
    with bar(f"{name}, seed {seed}") as progress:
        result = train(
            config,
            progress=lambda state: progress("training", state.step, steps),
            teacher=EncoderTeacher(teacher) if name == "DSI" else None,
            prepare=prepare,
        )
    found = {
        "variant": name,
        "seed": seed,
        "steps": steps,
        "seconds": round(result.seconds),
        "accuracy": dict(result.accuracy),
    }
    kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--out", type=Path, required=True, help="folder for what is done")
    parser.add_argument(
        "--teacher", type=Path, default=Path("checkpoints/anydepth-detr-tiny-shapes.pth")
    )
    parser.add_argument("--record", action="store_true", help="write benchmarks/results")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    about = machine("torch", "numpy", "scipy")
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        val = write_coco(Path(folder), 500, 1, "val")
        for seed in map(int, options.seeds.split(",")):
            for name in options.variants.split(","):
                found.append(run(name, seed, options.steps, options.out, val, options.teacher))
    rows = []
    for name in options.variants.split(","):
        ends = [list(item["accuracy"].values()) for item in found if item["variant"] == name]
        cells: list[object] = [name, len(ends)]
        for place in (-1, 0):  # super, base
            values = [end[place] for end in ends]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}")
        rows.append(cells)
    print_table(
        f"average precision after {options.steps} steps", ["", "seeds", "super", "base"], rows
    )
    if options.record:
        content = {"machine": about, "steps": options.steps, "runs": found}
        print(write("training-table", content))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
