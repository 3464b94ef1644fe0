"""Tiny routers from features of a picture to what deeper rungs would gain, and mixing by chance.

Gains are float64 [pictures, rungs], beside the first rung; a choice is one-hot weights of that
shape. Multiply-adds have a price, and the rung whose gain less its price is largest is chosen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["ROUTERS", "Mixing", "choose", "cross_validated", "mean_cost", "price_of"]

Floats = NDArray[np.float64]
Predict = Callable[[Floats], Floats]
"""From features [pictures, F] to gains."""

FOLDS = 5
STRENGTHS = np.logspace(0, 7, 22)
HIDDEN, STEPS, PATIENCE = 32, 400, 40


def choose(gains: Floats, costs: Floats, price: float) -> Floats:
    """The choice at a price; the cheaper of equal ones."""
    best: Floats = np.eye(len(costs))[np.argmax(gains - price * costs, axis=1)]
    return best


def mean_cost(weights: Floats, costs: Floats) -> float:
    return float((weights @ costs).mean())


def price_of(gains: Floats, costs: Floats, wanted: float) -> float:
    """The price at which choices cost ``wanted`` on average, by bisection; 0 where the largest
    gains cost less."""
    spread = float(np.ptp(gains[np.isfinite(gains)])) + 1
    high = spread / float(np.diff(np.sort(costs)).min())
    low = 0.0
    if mean_cost(choose(gains, costs, low), costs) <= wanted:
        return low
    for _ in range(100):
        middle = (low + high) / 2
        if mean_cost(choose(gains, costs, middle), costs) > wanted:
            low = middle
        else:
            high = middle
    return high


def ridge(features: Floats, gains: Floats) -> Predict:
    """Linear in standardised features, of the strength that is best when each picture is left out
    in turn (of all strengths at the price of one decomposition)."""
    centre, scale = _standard(features)
    mean = gains.mean(axis=0)
    inputs = (features - centre) / scale
    squares, right = np.linalg.eigh(inputs.T @ inputs)
    kept = squares > 1e-9 * squares[-1]
    squares, right = squares[kept], right[:, kept]
    left = inputs @ right / np.sqrt(squares)
    turned = left.T @ (gains - mean)
    errors = []
    for strength in STRENGTHS:
        shrunk = squares / (squares + strength)
        rest = gains - mean - left @ (shrunk[:, None] * turned)
        leverage = 1 / len(gains) + (left**2) @ shrunk
        errors.append(float(((rest / (1 - leverage)[:, None]) ** 2).mean()))
    strength = STRENGTHS[int(np.argmin(errors))]
    weights = right @ ((np.sqrt(squares) / (squares + strength))[:, None] * turned)
    return lambda given: (given - centre) / scale @ weights + mean


def perceptron(features: Floats, gains: Floats) -> Predict:
    """One hidden layer of 32, stopped where a fifth of the pictures is predicted best."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    centre, scale = _standard(features)
    mean, spread = gains.mean(axis=0), float(gains.std()) or 1.0
    inputs = torch.from_numpy((features - centre) / scale).float()
    wanted = torch.from_numpy((gains - mean) / spread).float()
    apart = torch.arange(len(inputs)) % 5 == 0
    first, last = nn.Linear(inputs.shape[1], HIDDEN), nn.Linear(HIDDEN, wanted.shape[1])
    network = nn.Sequential(first, nn.ReLU(), last)
    nn.init.zeros_(last.weight)
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.1)
    best, kept, since = np.inf, network.state_dict(), 0
    for _ in range(STEPS):
        with torch.no_grad():
            error = float(((network(inputs[apart]) - wanted[apart]) ** 2).mean())
        since += 1
        if error < best:
            best, since = error, 0
            kept = {name: value.clone() for name, value in network.state_dict().items()}
        if since > PATIENCE:
            break
        for part in torch.split(torch.randperm(len(inputs)), 256):
            part = part[~apart[part]]
            optimiser.zero_grad()
            ((network(inputs[part]) - wanted[part]) ** 2).mean().backward()
            optimiser.step()
    network.load_state_dict(kept)

    def predict(given: Floats) -> Floats:
        with torch.no_grad():
            found = network(torch.from_numpy((given - centre) / scale).float()).double().numpy()
        return np.asarray(found * spread + mean)

    return predict


def _standard(features: Floats) -> tuple[Floats, Floats]:
    scale = features.std(axis=0)
    return features.mean(axis=0), np.where(scale > 1e-9, scale, 1.0)


ROUTERS: dict[str, Callable[[Floats, Floats], Predict]] = {
    "linear": ridge,
    "hidden layer": perceptron,
}


def cross_validated(
    fit: Callable[[Floats, Floats], Predict], features: Floats, gains: Floats
) -> Floats:
    """Gains of every picture as predicted by a router that was fitted to other pictures."""
    fold = np.arange(len(gains)) % FOLDS
    found = np.empty_like(gains)
    for number in range(FOLDS):
        own = fold == number
        found[own] = fit(features[~own], gains[~own])(features[own])
    return found


class Mixing:
    """Random mixtures of fixed rungs: the two beside a cost, of those on the upper edge of
    ``costs`` and ``scores`` [rungs]; a rung of score -inf is none."""

    def __init__(self, costs: Floats, scores: Floats) -> None:
        self._costs = costs
        self.edge = [0]
        best = int(np.argmax(scores))
        while self.edge[-1] != best:
            here = self.edge[-1]
            ahead = [r for r in range(len(costs)) if costs[here] < costs[r] <= costs[best]]
            slopes = [(scores[r] - scores[here]) / (costs[r] - costs[here]) for r in ahead]
            self.edge.append(ahead[int(np.argmax(slopes))])

    def shares(self, cost: float) -> Floats:
        """The share of each rung [rungs] at a mean cost."""
        found = np.zeros(len(self._costs))
        costs = self._costs[self.edge]
        above = int(np.clip(np.searchsorted(costs, cost), 1, len(costs) - 1))
        share = float(np.clip((cost - costs[above - 1]) / (costs[above] - costs[above - 1]), 0, 1))
        found[self.edge[above - 1]], found[self.edge[above]] = 1 - share, share
        return found

    def draw(self, cost: float, pictures: int, rng: np.random.Generator) -> Floats:
        """A choice by chance, of as many pictures of each rung as its share says."""
        counts = np.round(np.cumsum(self.shares(cost)) * pictures).astype(int)
        chosen = np.searchsorted(counts, np.arange(pictures), side="right")
        drawn: Floats = np.eye(len(counts))[rng.permutation(chosen)]
        return drawn
