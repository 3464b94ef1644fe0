"""Which pictures a batch has, by how many processes they are made, and what is left of these."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_sets import write_coco_set

import anydepth_deploy.train.data.batches as batches_module
from anydepth_deploy.errors import ImageError, UsageError
from anydepth_deploy.families.shared.augmentation import DETR, PLAIN, YOLO
from anydepth_deploy.pictures.images import Preprocess, prepare
from anydepth_deploy.train.data.batches import Batch, Batches
from anydepth_deploy.train.data.detection_set import DetectionSet
from anydepth_deploy.train.data.order import epoch_order
from anydepth_deploy.train.data.read import read_data_set

COUNT = 11


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> DetectionSet:
    return read_data_set(write_coco_set(tmp_path_factory.mktemp("set"), COUNT))


def loader(pictures: DetectionSet, **changes: Any) -> Batches:
    settings: dict[str, Any] = {
        "augmentation": DETR,
        "size": (64, 96),
        "resize": "stretch",
        "batch": 4,
        "seed": 7,
        **changes,
    }
    return Batches(pictures, settings.pop("augmentation"), **settings)


def first(found: Iterator[Batch], count: int) -> list[Batch]:
    return list(islice(found, count))


def objects(batch: Batch) -> list[tuple[list[int], list[list[float]]]]:
    """Labels and boxes of each picture, without what fills them up."""
    return [
        (labels[labels >= 0].tolist(), boxes[labels >= 0].tolist())
        for labels, boxes in zip(batch.targets.labels, batch.targets.boxes, strict=True)
    ]


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    """That batches, one after the other, are the same pictures."""
    assert [name for batch in found for name in batch.names] == [
        name for batch in expected for name in batch.names
    ]
    assert [item for batch in found for item in objects(batch)] == [
        item for batch in expected for item in objects(batch)
    ]
    pixels = [image for batch in found for image in batch.images]
    wanted = [image for batch in expected for image in batch.images]
    for one, other in zip(pixels, wanted, strict=True):
        assert torch.equal(one, other)


def test_a_batch_holds_prepared_pictures_in_the_order_of_the_epoch(pictures: DetectionSet) -> None:
    order = [*epoch_order(COUNT, 7, 0).tolist(), *epoch_order(COUNT, 7, 1).tolist()]
    for step, batch in enumerate(first(loader(pictures, augmentation=PLAIN).batches(), 5)):
        assert (batch.step, batch.part) == (step, 0)
        assert batch.images.dtype == torch.float32
        assert batch.images.shape == (4, 3, 64, 96)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.waited > 0
        for row, place in enumerate(range(4 * step, 4 * step + 4)):
            image, boxes, labels = pictures.annotated(order[place])
            expected, geometry = prepare(image, Preprocess.of("stretch", (64, 96)))
            np.testing.assert_array_equal(batch.images[row].numpy(), expected)
            assert batch.names[row] == Path(pictures.paths[order[place]]).name
            found_labels, found_boxes = objects(batch)[row]
            assert found_labels == labels.tolist()
            scale = np.tile(np.array(geometry.size)[::-1], 2)
            centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
            expected_boxes = np.concatenate([centres, sides], axis=1) / scale
            np.testing.assert_allclose(found_boxes, expected_boxes, atol=1e-6)


@pytest.mark.parametrize("augmentation", [DETR, YOLO], ids=["detr", "yolo"])
def test_several_processes_and_passes_see_what_one_sees(
    pictures: DetectionSet, augmentation: Any
) -> None:
    resize = "letterbox" if augmentation is YOLO else "stretch"
    shared = {"augmentation": augmentation, "resize": resize, "batch": 8}
    whole = first(loader(pictures, **shared).batches(), 4)
    halves = [first(loader(pictures, **shared, rank=r, world=2).batches(), 4) for r in range(2)]
    assert_same([halves[rank][step] for step in range(4) for rank in range(2)], whole)
    quarters = [
        first(loader(pictures, **shared, rank=r, world=2, accumulate=2).batches(), 8)
        for r in range(2)
    ]
    assert [(batch.step, batch.part) for batch in quarters[1][:4]] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    assert_same(
        [quarters[r][2 * step + part] for step in range(4) for r in range(2) for part in range(2)],
        whole,
    )


def test_a_run_goes_on_where_it_was_interrupted(pictures: DetectionSet) -> None:
    whole = first(loader(pictures, size=(160, 64)).batches(), 6)
    assert len({batch.images.shape for batch in whole}) > 1, "no step has another size"
    again = loader(pictures, size=(160, 64))
    first(again.batches(), 2)
    assert_same(first(again.batches(4), 2), whole[4:])
    other = first(loader(pictures, size=(160, 64), seed=8).batches(), 1)
    assert not torch.equal(other[0].images[0, 0, :32, :32], whole[0].images[0, 0, :32, :32])


def test_a_picture_is_augmented_anew_each_epoch(pictures: DetectionSet) -> None:
    steady = replace(DETR, sizes=(1.0, 1.0))
    found: dict[str, list[torch.Tensor]] = {}
    batches = loader(pictures, augmentation=steady, batch=COUNT).batches()
    for batch in first(batches, 2):
        for name, image in zip(batch.names, batch.images, strict=True):
            found.setdefault(name, []).append(image)
    assert all(len(images) == 2 for images in found.values())
    assert not any(torch.equal(*images) for images in found.values())


def test_the_last_steps_are_calm(pictures: DetectionSet) -> None:
    calm = DETR.calm()
    assert (calm.colour, calm.crop, calm.flip, calm.sizes) == (0.0, 0.0, 0.5, (1.0, 1.0))
    assert (YOLO.calm().mosaic, YOLO.calm().colour) == (0.0, 1.0)
    found = first(loader(pictures, calm_from=3).batches(), 6)
    assert_same(found[:3], first(loader(pictures).batches(), 3))
    assert_same(found[3:], first(loader(pictures, augmentation=calm).batches(3), 3))


def damaged(folder: Path, count: int, broken: int) -> DetectionSet:
    pictures = read_data_set(write_coco_set(folder, count))
    for path in pictures.paths[:broken]:
        Path(path).write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return pictures


def test_another_picture_takes_the_place_of_a_damaged_one(tmp_path: Path) -> None:
    pictures = damaged(tmp_path, 6, 1)
    batches = loader(pictures, batch=6, augmentation=PLAIN)
    found = first(batches.batches(), 2)
    assert list(batches.unreadable) == [0]
    assert str(pictures.paths[0]) in batches.unreadable[0]
    assert all("0.png" not in batch.names and len(batch.names) == 6 for batch in found)
    assert_same(first(loader(pictures, batch=6, augmentation=PLAIN).batches(), 2), found)


@pytest.mark.parametrize(("count", "broken"), [(6, 2), (1, 1), (2, 2)])
def test_too_many_damaged_pictures_are_refused(tmp_path: Path, count: int, broken: int) -> None:
    batches = loader(damaged(tmp_path, count, broken), batch=6)
    with pytest.raises(ImageError, match=f"{broken} of {count} pictures cannot be used.*1 %.*png"):
        first(batches.batches(), 3)


def test_a_picture_of_another_size_than_its_annotations_say_cannot_be_used(tmp_path: Path) -> None:
    path = write_coco_set(tmp_path, 3)
    pictures = read_data_set(path)
    changed = replace(pictures, sizes=pictures.sizes + 1)
    with pytest.raises(ImageError, match="boxes would not be where the objects are"):
        first(loader(changed, batch=3).batches(), 1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"batch": 6, "world": 4}, "a batch of 6 pictures is not shared equally by 4 processes"),
        ({"batch": 6, "accumulate": 4}, "give a multiple of 4"),
        ({"rank": 1}, "a rank below world"),
        ({"workers": -1}, "no fewer than 0 workers"),
        ({"batch": 0}, "expected at least 1 of each"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(
    pictures: DetectionSet, changes: dict[str, int], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        loader(pictures, **changes)


def test_processes_make_the_same_batches_and_end_with_an_exception(tmp_path: Path) -> None:
    """In an interpreter of its own, as a run is: in the process of thousands of tests, starting
    others has ended it without a word."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    code = (
        "import sys; from pathlib import Path; from test_batches import check_processes\n"
        "check_processes(Path(sys.argv[1])); print('checked')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "checked\n"), done.stderr[-3000:]


