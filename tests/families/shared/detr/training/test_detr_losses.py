"""Boxes, matching and loss terms against slow, obvious versions of themselves."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anydepth_deploy.errors import UsageError
from anydepth_deploy.families.shared.boxes import (
    box_iou,
    cxcywh_to_xyxy,
    generalized_iou,
    xyxy_to_cxcywh,
)
from anydepth_deploy.families.shared.detr.training.forward import Outputs
from anydepth_deploy.families.shared.detr.training.losses import (
    box_losses,
    detection_loss,
    distillation_loss,
    varifocal_loss,
)
from anydepth_deploy.families.shared.detr.training.matcher import Matches, match, match_costs
from anydepth_deploy.families.shared.targets import Targets


def random_boxes(*shape: int, generator: torch.Generator) -> Tensor:
    """Boxes as cx, cy, w, h in 0..1."""
    centre = torch.rand(*shape, 2, generator=generator) * 0.6 + 0.2
    return torch.cat([centre, torch.rand(*shape, 2, generator=generator) * 0.35 + 0.05], dim=-1)


def make_targets(counts: list[int], classes: int, generator: torch.Generator) -> Targets:
    labels = torch.full((len(counts), max(counts)), -1)
    for row, count in enumerate(counts):
        labels[row, :count] = torch.randint(classes, (count,), generator=generator)
    return Targets(labels, random_boxes(*labels.shape, generator=generator))


def make_outputs(layers: int, pictures: int, queries: int, classes: int, seed: int) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    return Outputs(
        logits=torch.randn(layers, pictures, queries, classes, generator=generator),
        boxes=random_boxes(layers, pictures, queries, generator=generator),
        encoder_logits=torch.randn(pictures, queries, classes, generator=generator),
        encoder_boxes=random_boxes(pictures, queries, generator=generator),
        backbone_maps=tuple(torch.randn(pictures, 4, 3, 3, generator=generator) for _ in range(3)),
        encoder_maps=tuple(torch.randn(pictures, 4, 3, 3, generator=generator) for _ in range(3)),
    )


def test_conversions_undo_each_other() -> None:
    boxes = random_boxes(5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes)
    corners = cxcywh_to_xyxy(torch.tensor([0.5, 0.4, 0.2, 0.6]))
    torch.testing.assert_close(corners, torch.tensor([0.4, 0.1, 0.6, 0.7]))


def test_overlaps_match_counted_cells() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        corners = np.sort(rng.integers(0, 12, (2, 2, 2)), axis=1)
        if (corners[:, 0] == corners[:, 1]).any():
            continue
        grids = np.zeros((2, 12, 12), dtype=bool)
        for grid, ((x1, y1), (x2, y2)) in zip(grids, corners, strict=True):
            grid[y1:y2, x1:x2] = True
        inter, union = (grids[0] & grids[1]).sum(), (grids[0] | grids[1]).sum()
        low, high = corners[:, 0].min(axis=0), corners[:, 1].max(axis=0)
        hull = (high - low).prod()
        a, b = torch.from_numpy(corners.reshape(2, 4)).double()
        assert float(box_iou(a, b)) == pytest.approx(inter / union)
        assert float(generalized_iou(a, b)) == pytest.approx(inter / union - (hull - union) / hull)


def test_matching_is_the_best_of_all_permutations() -> None:
    generator = torch.Generator().manual_seed(1)
    targets = make_targets([3, 1, 4, 0], 5, generator)
    logits = torch.randn(4, 6, 5, generator=generator)
    boxes = random_boxes(4, 6, generator=generator)
    costs = match_costs(logits, boxes, targets).double()
    matches = match(logits, boxes, targets)
    assert matches.picture.tolist() == [0, 0, 0, 1, 2, 2, 2, 2]
    assert matches.object.tolist() == [0, 1, 2, 0, 0, 1, 2, 3]
    for picture, count in enumerate([3, 1, 4]):
        queries = matches.query[matches.picture == picture].tolist()
        assert len(set(queries)) == count
        found = sum(float(costs[picture, query, i]) for i, query in enumerate(queries))
        best = min(
            sum(float(costs[picture, query, i]) for i, query in enumerate(chosen))
            for chosen in itertools.permutations(range(6), count)
        )
        assert found == pytest.approx(best)


def test_match_cost_by_hand() -> None:
    targets = Targets(torch.tensor([[1]]), torch.tensor([[[0.5, 0.5, 0.2, 0.2]]]))
    logits = torch.tensor([[[0.3, -0.7]]])
    boxes = torch.tensor([[[0.6, 0.5, 0.2, 0.2]]])
    p = 1 / (1 + math.exp(0.7))
    class_cost = -0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p**2 * math.log(1 - p)
    iou = 0.02 / 0.06
    expected = 2 * class_cost + 5 * 0.1 - 2 * iou  # the hull is the union here
    assert float(match_costs(logits, boxes, targets)) == pytest.approx(expected, rel=1e-4)


def test_more_objects_than_queries_is_an_error() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = make_targets([3], 2, generator)
    with pytest.raises(UsageError, match="3 objects but the model has only 2 queries"):
        match(torch.zeros(1, 2, 2), random_boxes(1, 2, generator=generator), targets)


def test_varifocal_loss_by_hand() -> None:
    generator = torch.Generator().manual_seed(2)
    targets = make_targets([2, 1], 3, generator)
    logits = torch.randn(2, 4, 3, generator=generator)
    boxes = random_boxes(2, 4, generator=generator)
    matches = match(logits, boxes, targets)
    expected = 0.0
    pairs = {
        (int(p), int(q)): int(o)
        for p, q, o in zip(matches.picture, matches.query, matches.object, strict=True)
    }
    for picture, query, label in itertools.product(range(2), range(4), range(3)):
        p = float(logits[picture, query, label].sigmoid())
        object_ = pairs.get((picture, query))
        if object_ is not None and int(targets.labels[picture, object_]) == label:
            q = float(
                box_iou(
                    cxcywh_to_xyxy(boxes[picture, query]),
                    cxcywh_to_xyxy(targets.boxes[picture, object_]),
                )
            )
            expected -= q * (q * math.log(p) + (1 - q) * math.log(1 - p))
        else:
            expected -= 0.75 * p**2 * math.log(1 - p)
    found = varifocal_loss(logits, boxes, matches, targets, 3)
    assert float(found) == pytest.approx(expected / 3, rel=1e-4)


def test_detection_loss_is_the_sum_over_layers() -> None:
    outputs = make_outputs(3, 2, 6, 4, seed=0)
    targets = make_targets([2, 3], 4, torch.Generator().manual_seed(5))
    expected = dict.fromkeys(("class", "l1", "giou"), 0.0)
    layers = [
        (outputs.encoder_logits, outputs.encoder_boxes),
        *zip(outputs.logits, outputs.boxes, strict=True),
    ]
    for logits, boxes in layers:
        matches = match(logits, boxes, targets)
        l1, giou = box_losses(
            boxes[matches.picture, matches.query],
            targets.boxes[matches.picture, matches.object],
            5,
        )
        expected["class"] += float(varifocal_loss(logits, boxes, matches, targets, 5))
        expected["l1"] += 5 * float(l1)
        expected["giou"] += 2 * float(giou)
    found = {name: float(term) for name, term in detection_loss(outputs, targets).items()}
    assert found == pytest.approx(expected, rel=1e-4)


def test_distillation_terms_by_hand() -> None:
    student, teacher = make_outputs(2, 2, 6, 4, seed=1), make_outputs(2, 2, 6, 4, seed=2)
    targets = make_targets([2, 1], 4, torch.Generator().manual_seed(6))
    ours = match(student.logits[-1], student.boxes[-1], targets)
    theirs = match(teacher.logits[-1], teacher.boxes[-1], targets)
    assert ours.object.tolist() == theirs.object.tolist()
    kl = l1 = giou = 0.0
    for picture, mine, other in zip(ours.picture, ours.query, theirs.query, strict=True):
        log_s = F.log_softmax(student.logits[-1, picture, mine], dim=-1)
        t = F.softmax(teacher.logits[-1, picture, other], dim=-1)
        kl += float((t * (t.log() - log_s)).sum()) / 4
        a, b = student.boxes[-1, picture, mine], teacher.boxes[-1, picture, other]
        l1 += float((a - b).abs().sum())
        giou += 1 - float(generalized_iou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)))
    terms = {k: float(v) for k, v in distillation_loss(student, teacher, targets).items()}
    assert terms["distill_class"] == pytest.approx(kl * 6 / 3, rel=1e-4)
    assert terms["distill_l1"] == pytest.approx(5 * l1 / 3, rel=1e-4)
    assert terms["distill_giou"] == pytest.approx(2 * giou / 3, rel=1e-4)
    means = [torch.cat([m.mean((2, 3)) for m in o.backbone_maps], 1) for o in (student, teacher)]
    t = means[1].softmax(-1)
    expected = float((t * (t.log() - means[0].log_softmax(-1))).sum() / 2)
    assert terms["distill_backbone"] == pytest.approx(expected, rel=1e-4)
    plain = detection_loss(student, targets, last_layer=False)
    assert terms["class"] == pytest.approx(float(plain["class"]))


def test_a_perfect_student_has_nothing_to_learn_from_its_teacher() -> None:
    outputs = make_outputs(2, 2, 6, 4, seed=3)
    targets = make_targets([2, 1], 4, torch.Generator().manual_seed(7))
    terms = distillation_loss(outputs, outputs.detach(), targets)
    distilled = {name: term for name, term in terms.items() if name.startswith("distill_")}
    assert len(distilled) == 5
    for name, term in distilled.items():
        assert float(term) == pytest.approx(0.0, abs=1e-5), name


def test_pictures_without_objects_still_have_a_loss() -> None:
    outputs = make_outputs(2, 1, 6, 4, seed=4)
    targets = Targets(torch.full((1, 2), -1), torch.zeros(1, 2, 4))
    terms = detection_loss(outputs, targets)
    assert float(terms["class"]) > 0
    assert float(terms["l1"]) == 0
    assert len(match(outputs.logits[0], outputs.boxes[0], targets)) == 0


def test_matches_count_their_pairs() -> None:
    zeros = torch.zeros(3, dtype=torch.int64)
    assert len(Matches(zeros, zeros, zeros)) == 3
