"""D-FINE's losses against those of transformers, and against slow versions of themselves."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from recipes import generator, objects, random_boxes
from torch import Tensor, nn

from anydepth_deploy.families.dfine.decoder import bin_distances, edges_to_boxes
from anydepth_deploy.families.dfine.training.edges import (
    Shares,
    carried_over,
    decoupled_loss,
    edge_targets,
    edges_between,
)
from anydepth_deploy.families.dfine.training.forward import EdgeOutputs, Edges
from anydepth_deploy.families.dfine.training.losses import detection_loss, distillation_loss
from anydepth_deploy.families.shared.boxes import box_iou, cxcywh_to_xyxy
from anydepth_deploy.families.shared.detr.training.denoising import Denoising, make_denoising
from anydepth_deploy.families.shared.detr.training.losses import (
    box_losses,
    matchability_loss,
    varifocal_loss,
)
from anydepth_deploy.families.shared.detr.training.matcher import match, united
from anydepth_deploy.families.shared.targets import Targets

CLASSES, QUERIES, LAYERS, BINS = 5, 12, 3, 33
REACH = torch.tensor([4.0])
DISTANCES = bin_distances(torch.tensor([0.5]), REACH, BINS)


def edges_of(pictures: int, queries: int, spread: float, draw: torch.Generator) -> Edges:
    return Edges(
        spread * torch.randn(LAYERS, pictures, queries, 4 * BINS, generator=draw),
        torch.randn(pictures, queries, CLASSES, generator=draw),
        random_boxes(pictures, queries, generator=draw),
    )


def outputs_of(pictures: int, seed: int, denoising: Denoising | None = None) -> EdgeOutputs:
    """Layers that have nothing to do with each other."""
    draw = generator(seed)
    size = 0 if denoising is None else denoising.size
    return EdgeOutputs(
        logits=torch.randn(LAYERS, pictures, QUERIES, CLASSES, generator=draw),
        boxes=random_boxes(LAYERS, pictures, QUERIES, generator=draw),
        encoder_logits=torch.randn(pictures, QUERIES, CLASSES, generator=draw),
        encoder_boxes=random_boxes(pictures, QUERIES, generator=draw),
        backbone_maps=(torch.randn(pictures, 4, 2, 3, generator=draw),),
        encoder_maps=(torch.randn(pictures, 4, 2, 3, generator=draw),),
        denoising=denoising,
        denoising_logits=torch.randn(LAYERS, pictures, size, CLASSES, generator=draw),
        denoising_boxes=random_boxes(LAYERS, pictures, size, generator=draw),
        edges=edges_of(pictures, QUERIES, 2.0, draw),
        denoising_edges=edges_of(pictures, size, 2.0, draw),
        distances=DISTANCES,
        reach=REACH,
    )


def agreeing(outputs: EdgeOutputs) -> EdgeOutputs:
    """The same where all layers are so much alike that they are matched alike."""
    boxes = outputs.boxes[:1] + 0.003 * outputs.boxes
    logits = outputs.logits[:1] + 0.02 * outputs.logits
    edges = replace(outputs.edges, pre_logits=logits[0] + 0.01, pre_boxes=boxes[1] + 0.001)
    return replace(
        outputs,
        logits=logits,
        boxes=boxes,
        encoder_logits=logits[2] - 0.01,
        encoder_boxes=boxes[0] - 0.001,
        edges=edges,
    )


def noise(targets: Targets) -> Denoising:
    found = make_denoising(
        targets,
        nn.Embedding(CLASSES + 1, 8),
        classes=CLASSES,
        queries=QUERIES,
        wanted=12,
        generator=generator(9),
    )
    assert found is not None
    return found


def noisy(outputs: EdgeOutputs) -> tuple[Denoising, Edges]:
    assert outputs.denoising is not None
    assert outputs.denoising_edges is not None
    return outputs.denoising, outputs.denoising_edges


def of_transformers(outputs: EdgeOutputs, targets: Targets) -> dict[str, float]:
    denoising, other = noisy(outputs)

    def both(noisy: Tensor, own: Tensor) -> Tensor:
        """[N, L, D + Q, ...]"""
        return torch.cat([noisy, own], dim=2).transpose(0, 1)

    logits = both(outputs.denoising_logits, outputs.logits)
    boxes = both(outputs.denoising_boxes, outputs.boxes)
    pairs = denoising.matches
    anchors = torch.cat([other.pre_boxes, outputs.edges.pre_boxes], dim=1)
    # Not above: collecting tests would wait seconds for it.
    from transformers.loss.loss_d_fine import DFineForObjectDetectionLoss

    _, terms, _ = DFineForObjectDetectionLoss(  # type: ignore[no-untyped-call]
        logits[:, -1],
        [
            {"class_labels": label[label >= 0], "boxes": box[label >= 0]}
            for label, box in zip(targets.labels, targets.boxes, strict=True)
        ],
        "cpu",
        boxes[:, -1],
        transformers.DFineConfig(num_labels=CLASSES),  # type: ignore[call-arg]
        outputs_class=logits,
        outputs_coord=boxes,
        enc_topk_logits=outputs.encoder_logits,
        enc_topk_bboxes=outputs.encoder_boxes,
        denoising_meta_values={
            "dn_num_split": [denoising.size, QUERIES],
            "dn_positive_idx": [
                pairs.query[pairs.picture == picture] for picture in range(len(targets.labels))
            ],
            "dn_num_group": denoising.groups,
        },
        predicted_corners=both(other.logits, outputs.edges.logits),
        initial_reference_points=anchors[:, None].expand(-1, LAYERS, -1, -1),
    )
    found: dict[str, float] = defaultdict(float)
    words = {"vfl": "class", "bbox": "l1", "giou": "giou", "fgl": "fgl", "ddf": "ddf"}
    for name, term in terms.items():
        word = next(own for word, own in words.items() if name.startswith(f"loss_{word}"))
        found["denoising_" * ("_dn_" in name) + word] += float(term)
    return dict(found)


def test_all_terms_equal_those_of_transformers() -> None:
    """Which knows no ``pre``, no union, and no FGL of the last layer."""
    targets = objects(3, 0, 2, classes=CLASSES)
    outputs = agreeing(outputs_of(3, 1, noise(targets)))
    last = match(outputs.logits[-1], outputs.boxes[-1], targets)
    for logits, boxes in [
        *zip(outputs.logits, outputs.boxes, strict=True),
        (outputs.encoder_logits, outputs.encoder_boxes),
        (outputs.edges.pre_logits, outputs.edges.pre_boxes),
    ]:
        assert match(logits, boxes, targets).query.tolist() == last.query.tolist()
    found = detection_loss(outputs, targets, class_loss=varifocal_loss)
    ours = {name: float(term) for name, term in found.items()}
    theirs = of_transformers(outputs, targets)

    denoising, other = noisy(outputs)
    assert denoising.groups == 2
    assert len(last) == targets.count == 5
    for prefix, edges, pairs, count in (
        ("", outputs.edges, last, 5),
        ("denoising_", other, denoising.matches, 5 * 2),
    ):
        boxes = edges.pre_boxes[pairs.picture, pairs.query]
        l1, giou = box_losses(boxes, targets.boxes[pairs.picture, pairs.object], count)
        pre = varifocal_loss(edges.pre_logits, edges.pre_boxes, pairs, targets, count)
        ours[f"{prefix}class"] -= float(pre)
        ours[f"{prefix}l1"] -= 5 * float(l1)
        ours[f"{prefix}giou"] -= 2 * float(giou)
    without = detection_loss(outputs, targets, class_loss=varifocal_loss, last_layer=False)
    assert ours.pop("fgl") > float(without["fgl"]) > 0
    ours["fgl"] = float(without["fgl"])
    # Its denoising queries are weighed by their own numbers; the authors' by the matching ones'.
    del ours["denoising_ddf"]
    own_weights = theirs.pop("denoising_ddf")
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert 1.5 * denoising_ddf(outputs, targets, None) == pytest.approx(own_weights, rel=1e-4)
    shares = Shares.of(torch.tensor(5.0), torch.tensor(3 * QUERIES - 5.0))
    expected = 1.5 * denoising_ddf(outputs, targets, shares)
    assert float(found["denoising_ddf"]) == pytest.approx(expected, rel=1e-4)


def denoising_ddf(outputs: EdgeOutputs, targets: Targets, shares: Shares | None) -> float:
    """By the function alone; weighed by their own numbers without ``shares``."""
    denoising, edges = noisy(outputs)
    pairs = denoising.matches
    paired = torch.zeros(outputs.denoising_logits.shape[1:3], dtype=torch.bool)
    paired[pairs.picture, pairs.query] = True
    counts = paired.sum().float(), (~paired).sum().float()
    weights = outputs.denoising_logits[-1].sigmoid().amax(-1).repeat(LAYERS - 1, 1, 1)
    for picture, query, number in zip(pairs.picture, pairs.query, pairs.object, strict=True):
        weights[:, picture, query] = box_iou(
            cxcywh_to_xyxy(outputs.denoising_boxes[:-1, picture, query]),
            cxcywh_to_xyxy(targets.boxes[picture, number]),
        )
    return float(
        decoupled_loss(
            edges.logits[:-1],
            edges.logits[-1],
            weights,
            paired,
            counts,
            shares or Shares.of(*counts),
        )
    )


def test_boxes_and_edges_on_the_union_of_matches_by_hand() -> None:
    targets, outputs = objects(2, 0, 3, classes=CLASSES), outputs_of(3, 2)
    heads = [
        (outputs.encoder_logits, outputs.encoder_boxes),
        (outputs.edges.pre_logits, outputs.edges.pre_boxes),
        *zip(outputs.logits, outputs.boxes, strict=True),
    ]
    own = [match(logits, boxes, targets) for logits, boxes in heads]
    logits, boxes = (torch.cat(list(parts)) for parts in zip(*heads, strict=True))
    pairs = united(match(logits, boxes, targets.repeat(5)), 3, QUERIES, 3)
    assert len(pairs) > 5  # they do disagree
    expected = dict.fromkeys(("class", "l1", "giou", "fgl", "ddf"), 0.0)
    for (logits, boxes), matches in zip(heads, own, strict=True):
        expected["class"] += float(matchability_loss(logits, boxes, matches, targets, 5))
        found = boxes[pairs.picture, pairs.query]
        wanted = targets.boxes[pairs.picture, pairs.object]
        l1, giou = box_losses(found, wanted, len(pairs))
        expected["l1"] += 5 * float(l1)
        expected["giou"] += 2 * float(giou)
    counts = torch.tensor([len(pairs), 3 * QUERIES - len(pairs)]).sqrt()
    for layer in range(LAYERS):
        means = [0.0, 0.0]
        for picture, query in torch.cartesian_prod(torch.arange(3), torch.arange(QUERIES)).tolist():
            edges = outputs.edges.logits[layer, picture, query].view(4, BINS)
            at = ((pairs.picture == picture) & (pairs.query == query)).nonzero().flatten().tolist()
            weight = float(outputs.logits[-1, picture, query].sigmoid().max())
            if at:
                box = targets.boxes[picture, pairs.object[at[0]]]
                corners = cxcywh_to_xyxy(outputs.boxes[layer, picture, query]), cxcywh_to_xyxy(box)
                weight = float(box_iou(*corners))
                values = edges_between(outputs.edges.pre_boxes[picture, query], box, REACH)
                for edge, value in enumerate(values.tolist()):
                    near = max(0, min(BINS - 2, int((value >= DISTANCES).sum()) - 1))
                    low, high = DISTANCES[near : near + 2].tolist()
                    share = min(1.0, max(0.0, (value - low) / (high - low)))
                    logs = edges[edge].log_softmax(0)
                    doubt = -(1 - share) * logs[near] - share * logs[near + 1]
                    expected["fgl"] += 0.15 * weight * float(doubt) / len(pairs)
            last = outputs.edges.logits[-1, picture, query].view(4, BINS)
            for edge in range(4):
                p = (last[edge] / 5).softmax(0)
                q = (edges[edge] / 5).softmax(0)
                means[not at] += 25 * weight * float((p * (p / q).log()).sum()) / 4
        parts = [
            mean / float(count) ** 2 * float(count)
            for mean, count in zip(means, counts, strict=True)
        ]
        expected["ddf"] += 1.5 * sum(parts) / float(counts.sum())
    terms = detection_loss(outputs, targets, class_loss=matchability_loss)
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=2e-4)


def part(outputs: EdgeOutputs, rows: slice) -> EdgeOutputs:
    """Some of the pictures."""
    edges = outputs.edges
    return replace(
        outputs,
        logits=outputs.logits[:, rows],
        boxes=outputs.boxes[:, rows],
        encoder_logits=outputs.encoder_logits[rows],
        encoder_boxes=outputs.encoder_boxes[rows],
        backbone_maps=tuple(level[rows] for level in outputs.backbone_maps),
        encoder_maps=tuple(level[rows] for level in outputs.encoder_maps),
        edges=Edges(edges.logits[:, rows], edges.pre_logits[rows], edges.pre_boxes[rows]),
    )


@pytest.mark.parametrize("counts", [(3, 1, 2, 1), (0, 0, 2, 3)])
@pytest.mark.parametrize("taught", [False, True])
def test_two_processes_have_the_loss_of_one(counts: tuple[int, ...], taught: bool) -> None:
    targets = objects(*counts, classes=CLASSES)
    outputs, teacher = outputs_of(4, 3), outputs_of(4, 4).detach()

    def loss(rows: slice, average: Any) -> dict[str, Tensor]:
        here = Targets(targets.labels[rows], targets.boxes[rows], counted=targets.count / shares)
        told = {"class_loss": varifocal_loss, "average": average}
        if taught:
            return distillation_loss(part(outputs, rows), part(teacher, rows), here, **told)
        return detection_loss(part(outputs, rows), here, **told)

    shares = 1
    whole = loss(slice(0, 4), lambda value: value)
    shares = 2
    asked: list[list[Tensor]] = [[], []]
    halves = slice(0, 2), slice(2, 4)
    for seen, rows in zip(asked, halves, strict=True):

        def note(value: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(value)
            return value

        loss(rows, note)
    assert len(asked[0]) == len(asked[1]) > 0  # or processes would wait for each other
    means = [(one + other) / 2 for one, other in zip(*asked, strict=True)]
    found = []
    for rows in halves:
        answers = iter(means)
        found.append(loss(rows, lambda _, answers=answers: next(answers)))
    for name, term in whole.items():
        mean = (found[0][name] + found[1][name]) / 2
        torch.testing.assert_close(mean, term, rtol=1e-4, atol=1e-6)


def test_edges_and_boxes_undo_each_other() -> None:
    anchors, boxes = (random_boxes(6, 2, generator=generator(seed)) for seed in (1, 2))
    for reach in (4.0, 8.0):
        scale = torch.tensor([reach])
        edges = edges_between(anchors, boxes, scale)
        torch.testing.assert_close(edges_to_boxes(anchors, edges, scale), boxes)


def test_targets_lie_between_bins() -> None:
    values = torch.tensor([-9.0, -4.0, -2.0, -0.01, 0.0, 0.01, 1.3, 2.0, 3.0, 4.0, 77.0])
    left, share = edge_targets(values, DISTANCES)
    middle = DISTANCES[left] * (1 - share) + DISTANCES[left + 1] * share
    torch.testing.assert_close(middle, values.clamp(-4, 4))
    assert left[[0, 1, -1]].tolist() == [0, 0, BINS - 2]
    assert share[[0, 1, -2, -1]].tolist() == [0, 0, 1, 1]


def test_distributions_carried_over_mean_the_same_places() -> None:
    draw = generator(6)
    anchors = random_boxes(5, generator=draw)
    shares = torch.randn(5, 4, BINS, generator=draw).softmax(-1)
    same = carried_over(shares, anchors, anchors, DISTANCES, REACH)
    torch.testing.assert_close(same, shares, rtol=1e-3, atol=1e-5)
    # Sharp ones, of which nothing is pushed over the end.
    shares = F.one_hot(torch.randint(8, 25, (5, 4), generator=draw), BINS).float()
    others = anchors * torch.tensor([1.02, 0.98, 1.1, 0.95])
    carried = carried_over(shares, anchors, others, DISTANCES, REACH)
    torch.testing.assert_close(carried.sum(-1), torch.ones(5, 4))
    assert int((carried > 1e-6).sum(-1).max()) <= 2
    torch.testing.assert_close(
        edges_to_boxes(others, (carried * DISTANCES).sum(-1), REACH),
        edges_to_boxes(anchors, (shares * DISTANCES).sum(-1), REACH),
    )


def test_a_perfect_student_has_nothing_to_learn_from_its_teacher() -> None:
    outputs = outputs_of(2, 5)
    outputs.edges.logits.requires_grad_()
    targets = objects(2, 1, classes=CLASSES)
    terms = distillation_loss(outputs, outputs.detach(), targets, class_loss=varifocal_loss)
    distilled = {name: term for name, term in terms.items() if name.startswith("distill_")}
    assert len(distilled) == 6
    for name, term in distilled.items():
        assert term.item() == pytest.approx(0.0, abs=2e-5), name
    (slope,) = torch.autograd.grad(distilled["distill_edges"], outputs.edges.logits)
    assert float(slope.abs().max()) < 1e-4


def test_edges_learn_from_the_teacher_of_the_same_object() -> None:
    student, teacher = outputs_of(2, 6), outputs_of(2, 7)
    student.edges.logits.requires_grad_()
    targets = objects(2, 1, classes=CLASSES)
    terms = distillation_loss(student, teacher.detach(), targets, class_loss=varifocal_loss)
    assert terms["distill_edges"].item() > 0.01
    (slope,) = torch.autograd.grad(terms["distill_edges"], student.edges.logits)
    ours = match(student.logits[-1], student.boxes[-1], targets)
    moved = slope.abs().sum(-1).nonzero().tolist()
    theirs = match(teacher.logits[-1], teacher.boxes[-1], targets)
    overlap = box_iou(
        cxcywh_to_xyxy(teacher.boxes[-1, theirs.picture, theirs.query]),
        cxcywh_to_xyxy(targets.boxes[theirs.picture, theirs.object]),
    )
    triples = zip(ours.picture, ours.query, overlap, strict=True)
    assert moved == sorted([2, int(p), int(q)] for p, q, share in triples if share > 0)
    assert len(moved) == 2
    # The last layer's boxes and FGL are the teacher's business: objects do not pull at them.
    plain = detection_loss(student, targets, class_loss=varifocal_loss, last_layer=False)
    (slope,) = torch.autograd.grad(plain["fgl"] + plain["ddf"], student.edges.logits)
    assert float(slope[-1].abs().max()) == 0
