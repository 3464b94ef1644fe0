"""Pre-processing of a picture, and writing of a drawing, over what they were before.

    python benchmarks/preprocessing.py [--pairs 25] [--record]

Before: YOLOs' resizing in 32 bits, the whole picture at once, and DETRs' by Pillow, as it still is;
a canvas for the letterbox; one array for each step of normalising; Pillow's PNG. The old and the
new way, with OpenCV and without, take turns in one process, in an order drawn anew for each round,
and have to give the same bits. All of them work in the thread that calls, whose time on
the processor is taken, which other processes lengthen less than what a clock shows.
"""

from __future__ import annotations

import argparse
import io
import random
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from machine import machine, write
from numpy.typing import NDArray
from PIL import Image

from anydepth_deploy.bench.statistics import ratio_of_medians
from anydepth_deploy.console import bar, print_table
from anydepth_deploy.pictures import opencv
from anydepth_deploy.pictures.images import Preprocess, prepare
from anydepth_deploy.pictures.png import save_png
from anydepth_deploy.pictures.resize import resize_averaging, resize_bilinear

Image8 = NDArray[np.uint8]

SIZES = {
    "720p": (720, 1280),
    "1080p": (1080, 1920),
    "4K": (2160, 3840),
    "900p": (900, 1600),
    "1024x768": (768, 1024),
    "640x427": (427, 640),
}
"""Height and width. The first three shrink to a whole part of their sides, two do not, and one does
not shrink in a letterbox of 640."""
INPUTS = {"640x640": (640, 640), "960x960": (960, 960)}
FAMILIES = {"YOLO (letterbox, sampled)": "letterbox", "DETR (stretch, averaged)": "stretch"}


def places(old: int, new: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    at = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    first = np.floor(at).astype(np.intp)
    return first, np.rint((at - first) * 2048).astype(np.int32)


def sampled_before(image: Image8, size: tuple[int, int]) -> Image8:
    """In 32 bits, along all rows that are looked at, and then along all columns."""
    rows, row_weights = places(image.shape[0], size[0])
    columns, column_weights = places(image.shape[1], size[1])
    below = np.minimum(rows + 1, image.shape[0] - 1)
    if 2 * size[0] < image.shape[0]:
        looked_at, place = np.unique(np.stack([rows, below]), return_inverse=True)
        rows, below = place.reshape(2, -1)
        image = image[looked_at]
    weights = column_weights[:, None]
    wide = image[:, columns].astype(np.int32) * (2048 - weights)
    wide += image[:, np.minimum(columns + 1, image.shape[1] - 1)] * weights
    weights = row_weights[:, None, None]
    tall = wide[rows] * (2048 - weights)
    tall += wide[below] * weights
    return ((tall + (1 << 21)) >> 22).astype(np.uint8)


def prepared_before(image: Image8, recipe: Preprocess) -> NDArray[np.float32]:
    """Every step of the whole picture after the other."""
    top, left, rows, columns = recipe.placed(*image.shape[:2])
    resized = image
    if (rows, columns) != image.shape[:2]:
        resized = (resize_averaging if recipe.antialias else sampled_before)(image, (rows, columns))
    if (rows, columns) != recipe.size:
        canvas = np.full((*recipe.size, 3), recipe.padding, np.uint8)
        canvas[top : top + rows, left : left + columns] = resized
        resized = canvas
    array = resized.astype(np.float32) * np.float32(recipe.scale)
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def without(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call where OpenCV is not installed."""

    def run() -> Any:
        usual = opencv._module
        setattr(opencv, "_module", none)  # noqa: B010 - mock.patch would take as long as a resize
        try:
            return call()
        finally:
            setattr(opencv, "_module", usual)  # noqa: B010

    return run


def none() -> None:
    """In the place of OpenCV."""


def paired(calls: dict[str, Callable[[], Any]], pairs: int) -> dict[str, Any]:
    """Medians in milliseconds, and how many times as long ``before`` takes as the others."""
    draw = random.Random(0)
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(pairs):
        for name in draw.sample(list(calls), len(calls)):
            began = time.thread_time_ns()
            calls[name]()
            found[name].append((time.thread_time_ns() - began) / 1e6)
    medians = {name: round(float(np.median(times)), 3) for name, times in found.items()}
    before = np.array(found["before"])
    ratios = {
        name: {
            key: value and round(value, 3)
            for key, value in ratio_of_medians(before, np.array(times), paired=True)
            .model_dump()
            .items()
        }
        for name, times in found.items()
        if name != "before"
    }
    return {"ms": medians, "before_over": ratios, "pairs": pairs}


def scene(size: tuple[int, int]) -> Image8:
    """Noise whose strength falls with its frequency, as in photographs, and grain."""
    draw = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None]
    strength = 1 / np.maximum(rows**2 + columns**2, 1 / size[1] ** 2) ** 0.55
    common = draw.normal(size=size)
    channels = []
    for _ in range(3):
        waves = np.fft.rfft2(common + 0.3 * draw.normal(size=size)) * strength
        found = np.fft.irfft2(waves, size)
        channels.append(120 + 45 * found / found.std() + 2 * draw.normal(size=size))
    return np.asarray(np.clip(np.stack(channels, axis=-1), 0, 255), np.uint8)


def measure_resizing(image: Image8, size: tuple[int, int], pairs: int) -> dict[str, Any]:
    """Sampling alone, and OpenCV's own function beside it, with the share of values it has off."""
    expected = sampled_before(image, size)

    def now() -> Image8:
        return resize_bilinear(image, size)

    def own() -> Image8:
        return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR))

    assert np.array_equal(now(), expected)
    assert np.array_equal(without(now)(), expected)
    calls = {
        "before": lambda: sampled_before(image, size),
        "now": now,
        "now, no OpenCV": without(now),
        "cv2.resize itself": own,
    }
    return {
        **paired(calls, pairs),
        "by_opencv": opencv.resizes(image, size),
        "off_in_cv2": round(float((own() != expected).mean()), 4),
    }


