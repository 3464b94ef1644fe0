"""The search for threads, streams and batch, on machines whose answers are known."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from command_line import Run, fails
from PIL import Image

from anydepth_deploy.bench.plots.sweep import sweep_figure
from anydepth_deploy.bench.sweep import Rate, Setting, candidates, sweep
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import InputError, UsageError

DEPTHS = ("base", "super")
USUAL = Setting(None, 1, 1)


# --- what is tried ---------------------------------------------------------------------------


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 6, 8, 12])
def test_settings_fill_the_cores_in_every_way(cores: int) -> None:
    found = candidates(cores, 4)
    assert found[0] == USUAL
    assert len(set(found)) == len(found)
    assert {item.batch for item in found} == {1, 2, 4}
    pairs = {(item.threads, item.streams) for item in found if item.threads is not None}
    assert {(1, 1), (1, cores), (cores, 1)} <= pairs
    assert all(threads <= cores and threads * streams <= 2 * cores for threads, streams in pairs)
    assert {batch for _, batch in itertools.product(pairs, (1, 2, 4))} == {1, 2, 4}
    assert len(found) <= 1 + 3 * 3 * (cores.bit_length() + 1)
    assert all(item.streams * item.batch <= max(2 * cores, 4) for item in found)


def test_a_gpu_has_no_threads_to_choose() -> None:
    found = candidates(64, 16, host=False)
    assert {item.threads for item in found} == {None}
    assert {item.batch for item in found} == {1, 2, 4, 8, 16}
    assert {item.streams for item in found} == {1, 2, 4}


@pytest.mark.parametrize(("least", "most"), [(2, 8), (3, 8), (4, 1)])
def test_an_engine_that_takes_no_single_picture(least: int, most: int) -> None:
    """Nothing below its profile is tried, and its smallest batch is the usual one."""
    found = candidates(2, most, least_batch=least)
    assert found[0] == Setting(None, 1, least)
    sizes = {item.batch for item in found}
    assert min(sizes) == least
    assert max(sizes) <= max(least, most)
    assert {item.threads for item in found if item.batch == least} >= {None, 1}

    def rate(setting: Setting, depth: str) -> tuple[float, float]:
        if setting.batch < least:
            raise InputError("fewer than the profile takes")
        return plain(setting, depth)

    done = sweep(Machine(rate), found, seconds=1.0)
    assert done.usual.setting == found[0]
    assert not [item for item in done.tried if item.problem]


# --- what is chosen --------------------------------------------------------------------------


class Machine:
    """Answers as `rate(setting, depth)` says, a little different each time; knows how often it was
    asked."""

    def __init__(
        self, rate: Callable[[Setting, str], tuple[float, float]], noise: float = 0.0
    ) -> None:
        self.rate, self.noise = rate, noise
        self.asked: list[tuple[Setting, float]] = []
        self._shake = itertools.cycle((1.0, -1.0, 0.5, -0.5, 0.0))

    def __call__(self, setting: Setting, seconds: float) -> Mapping[str, Rate]:
        self.asked.append((setting, seconds))
        found = {}
        for depth in DEPTHS:
            images, tail = self.rate(setting, depth)
            found[depth] = Rate(images * (1 + self.noise * next(self._shake)), tail * 0.9, tail)
        return found


def plain(setting: Setting, depth: str) -> tuple[float, float]:
    """Two cores that a second stream fills; larger batches help, ever less."""
    busy = min(2.0, setting.streams * (setting.threads or 1.5)) / 2
    images = 100 * busy * (1 + 0.2 * (1 - 1 / setting.batch)) * (2 if depth == "base" else 1)
    return images, 1e3 * setting.batch * setting.streams / images


def brute_force(machine: Machine, settings: list[Setting]) -> Setting:
    """The best of all by the geometric mean over both depths, and of equals the quickest."""

    def product(item: Setting) -> float:
        return machine.rate(item, "base")[0] * machine.rate(item, "super")[0]

    most = max(map(product, settings))
    equals = [item for item in settings if product(item) >= 0.98**2 * most]
    return min(equals, key=lambda item: max(machine.rate(item, depth)[1] for depth in DEPTHS))


@pytest.mark.parametrize("noise", [0.0, 0.004])
def test_the_best_setting_is_found(noise: float) -> None:
    machine, settings = Machine(plain, noise), candidates(2, 8)
    steps: list[tuple[str, int, int]] = []
    found = sweep(machine, settings, seconds=4.0, progress=lambda *step: steps.append(step))
    assert found.best.setting == brute_force(machine, settings)
    usual, best = (
        [machine.rate(item, depth)[0] for depth in DEPTHS] for item in (USUAL, found.best.setting)
    )
    gain = (best[0] / usual[0] * best[1] / usual[1]) ** 0.5
    assert found.gain == pytest.approx(gain, rel=3 * noise + 1e-9)
    assert [step[1] for step in steps] == sorted(step[1] for step in steps)
    assert {step[2] for step in steps} == {steps[-1][1]}


def test_all_are_tried_for_a_moment_and_the_best_in_turns_with_the_usual_one() -> None:
    machine, settings = Machine(plain), candidates(2, 4)
    found = sweep(machine, settings, seconds=4.0)
    assert machine.asked[: len(settings)] == [(setting, 1.0) for setting in settings]
    rest = machine.asked[len(settings) :]
    assert {seconds for _, seconds in rest} == {4.0}
    final = {item.setting for item in found.tried if item.finalist}
    assert USUAL in final
    assert len(final) in (4, 5)
    size = len(final)
    assert len(rest) == 3 * size
    for number in range(3):
        assert {setting for setting, _ in rest[number * size : (number + 1) * size]} == final


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    """Every measurement finds it slower than the one before."""
    calls = itertools.count()

    def tiring(setting: Setting, depth: str) -> tuple[float, float]:
        images, tail = plain(setting, depth)
        slower = 0.995 ** next(calls)
        return images * slower, tail / slower

    found = sweep(Machine(tiring), candidates(2, 2), seconds=1.0)
    steady = sweep(Machine(plain), candidates(2, 2), seconds=1.0)
    assert found.best.setting == steady.best.setting
    assert found.gain == pytest.approx(steady.gain, rel=0.05)


def test_latency_bounds_what_may_be_chosen() -> None:
    machine, settings = Machine(plain), candidates(2, 8)
    free = sweep(machine, settings, seconds=1.0).best
    bound = 0.6 * free.slowest_ms
    held = sweep(machine, settings, seconds=1.0, within_ms=bound).best
    quick = [
        item for item in settings if max(machine.rate(item, depth)[1] for depth in DEPTHS) <= bound
    ]
    assert held.setting == brute_force(machine, quick)
    assert held.slowest_ms <= bound
    with pytest.raises(UsageError, match=r"within 0\.1 ms at every depth: the quickest \("):
        sweep(machine, settings, seconds=1.0, within_ms=0.1)


def test_a_setting_that_is_too_slow_in_the_end_is_not_recommended() -> None:
    """Quick enough for a moment: the long rounds find all larger batches over the limit."""
    machine = Machine(plain)

    def measure(setting: Setting, seconds: float) -> Mapping[str, Rate]:
        found = machine(setting, seconds)
        if seconds > 0.5 and setting.batch > 1:
            found = {
                depth: Rate(rate.images_per_second, rate.median_ms, 1e4)
                for depth, rate in found.items()
            }
        return found

    found = sweep(measure, candidates(2, 8), seconds=1.0, within_ms=1000.0)
    assert found.best.setting.batch == 1
    assert found.best.slowest_ms <= 1000
    assert sum(item.finalist for item in found.tried) > 5

    def slow(setting: Setting, seconds: float) -> Mapping[str, Rate]:
        return {depth: Rate(1.0, 1.0, 1.0 if seconds < 0.5 else 1e4) for depth in DEPTHS}

    with pytest.raises(UsageError, match="no setting answers within 1000 ms"):
        sweep(slow, candidates(2, 2), seconds=1.0, within_ms=1000.0)


def test_the_usual_setting_may_be_the_best() -> None:
    machine = Machine(lambda setting, _: (100.0 if setting == USUAL else 60.0, 10.0))
    found = sweep(machine, candidates(4, 4), seconds=1.0)
    assert found.best is found.usual
    assert found.gain == 1.0


def test_what_cannot_run_is_left_out_and_says_why() -> None:
    def narrow(setting: Setting, depth: str) -> tuple[float, float]:
        if setting.batch > 2:
            raise InputError("batch 4 is beyond the profile")
        return plain(setting, depth)

    found = sweep(Machine(narrow), candidates(2, 4), seconds=1.0)
    assert found.best.setting.batch <= 2
    assert {item.problem for item in found.tried if item.setting.batch == 4} == {
        "batch 4 is beyond the profile"
    }

    def broken(setting: Setting, depth: str) -> tuple[float, float]:
        raise InputError("nothing runs")

    with pytest.raises(InputError, match="nothing runs"):
        sweep(Machine(broken), candidates(2, 4), seconds=1.0)


# --- the command -----------------------------------------------------------------------------


def test_a_picture_of_all_settings() -> None:
    found = sweep(Machine(plain), candidates(2, 4), seconds=1.0)
    figure = sweep_figure(found, "tiny")
    panels = figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == list(DEPTHS)
    for axes in panels:
        offsets: list[Any] = [part.get_offsets() for part in axes.collections]
        drawn = sum(len(places) for places in offsets)
        assert drawn == len(found.tried)
        assert [text.get_text() for text in axes.texts] == ["usual", "deploy"]


def test_the_command(run: Run, bundle: Bundle, tmp_path: Path) -> None:
    words = ("sweep", bundle.path, "--depth", "base,super", "--duration", 0, "--most-batch", 1)
    done = run(*words, "--cores", 1, "--plot", tmp_path / "sweep.png")
    assert done.code == 0, done.err
    assert "deploy with" in done.out
    assert "bundle.session(" in done.out
    assert done.out.count("long") == len([line for line in done.out.splitlines() if "long" in line])
    with Image.open(tmp_path / "sweep.png") as picture:
        assert picture.width > 1000
    found = run(*words, "--cores", 2, "--json").json
    base, top = str(bundle.table.space.base), str(bundle.table.space.super)
    assert {tuple(row["depths"]) for row in found["tried"]} == {(base, top)}
    assert found["best"] in found["tried"]
    assert found["best"]["long_rounds"] == 3
    assert {row["batch"] for row in found["tried"]} == {1}
    assert all(row["of_usual"] > 0 for row in found["tried"])
    json.dumps(found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--precision", "fp32,fp16"), "--precision names 2 values: a sweep is of one"),
        (("--runtime", "magic"), "unknown runtime 'magic'"),
        (("--plot", "x.gif"), "cannot be drawn as 'x.gif'"),
        (("--depth", "deep"), "unknown depth 'deep'"),
        (("--most-batch", "0"), "--most-batch"),
        (("--images", "nowhere"), "nowhere"),
    ],
)
def test_bad_use(run: Run, bundle: Bundle, words: tuple[str, str], message: str) -> None:
    fails(run("sweep", bundle.path, *words), 2, message)
