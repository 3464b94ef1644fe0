"""The weight follows the share of gradients: against the published rule, written once more."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anydepth_deploy.errors import CheckpointError, UsageError
from anydepth_deploy.train.semantics.modulation import (
    PUBLISHED,
    Modulation,
    SemanticSettings,
    gradient_share,
    next_weight,
)

S = PUBLISHED["s"]
CPU = torch.device("cpu")

GRADIENTS = {
    "backbone.conv.weight": [1.0, -2.0],
    "encoder.encoder.0.layers.0.norm1.weight": [-3.0],
    "encoder.encoder.0.layers.0.linear1.weight": [[0.5, -0.5], [1.0, 0.0]],
    "encoder.encoder_bias": [4.0],
    "myencoder.encoder.bias": [1.0],
    "decoder.encoder.weight": [-2.5],
}
INSIDE = 3.0 + 2.0
ALL = INSIDE + 3.0 + 4.0 + 1.0 + 2.5


def parameters(prefix: str = "", scale: float = 1.0) -> list[tuple[str, nn.Parameter]]:
    found = []
    for name, values in GRADIENTS.items():
        parameter = nn.Parameter(torch.zeros_like(torch.tensor(values)))
        parameter.grad = scale * torch.tensor(values)
        found.append((prefix + name, parameter))
    return [*found, ("encoder.encoder.frozen", nn.Parameter(torch.ones(3)))]


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "module.model."])
def test_the_share_whatever_stands_before_names(prefix: str) -> None:
    for scale in (1.0, 1e-3):
        share = gradient_share(parameters(prefix, scale))
        assert share is not None
        assert float(share) == pytest.approx(100 * INSIDE / ALL, rel=1e-6)


def test_shares_at_the_ends() -> None:
    assert gradient_share([("encoder.encoder.0.weight", nn.Parameter(torch.ones(2)))]) is None
    known = dict(parameters())
    inside = [pair for pair in known.items() if pair[0].startswith("encoder.encoder.")]
    outside = [pair for pair in known.items() if not pair[0].startswith("encoder.encoder.")]
    for some, wanted in ((inside, 100.0), (outside, 0.0)):
        share = gradient_share(some)
        assert share is not None
        assert float(share) == wanted


def rule(w: float, p: float, rho: float, delta: float, default: float) -> float:
    """The published update, p in percent, case by case in double precision."""
    if p < 1e-6:
        return default
    if abs(p - rho) <= delta:
        return w
    target = (rho + delta if p < rho else rho - delta) / 100
    p = p / 100
    ratio = np.float64(target * (1 - p)) / np.float64(p * (1 - target))
    if ratio < 0.1:
        ratio = np.float64(0.1)
    new = float(w * ratio)
    if new > 10 * w:
        return 10 * w
    return max(new, w / 10)


@pytest.mark.parametrize("size", list(PUBLISHED))
@pytest.mark.parametrize("weight", [0.3, 5.0, 400.0])
def test_the_weight_follows_the_rule(size: str, weight: float) -> None:
    settings = PUBLISHED[size]
    shares = [0.0, 1e-7, 1e-5, 0.01, 0.1, 1.0, 1.89, 2.0, 2.26, 3.4, 3.76, 9.9, 10.1, 11.0, 12.1]
    for share in [*shares, 40.0, 99.0, 100.0]:
        wanted = rule(weight, share, settings.rho, settings.delta, settings.default)
        assert next_weight(weight, share, settings) == pytest.approx(wanted, rel=1e-12), share


def test_each_branch_by_hand() -> None:
    """S: the band is 10 to 12 percent, the default 20."""
    assert next_weight(5.0, 0.0, S) == 20.0
    assert next_weight(5.0, 10.5, S) == 5.0
    # Odds of the upper end, 12 : 88, by those of 6 percent, 6 : 94.
    assert next_weight(5.0, 6.0, S) == pytest.approx(5.0 * (12 * 94) / (88 * 6))
    # Odds of the lower end, 10 : 90, by those of 20 percent, 20 : 80.
    assert next_weight(5.0, 20.0, S) == pytest.approx(5.0 * (10 * 80) / (90 * 20))
    assert next_weight(5.0, 0.01, S) == 50.0
    assert next_weight(5.0, 99.0, S) == 0.5


def test_the_published_settings() -> None:
    rows = {
        "s": (5, 20, 11, 1),
        "m": (5, 15, 3.5, 0.25),
        "l": (15, 15, 2, 0.1),
        "x": (20, 20, 2, 0.25),
    }
    assert dict(PUBLISHED) == {size: SemanticSettings(*row) for size, row in rows.items()}


@pytest.mark.parametrize(
    ("parameters", "size"),
    [(1_900_000, "s"), (13_000_000, "s"), (20_184_464, "m"), (42_891_372, "l"), (76_556_268, "x")],
)
def test_settings_of_the_nearest_size(parameters: int, size: str) -> None:
    assert SemanticSettings.nearest(parameters) == PUBLISHED[size]


@pytest.mark.parametrize(
    "odd",
    [
        {"weight": 0.0},
        {"weight": math.nan},
        {"default": -1.0},
        {"default": math.inf},
        {"delta": -0.1},
        {"rho": 1.0},
        {"rho": 99.5},
        {"rho": math.nan},
    ],
)
def test_settings_that_no_run_can_use(odd: dict[str, float]) -> None:
    usual = {"weight": 5.0, "default": 20.0, "rho": 11.0, "delta": 1.0}
    with pytest.raises(UsageError, match=r"^teacher: .*expected"):
        SemanticSettings(**{**usual, **odd})


def step(inside: float, outside: float) -> list[tuple[str, nn.Parameter]]:
    pairs = []
    for name, value in (("module.encoder.encoder.w", inside), ("module.decoder.w", outside)):
        parameter = nn.Parameter(torch.zeros(1))
        parameter.grad = torch.tensor([value])
        pairs.append((name, parameter))
    return pairs


def test_an_epoch_counts_by_its_mean() -> None:
    """The mean of shares, not the share of sums; a step that overflowed does not count."""
    modulation = Modulation(S)
    modulation.measure(step(1.0, 99.0))
    modulation.measure(step(-30.0, 970.0))
    modulation.measure(step(math.inf, 1.0))
    modulation.measure(step(math.nan, 1.0))
    modulation.measure(step(0.0, 0.0))
    modulation.measure([])
    weight = modulation.end_of_epoch(CPU)
    assert modulation.share == pytest.approx(2.0)
    assert weight == modulation.weight == pytest.approx(rule(5.0, 2.0, 11, 1, 20))
    modulation.measure(step(50.0, 50.0))  # the next epoch begins anew
    modulation.end_of_epoch(CPU)
    assert modulation.share == pytest.approx(50.0)
    assert modulation.weight == pytest.approx(rule(weight, 50.0, 11, 1, 20))


def test_the_default_at_the_end_and_without_gradients() -> None:
    modulation = Modulation(S)
    modulation.measure(step(1.0, 1.0))
    assert modulation.end_of_epoch(CPU, last_stage=True) == 20.0
    assert modulation.share == pytest.approx(50.0)
    modulation = Modulation(S)
    modulation.measure(step(0.0, 1.0))
    assert modulation.end_of_epoch(CPU) == 20.0
    assert Modulation(S).end_of_epoch(CPU) == 20.0  # an epoch without steps


def test_processes_end_with_the_same_weight() -> None:
    """Two processes with other gradients and numbers of steps; what an average sees of both."""
    steps = [[step(1.0, 99.0), step(3.0, 97.0)], [step(8.0, 92.0)]]

    def run(average: list[list[float]] | None, rank: int) -> tuple[float, list[float]]:
        asked: list[float] = []

        def mean(value: Tensor) -> Tensor:
            asked.append(float(value))
            if average is None:
                return value
            both = [values[len(asked) - 1] for values in average]
            return torch.tensor(sum(both) / len(both))

        modulation = Modulation(S, mean)
        for each in steps[rank]:
            modulation.measure(each)
        return modulation.end_of_epoch(CPU), asked

    asked = [run(None, rank)[1] for rank in (0, 1)]
    weights = [run(asked, rank)[0] for rank in (0, 1)]
    assert weights[0] == weights[1] == pytest.approx(rule(5.0, 4.0, 11, 1, 20), rel=1e-6)


def test_an_interrupted_epoch_goes_on() -> None:
    steps = [step(1.0, 99.0), step(7.0, 93.0), step(30.0, 70.0)]
    whole = Modulation(S)
    for each in steps:
        whole.measure(each)
    first, second = Modulation(S), Modulation(S)
    first.measure(steps[0])
    first.end_of_epoch(CPU)
    first.load_state_dict(Modulation(S).state_dict(), "a file")
    assert first.share is None
    for each in steps[:2]:
        first.measure(each)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())), "a file")
    second.measure(steps[2])
    assert second.end_of_epoch(CPU) == whole.end_of_epoch(CPU)
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    "odd",
    [
        {"weight": None},
        {"weight": 0.0},
        {"weight": math.inf},
        {"weight": True},
        {"sum": "1"},
        {"steps": -1.0},
        {"steps": math.nan},
        {"share": "much"},
    ],
)
def test_a_state_of_another_form_is_refused(odd: dict[str, object]) -> None:
    modulation = Modulation(S)
    modulation.measure(step(1.0, 1.0))
    before = modulation.state_dict()
    name = next(iter(odd))
    with pytest.raises(
        CheckpointError, match=f"^a file: {name} of the teacher's weight is .*anew$"
    ):
        modulation.load_state_dict({**before, **odd}, "a file")
    assert modulation.state_dict() == before
