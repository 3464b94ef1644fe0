"""Whether a tiny router that looks at a picture chooses its depth better than chance does.

    python benchmarks/routed_by_picture.py

The router (linear, or with one hidden layer) reads means and standard deviations of
the channels of the stem, which runs before the first gate decides, and
predicts what each rung of the ladder would gain on the picture. It is trained on generated pictures
that no network saw. A price of multiply-adds makes the choice; the prices that lead to given mean
costs come from the training pictures, by cross-validation. On held-out pictures its AP is compared
with that of random mixtures of fixed rungs that cost the same, which is what a controller does that
looks at no picture.

The verdict, fixed before the held-out pictures were looked at: nine costs, evenly from base to the
last rung that is worth its cost, which means 0.1 AP more than every cheaper one on the training
pictures. A cost is won where the router's AP is above the upper end of the band that holds 95 % of
200 random mixtures, and the 95 % interval (bootstrap over pictures) of its distance to such
mixtures lies above 0. Routing is worth having if five costs or more are won on both networks. Which
router, and what it learns to predict, is chosen by cross-validation on the training pictures; the
others are reported beside, and so is "later": a router that reads what the skipped backbone gives
and decides only about what comes behind it. "oracle" knows what each held-out picture gains.

What a router may learn: "AP", by how much a picture changes the AP of all; "agreement", the same
against what super found, without labels; "objects", the number of objects, each of which is thought
to gain what objects gain on average; "found", the same without labels.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, machine, write
from mixtures import Found, Mixtures, Objects
from numpy.typing import NDArray
from routers import ROUTERS, Mixing, choose, cross_validated, mean_cost, price_of
from trained import CHECKPOINTS

from anydepth_deploy.annotations.believed import believed
from anydepth_deploy.annotations.scoring import coco_stats
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.commands.demo import HELD_OUT_SEED
from anydepth_deploy.console import bar, print_line, print_table
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.pictures.images import prepare_batch
from anydepth_deploy.pictures.shapes import PictureSet, render_many
from anydepth_deploy.progress import Progress

Floats = NDArray[np.float64]

NETWORKS = (
    CHECKPOINTS / "anydepth-detr-tiny-shapes.pth",
    CHECKPOINTS / "anydepth-yolo-tiny-shapes.pth",
)
TRAINING = "calib", 2000
HELD_OUT = "val", HELD_OUT_SEED
"""Split and seed."""
SHARES = tuple(round(0.1 * number, 1) for number in range(1, 10))
"""Of the way from base's cost to that of the last rung that is worth it."""
LEAST = 0.1
"""AP that a rung has to gain over every cheaper one."""
FEW = 20
"""Mixtures that a mean is made of where nothing is judged."""
BESIDE = 2
"""Mixtures of each resampled set."""
BATCH = 8

PLACES = {
    "anydepth-detr": {
        "stem": ("backbone.bn1",),
        "later": ("backbone.layer2", "backbone.layer3", "backbone.layer4"),
    },
    "anydepth-yolo": {"stem": ("model.1",), "later": ("model.4", "model.6", "model.8")},
}
"""The modules whose outputs a router reads."""
DECIDED = {"stem": 0, "later": 4}
"""Gates that come before, in both families."""


@dataclass(frozen=True)
class Seen:
    """Pictures, what each rung finds in them, and by place: pooled features [pictures, F], and the
    multiply-adds of pooling."""

    truth: list[Objects]
    found: list[list[Found]]
    features: dict[str, Floats]
    pooling: dict[str, int]

    def believed(self) -> list[Objects]:
        """What super found, where nobody says what there is."""
        found = []
        for one in self.found[-1]:
            corners = np.column_stack([one.boxes[:, :2], one.boxes[:, :2] + one.boxes[:, 2:]])
            found.append(Objects(*believed(one.labels, one.scores.astype(np.float32), corners)))
        return found

    def agreement(self, classes: int) -> Mixtures:
        """Held against it."""
        return Mixtures(self.believed(), self.found, classes)


class Pooled:
    """Means and standard deviations of channels, of the network at base."""

    def __init__(self, checkpoint: Path, family: str) -> None:
        self._model = load_model(read_checkpoint(checkpoint)).eval()
        self.rows: dict[str, list[Floats]] = {place: [] for place in PLACES[family]}
        self.cost = dict.fromkeys(PLACES[family], 0)
        for place, names in PLACES[family].items():
            for name in names:
                self._model.get_submodule(name).register_forward_hook(self._hook(place))

    def _hook(self, place: str) -> Callable[..., None]:
        def keep(module: object, given: object, output: Any) -> None:
            maps = output.flatten(2).double().numpy()
            self.cost[place] += 2 * maps[0].size  # a sum and a sum of squares
            self._now.setdefault(place, []).extend([maps.mean(2), maps.std(2)])

        return keep

    def add(self, images: NDArray[np.float32]) -> None:
        """Pool what a batch gives; ``cost`` is that of a picture."""
        import torch

        self._now: dict[str, list[Floats]] = {}
        self.cost = dict.fromkeys(self.cost, 0)
        with torch.inference_mode():
            self._model(torch.from_numpy(images), "base")
        for place, parts in self._now.items():
            self.rows[place].append(np.concatenate(parts, axis=1))


