"""Assignment, loss and distillation terms of AnyDepth-YOLO against slow, obvious versions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from anydepth_deploy.families.shared.boxes import box_iou, complete_iou
from anydepth_deploy.families.shared.targets import Targets
from anydepth_deploy.families.yolo.head import BINS, grid
from anydepth_deploy.families.yolo.training.assigner import Assignment, assign, pixel_boxes
from anydepth_deploy.families.yolo.training.distillation import distillation_loss, feature_loss
from anydepth_deploy.families.yolo.training.forward import Outputs, decode
from anydepth_deploy.families.yolo.training.losses import detection_loss, side_loss

SIZE = (64, 96)
CLASSES = 3


def random_targets(seed: int, pictures: int = 3, objects: int = 5) -> Targets:
    """Crowded pictures, the last of them without objects."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, CLASSES, (pictures, objects), generator=generator)
    labels[-1] = -1
    centre = torch.rand(pictures, objects, 2, generator=generator) * 0.6 + 0.2
    sides = torch.rand(pictures, objects, 2, generator=generator) * 0.5 + 0.15
    return Targets(labels, torch.cat([centre, sides], dim=-1))


def random_outputs(seed: int, pictures: int = 3) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    points, strides = grid(SIZE)
    sides = torch.randn(pictures, len(points), 4, BINS, generator=generator) * 2
    sides[..., 5:] -= 3.0  # boxes of a few strides
    return Outputs(
        class_logits=torch.randn(pictures, len(points), CLASSES, generator=generator),
        side_logits=sides,
        boxes=boxes_of(sides, points, strides),
        features=tuple(torch.randn(pictures, 4, generator=generator) for _ in range(5)),
        points=points,
        strides=strides,
    )


