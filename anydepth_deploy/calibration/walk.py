"""Run images through the steps of all depths with ONNX Runtime, and look at what they make.

Every variant of a stage is a small graph with a session of its own, as its piece has it: static,
norms folded. Weights are in memory once for all depths, and of the tensors of a batch only those
of one step, and what later steps read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

from anydepth_deploy.calibration.graphs import to_bytes
from anydepth_deploy.calibration.steps import Step
from anydepth_deploy.errors import (
    CalibrationError,
    InputError,
    MissingExtraError,
    first_line,
    shorten,
)
from anydepth_deploy.graph.assemble import assemble_stage
from anydepth_deploy.graph.pieces import Piece, Pieces
from anydepth_deploy.runtimes.onnxruntime.engine import STOP_SPINNING
from anydepth_deploy.runtimes.threads import limited_threads

__all__ = ["Seen", "Walk", "import_onnxruntime", "open_session"]

PURPOSE = "observing the tensors of a graph"

Array = NDArray[np.generic]


class Seen(NamedTuple):
    """What one step made of a batch: ``inputs`` in the order of the stage, and by name the tensors
    that were asked for. ``step`` is None for the images themselves, which nothing makes."""

    step: Step | None
    inputs: tuple[Array, ...]
    tensors: Mapping[str, Array]


class Walk:
    """Steps that images can be run through; a step comes behind those it reads from.

    ``shown``: for each step names of tensors of its piece to look at; they are computed as outputs
    are, ONNX Runtime fuses nothing across them. ``threads``: of ONNX Runtime, by default as many as
    there are cores that this process may use.

    Raises :class:`CalibrationError` for a name that a piece does not make, and for graphs that
    ONNX Runtime cannot load; :class:`MissingExtraError` where it is not installed.
    """

    def __init__(
        self,
        pieces: Pieces,
        steps: Sequence[Step],
        shown: Mapping[Step, Iterable[str]],
        *,
        threads: int | None = None,
    ) -> None:
        self._steps = list(steps)
        self._shown = {step: list(dict.fromkeys(shown.get(step, ()))) for step in self._steps}
        self._readers = Counter(source for step in self._steps for source in step.inputs)
        made: dict[str, dict[str, None]] = {step.prefix: {} for step in self._steps}
        for step, names in self._shown.items():
            made[step.prefix].update(dict.fromkeys(names))
        for source, name in self._readers:
            if source is not None:
                made[source.prefix][name] = None
        by_prefix = {piece.prefix: piece for piece in pieces.pieces}
        self._graphs = {
            prefix: _Graph(by_prefix[prefix], list(names), threads)
            for prefix, names in made.items()
        }

    def run(self, images: NDArray[np.float32]) -> Iterator[Seen]:
        """The images (float32 [N, 3, H, W]), then every step; what is not asked for any more is
        let go of meanwhile. Raises :class:`InputError` for images of another shape."""
        left = Counter(self._readers)
        held: dict[tuple[Step | None, str], Array] = {(None, "images"): images}
        yield Seen(None, (), {"images": images})
        for step in self._steps:
            yield self._look(step, held, left)

    def _look(
        self,
        step: Step,
        held: dict[tuple[Step | None, str], Array],
        left: Counter[tuple[Step | None, str]],
    ) -> Seen:
        """Run a step. ``held``: what has been made and will be read again, ``left`` so often."""
        inputs = tuple(held[source] for source in step.inputs)
        found = self._graphs[step.prefix].run(inputs)
        for source in step.inputs:
            left[source] -= 1
            if not left[source]:
                held.pop(source, None)
        held.update(((step, name), found[name]) for name in found if left[step, name])
        return Seen(step, inputs, {name: found[name] for name in self._shown[step]})


class _Graph:
    """A variant of a stage, and the tensors that are fetched from it."""

    def __init__(self, piece: Piece, names: Sequence[str], threads: int | None) -> None:
        model = assemble_stage(piece)
        made = {value.name: value for node in model.graph for value in node.outputs}
        if strangers := [name for name in names if name not in made]:
            raise CalibrationError(
                f"stage '{piece.prefix}' makes no tensors of these names: {shorten(strangers)}"
            )
        model.graph.outputs[:] = [made[name] for name in names]
        common.RemoveUnusedNodesPass()(model)
        self._inputs = [value.name for value in model.graph.inputs]
        self._names = list(names)
        self._session = open_session(model, f"stage '{piece.prefix}'", threads) if names else None

    def run(self, inputs: Sequence[Array]) -> dict[str, Array]:
        if self._session is None:
            return {}
        try:
            feeds = dict(zip(self._inputs, inputs, strict=True))
            arrays = self._session.run(self._names, feeds)
        except Exception as error:  # ONNX Runtime has no public root for its exceptions
            raise InputError(f"ONNX Runtime: {first_line(error)}") from None
        return dict(zip(self._names, arrays, strict=True))


def open_session(model: ir.Model, what: str, threads: int | None) -> Any:
    """A session of ONNX Runtime on the CPU; ``what`` names the graph where it cannot be loaded.

    ``threads``: by default as many as there are cores that this process may use. Raises
    :class:`CalibrationError` and :class:`MissingExtraError`.
    """
    ort = import_onnxruntime()
    settings = ort.SessionOptions()
    settings.log_severity_level = 4  # errors reach the caller as exceptions
    # The arena would round up and keep the memory of all outputs: 0.7 GB more with R50.
    settings.enable_cpu_mem_arena = False
    settings.add_session_config_entry(*STOP_SPINNING)
    threads = limited_threads() if threads is None else threads
    if threads is not None:
        settings.intra_op_num_threads = threads
    try:
        return ort.InferenceSession(to_bytes(model), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise CalibrationError(
            f"ONNX Runtime {ort.__version__} cannot load {what} with its tensors as outputs: "
            f"{first_line(error)}"
        ) from None


def import_onnxruntime(purpose: str = PURPOSE) -> Any:
    """ONNX Runtime; raises :class:`MissingExtraError`, which names ``purpose``."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "onnxruntime", purpose) from None
    return onnxruntime