def look(checkpoint: Path, bundle: Bundle, pictures: PictureSet, progress: Progress) -> Seen:
    """Run all pictures at each rung, and in torch what routers read."""
    session = bundle.session(threads=1)
    pooled = Pooled(checkpoint, bundle.manifest.family)
    rungs = bundle.table.ladder
    found: list[list[Found]] = [[] for _ in rungs]
    for start in range(0, len(pictures), BATCH):
        progress("pictures", start, len(pictures))
        images, geometries = prepare_batch(
            list(pictures.images[start : start + BATCH]), bundle.manifest.preprocess
        )
        for depth, results in zip(rungs, found, strict=True):
            for one, geometry in zip(session.run(images, depth), geometries, strict=True):
                boxes = sized(geometry.to_picture(one.boxes[0]))
                results.append(Found(boxes, one.labels[0], one.scores[0].astype(np.float64)))
        pooled.add(images)
    truth = [Objects(sized(b), c) for b, c in zip(pictures.boxes, pictures.labels, strict=True)]
    features = {place: np.concatenate(rows) for place, rows in pooled.rows.items()}
    return Seen(truth, found, features, pooled.cost)


def sized(corners: NDArray[np.float32]) -> Floats:
    """Boxes as x, y, width, height."""
    boxes = corners.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def rung_scores(mixtures: Mixtures) -> Floats:
    """AP of each rung alone."""
    every = np.eye(mixtures.rungs)
    return np.asarray([mixtures.ap(np.tile(one, (mixtures.pictures, 1))) for one in every])


def check(scores: Floats, seen: Seen, classes: int) -> None:
    """Whether rungs have the AP that COCO's own evaluation gives them."""
    boxes = [
        {"image_id": number, "category_id": int(label), "bbox": box.tolist(), "iscrowd": 0}
        for number, one in enumerate(seen.truth)
        for box, label in zip(one.boxes, one.labels, strict=True)
    ]
    content = {
        "images": [{"id": number} for number in range(len(seen.truth))],
        "categories": [{"id": label, "name": str(label)} for label in range(classes)],
        "annotations": [
            {**item, "id": number + 1, "area": item["bbox"][2] * item["bbox"][3]}
            for number, item in enumerate(boxes)
        ],
    }
    for score, results in zip(scores, seen.found, strict=True):
        rows = [
            np.column_stack([np.full(len(f.scores), number), f.boxes, f.scores, f.labels])
            for number, f in enumerate(results)
        ]
        expected = 100 * coco_stats(content, rows)[0]
        assert abs(score - expected) < 1e-6, (score, expected)


def by_number(counts: Sequence[int], scores: Floats) -> Floats:
    """Gains [pictures, rungs] in proportion to the number of objects in each picture."""
    numbers = np.asarray(counts, np.float64)
    return np.outer(numbers / numbers.mean(), scores - scores[0])


def worth_having(scores: Floats) -> NDArray[np.bool_]:
    """The rungs that gain ``LEAST`` over all before them; a score of -inf is none."""
    best = np.concatenate([[-np.inf], np.maximum.accumulate(scores)[:-1]])
    return np.asarray(scores >= best + LEAST)


@dataclass(frozen=True)
class Question:
    """What routers choose among at one place, and what they are compared with. ``costs`` [rungs]
    in multiply-adds, ``pooling`` on top; ``open``: bool [rungs]; ``wanted``: mean costs."""

    costs: Floats
    pooling: int
    open: NDArray[np.bool_]
    training: Mixtures
    held_out: Mixtures
    mixing: Mixing
    wanted: list[float]

    def allowed(self, gains: Floats) -> Floats:
        return np.where(self.open, gains, -np.inf)

    def cost(self, weights: Floats) -> float:
        return mean_cost(weights, self.costs) + self.pooling