def boxes_of(sides: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Boxes of side distributions [N, A, 4, 16]."""
    box_logits = sides.permute(0, 2, 3, 1).flatten(1, 2)
    return decode(box_logits, points, strides, torch.arange(float(BINS)))


def assignment_of(outputs: Outputs, targets: Targets) -> Assignment:
    wanted = pixel_boxes(targets, SIZE)
    return assign(outputs.class_logits, outputs.boxes, outputs.points, targets, wanted)


def slow_assignment(
    outputs: Outputs, targets: Targets, picture: int
) -> dict[int, tuple[int, float]]:
    """Cell -> (object, target score) of one picture, one pair at a time."""
    wanted = pixel_boxes(targets, SIZE)[picture]
    claims: dict[int, list[tuple[float, int, float]]] = {}
    for number, label in enumerate(targets.labels[picture].tolist()):
        if label < 0:
            continue
        x1, y1, x2, y2 = wanted[number].tolist()
        candidates = []
        for cell, (x, y) in enumerate(outputs.points.tolist()):
            if x1 < x < x2 and y1 < y < y2:
                overlap = max(0.0, slow_ciou(outputs.boxes[picture, cell], wanted[number]))
                score = 1 / (1 + math.exp(-float(outputs.class_logits[picture, cell, label])))
                candidates.append((score**0.5 * overlap**6, overlap, cell))
        for alignment, overlap, cell in sorted(candidates, reverse=True)[:10]:
            claims.setdefault(cell, []).append((overlap, number, alignment))
    owners = {cell: max(entries) for cell, entries in claims.items()}
    found = {}
    for cell, (_, number, alignment) in owners.items():
        rivals = [entry for entry in owners.values() if entry[1] == number]
        best_overlap, best_alignment = max(r[0] for r in rivals), max(r[2] for r in rivals)
        scale = best_overlap / best_alignment if best_alignment > 1e-9 else best_overlap / 1e-9
        found[cell] = (number, alignment * scale)
    return found


def slow_ciou(a: Tensor, b: Tensor) -> float:
    """Complete IoU of two boxes in plain Python (Zheng et al., 2020)."""
    ax1, ay1, ax2, ay2 = a.tolist()
    bx1, by1, bx2, by2 = b.tolist()
    inter = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter
    iou = inter / union
    centres = ((ax1 + ax2 - bx1 - bx2) / 2) ** 2 + ((ay1 + ay2 - by1 - by2) / 2) ** 2
    diagonal = (max(ax2, bx2) - min(ax1, bx1)) ** 2 + (max(ay2, by2) - min(ay1, by1)) ** 2
    angles = math.atan((bx2 - bx1) / (by2 - by1)) - math.atan((ax2 - ax1) / (ay2 - ay1))
    v = 4 / math.pi**2 * angles**2
    result: float = iou - centres / diagonal - (v**2 / (1 - iou + v) if v else 0.0)
    return result


@pytest.mark.parametrize("seed", range(4))
def test_assignment_is_that_of_the_loop_over_pairs(seed: int) -> None:
    outputs, targets = random_outputs(seed), random_targets(seed + 100)
    found = assignment_of(outputs, targets)
    assert int(found.foreground.sum()) > 20
    for picture in range(3):
        expected = slow_assignment(outputs, targets, picture)
        assert found.foreground[picture].nonzero()[:, 0].tolist() == sorted(expected)
        for cell, (number, score) in expected.items():
            assert int(found.object[picture, cell]) == number
            assert float(found.score[picture, cell]) == pytest.approx(score, rel=1e-3, abs=1e-6)
    assert not found.foreground[-1].any()
    assert bool((found.score[~found.foreground] == 0).all())


def test_objects_inside_each_other_share_their_cells() -> None:
    """A cell that two objects claim belongs to the one it overlaps most, not to the first."""
    points, _ = grid((64, 64))
    targets = Targets(
        torch.zeros(1, 2, dtype=torch.int64),
        torch.tensor([[[0.5, 0.5, 1.0, 1.0], [0.5, 0.5, 0.25, 0.25]]]),
    )
    wanted = pixel_boxes(targets, (64, 64))
    small, large = wanted[0, 1], wanted[0, 0]
    inside = ((points > small[:2]) & (points < small[2:])).all(1)
    boxes = torch.where(inside[:, None], small, large)[None]
    found = assign(torch.zeros(1, len(points), 1), boxes, points, targets, wanted)
    assert bool((found.object[0, inside] == 1).all())
    assert bool(found.foreground[0, inside].all())
    assert int((found.foreground[0] & ~inside).sum()) > 0
    assert bool((found.object[0, found.foreground[0] & ~inside] == 0).all())
    # Every prediction is perfect, so every target score is the best possible.
    torch.testing.assert_close(found.score[found.foreground].amin(), torch.tensor(1.0))


def test_a_useless_prediction_still_gets_the_cells_inside() -> None:
    """All alignments are zero at first; cells outside an object must not be its positives."""
    points, _ = grid((64, 64))
    targets = Targets(torch.tensor([[0]]), torch.tensor([[[0.9, 0.9, 0.2, 0.2]]]))
    boxes = torch.zeros(1, len(points), 4)
    wanted = pixel_boxes(targets, (64, 64))
    found = assign(torch.zeros(1, len(points), 1), boxes, points, targets, wanted)
    inside = ((points > wanted[0, 0, :2]) & (points < wanted[0, 0, 2:])).all(1)
    assert 0 < int(inside.sum()) <= 10
    assert found.foreground[0].tolist() == inside.tolist()
    assert float(found.score.sum()) == 0.0


def test_complete_iou() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(2, 20, 2, generator=generator) * 10
    boxes = torch.cat([low, low + torch.rand(2, 20, 2, generator=generator) * 10 + 1], dim=-1)
    found = complete_iou(boxes[0][:, None], boxes[1])
    assert found.shape == (20, 20)
    for i in range(20):
        for j in range(20):
            assert float(found[i, j]) == pytest.approx(
                slow_ciou(boxes[0, i], boxes[1, j]), abs=1e-5
            )
    torch.testing.assert_close(complete_iou(boxes, boxes), torch.ones(2, 20))
    assert bool((found <= box_iou(boxes[0][:, None], boxes[1]) + 1e-6).all())


def test_the_weight_of_the_shape_term_is_a_constant_to_the_gradient() -> None:
    box = torch.tensor([0.0, 0.5, 4.0, 2.0], dtype=torch.float64, requires_grad=True)
    goal = torch.tensor([1.0, 0.0, 3.0, 5.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(complete_iou(box, goal), box)

    def shape(values: Tensor) -> float:
        x1, y1, x2, y2 = values.tolist()
        angle: float = math.atan(2 / 5) - math.atan((x2 - x1) / (y2 - y1))
        return 4 / math.pi**2 * angle**2

    def weight(values: Tensor) -> float:
        v = shape(values)
        return v / (1 - float(box_iou(values, goal)) + v)

    start = box.detach()
    fixed = weight(start)

    def with_fixed_weight(values: Tensor) -> float:
        v = shape(values)
        return slow_ciou(values, goal) + weight(values) * v - fixed * v

    for side in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[side] = 1e-6
        slope = (with_fixed_weight(start + step) - with_fixed_weight(start - step)) / 2e-6
        assert float(gradient[side]) == pytest.approx(slope, abs=1e-5)


def test_boxes_are_expectations_of_distances() -> None:
    points, strides = grid((32, 32))
    sides = torch.full((1, len(points), 4, BINS), -50.0)
    sides[..., 0, 2] = sides[..., 1, 3] = sides[..., 2, 0] = sides[..., 3, 15] = 50.0
    boxes = boxes_of(sides, points, strides)[0]
    distances = torch.tensor([2.0, 3.0, 0.0, 15.0])
    for cell in range(len(points)):
        (x, y), stride = points[cell].tolist(), float(strides[cell])
        left, top, right, bottom = (distances * stride).tolist()
        expected = torch.tensor([x - left, y - top, x + right, y + bottom])
        torch.testing.assert_close(boxes[cell], expected)


def test_side_loss_is_least_at_the_two_bins_around() -> None:
    distances = torch.tensor([[0.0, 2.25, 14.99, 40.0]])
    best = torch.full((1, 4, BINS), -40.0)
    for side, (lower, share) in enumerate([(0, 0.0), (2, 0.25), (14, 0.99), (14, 0.99)]):
        best[0, side, lower] = math.log(max(1 - share, 1e-9))
        best[0, side, lower + 1] = math.log(max(share, 1e-9))
    entropies = [
        -sum(p * math.log(p) for p in (1 - s, s) if p > 0) for s in (0.0, 0.25, 0.99, 0.99)
    ]
    torch.testing.assert_close(
        side_loss(best, distances), torch.tensor([entropies]), atol=1e-4, rtol=0
    )
    uniform = side_loss(torch.zeros(1, 4, BINS), distances)
    torch.testing.assert_close(uniform, torch.full((1, 4), math.log(BINS)))
    assert bool((side_loss(torch.zeros(1, 4, BINS), -distances) == uniform).all())


def test_detection_loss_is_that_of_the_loop_over_cells() -> None:
    outputs, targets = random_outputs(1), random_targets(2)
    assignment = assignment_of(outputs, targets)
    wanted = pixel_boxes(targets, SIZE)
    found = detection_loss(outputs, targets, wanted, assignment)
    classes = box = dfl = count = 0.0
    for n in range(3):
        for a in range(len(outputs.points)):
            weight = float(assignment.score[n, a])
            number = int(assignment.object[n, a])
            positive = bool(assignment.foreground[n, a])
            for c in range(CLASSES):
                goal = weight if positive and c == int(targets.labels[n, number]) else 0.0
                p = 1 / (1 + math.exp(-float(outputs.class_logits[n, a, c])))
                classes -= goal * math.log(p) + (1 - goal) * math.log(1 - p)
            if not positive:
                continue
            count += weight
            box += weight * (1 - slow_ciou(outputs.boxes[n, a], wanted[n, number]))
            (x, y), stride = outputs.points[a].tolist(), float(outputs.strides[a])
            x1, y1, x2, y2 = wanted[n, number].tolist()
            for side, distance in enumerate((x - x1, y - y1, x2 - x, y2 - y)):
                exact = min(max(distance / stride, 0.0), BINS - 1.01)
                lower = math.floor(exact)
                log_p = outputs.side_logits[n, a, side].double().log_softmax(0).tolist()
                share = exact - lower
                dfl -= weight * ((1 - share) * log_p[lower] + share * log_p[lower + 1]) / 4
    assert count > 1
    assert float(found["class"]) == pytest.approx(0.5 * classes / count, rel=1e-4)
    assert float(found["box"]) == pytest.approx(7.5 * box / count, rel=1e-4)
    assert float(found["dfl"]) == pytest.approx(1.5 * dfl / count, rel=1e-4)


def test_without_objects_only_the_background_counts() -> None:
    outputs = random_outputs(0)
    targets = Targets(torch.full((3, 2), -1), torch.zeros(3, 2, 4))
    assignment = assignment_of(outputs, targets)
    found = detection_loss(outputs, targets, pixel_boxes(targets, SIZE), assignment)
    expected = 0.5 * torch.nn.functional.softplus(outputs.class_logits).sum()
    torch.testing.assert_close(found["class"], expected)
    assert float(found["box"]) == float(found["dfl"]) == 0.0
    distilled = distillation_loss(outputs, outputs, assignment, assignment)
    assert all(float(term) == 0.0 for term in distilled.values())


def test_distillation_is_that_of_the_loop_over_cells() -> None:
    student, teacher, targets = random_outputs(3), random_outputs(4), random_targets(5)
    ours, theirs = assignment_of(student, targets), assignment_of(teacher, targets)
    found = distillation_loss(student, teacher, ours, theirs)

    def divergence(wanted: Tensor, given: Tensor) -> float:
        """KL of softmax(given) from softmax(wanted), logits [K]."""
        p, q = wanted.double().softmax(0).tolist(), given.double().softmax(0).tolist()
        result: float = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        return result

    classes = class_weight = box = sides = weights = 0.0
    kinds: set[str] = set()
    for n in range(3):
        for a in range(len(teacher.points)):
            if not theirs.foreground[n, a]:
                continue
            weight = float(theirs.score[n, a])
            class_weight += weight
            t, s = teacher.class_logits[n, a] / 2, student.class_logits[n, a] / 2
            classes += weight * 4 * divergence(t, s)
            if not ours.foreground[n, a]:
                kinds.add("only super")
                continue
            if int(ours.object[n, a]) != int(theirs.object[n, a]):
                kinds.add("different objects")
                continue
            kinds.add("same object")
            weights += weight
            box += weight * (1 - slow_ciou(student.boxes[n, a], teacher.boxes[n, a]))
            sides += weight * sum(
                divergence(teacher.side_logits[n, a, side], student.side_logits[n, a, side]) / 4
                for side in range(4)
            )
    assert kinds == {"only super", "different objects", "same object"}
    features = 0.0
    for left, right in zip(student.features, teacher.features, strict=True):
        for x, y in zip(left, right, strict=True):
            features += float((x / x.norm() - y / y.norm()).square().sum()) / 15
    expected = {
        "distill_class": 0.4 * classes / max(1.0, class_weight),
        "distill_box": 1.2 * box / max(1.0, weights),
        "distill_dfl": 0.8 * sides / max(1.0, weights),
        "distill_features": 0.4 * features,
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-4), name


def test_a_perfect_student_has_nothing_to_learn() -> None:
    outputs, targets = random_outputs(6), random_targets(7)
    assignment = assignment_of(outputs, targets)
    for name, term in distillation_loss(outputs, outputs, assignment, assignment).items():
        assert float(term) == pytest.approx(0.0, abs=1e-5), name
    opposite = tuple(-feature for feature in outputs.features)
    assert float(feature_loss(outputs.features, opposite)) == pytest.approx(4.0)
