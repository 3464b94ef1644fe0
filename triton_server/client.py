"""An example client: a picture to a Triton server, at one or several depths, and boxes back.

    python triton_server/client.py street.jpg --depth base,super --out street.boxes.png

The picture goes to the server as it is (uint8); the ensemble prepares it, runs the network at the
depth that is asked for and gives boxes in the picture's pixels. Needs ``anydepth-deploy[triton]``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.console import print_json, print_line, print_table
from anydepth_deploy.detections import Detections
from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import AnyDepthError, ImageError, in_one_line
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.draw import draw_detections, enlargement, side_by_side
from anydepth_deploy.pictures.images import load_image

__all__ = ["Answer", "CallError", "Detector", "main"]

PORTS = {"http": 8000, "grpc": 8001}
OUTPUTS = ("labels", "boxes", "scores", "depth_row")


class CallError(Exception):
    """The server cannot be reached, or refused a request; one line."""


@dataclass(frozen=True)
class Answer:
    """Detections of one picture in its own pixels, the row of the depth table that was run, and the
    milliseconds from sending to having the answer."""

    found: Detections
    row: int
    milliseconds: float


class Detector:
    """An ensemble of ``anydepth-deploy triton`` on a Triton server.

    ``url``: host and port. ``protocol``: ``http`` or ``grpc``. ``model``: the ensemble's name; None
    where the server has only one. ``shared_memory``: pictures go through the system's shared
    memory, which needs a server on the same machine. ``timeout``: seconds for one answer. Use as a
    context manager, from one thread.

    Raises :class:`CallError`.
    """

    def __init__(
        self,
        url: str,
        *,
        protocol: str = "http",
        model: str | None = None,
        shared_memory: bool = False,
        timeout: float = 60,
    ) -> None:
        self._module = _tritonclient(protocol)
        self._url, self._timeout = url, timeout
        options: dict[str, Any] = {}
        if protocol == "http":
            options = {"connection_timeout": timeout, "network_timeout": timeout}
        self._client: Any = self._module.InferenceServerClient(url, **options)
        self._http = protocol == "http"
        self._region: _Region | None = _Region(self._client) if shared_memory else None
        try:
            with self._calling():
                self.model = model or self._only_ensemble()
                given = self._config(self.model).get("parameters", {})
        except BaseException:
            self.close()
            raise
        self.classes = _names(given)
        if not self.classes:
            self.close()
            raise CallError(
                f"model '{self.model}' is no ensemble of 'anydepth-deploy triton': it names no "
                "classes"
            )

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the connection and the shared memory."""
        if self._region is not None:
            with suppress(Exception):  # the server may be gone
                self._region.close()
        self._client.close()

    def detect(
        self, picture: NDArray[np.uint8], depth: str | None = None, budget_ms: float | None = None
    ) -> Answer:
        """Detect objects in ``picture``, uint8 [H, W, 3] in RGB, at ``depth``: ``super``, ``base``,
        ``level:K``, text like ``FFTT-F-6``, a row, ``auto``, or None for the server's default.
        ``budget_ms``: what a request at ``auto`` may take, None for the server's default."""
        image = np.ascontiguousarray(picture[None])
        inputs = [self._module.InferInput("image", image.shape, "UINT8")]
        with self._calling():
            if self._region is None:
                inputs[0].set_data_from_numpy(image)
            else:
                self._region.put(inputs[0], image)
            if depth is not None:
                inputs.append(self._module.InferInput("depth", [1], "BYTES"))
                inputs[1].set_data_from_numpy(np.array([depth.encode()], object))
            wanted = [self._module.InferRequestedOutput(name) for name in OUTPUTS]
            options: dict[str, Any] = {} if self._http else {"client_timeout": self._timeout}
            if budget_ms is not None:
                # As text: not every protocol and version has parameters with fractions.
                options["parameters"] = {"budget_ms": f"{budget_ms:.15g}"}
            began = time.perf_counter()
            result = self._client.infer(self.model, inputs, outputs=wanted, **options)
            took = 1e3 * (time.perf_counter() - began)
        labels, boxes, scores, row = (result.as_numpy(name) for name in OUTPUTS)
        return Answer(Detections(labels, boxes, scores), int(row[0]), took)

    def _only_ensemble(self) -> str:
        index = self._client.get_model_repository_index()
        rows = index if self._http else [{"name": m.name, "state": m.state} for m in index.models]
        ready = [str(row["name"]) for row in rows if row.get("state") == "READY"]
        found = [name for name in ready if self._config(name).get("platform") == "ensemble"]
        if len(found) != 1:
            raise CallError(
                f"the server at {self._url} has {len(found)} ensembles"
                f"{': ' + ', '.join(found[:6]) if found else ''}; name one with --model"
            )
        return found[0]

    def _config(self, model: str) -> dict[str, Any]:
        if self._http:
            return dict(self._client.get_model_config(model))
        return dict(self._client.get_model_config(model, as_json=True)["config"])

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """Whatever goes wrong on the way to the server and back becomes one line."""
        try:
            yield
        except (CallError, KeyboardInterrupt):
            raise
        except Exception as error:  # three libraries, which share no class of errors
            message = getattr(error, "message", None)
            reason = " ".join(str(message() if callable(message) else error).split())
            reason = reason or type(error).__name__
            raise CallError(f"the Triton server at {self._url}: {reason}") from None