def routers(
    question: Question, targets: dict[str, Floats], features: Floats, new: Floats
) -> list[dict[str, Any]]:
    """Every router and target: choices on held-out pictures (features ``new``) for each cost, and
    how far it is ahead of mixing on training pictures that it was not fitted to."""
    rows = []
    for target, gains in targets.items():
        for name, fit in ROUTERS.items():
            predicted = question.allowed(cross_validated(fit, features, gains))
            prices = [price_of(predicted, question.costs, cost) for cost in question.wanted]
            ahead = []
            for price in prices:
                weights = choose(predicted, question.costs, price)
                cost, rng = question.cost(weights), np.random.default_rng(0)
                mixed = [question.mixing.draw(cost, len(weights), rng) for _ in range(FEW)]
                by_chance = np.mean([question.training.ap(one) for one in mixed])
                ahead.append(question.training.ap(weights) - by_chance)
            there = question.allowed(fit(features, gains)(new))
            chosen = [choose(there, question.costs, price) for price in prices]
            rows.append(
                {
                    "target": target,
                    "router": name,
                    "ahead_in_training": round(float(np.mean(ahead)), 3),
                    "chosen": chosen,
                }
            )
    return sorted(rows, key=lambda row: -row["ahead_in_training"])


def compare(
    question: Question, chosen: list[Floats], draws: int, resamples: int
) -> list[dict[str, Any]]:
    """At each cost: a router beside random mixtures of the cost that it really has."""
    rng = np.random.default_rng(0)
    mixtures, pictures = question.held_out, question.held_out.pictures
    rows = []
    for share, weights in zip(SHARES, chosen, strict=True):
        cost, ap = question.cost(weights), mixtures.ap(weights)

        def drawn(cost: float = cost) -> Floats:
            return question.mixing.draw(cost, pictures, rng)

        mixed = [mixtures.ap(drawn()) for _ in range(draws)]
        low, high = np.quantile(mixed, [0.025, 0.975])
        apart = []
        for _ in range(resamples):
            times = np.bincount(rng.integers(0, pictures, pictures), minlength=pictures)
            beside = [mixtures.ap(drawn(), times) for _ in range(BESIDE)]
            apart.append(mixtures.ap(weights, times) - float(np.mean(beside)))
        interval = np.quantile(apart, [0.025, 0.975]) if apart else (np.nan, np.nan)
        rows.append(
            {
                "share": share,
                "macs": round(cost),
                "ap": round(ap, 3),
                "mixed": round(float(np.mean(mixed)), 3),
                "band": [round(float(low), 3), round(float(high), 3)],
                "ahead": round(ap - float(np.mean(mixed)), 3),
                "interval": [round(float(value), 3) for value in interval] if apart else None,
                "won": bool(ap > high and interval[0] > 0),
                "pictures_by_rung": weights.sum(axis=0).astype(int).tolist(),
            }
        )
    return rows


