"""RT-DETR's losses against those of transformers, and what they have not: DEIM's, and unions."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
import torch
import transformers
from recipes import generator, objects, random_boxes
from torch import nn

from anydepth_deploy.errors import DivergedError
from anydepth_deploy.families.shared.boxes import box_iou, cxcywh_to_xyxy
from anydepth_deploy.families.shared.detr.training.denoising import make_denoising
from anydepth_deploy.families.shared.detr.training.forward import Outputs
from anydepth_deploy.families.shared.detr.training.losses import detection_loss, matchability_loss
from anydepth_deploy.families.shared.detr.training.matcher import Matches, match, united

CLASSES, QUERIES, LAYERS = 5, 9, 3


def test_all_terms_equal_those_of_transformers() -> None:
    draw = generator(1)
    targets = objects(3, 0, 2, classes=CLASSES)
    denoising = make_denoising(
        targets,
        nn.Embedding(CLASSES + 1, 8),
        classes=CLASSES,
        queries=QUERIES,
        wanted=12,
        generator=draw,
    )
    assert denoising is not None
    extra = denoising.size
    logits = torch.randn(LAYERS, 3, extra + QUERIES, CLASSES, generator=draw)
    boxes = random_boxes(LAYERS, 3, extra + QUERIES, generator=draw)
    outputs = Outputs(
        logits=logits[:, :, extra:],
        boxes=boxes[:, :, extra:],
        encoder_logits=torch.randn(3, QUERIES, CLASSES, generator=draw),
        encoder_boxes=random_boxes(3, QUERIES, generator=draw),
        backbone_maps=(),
        encoder_maps=(),
        denoising=denoising,
        denoising_logits=logits[:, :, :extra],
        denoising_boxes=boxes[:, :, :extra],
    )
    found = detection_loss(outputs, targets)

    pairs = denoising.matches
    # Not above: collecting tests would wait seconds for it.
    from transformers.loss.loss_rt_detr import RTDetrForObjectDetectionLoss

    config = transformers.RTDetrConfig(num_labels=CLASSES)  # type: ignore[call-arg]
    _, theirs, _ = RTDetrForObjectDetectionLoss(  # type: ignore[no-untyped-call]
        logits[-1],
        [
            {"class_labels": label[label >= 0], "boxes": box[label >= 0]}
            for label, box in zip(targets.labels, targets.boxes, strict=True)
        ],
        "cpu",
        boxes[-1],
        config,
        outputs_class=logits.transpose(0, 1),
        outputs_coord=boxes.transpose(0, 1),
        enc_topk_logits=outputs.encoder_logits,
        enc_topk_bboxes=outputs.encoder_boxes,
        denoising_meta_values={
            "dn_num_split": [extra, QUERIES],
            "dn_positive_idx": [pairs.query[pairs.picture == picture] for picture in range(3)],
            "dn_num_group": denoising.groups,
        },
    )
    expected: dict[str, float] = defaultdict(float)
    words = {"loss_vfl": "class", "loss_bbox": "l1", "loss_giou": "giou"}
    for name, term in theirs.items():
        word = next(own for word, own in words.items() if name.startswith(word))
        expected["denoising_" * ("_dn_" in name) + word] += float(term)
    assert len(theirs) == 3 * (LAYERS + 1 + LAYERS)  # layers, encoder, denoising
    assert {name: float(term) for name, term in found.items()} == pytest.approx(expected, rel=1e-5)


def test_matchability_loss_by_hand() -> None:
    targets = objects(2, 0, 1, classes=3)
    logits = torch.randn(3, 4, 3, generator=generator(2))
    boxes = random_boxes(3, 4, generator=generator(3))
    matches = match(logits, boxes, targets)
    pairs = {
        (int(p), int(q)): int(o)
        for p, q, o in zip(matches.picture, matches.query, matches.object, strict=True)
    }
    expected = 0.0
    for picture, query, label in itertools.product(range(3), range(4), range(3)):
        p = float(logits[picture, query, label].sigmoid())
        number = pairs.get((picture, query))
        if number is not None and int(targets.labels[picture, number]) == label:
            overlap = box_iou(
                cxcywh_to_xyxy(boxes[picture, query]),
                cxcywh_to_xyxy(targets.boxes[picture, number]),
            )
            q = float(overlap) ** 1.5
            expected -= q * math.log(p) + (1 - q) * math.log(1 - p)
        else:
            expected -= p**1.5 * math.log(1 - p)
    found = matchability_loss(logits, boxes, matches, targets, 3)
    assert float(found) == pytest.approx(expected / 3, rel=1e-4)


def test_unions_by_counting() -> None:
    draw = generator(4)
    layers, pictures, queries, things = 5, 2, 4, 3
    for _ in range(30):
        rows = [
            (layer * pictures + picture, query, thing)
            for layer, picture in itertools.product(range(layers), range(pictures))
            for thing, query in enumerate(torch.randperm(queries, generator=draw)[:things].tolist())
        ]
        columns = torch.tensor(rows).unbind(1)
        found = united(Matches(*columns), pictures, queries, things)
        votes = Counter((row % pictures, query, thing) for row, query, thing in rows)
        expected = []
        for picture, query in itertools.product(range(pictures), range(queries)):
            own = [(-votes[picture, query, thing], thing) for thing in range(things)]
            if min(own)[0] < 0:
                expected.append((picture, query, min(own)[1]))
        triples = zip(found.picture, found.query, found.object, strict=True)
        assert [tuple(map(int, triple)) for triple in triples] == expected


def test_a_union_of_nothing() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    assert len(united(Matches(empty, empty, empty), 2, 4, 0)) == 0


def test_pairs_repeated_and_left_out() -> None:
    pairs = Matches(torch.tensor([0, 1, 1]), torch.tensor([3, 0, 2]), torch.tensor([0, 1, 0]))
    twice = pairs.repeat(2, 4)
    assert twice.picture.tolist() == [0, 1, 1, 4, 5, 5]
    assert twice.query.tolist() == [3, 0, 2, 3, 0, 2]
    assert twice.object.tolist() == [0, 1, 0, 0, 1, 0]
    assert twice.before(5).picture.tolist() == [0, 1, 1, 4]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_costs_that_are_not_finite(bad: float) -> None:
    targets = objects(1, 0)
    logits, boxes = torch.zeros(2, 4, 8), random_boxes(2, 4, generator=generator())
    logits[1] = math.nan  # where nothing is asked for: the loss will show it
    assert len(match(logits, boxes, targets)) == 1
    boxes[0, 2] = bad
    with pytest.raises(DivergedError, match="not finite"):
        match(logits, boxes, targets)
    targets = replace(targets, boxes=torch.full_like(targets.boxes, bad))
    with pytest.raises(DivergedError, match="not finite"):
        match(torch.zeros(2, 4, 8), random_boxes(2, 4, generator=generator()), targets)
