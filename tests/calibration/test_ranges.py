"""Histograms of activations, the ranges chosen from them, and the errors that 8 bits make."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from anydepth_deploy.calibration.histogram import BINS, BLOCK, Histogram
from anydepth_deploy.calibration.ranges import METHODS, choose_range, relative_error
from anydepth_deploy.errors import UsageError

Floats = NDArray[np.float32]


def histogram_of(*parts: Any) -> Histogram:
    found = Histogram()
    for part in parts:
        found.add(np.asarray(part, np.float32))
    return found


def counted(values: Floats) -> tuple[float, NDArray[np.int64]]:
    """The radius and the counts of all bins, found by searching for the borders in float64."""
    exact = values.astype(np.float64)
    radius = 2.0**-100
    while radius <= np.abs(exact).max(initial=0):
        radius *= 2
    borders = np.linspace(0, radius, BINS // 2 + 1)  # multiples of a power of two: exact
    right, left = (np.histogram(side[side > 0], borders)[0] for side in (exact, -exact))
    return radius, np.concatenate([left[::-1], right]).astype(np.int64)


SAMPLES: dict[str, Floats] = {}
"""Shapes that activations have, 200,000 values each."""


def _fill() -> None:
    rng = np.random.default_rng(5)
    gauss = rng.standard_normal(200_000)
    SAMPLES["gauss"] = gauss.astype(np.float32)
    SAMPLES["shifted"] = (gauss + 1.5).astype(np.float32)
    SAMPLES["relu"] = np.maximum(gauss * 3 - 2, 0).astype(np.float32)
    SAMPLES["silu"] = (gauss / (1 + np.exp(-gauss))).astype(np.float32)
    SAMPLES["laplace"] = rng.laplace(0, 0.01, 200_000).astype(np.float32)
    SAMPLES["negative"] = -np.maximum(gauss, 0).astype(np.float32) * 1e4
    SAMPLES["sigmoid"] = (1 / (1 + np.exp(-gauss))).astype(np.float32)
    SAMPLES["never near zero"] = rng.uniform(5, 6, 200_000).astype(np.float32)


_fill()
shapes = pytest.mark.parametrize("shape", SAMPLES)

# Subnormal numbers and the largest ones included.
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
arrays = st.lists(finite, max_size=40).map(lambda items: np.array(items, np.float32))


# --- histograms ------------------------------------------------------------------------------


@examples(100)
@given(arrays)
def test_values_are_counted_exactly(values: Floats) -> None:
    found = histogram_of(values)
    radius, counts = counted(values)
    assert (2.0**found.exponent, found.count) == (radius, values.size)
    assert found.zeros == sum(value == 0 for value in values.tolist())
    assert np.array_equal(found.counts, counts)
    assert found.minimum == min(values.tolist(), default=math.inf)
    assert found.maximum == max(values.tolist(), default=-math.inf)
    if values.size:
        assert found.edges[0] == -radius
        assert np.diff(found.edges).tolist() == [found.width] * BINS


@shapes
def test_shapes_of_activations_are_counted_exactly(shape: str) -> None:
    values = SAMPLES[shape]
    assert values.size > 2 * BLOCK  # several blocks, the last one cut
    found = histogram_of(values)
    radius, counts = counted(values)
    assert 2.0**found.exponent == radius
    assert np.array_equal(found.counts, counts)


@examples(100)
@given(arrays, st.randoms(use_true_random=False), st.integers(0, 40))
def test_order_and_cuts_do_not_matter(values: Floats, random: Any, cut: int) -> None:
    shuffled = values.tolist()
    random.shuffle(shuffled)
    whole, parts = histogram_of(values), histogram_of(shuffled[:cut], shuffled[cut:])
    assert parts == whole
    assert histogram_of(*([value] for value in shuffled)) == whole
    merged = histogram_of(shuffled[cut:])
    merged.merge(histogram_of(shuffled[:cut]))
    assert merged == whole
    if values.size:
        assert histogram_of(values, values) != whole


def test_layout_and_shape_do_not_matter() -> None:
    values = SAMPLES["gauss"][:6000].reshape(10, 20, 30)
    assert histogram_of(values.transpose(2, 0, 1)) == histogram_of(values.reshape(-1))
    found = Histogram()
    found.add(values.transpose(2, 0, 1)[:, ::2])
    assert found == histogram_of(values[::2])


def test_half_precision_is_counted_as_its_values() -> None:
    values = np.concatenate([SAMPLES["gauss"][:1000], [65504, 6e-8, 0]]).astype(np.float16)
    found = Histogram()
    found.add(values)
    assert found == histogram_of(values.astype(np.float32))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_and_change_nothing(bad: float) -> None:
    found = histogram_of([1, 2])
    with pytest.raises(FloatingPointError, match="not finite"):
        found.add(np.array([5, bad, 7], np.float32))
    with pytest.raises(TypeError, match="int64"):
        found.add(np.array([1, 2]))
    assert found == histogram_of([1, 2])


@given(arrays)
def test_arrays_hold_everything(values: Floats) -> None:
    found = histogram_of(values)
    again = Histogram.from_arrays(found.to_arrays())
    assert again == found
    again.add(np.array([3, -1e9], np.float32))
    assert again == histogram_of(values, [3, -1e9])
    assert found == histogram_of(values)  # nothing is shared
    copied = found.copy()
    copied.add(np.array([1], np.float32))
    assert found == histogram_of(values)


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        ("counts", 0, -1),
        ("counts", 5000, 1),
        ("totals", 0, 7),
        ("totals", 1, -1),
        ("totals", 2, 9),
        ("limits", 0, math.nan),
        ("limits", 0, 2.5),
        ("limits", 1, math.inf),
    ],
)
def test_arrays_that_contradict_themselves_are_refused(name: str, index: int, value: float) -> None:
    stored: dict[str, Any] = histogram_of([-1, 0, 2]).to_arrays()
    stored[name][index] = value
    with pytest.raises(ValueError):  # noqa: PT011
        Histogram.from_arrays(stored)


def test_arrays_of_other_shapes_are_refused() -> None:
    stored = histogram_of([1]).to_arrays()
    for name, array in stored.items():
        for other in (array[1:], array.astype(np.float32), None):
            changed: dict[str, Any] = {**stored, name: other}
            with pytest.raises(ValueError, match=name):
                Histogram.from_arrays(changed)


# --- ranges ----------------------------------------------------------------------------------


@shapes
@pytest.mark.parametrize("percentile", [99.99, 99.9, 90.0, 100.0, 50.0])
def test_percentile_keeps_its_share(shape: str, percentile: float) -> None:
    values = np.sort(SAMPLES[shape].astype(np.float64))
    found = histogram_of(values)
    low, high = choose_range(found, "percentile", percentile)
    cut = round(values.size * (100 - percentile) / 100)
    negative, positive = int((values < 0).sum()), int((values > 0).sum())
    # Half at each end, except where an end has fewer: by trying all ways to share them out.
    ways = [
        (below, cut - below)
        for below in range(cut + 1)
        if below <= negative and cut - below <= positive
    ]
    below, above = min(ways, key=lambda way: (abs(way[0] - way[1]), way[0]), default=(0, 0))
    if not ways:  # more than there are nonzero values
        below, above = negative, positive
    assert abs(low - min(values[below], 0)) <= found.width
    assert abs(high - max(values[values.size - 1 - above], 0)) <= found.width
    assert low >= min(values[0], 0)
    assert high <= max(values[-1], 0)


def test_a_one_sided_tensor_is_cut_at_its_far_end_only() -> None:
    values = np.concatenate([np.zeros(90_000), np.linspace(0.1, 1, 10_000)])
    low, high = choose_range(histogram_of(values), "percentile", 99.0)
    assert low == 0.0
    assert high == pytest.approx(0.91, abs=1e-3)  # the largest 1000 of 10,000
    mirrored = choose_range(histogram_of(-values), "percentile", 99.0)
    assert mirrored == (-high, 0.0)


def test_few_values_are_all_kept() -> None:
    assert choose_range(histogram_of([-3, 1, 2, 5])) == (-3.0, 5.0)


def test_ranges_hold_zero() -> None:
    for method in METHODS:
        low, high = choose_range(histogram_of(SAMPLES["never near zero"]), method)
        assert low == 0.0
        assert 5 < high <= 6
        low, high = choose_range(histogram_of(-SAMPLES["never near zero"]), method)
        assert high == 0.0
        assert -6 <= low < -5
        for nothing in (Histogram(), histogram_of(np.zeros(9)), histogram_of([-0.0])):
            found = choose_range(nothing, method)
            assert str(found) == "(0.0, 0.0)"  # and not -0.0, which would be written to tables


def test_minmax_is_exact() -> None:
    values = SAMPLES["shifted"]
    assert choose_range(histogram_of(values), "minmax") == (values.min(), values.max())


def test_methods_and_percentiles_that_do_not_exist_are_refused() -> None:
    found = histogram_of([1])
    for percentile in (0, -1, 100.1, math.nan):
        with pytest.raises(UsageError, match="percentile"):
            choose_range(found, "percentile", percentile)
    with pytest.raises(UsageError, match="one of percentile, minmax, entropy"):
        choose_range(found, "mse")  # type: ignore[arg-type]


def divergences(magnitudes: NDArray[np.int64]) -> dict[int, float]:
    """The divergence of every threshold (in bins), with P and Q written out."""
    found = {}
    last = int(np.nonzero(magnitudes)[0][-1]) + 1
    for threshold in range(128, last + 1):
        p = magnitudes[:threshold].astype(float)
        outside = magnitudes[threshold:].sum()
        borders = [level * threshold // 128 for level in range(129)]
        sums = np.add.reduceat(p, borders[:-1])
        p[-1] += outside
        used = np.add.reduceat((p > 0).astype(float), borders[:-1])
        with np.errstate(invalid="ignore"):
            q = np.repeat(sums / used, np.diff(borders)) * (p > 0)
        keep = p > 0
        if (q[keep] == 0).any():
            found[threshold] = math.inf
            continue
        p, q = p[keep] / p.sum(), q[keep] / q[keep].sum()
        found[threshold] = float((p * np.log(p / q)).sum())
    return found


@pytest.mark.parametrize("shape", ["laplace", "silu", "negative", "never near zero"])
def test_entropy_finds_the_smallest_divergence(shape: str) -> None:
    values = SAMPLES[shape][:50_000]
    found = histogram_of(values)
    _, counts = counted(np.abs(values))
    expected = divergences(counts[BINS // 2 :])
    low, high = choose_range(found, "entropy")
    best = min(expected.values())
    threshold = max(-low, high) / found.width
    # A threshold that ends at the outermost value lies within its bin.
    assert expected[math.ceil(threshold - 1e-9)] == pytest.approx(best, rel=1e-6, abs=1e-12)
    assert -low in (0, min(-values.min(), max(-low, high)), max(-low, high))
    assert high <= max(values.max(), 0)


def test_entropy_is_near_that_of_onnxruntime() -> None:
    """The same paper read by others: they have coarser bins, 128 levels for both signs, keep zeros
    and smooth empty bins. Within a factor of two."""
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    values = SAMPLES["laplace"]
    edge = float(np.abs(values).max())
    counts, edges = np.histogram(values.astype(np.float64), 513, (-edge, edge))
    _, theirs, *_ = calibrate.HistogramCollector.get_entropy_threshold(
        SimpleNamespace(), (counts, edges, np.float64(-edge), np.float64(edge)), 128
    )
    _, high = choose_range(histogram_of(values), "entropy")
    assert 0.5 < high / float(theirs) < 2


# --- errors ----------------------------------------------------------------------------------


def quantised(values: Floats, low: float, high: float, *, symmetric: bool) -> NDArray[np.float64]:
    """Values through QuantizeLinear and DequantizeLinear, by their definition."""
    step = max(-low, high) / 127 if symmetric else (high - low) / 255
    zero = 0 if symmetric else round(-low / step)
    limits = np.iinfo(np.int8 if symmetric else np.uint8)
    codes = np.clip(np.rint(values.astype(np.float64) / step) + zero, limits.min, limits.max)
    return np.asarray((codes - zero) * step)


def brute_error(values: Floats, low: float, high: float, *, symmetric: bool) -> float:
    exact = values.astype(np.float64)
    difference = exact - quantised(values, low, high, symmetric=symmetric)
    return float(np.linalg.norm(difference) / np.linalg.norm(exact))


@shapes
@pytest.mark.parametrize("symmetric", [False, True])
def test_errors_are_those_of_the_samples(shape: str, symmetric: bool) -> None:
    values = SAMPLES[shape]
    found = histogram_of(values)
    ranges = [choose_range(found, method) for method in METHODS]
    ranges += [choose_range(found, "percentile", 95.0)]
    low, high = ranges[1]
    ranges += [(low * 3, high * 3), (low * 20, high * 20), (low * 0.3, high * 0.1)]
    ranges += [(min(low, -high), max(high, -low))]
    for low, high in ranges:
        estimate = relative_error(found, low, high, symmetric=symmetric)
        expected = brute_error(values, low, high, symmetric=symmetric)
        assert estimate == pytest.approx(expected, rel=0.01, abs=1e-6), (low, high)


def test_the_samples_oracle_is_that_of_onnx() -> None:
    """The formula above against the reference of ONNX, in float32."""
    from onnx import TensorProto, helper

    for symmetric in (False, True):
        low, high = -0.4, 2.2
        kind = TensorProto.INT8 if symmetric else TensorProto.UINT8
        step = max(-low, high) / 127 if symmetric else (high - low) / 255
        zero = 0 if symmetric else round(-low / step)
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ]
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
            [
                helper.make_tensor("s", TensorProto.FLOAT, [], [step]),
                helper.make_tensor("z", kind, [], [zero]),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
        values = SAMPLES["shifted"][:5000]
        outputs: Any = ReferenceEvaluator(model).run(None, {"x": values})
        found = np.asarray(outputs[0], np.float64)
        expected = quantised(values, low, high, symmetric=symmetric)
        assert (np.abs(found - expected) > 1e-4).mean() < 1e-3  # ties in float32
        assert np.abs(found - expected).max() < step * 1.01


@examples(200)
@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30),
    st.floats(-1e3, 0),
    st.floats(0, 1e3),
    st.booleans(),
)
def test_errors_of_a_few_values_are_bounded(
    items: list[float], low: float, high: float, symmetric: bool
) -> None:
    """A bin's values are not spread evenly then, but no value is further off than its bin."""
    values = np.array(items, np.float32)
    found = histogram_of(values)
    error = relative_error(found, low, high, symmetric=symmetric)
    assert math.isfinite(error)
    assert error >= 0
    norm = float(np.linalg.norm(values.astype(np.float64)))
    if norm < 1e-3 or max(-low, high) < 1e-3:
        return
    expected = brute_error(values, low, high, symmetric=symmetric) * norm
    step = max(-low, high) / 127 if symmetric else (high - low) / 255
    slack = (found.width + step) * math.sqrt(values.size)
    # The norm itself is known to a bin as well.
    assert abs(error * norm - expected) <= slack * (1 + error) + 1e-9


