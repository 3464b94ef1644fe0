"""A checkpoint in torch, to be timed: eager, compiled, or as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch

from anydepth_deploy.bench.results import Accuracy, Scope, Subject
from anydepth_deploy.bench.timing.loops import Call
from anydepth_deploy.bench.workloads.pictures import Batches
from anydepth_deploy.bench.workloads.workload import boundaries, whole_pictures
from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import UsageError, readable
from anydepth_deploy.families.shared.macs import count_macs
from anydepth_deploy.families.shared.settling import Said
from anydepth_deploy.pictures.images import Preprocess
from anydepth_deploy.torch_runtime.precisions import check_precision
from anydepth_deploy.torch_runtime.runner import TorchRunner, check_runner, open_torch_runner

__all__ = ["CheckpointWorkload", "has_cuda"]


def has_cuda() -> bool:
    """Whether torch can use a GPU here."""
    return bool(torch.cuda.is_available())


class CheckpointWorkload:
    """Runs the network of a checkpoint file; ``mode``: ``eager``, ``compile`` or ``cudagraph``.

    ``batches`` makes the inputs for a recipe; ``size``: height and width, by default those of the
    configuration. Raises :class:`CheckpointError` and :class:`UsageError`.
    """

    def __init__(
        self,
        path: Path,
        mode: str,
        batches: Callable[[Preprocess], Batches],
        scope: Scope,
        *,
        runtime: str,
        device: Literal["cpu", "cuda"],
        precision: str,
        threads: int | None,
        transfers: bool | None,
        size: tuple[int, int] | None,
        said: Said | None = None,
    ) -> None:
        check_precision(precision)
        if transfers is not None and device == "cpu":
            raise UsageError("on a CPU there are no copies to leave out or in: drop --transfers")
        if transfers is False and scope == "pictures":
            raise UsageError("--scope pictures goes from the host to the host: drop --no-transfers")
        self._path, self._mode, self._runtime, self._scope = path, mode, runtime, scope
        self._device, self._precision, self._threads = device, precision, threads
        self._transfers = (transfers is not False) if device == "cuda" else None
        found = read_checkpoint(path, said)
        self._model, self._sha256 = load_model(found), found.sha256
        self._size = size or self._model.config.input_size
        self._model.check_size(self._size)
        self.table = self._model.table
        self.batches = batches(Preprocess.of(self._model.resize, self._size))
        self._runner: TorchRunner | None = None
        self._prepared: list[Any] = []

    @property
    def _opened(self) -> TorchRunner:
        assert self._runner is not None, "load comes first"
        return self._runner

    def load(self, depths: Sequence[Depth]) -> None:
        self._runner = self._open(self._mode, self._precision)
        if self._transfers is False:
            self._prepared = [self._runner.prepare(images) for images in self.batches.prepared]

    def _open(self, mode: str, precision: str) -> TorchRunner:
        return open_torch_runner(
            self._model,
            mode=cast("Any", mode),
            device=self._device,
            precision=cast("Any", precision),
            threads=self._threads,
            transfers=self._transfers is not False,
        )

    def call(self, depth: Depth) -> Call:
        runner, images = self._opened, self.batches.prepared
        raw = self._scope == "raw"
        if self._transfers is False:
            prepared = self._prepared
            return lambda item: runner.run_prepared(prepared[item], depth, raw=raw)
        if raw:
            return lambda item: runner.run_raw(images[item], depth)
        if self._scope == "detections":
            return lambda item: runner.run(images[item], depth)
        return whole_pictures(self.batches, lambda images: runner.run(images, depth))

    def check(self, depths: Sequence[Depth]) -> None:
        if self._mode == "eager" and self._precision == "fp32":
            return
        eager = self._open("eager", "fp32")
        try:
            for depth in depths:
                check_runner(self._opened, eager, self.batches.prepared, depth)
        finally:
            eager.close()

    def subject(self) -> Subject:
        return Subject(
            kind="checkpoint",
            name=readable(self._path.stem),
            source_sha256=self._sha256,
            family=self._model.family,
            config=self._model.config.name,
            input_size=self._size,
            runtime=self._runtime,
            device=self._device,
            precision=self._precision,
            cuda_graph=self._opened.captured,
        )

    def boundaries(self) -> dict[str, str]:
        where = "none" if self._model.suppression is None else "host"
        return boundaries(self._scope, transfers=self._transfers, suppression=where)

    def macs(self, depth: Depth) -> int:
        if not hasattr(self, "_macs"):
            self._macs = count_macs(self._model, self._size)
        return self._macs.at(depth)["total"]

    def accuracy(self, depth: Depth) -> Accuracy | None:
        return None

    def device_memory(self) -> dict[str, int]:
        return self._opened.memory_bytes()

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None