def measure(
    checkpoint: Path, training: PictureSet, held_out: PictureSet, draws: int, resamples: int
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, bar(checkpoint.stem) as progress:
        bundle = export_bundle(checkpoint, Path(folder) / "bundle")
        seen, new = (look(checkpoint, bundle, part, progress) for part in (training, held_out))
    classes, rungs = len(bundle.classes), bundle.table.ladder
    before, after = (Mixtures(part.truth, part.found, classes) for part in (seen, new))
    scores, truly = rung_scores(before), rung_scores(after)
    check(truly, new, classes)
    costs = np.asarray([bundle.macs(depth)["total"] for depth in rungs], np.float64)
    agreed = seen.agreement(classes)
    even = np.full((before.pictures, before.rungs), 1 / before.rungs)
    targets = {
        "AP": before.gains(even),
        "agreement": agreed.gains(even),
        "objects": by_number([len(one.labels) for one in seen.truth], scores),
        "found": by_number([len(one.labels) for one in seen.believed()], rung_scores(agreed)),
    }
    true_gains = after.gains(even[:1].repeat(after.pictures, axis=0))
    found: dict[str, Any] = {
        "source_sha256": bundle.manifest.source.sha256,
        "rungs": [
            {
                "depth": str(depth),
                "macs": int(cost),
                "training_ap": round(float(one), 3),
                "ap": round(float(ap), 3),
            }
            for depth, cost, one, ap in zip(rungs, costs, scores, truly, strict=True)
        ],
    }
    for place, decided in DECIDED.items():
        fixed = rungs[0].settings[:decided]
        allowed = np.asarray([depth.settings[:decided] == fixed for depth in rungs])
        allowed &= worth_having(np.where(allowed, scores, -np.inf))
        best = np.where(allowed, scores, -np.inf)
        end = costs[int(np.argmax(best))]
        question = Question(
            costs,
            new.pooling[place],
            allowed,
            before,
            after,
            Mixing(costs, best),
            [costs[0] + share * (end - costs[0]) for share in SHARES],
        )
        rows = routers(question, targets, seen.features[place], new.features[place])
        for number, row in enumerate(rows):
            chosen = row.pop("chosen")
            row["costs"] = compare(
                question, chosen, *((draws, resamples) if not number else (FEW, 0))
            )
            row["mean_ahead"] = round(float(np.mean([r["ahead"] for r in row["costs"]])), 3)
        gains = question.allowed(true_gains)
        known = [
            choose(gains, costs, price_of(gains, costs, cost - question.pooling))
            for cost in question.wanted
        ]
        found[place] = {
            "pooling_macs": question.pooling,
            "upper_edge": [str(rungs[rung]) for rung in question.mixing.edge],
            "routers": rows,
            "oracle": [
                {"macs": round(question.cost(weights)), "ap": round(after.ap(weights), 3)}
                for weights in known
            ],
            "won": sum(row["won"] for row in rows[0]["costs"]),
        }
    return found


def show(name: str, found: dict[str, Any]) -> None:
    for place in DECIDED:
        part = found[place]
        judged = part["routers"][0]
        print_table(
            f"{name}, {place}: {judged['router']}, learns {judged['target']}; "
            f"{part['won']} of {len(SHARES)} costs won",
            ["million multiply-adds", "AP", "mixed", "95 % of mixtures", "ahead", "95 %", "oracle"],
            [
                [
                    f"{row['macs'] / 1e6:.1f}",
                    f"{row['ap']:.2f}",
                    f"{row['mixed']:.2f}",
                    "{:.2f} to {:.2f}".format(*row["band"]),
                    f"{row['ahead']:+.2f}",
                    "{:+.2f} to {:+.2f}".format(*row["interval"]),
                    f"{known['ap']:.2f}",
                ]
                for row, known in zip(judged["costs"], part["oracle"], strict=True)
            ],
        )
        print_table(
            f"{name}, {place}: all routers",
            ["router", "learns", "ahead in training", "ahead"],
            [
                [row["router"], row["target"], row["ahead_in_training"], row["mean_ahead"]]
                for row in part["routers"]
            ],
        )


def draw(networks: dict[str, dict[str, Any]], path: Path) -> None:
    """AP against mean cost: fixed rungs, random mixtures and their band, the router, the oracle."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    panels = figure.subplots(len(networks), len(DECIDED), squeeze=False)
    for line, (name, found) in zip(panels, networks.items(), strict=True):
        for axes, place in zip(line, DECIDED, strict=True):
            part = found[place]
            rows = part["routers"][0]["costs"]
            macs = [row["macs"] / 1e6 for row in rows]
            low, high = zip(*(row["band"] for row in rows), strict=True)
            axes.fill_between(macs, low, high, color="0.8", label="95 % of random mixtures")
            axes.plot(macs, [row["mixed"] for row in rows], "-", color="0.5")
            axes.plot(macs, [row["ap"] for row in rows], "o-", color="tab:blue", label="router")
            known = part["oracle"]
            axes.plot(
                [row["macs"] / 1e6 for row in known],
                [row["ap"] for row in known],
                "--",
                color="tab:green",
                label="oracle",
            )
            rungs = [row for row in found["rungs"] if row["macs"] / 1e6 < 1.05 * max(macs)]
            axes.plot(
                [row["macs"] / 1e6 for row in rungs],
                [row["ap"] for row in rungs],
                "ks",
                label="fixed rungs",
            )
            axes.set(title=f"{name}, {place}", xlabel="multiply-adds, millions", ylabel="AP")
            axes.grid(alpha=0.3)
    panels[0][0].legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoints", type=Path, nargs="+", default=NETWORKS)
    parser.add_argument("--training", type=int, default=2000, help="pictures")
    parser.add_argument("--held-out", type=int, default=2000, help="pictures")
    parser.add_argument("--draws", type=int, default=200, help="random mixtures of a cost")
    parser.add_argument("--resamples", type=int, default=100, help="of the bootstrap")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    before = machine("onnxruntime", "numpy", "torch", "faster-coco-eval")
    training = render_many(options.training, TRAINING[1], TRAINING[0])
    held_out = render_many(options.held_out, HELD_OUT[1], HELD_OUT[0])
    networks = {}
    for checkpoint in options.checkpoints:
        found = measure(checkpoint, training, held_out, options.draws, options.resamples)
        networks[checkpoint.stem] = found
        show(checkpoint.stem, found)
    taken = all(2 * found["stem"]["won"] > len(SHARES) for found in networks.values())
    print_line(f"routing by the picture is {'' if taken else 'not '}worth having")
    if options.record:
        content = {
            "machine": before,
            "training": {"split": TRAINING[0], "seed": TRAINING[1], "pictures": options.training},
            "held_out": {"split": HELD_OUT[0], "seed": HELD_OUT[1], "pictures": options.held_out},
            "draws": options.draws,
            "resamples": options.resamples,
            "worth_having": taken,
            "networks": networks,
        }
        print_line(str(write("routed-by-picture", content)))
        draw(networks, RESULTS / "routed-by-picture.png")


if __name__ == "__main__":
    main()