def measure_input(image: Image8, recipe: Preprocess, pairs: int) -> dict[str, Any]:
    """From a decoded picture to an input."""

    def now() -> NDArray[np.float32]:
        return prepare(image, recipe)[0]

    expected = prepared_before(image, recipe).tobytes()
    assert now().tobytes() == expected
    assert without(now)().tobytes() == expected
    calls = {
        "before": lambda: prepared_before(image, recipe),
        "now": now,
        "now, no OpenCV": without(now),
    }
    return paired(calls, pairs)


def measure_drawing(image: Image8, pairs: int) -> dict[str, Any]:
    """Milliseconds and bytes of a file in memory."""
    picture = Image.fromarray(image)

    def saved(**options: Any) -> Callable[[], int]:
        def save() -> int:
            file = io.BytesIO()
            if options:
                picture.save(file, **options)
            else:
                save_png(picture, file)
            return len(file.getvalue())

        return save

    calls = {
        "before": saved(format="PNG"),
        "Pillow, level 1": saved(format="PNG", compress_level=1),
        "Pillow, runs only": saved(format="PNG", compress_type=3),
        "now": saved(),
        "JPEG, quality 90": saved(format="JPEG", quality=90),
    }
    return {**paired(calls, pairs), "bytes": {name: call() for name, call in calls.items()}}


ALONE = ("before", "now", "now, no OpenCV")


def measure_alone(kind: str, calls: int = 40) -> float:
    """Median milliseconds of the second half of ``calls`` from 1080p to 640 in this process, of a
    new picture each, as in a video: where nothing else runs, memory that is given back is got anew,
    and the way before needs much of it."""
    draw = np.random.default_rng(0)
    call = sampled_before if kind == "before" else resize_bilinear
    if kind.endswith("no OpenCV"):
        setattr(opencv, "_module", none)  # noqa: B010
    times = []
    for _ in range(calls):
        image = draw.integers(0, 256, (*SIZES["1080p"], 3), np.uint8)
        began = time.thread_time_ns()
        call(image, (360, 640))
        times.append((time.thread_time_ns() - began) / 1e6)
    return float(np.median(times[calls // 2 :]))


def processes(rounds: int = 5) -> dict[str, list[float]]:
    """:func:`measure_alone` of each kind in turn, each in a process of its own."""
    found: dict[str, list[float]] = {kind: [] for kind in ALONE}
    for _ in range(rounds):
        for kind in ALONE:
            command = [sys.executable, __file__, "--alone", kind]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            found[kind].append(round(float(run.stdout), 3))
    return found


def ratio_words(row: dict[str, Any], name: str) -> str:
    found = row["before_over"][name]
    if found["low"] is None:  # too few pairs
        return f"{found['value']:.1f}"
    return f"{found['value']:.1f} ({found['low']:.1f} to {found['high']:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--alone", choices=ALONE, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.alone:
        print(measure_alone(options.alone))
        return
    about = machine("numpy", "pillow", "opencv-python-headless", "anydepth-deploy")
    content: dict[str, Any] = {"machine": about, "resize": {}, "prepare": {}, "drawing": {}}
    jobs = [(name, target) for target in INPUTS for name in SIZES]
    with bar("preprocessing") as progress:
        for done, (name, target) in enumerate(jobs):
            progress(f"{name} to {target}", done, len(jobs))
            image, key = scene(SIZES[name]), f"{name} to {target}"
            _, _, rows, columns = Preprocess.of("letterbox", INPUTS[target]).placed(*SIZES[name])
            if (rows, columns) != SIZES[name]:
                found = measure_resizing(image, (rows, columns), options.pairs)
                content["resize"][key] = {"size": [rows, columns], **found}
            if target == "640x640":
                for family, usual in FAMILIES.items():
                    recipe = Preprocess.of(usual, INPUTS[target])  # type: ignore[arg-type]
                    row = measure_input(image, recipe, options.pairs)
                    content["prepare"][f"{family}, {key}"] = row
        content["drawing"]["1080p"] = measure_drawing(scene(SIZES["1080p"]), options.pairs // 3)
        content["alone"] = processes()
        progress("done", len(jobs), len(jobs))
    for title in ("resize", "prepare"):
        print_table(
            title,
            ["", "before", "now", "no OpenCV", "before over now", "no OpenCV"],
            [
                [
                    key,
                    *(f"{row['ms'][name]:.2f} ms" for name in ("before", "now", "now, no OpenCV")),
                    ratio_words(row, "now"),
                    ratio_words(row, "now, no OpenCV"),
                ]
                for key, row in content[title].items()
            ],
        )
    print_table(
        "1080p to 640 x 360, a process each, a new picture each time",
        ["", "medians"],
        [
            [kind, ", ".join(f"{ms:.2f}" for ms in times)]
            for kind, times in content["alone"].items()
        ],
    )
    drawing = content["drawing"]["1080p"]
    print_table(
        "a drawing of 1080p",
        ["", "time", "size"],
        [
            [name, f"{drawing['ms'][name]:.0f} ms", f"{drawing['bytes'][name] / 1e6:.2f} MB"]
            for name in drawing["ms"]
        ],
    )
    if options.record:
        print(write("preprocessing", content))


if __name__ == "__main__":
    main()
