"""A stream at a fixed rate while another process takes a part of the core, and gives it back.

    python benchmarks/pilot_demo.py

Three times the same stream: always super, a pilot, always base. The trained tiny network answers
frames of four generated pictures each, on one core. A frame comes every ``--pace`` times what super
takes when nothing else runs. In the middle third of each stream a second process that only counts
is tied to the same core, at a lower priority (``--nice``), so that it takes about a quarter of it.
A frame that is not answered when the next one comes is late, and one whose successor is there
before it was begun is dropped; neither counts for the average precision of the stream. The picture
has what each frame took, and its depth.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, machine, write
from numpy.typing import NDArray
from trained import checkpoint_of

from anydepth_deploy.annotations.scoring import coco_class, coco_rows, coco_stats
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.console import bar, print_line, print_table
from anydepth_deploy.control.rungs import Rung
from anydepth_deploy.detections import Detections
from anydepth_deploy.evaluation import CocoData
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.pictures.images import Geometry, prepare_batch
from anydepth_deploy.pictures.shapes import write_coco
from anydepth_deploy.pilot.pilot import Pilot

FAMILY = "anydepth-detr"
HELD_OUT_SEED = 1000
"""No training run uses it."""
PICTURES, BATCH = 160, 4
MEASURED = 25
"""Calls of each rung, before the streams."""

BUSY = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.nice(int(sys.argv[2]))
while True: pass
"""


@dataclass
class Frame:
    """``took``: milliseconds from its arrival to its answer; None where it was dropped."""

    depth: str | None = None
    took: float | None = None
    called: float | None = None
    late: bool = True
    crowded: bool = False
    found: Detections | None = None


@dataclass
class Stream:
    name: str
    frames: list[Frame] = field(default_factory=list)


@dataclass(frozen=True)
class Pictures:
    """Prepared pictures, ``BATCH`` a frame, and their annotations."""

    data: CocoData
    batches: list[NDArray[np.float32]]
    geometries: list[list[Geometry]]
    ids: list[list[int]]


def pictures_of(bundle: Bundle, folder: Path) -> Pictures:
    data = CocoData(write_coco(folder, PICTURES, HELD_OUT_SEED, "val"))
    batches, geometries, ids = [], [], []
    for first in range(0, PICTURES, BATCH):
        items = data.images[first : first + BATCH]
        loaded = [data.load(item) for item in items]
        images, ways = prepare_batch(loaded, bundle.manifest.preprocess)
        batches.append(images)
        geometries.append(list(ways))
        ids.append([int(item["id"]) for item in items])
    return Pictures(data, batches, geometries, ids)


def measure(session: Session, images: NDArray[np.float32]) -> list[Rung]:
    """What each rung of the ladder takes now; call by call in turn."""
    depths = [str(depth) for depth in session.table.ladder]
    took: dict[str, list[float]] = {depth: [] for depth in depths}
    for _ in range(MEASURED):
        for depth in depths:
            began = time.perf_counter()
            session.run(images, depth)
            took[depth].append(1000 * (time.perf_counter() - began))
    rungs = []
    for depth, values in took.items():
        middle, p95 = np.percentile(values[3:], [50, 95])
        rungs.append(Rung(depth, float(middle), float(p95)))
    return rungs


def run(
    name: str,
    call: Callable[[NDArray[np.float32]], tuple[str, Detections]],
    pictures: Pictures,
    period: float,
    count: int,
    core: int,
    nice: int,
) -> Stream:
    """One stream of ``count`` frames; ``period`` in seconds."""
    stream = Stream(name)
    other: subprocess.Popen[bytes] | None = None
    begin = time.perf_counter() + period
    try:
        with bar(name) as progress:
            for place in range(count):
                if place % 10 == 0:
                    progress("frames", place, count)
                crowded = count // 3 <= place < 2 * count // 3
                if crowded and other is None:
                    command = [sys.executable, "-c", BUSY, str(core), str(nice)]
                    other = subprocess.Popen(command)
                elif not crowded and other is not None:
                    other.kill()
                    other.wait()
                    other = None
                arrival = begin + place * period
                frame = Frame(crowded=crowded)
                stream.frames.append(frame)
                now = time.perf_counter()
                if now >= arrival + period:
                    continue  # the next one is there
                time.sleep(max(0.0, arrival - now))
                images = pictures.batches[place % len(pictures.batches)]
                began = time.perf_counter()
                frame.depth, frame.found = call(images)
                ended = time.perf_counter()
                frame.called = 1000 * (ended - began)
                frame.took = 1000 * (ended - arrival)
                frame.late = ended > arrival + period
    finally:
        if other is not None:
            other.kill()
            other.wait()
    return stream


def precision(stream: Stream, pictures: Pictures, bundle: Bundle) -> float:
    """Average precision in percent; late frames found nothing."""
    ids = np.asarray(pictures.data.mapping(bundle.classes).ids)
    by_picture: dict[int, list[dict[str, Any]]] = {}
    for item in pictures.data.content["annotations"]:
        by_picture.setdefault(int(item["image_id"]), []).append(item)
    by_id = {int(item["id"]): item for item in pictures.data.images}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    rows: list[NDArray[np.float64]] = []
    for place, frame in enumerate(stream.frames):
        turn = place % len(pictures.batches)
        for index, original in enumerate(pictures.ids[turn]):
            number = place * BATCH + index + 1
            images.append({**by_id[original], "id": number})
            for item in by_picture.get(original, []):
                annotations.append({**item, "id": len(annotations) + 1, "image_id": number})
            if frame.found is not None and not frame.late:
                one = frame.found.image(index)
                boxes = pictures.geometries[turn][index].to_picture(one.boxes[0])
                rows.append(coco_rows(number, one, boxes, ids))
    content = {**pictures.data.content, "images": images, "annotations": annotations}
    return 100 * float(coco_stats(content, rows, coco_class())[0])