class _Region:
    """A piece of the system's shared memory that this client writes and the server reads."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._memory: Any = import_module("tritonclient.utils.shared_memory")
        self._name = f"anydepth-client-{time.time_ns():x}"
        self._handle: Any = None
        self._size = 0

    def put(self, target: Any, array: NDArray[np.uint8]) -> None:
        """Write ``array`` and let the input ``target`` refer to it; the region grows as needed."""
        if array.nbytes > self._size:
            self.close()
            self._handle = self._memory.create_shared_memory_region(
                self._name, f"/{self._name}", array.nbytes
            )
            self._size = array.nbytes
            self._client.register_system_shared_memory(self._name, f"/{self._name}", self._size)
        self._memory.set_shared_memory_region(self._handle, [array])
        target.set_shared_memory(self._name, array.nbytes)

    def close(self) -> None:
        """Take the region back from the server, and remove it."""
        handle, self._handle, self._size = self._handle, None, 0
        if handle is not None:
            try:
                self._client.unregister_system_shared_memory(self._name)
            finally:
                self._memory.destroy_shared_memory_region(handle)


def _names(parameters: Mapping[str, Any]) -> list[str]:
    """Class names by label, out of an ensemble's parameters; empty where they are not there."""
    names: list[str] = json.loads(parameters.get("classes", {}).get("string_value") or "[]")
    return names


def _tritonclient(protocol: str) -> Any:
    if protocol not in PORTS:
        raise CallError(f"unknown protocol '{protocol}': expected http or grpc")
    try:
        return import_module(f"tritonclient.{protocol}")
    except ImportError:
        raise CallError(
            "the client needs tritonclient: pip install 'anydepth-deploy[triton]'"
        ) from None


def _rows(answer: Answer, classes: Sequence[str], threshold: float) -> list[dict[str, Any]]:
    """Detections as rows for people and machines."""
    found = answer.found.image(0, threshold)
    unnamed = [int(label) for label in found.labels[0] if not 0 <= label < len(classes)]
    if unnamed:
        raise CallError(
            f"the server finds the label {unnamed[0]}, its repository names {len(classes)} "
            "classes, counted from 0: write the repository again with 'anydepth-deploy triton'"
        )
    return [
        {
            "class": classes[int(label)],
            "score": round(float(score), 4),
            "box": [round(float(side), 1) for side in box],
        }
        for label, box, score in zip(found.labels[0], found.boxes[0], found.scores[0], strict=True)
    ]


def _draw(
    picture: NDArray[np.uint8],
    answers: Sequence[tuple[str, Answer]],
    classes: Sequence[str],
    threshold: float,
    target: Path,
) -> None:
    """The picture with boxes, once for each depth."""
    enlarge = enlargement(picture)
    drawings = [
        draw_detections(picture, answer.found.image(0, threshold), classes, enlarge=enlarge)
        for _, answer in answers
    ]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        side_by_side(drawings, [name for name, _ in answers]).save(target)
    except (OSError, ValueError) as error:
        raise CallError(f"picture {target} cannot be written: {error}") from None


def run(options: argparse.Namespace) -> None:
    """What the options ask for. Raises :class:`CallError` and :class:`ImageError`."""
    if options.out is not None:  # before anybody is asked
        try_to_write(options.out, "picture", ImageError)
    picture = load_image(options.picture, max_pixels=options.max_pixels)
    depths: list[str | None] = [word.strip() for word in (options.depth or "").split(",") if word]
    with Detector(
        options.url or f"localhost:{PORTS[options.protocol]}",
        protocol=options.protocol,
        model=options.model,
        shared_memory=options.shared_memory,
        timeout=options.timeout,
    ) as detector:
        answers = [
            (depth or "default", detector.detect(picture, depth, options.budget_ms))
            for depth in depths or [None]
        ]
        classes, model = detector.classes, detector.model
    if options.out is not None:
        _draw(picture, answers, classes, options.threshold, options.out)
    found: list[dict[str, Any]] = [
        {
            "depth": name,
            "row": answer.row,
            "milliseconds": round(answer.milliseconds, 2),
            "detections": _rows(answer, classes, options.threshold),
        }
        for name, answer in answers
    ]
    if options.json:
        print_json({"picture": str(options.picture), "model": model, "answers": found})
        return
    for item in found:
        print_table(
            f"{options.picture.name} at {item['depth']} (row {item['row']}): "
            f"{item['milliseconds']} ms",
            ["class", "score", "left", "top", "right", "bottom"],
            [[row["class"], row["score"], *row["box"]] for row in item["detections"]],
        )
    if options.out is not None:
        print_line(f"picture: {options.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 with one line on standard error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path, metavar="PICTURE")
    parser.add_argument("--depth", help="depths, joined by commas; default: the server's")
    parser.add_argument("--budget-ms", type=float, help="what a request at depth auto may take")
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        help=f"of the picture at most; default {MAX_PIXELS}",
    )
    parser.add_argument("--url", help="host and port; default: Triton's port on this machine")
    parser.add_argument("--protocol", choices=list(PORTS), default="http")
    parser.add_argument("--model", help="the ensemble's name; default: the only one")
    parser.add_argument(
        "--shared-memory", action="store_true", help="for a server on the same machine"
    )
    parser.add_argument("--threshold", type=float, default=0.5, help="smallest score; default 0.5")
    parser.add_argument("--timeout", type=float, default=60, help="seconds; default 60")
    parser.add_argument("--out", type=Path, help="draw the boxes into this picture")
    parser.add_argument("--json", action="store_true", help="print JSON for machines, nothing else")
    try:
        run(parser.parse_args(arguments))
    except (AnyDepthError, CallError) as error:
        print(f"error: {in_one_line(str(error))}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
