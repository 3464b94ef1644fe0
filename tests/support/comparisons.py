"""When two answers are the same: detections, and raw outputs whose queries have no order."""

from __future__ import annotations

import numpy as np
import torch

from anydepth_deploy.detections import Detections


def assert_equal(one: Detections, other: Detections) -> None:
    """The same arrays, bit by bit."""
    assert np.array_equal(one.labels, other.labels)
    assert np.array_equal(one.boxes, other.boxes)
    assert np.array_equal(one.scores, other.scores)


def assert_close(one: Detections, other: Detections) -> None:
    """The same detections, whatever the order of near-equal scores."""
    assert one.labels.shape == other.labels.shape
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    for mine, theirs in zip(one, other, strict=True):
        edge = float(theirs.scores.min()) + 1e-4
        for label, box, score in zip(mine.labels[0], mine.boxes[0], mine.scores[0], strict=True):
            near = (
                (theirs.labels[0] == label)
                & (np.abs(theirs.scores[0] - score) < 1e-5)
                & (np.abs(theirs.boxes[0] - box).max(-1) < 2e-2)
            )
            assert near.any() or score < edge


def assert_equal_by_token(
    found: dict[str, np.ndarray], expected: dict[str, torch.Tensor], what: str
) -> None:
    """Same tokens, and per token logits within 1e-4 and boxes within 1e-5."""
    raw = {name.removeprefix("raw_"): array for name, array in found.items() if "raw_" in name}
    raw = raw or found
    for n in range(len(raw["queries"])):
        order, other = np.argsort(raw["queries"][n]), expected["queries"][n].argsort()
        tokens = expected["queries"][n][other].numpy()
        assert np.array_equal(raw["queries"][n][order], tokens), what
        for key, limit in (("logits", 1e-4), ("boxes", 1e-5)):
            gap = np.abs(raw[key][n][order] - expected[key][n][other].numpy()).max()
            assert gap < limit, (what, key, gap)