def draw(
    path: Path, streams: list[Stream], rows: list[dict[str, Any]], rungs: list[Rung], period: float
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        2, len(streams), figsize=(5 * len(streams), 6), sharex=True, sharey="row", squeeze=False
    )
    levels = {rung.depth: level for level, rung in enumerate(rungs)}
    for column, (stream, row) in enumerate(zip(streams, rows, strict=True)):
        above, below = axes[0][column], axes[1][column]
        seconds = [place * period for place in range(len(stream.frames))]
        for late, colour in ((False, "tab:blue"), (True, "tab:red")):
            points = [
                (second, frame.took)
                for second, frame in zip(seconds, stream.frames, strict=True)
                if frame.took is not None and frame.late == late
            ]
            above.plot(*zip(*points, strict=True) if points else ([], []), ".", ms=4, color=colour)
        dropped = [s for s, f in zip(seconds, stream.frames, strict=True) if f.took is None]
        above.plot(dropped, [0.0] * len(dropped), "x", ms=4, color="tab:red")
        above.axhline(1000 * period, color="k", ls="--", lw=1)
        above.set_ylim(0, 3000 * period)
        for axis in (above, below):
            axis.axvspan(seconds[-1] / 3, 2 * seconds[-1] / 3, color="0.9", zorder=0)
        places = [
            (s, levels[f.depth]) for s, f in zip(seconds, stream.frames, strict=True) if f.depth
        ]
        below.plot(*zip(*places, strict=True), ".", ms=4)
        below.set_yticks(range(len(rungs)), [rung.depth for rung in rungs])
        below.set_xlabel("seconds; grey: another process has a part of the core")
        above.set_title(
            f"{stream.name}: {row['late']} of {row['frames']} frames late, AP {row['ap']:.1f}"
        )
    axes[0][0].set_ylabel("ms from arrival to answer")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=360, help="of each stream")
    parser.add_argument("--pace", type=float, default=1.2)
    parser.add_argument("--nice", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("engines/demo-anydepth-detr"))
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not hasattr(os, "sched_setaffinity"):
        parser.error("processes can be tied to a core on Linux only")
    found = machine("onnxruntime", "numpy")
    if (options.out / "manifest.json").is_file():
        bundle = open_bundle(options.out)
    else:
        with bar("export") as progress:
            bundle = export_bundle(checkpoint_of(FAMILY), options.out, progress=progress)
    with tempfile.TemporaryDirectory() as folder:
        pictures = pictures_of(bundle, Path(folder))
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    session = bundle.session(threads=1)
    rungs = measure(session, pictures.batches[0])
    period = options.pace * rungs[-1].milliseconds / 1000
    pilot = Pilot(
        session,
        rungs=rungs,
        target_ms=0.97 * 1000 * period,
        policy="deadline",
        batch=BATCH,
        warm=False,
    )

    def flown(images: NDArray[np.float32]) -> tuple[str, Detections]:
        with pilot.call() as depth:
            return depth, session.run(images, depth)

    top, base = str(session.table.space.super), str(session.table.space.base)
    ways: dict[str, Callable[[NDArray[np.float32]], tuple[str, Detections]]] = {
        "always super": lambda images: (top, session.run(images, top)),
        "pilot": flown,
        "always base": lambda images: (base, session.run(images, base)),
    }
    streams, rows = [], []
    for name, call in ways.items():
        stream = run(name, call, pictures, period, options.frames, core, options.nice)
        called = [frame.called for frame in stream.frames if frame.called is not None]
        streams.append(stream)
        rows.append(
            {
                "stream": name,
                "frames": len(stream.frames),
                "late": sum(frame.late for frame in stream.frames),
                "of these dropped": sum(frame.took is None for frame in stream.frames),
                "late while crowded": sum(f.late for f in stream.frames if f.crowded),
                "median call ms": round(statistics.median(called), 2),
                "ap": round(precision(stream, pictures, bundle), 2),
            }
        )
    if options.json:
        print(json.dumps({"period_ms": 1000 * period, "streams": rows}))
    else:
        title = f"a frame of {BATCH} pictures every {1000 * period:.1f} ms"
        print_table(title, list(rows[0]), [list(row.values()) for row in rows])
        print_line(f"the pilot's last decision: {pilot.explain()}")
    picture = RESULTS / "pilot-demo.png" if options.record else options.out / "pilot.png"
    draw(picture, streams, rows, rungs, period)
    if not options.json:
        print_line(f"drawn: {picture}")
    if options.record:
        costs = {rung.depth: round(rung.milliseconds, 2) for rung in rungs}
        content = {"period_ms": 1000 * period, "nice": options.nice, "rungs_ms": costs}
        print(write("pilot-demo", {"machine": found, **content, "streams": rows}))


if __name__ == "__main__":
    main()
