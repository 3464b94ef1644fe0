"""``demo``: the main job from end to end, with a picture and a table at its end."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anydepth_deploy import console
from anydepth_deploy.checkpoints.present import check_present
from anydepth_deploy.commands.evaluate import as_data
from anydepth_deploy.commands.options import FamilyOption, Json, family_names
from anydepth_deploy.depth import count_depths
from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import CheckFailedError, UsageError
from anydepth_deploy.families.registry import find_training
from anydepth_deploy.progress import Progress
from anydepth_deploy.trained import checkpoint_of

if TYPE_CHECKING:  # what makes them needs torch
    from anydepth_deploy.bench.results import DepthResult
    from anydepth_deploy.bundle.bundle import Bundle
    from anydepth_deploy.bundle.session import Session
    from anydepth_deploy.evaluation import Accuracy, CocoData

__all__ = ["DemoResult", "demo", "run_demo"]

HELD_OUT_SEED = 1000
"""No training run uses this seed for its pictures."""

THRESHOLD = 0.5
REPEATS = 30


@dataclass(frozen=True)
class DemoResult:
    """What the demo found: one row per rung of the ladder, and the picture."""

    bundle: str
    verified: bool
    picture: str
    rows: list[dict[str, Any]]


def demo(
    family: FamilyOption = "anydepth-detr",
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A tiny network trained on shapes; default: one of this package's."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the bundle and the picture; default: engines/demo-FAMILY."),
    ] = None,
    pictures: Annotated[int, typer.Option(min=10, help="Held-out pictures.")] = 200,
    json: Json = False,
) -> None:
    """Export, verify, evaluate and predict with the trained tiny checkpoint."""
    if checkpoint is None:
        find_training(family)  # refuses a family that no tiny checkpoint was trained of
    result = run_demo(
        checkpoint or checkpoint_of(family),
        out or Path("engines") / f"demo-{family}",
        pictures=pictures,
        quiet=json,
    )
    if json:
        console.print_json(asdict(result))


def run_demo(
    checkpoint: str | Path, out: str | Path, *, pictures: int = 200, quiet: bool = False
) -> DemoResult:
    """Export, verify, evaluate, time and predict with a tiny checkpoint trained on shapes.

    Raises :class:`UsageError` when the checkpoint is missing, :class:`CheckpointError` when it is
    none, and :class:`CheckFailedError` when the artifact does not equal it.
    """
    if Path(checkpoint).exists():
        check_present(checkpoint)
    else:
        known = (name for name in family_names() if Path(checkpoint).name.startswith(name))
        family = "".join(f" --family {name}" for name in [*known][:1])
        have = [name for name in family_names() if checkpoint_of(name).is_file()]
        raise UsageError(
            f"checkpoint {checkpoint} does not exist: trained tiny networks come with this package "
            f"for {', '.join(have)}; make one of your own with 'anydepth-deploy train --out "
            f"tiny.pth{family}', and name it with --checkpoint tiny.pth"
        )

    picture = Path(out) / "demo.png"
    try_to_write(picture, "picture", UsageError)

    from anydepth_deploy.evaluation import CocoData, evaluate
    from anydepth_deploy.exporting.export import export_bundle
    from anydepth_deploy.pictures.samples import verification_batches
    from anydepth_deploy.pictures.shapes import write_coco
    from anydepth_deploy.verifying.graphs import verify

    with console.bar("1/4 export", quiet=quiet) as progress:
        bundle = export_bundle(checkpoint, out, progress=progress)
    with console.bar("2/4 verify", quiet=quiet) as progress:
        batches = verification_batches(bundle.manifest.preprocess)
        report = verify(bundle, str(checkpoint), batches, layout="gated", progress=progress)
    if not report.passed:
        raise CheckFailedError(f"the gated graph in {out} does not equal {checkpoint}")
    side = bundle.size[0]
    with tempfile.TemporaryDirectory() as folder:
        data = CocoData(write_coco(folder, pictures, HELD_OUT_SEED, "val", size=side))
        with console.bar("3/4 evaluate", quiet=quiet) as progress:
            rows = evaluate(bundle, data, bundle.table.ladder, layout="gated", progress=progress)
        session = bundle.session(artifact="gated", threads=1)
        with console.bar("4/4 time and draw", quiet=quiet, still=True) as progress:
            latency = _latency(bundle, progress)
        _draw(bundle, session, data, picture)
    table = [_row(row, latency[row.depth]) for row in rows]
    if not quiet:
        _show(bundle, table, picture, pictures, len(report.rows))
    return DemoResult(str(out), report.passed, str(picture), table)


def _latency(bundle: Bundle, progress: Progress) -> dict[str, DepthResult]:
    """Each rung measured: batch 1, one thread, rungs interleaved, generated pictures."""
    from anydepth_deploy.bench.options import Options
    from anydepth_deploy.bench.run import run_bench
    from anydepth_deploy.bench.workloads.bundle import BundleWorkload
    from anydepth_deploy.bench.workloads.pictures import load_batches
    from anydepth_deploy.bundle.choose import Choice

    workload = BundleWorkload(
        bundle,
        Choice(layout="gated", threads=1),
        lambda recipe: load_batches(recipe, 1),
        "detections",
    )
    options = Options(duration=0, count=REPEATS, warmup=0)
    found = run_bench(workload, bundle.table.ladder, options, threads=1, progress=progress)
    return {row.depth: row for row in found.depths}


def _row(row: Accuracy, measured: DepthResult) -> dict[str, Any]:
    return {
        **as_data(row),
        "latency_ms": round(measured.latency.median_ms.value, 3),
        "speedup": None if measured.speedup is None else round(measured.speedup.value, 3),
    }


def _draw(bundle: Bundle, session: Session, data: CocoData, target: Path) -> None:
    """The busiest held-out picture, at base and at super, side by side."""
    from anydepth_deploy.detections import Detections
    from anydepth_deploy.pictures.draw import draw_detections, side_by_side
    from anydepth_deploy.pictures.images import prepare

    counts: dict[int, int] = {}
    for annotation in data.content["annotations"]:
        counts[annotation["image_id"]] = counts.get(annotation["image_id"], 0) + 1
    busiest = max(data.images, key=lambda item: counts.get(item["id"], 0))
    picture = data.load(busiest)
    prepared, geometry = prepare(picture, bundle.manifest.preprocess)
    drawings, titles = [], []
    table = bundle.table
    for name in ("base", "super") if table.levels > 1 else ("super",):
        found = session.run(prepared[None], name).image(0, THRESHOLD)
        boxes = geometry.to_picture(found.boxes)
        shown = Detections(found.labels, boxes, found.scores)
        drawings.append(draw_detections(picture, shown, bundle.classes, enlarge=4))
        macs = console.giga(bundle.macs(name)["total"])
        titles.append(f"{name} ({bundle.table.find(name)}): {macs} multiply-adds")
    side_by_side(drawings, titles).save(target)


def _show(
    bundle: Bundle, table: list[dict[str, Any]], picture: Path, pictures: int, verified: int
) -> None:
    console.print_line(
        f"one gated graph, {count_depths(len(bundle.table.rows))}: "
        f"{bundle.file(bundle.artifacts('gated')[0])}"
    )
    console.print_line(f"verified against the checkpoint at {count_depths(verified)}")
    console.print_table(
        f"{bundle.manifest.family} {bundle.manifest.config}: {pictures} held-out pictures, "
        "ONNX Runtime on this CPU, one thread, batch 1",
        ["depth", "multiply-adds", "latency ms", "speed-up", "AP", "AP50"],
        [
            [
                row["depth"],
                console.giga(row["macs"]),
                f"{row['latency_ms']:.2f}",
                f"{row['speedup']:.2f}x",
                f"{row['ap']:.1f}",
                f"{row['ap50']:.1f}",
            ]
            for row in table
        ],
    )
    console.print_line(f"picture: {picture}")