def test_zeros_cost_nothing() -> None:
    rng = np.random.default_rng(1)
    values = np.maximum(rng.standard_normal(100_000) - 2, 0).astype(np.float32)  # 98 % zeros
    found = histogram_of(values)
    high = float(values.max())
    error = relative_error(found, 0.0, high)
    assert error == pytest.approx(brute_error(values, 0.0, high, symmetric=False), rel=0.01)
    naive = high / 255 / math.sqrt(12) * math.sqrt(values.size) / float(np.linalg.norm(values))
    assert error < naive / 5  # what step**2 / 12 for every value would say


def test_errors_where_there_is_nothing_to_lose_or_to_keep() -> None:
    for nothing in (Histogram(), histogram_of(np.zeros(5))):
        assert relative_error(nothing, 0.0, 0.0) == 0.0
        assert relative_error(nothing, -1.0, 3.0, symmetric=True) == 0.0
    for symmetric in (False, True):
        assert relative_error(histogram_of([1, -2]), 0.0, 0.0, symmetric=symmetric) == 1.0
    constant = histogram_of(np.full(1000, 3.0))
    assert relative_error(constant, 0.0, 3.0) == pytest.approx(0.0, abs=1e-12)
    assert relative_error(constant, 0.0, 1.5) == pytest.approx(0.5)
    assert relative_error(constant, 0.0, 6.0) == pytest.approx(0.5 * 6 / 255 / 3)
    for low, high in itertools.product((0.1, -1), (-0.1, -2)):
        with pytest.raises(ValueError, match="hold zero"):
            relative_error(constant, low, high)
