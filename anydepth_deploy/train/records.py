"""What a run leaves beside its weights: figures, curves, pictures with boxes, settings."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from anydepth_deploy.detections import Detections
from anydepth_deploy.documents import write_or_refuse
from anydepth_deploy.errors import CheckpointError, missing_extra
from anydepth_deploy.pictures.draw import draw_detections, enlargement, side_by_side
from anydepth_deploy.train.config import Progress, TrainConfig
from anydepth_deploy.train.validation import Example

__all__ = ["Records"]

FIRST = ("epoch", "step", "seconds", "learning_rate", "waited", "super_loss", "base_loss")
AP = "AP "
"""Before the text of a depth, in the names of columns."""

THRESHOLD = 0.3
"""Of what is drawn on examples."""

EVENTS_EVERY = 20
"""Steps between two points of TensorBoard's curves of losses."""


class Records:
    """The folder of a run. Used by the main process alone.

    ``metrics.csv``: a row an epoch; ``curves.png``: the same, drawn; ``examples/``: validation
    pictures, what super finds beside what base finds; ``settings.json``; ``tensorboard/``: all of
    it for TensorBoard. ``step``: what a run goes on from; what was written of later steps is left
    out. ``unwritten``: what :attr:`unwritten` was then.
    """

    def __init__(
        self,
        config: TrainConfig,
        class_names: Sequence[str],
        step: int,
        unwritten: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        self._folder = Path(config.output)
        self._classes = list(class_names)
        self._rows = [row for row in _read(self._folder / "metrics.csv") if _step(row) <= step]
        self._sums = np.array(unwritten, np.float64)
        settings = json.dumps({**asdict(config), "classes": self._classes}, indent=2) + "\n"
        self._write("settings.json", settings.encode())
        self._events = _events(self._folder / "tensorboard", step)

    @property
    def unwritten(self) -> tuple[float, float, float]:
        """Steps since the last row, and the sums of super's and base's losses in them."""
        steps, super_sum, base_sum = map(float, self._sums)
        return steps, super_sum, base_sum

    def add(self, report: Progress) -> None:
        """What a step reports."""
        self._sums += (1, report.super_loss, report.base_loss)
        if report.step % EVENTS_EVERY:
            return
        self._events.add_scalar("learning rate", report.learning_rate, report.step)
        self._events.add_scalar("pictures per second", report.pictures_per_second, report.step)
        passes = (("super", report.super_terms), ("base", report.base_terms))
        for name, terms in passes:
            if terms:
                self._events.add_scalar(f"loss/{name}", sum(terms.values()), report.step)
            for term, value in terms.items():
                self._events.add_scalar(f"{name}/{term}", value, report.step)

    def epoch(
        self,
        number: int,
        report: Progress,
        accuracy: Mapping[str, float],
        examples: Sequence[Example],
    ) -> None:
        """The end of an epoch: mean losses since the last one, ``accuracy`` by depth where it was
        measured, and pictures. Raises :class:`CheckpointError` where they cannot be written."""
        means = self._sums[1:] / (self._sums[0] or np.nan)
        self._sums[:] = 0
        row: dict[str, Any] = {
            "epoch": number,
            "step": report.step,
            "seconds": round(report.seconds, 1),
            "learning_rate": f"{report.learning_rate:.4g}",
            "waited": round(report.waited, 4),
            "super_loss": round(float(means[0]), 5),
            "base_loss": round(float(means[1]), 5),
        }
        row |= {f"{AP}{depth}": value for depth, value in accuracy.items()}
        self._rows.append({name: str(value) for name, value in row.items()})
        self._write("metrics.csv", _csv(self._rows))
        self._write("curves.png", _curves(self._rows))
        for depth, value in accuracy.items():
            self._events.add_scalar(f"AP/{depth}", value, report.step)
        for place, example in enumerate(examples):
            drawn = side_by_side(
                [_drawn(example.picture, found, self._classes) for found in example.found.values()],
                list(example.found),
            )
            file = io.BytesIO()
            drawn.save(file, "jpeg", quality=90)
            self._write(f"examples/{place}-epoch-{number:04d}.jpg", file.getvalue())
            self._events.add_image(
                f"example {place}", np.asarray(drawn), report.step, dataformats="HWC"
            )
        self._events.flush()

    def close(self) -> None:
        self._events.close()

    def _write(self, name: str, content: bytes) -> None:
        path = self._folder / name
        write_or_refuse(path, lambda file: file.write(content), "record", CheckpointError)


def _drawn(picture: Any, found: Detections, classes: Sequence[str]) -> Any:
    kept = found.image(0, THRESHOLD)
    times = enlargement(picture)
    return draw_detections(picture, kept, classes, enlarge=times)


def _events(folder: Path, step: int) -> Any:
    try:
        import matplotlib.backends.backend_agg  # noqa: F401  # asked for before the first epoch
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise (missing_extra(error, "curves of a run", extra="train") or error) from error
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _step(row: Mapping[str, str]) -> int:
    return int(row["step"])


def _read(path: Path) -> list[dict[str, str]]:
    """The rows of earlier epochs; none where the file is another's or broken."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return [row for row in rows if _step(row) >= 0]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return []


def _csv(rows: Sequence[Mapping[str, str]]) -> bytes:
    file = io.StringIO(newline="")
    depths = dict.fromkeys(name for row in rows for name in row if name not in FIRST)
    writer = csv.DictWriter(file, [*FIRST, *depths])
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def _curves(rows: Sequence[Mapping[str, str]]) -> bytes:
    """Losses above, average precision by depth below, over epochs: PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, accuracy = figure.subplots(2, 1, sharex=True)
    epochs = [float(row["epoch"]) for row in rows]
    for name in ("super_loss", "base_loss"):
        values = [_number(row.get(name)) for row in rows]
        if np.nanmax(np.abs(values), initial=0) > 0:
            losses.plot(epochs, values, marker=".", label=name.replace("_", " "))
    losses.set_ylabel("loss")
    losses.legend()
    depths = dict.fromkeys(name for row in rows for name in row if name.startswith(AP))
    for name in reversed(depths):
        values = [_number(row.get(name)) for row in rows]
        accuracy.plot(epochs, values, marker=".", label=name.removeprefix(AP))
    accuracy.set_ylabel("AP (validation)")
    accuracy.set_xlabel("epoch")
    accuracy.xaxis.set_major_locator(MaxNLocator(integer=True))
    if depths:
        accuracy.legend()
    for axes in (losses, accuracy):
        axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _number(text: str | None) -> float:
    return float(text) if text else float("nan")