def check_processes(tmp_path: Path) -> None:
    pictures = damaged(tmp_path, COUNT, 1)
    before = {child.pid for child in multiprocessing.active_children()}
    expected = loader(pictures)
    wanted = first(expected.batches(2), 3)
    workers: list[multiprocessing.process.BaseProcess] = []
    with pytest.raises(ZeroDivisionError), loader(pictures, workers=1) as batches:  # noqa: PT012
        found = first(batches.batches(2), 3)
        workers = [c for c in multiprocessing.active_children() if c.pid not in before]
        raise ZeroDivisionError
    assert_same(found, wanted)
    assert len(workers) == 1
    assert not any(worker.is_alive() for worker in workers)
    assert expected.unreadable.items() <= batches.unreadable.items() | expected.unreadable.items()
    assert list(batches.unreadable) == [0]


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError()])
def test_a_connection_that_breaks_is_a_process_that_ended(
    pictures: DetectionSet, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """One that is killed while it hands a batch over."""

    def broken(_: object) -> object:
        raise error

    monkeypatch.setattr(batches_module, "DataLoader", lambda *_, **__: map(broken, [None]))
    with (
        pytest.raises(UsageError, match="a process that loads pictures ended"),
        loader(pictures) as batches,
    ):
        next(batches.batches())


SCRIPT = """
import itertools, multiprocessing, signal, sys, time
from anydepth_deploy.families.shared.augmentation import DETR
from anydepth_deploy.train.data.batches import Batches
from anydepth_deploy.train.data.read import read_data_set

if __name__ == "__main__":
    # Whoever starts the tests in the background may have them ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pictures = read_data_set(sys.argv[1])
    with Batches(
        pictures, DETR, size=(64, 64), resize="stretch", batch=4, seed=0, workers=2
    ) as loader:
        for number, batch in enumerate(loader.batches()):
            if number == 2:
                print(*[child.pid for child in multiprocessing.active_children()], flush=True)
            time.sleep(0.05)
"""


def started(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A run in a group of processes of its own, and the ids of those that load."""
    script = folder / "run.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script), str(write_coco_set(folder / "set", COUNT))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, [int(word) for word in process.stdout.readline().split()]


def is_there(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    process, workers = started(tmp_path)
    with ended(process):
        assert len(workers) == 2
        assert all(map(is_there, workers))
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert errors.count("KeyboardInterrupt") == 1, errors
    until = time.monotonic() + 20
    while any(map(is_there, workers)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(is_there, workers))


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_killed_process_ends_the_run_in_one_line(tmp_path: Path) -> None:
    process, workers = started(tmp_path)
    with ended(process):
        os.kill(workers[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    last = errors.strip().splitlines()[-1]
    assert "UsageError: a process that loads pictures ended" in last, errors
    assert "--workers" in last
    assert not any(map(is_there, workers))


SIGNALLED = """
import os, signal, sys, threading
from anydepth_deploy.families.shared.augmentation import PLAIN
from anydepth_deploy.train.data.batches import Batches
from anydepth_deploy.train.data.read import read_data_set

def send():
    for number in (signal.SIGINT, signal.SIGTERM):
        os.killpg(0, number)

if __name__ == "__main__":
    seen = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: seen.append(number))
    with Batches(
        read_data_set(sys.argv[1]), PLAIN, size=(64, 64), resize="stretch", batch=4, seed=0,
        workers=2,
    ) as loader:
        found = loader.batches()
        threading.Timer(0.2, send).start()  # while they start
        next(found)
        send()
        for _ in range(9):
            next(found)
    print(sorted(map(int, seen)))
"""


def test_signals_to_all_processes_are_the_main_ones(tmp_path: Path) -> None:
    """Ctrl-C reaches a terminal's group, torchrun ends its own: those that load go on, or a run
    could not save what it did."""
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SIGNALLED), encoding="utf-8")
    path = write_coco_set(tmp_path / "set", COUNT)
    done = subprocess.run(
        [sys.executable, str(script), str(path)],
        capture_output=True, text=True, start_new_session=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == str(sorted([int(signal.SIGINT), int(signal.SIGTERM)] * 2))


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    with process:
        try:
            yield
        finally:
            process.kill()
