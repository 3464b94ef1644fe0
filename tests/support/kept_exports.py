"""What a run of the tests exported last is at hand when it is exported again."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Collection, Iterator

import pytest

from anydepth_deploy.bench.workloads import checkpoint
from anydepth_deploy.calibration import calibrate
from anydepth_deploy.depth import Depth
from anydepth_deploy.exporting import export
from anydepth_deploy.families.shared import macs
from anydepth_deploy.families.shared.macs import Macs
from anydepth_deploy.families.shared.stages import AnyDepthModel, Size
from anydepth_deploy.graph import pieces
from anydepth_deploy.graph.pieces import Pieces
from anydepth_deploy.progress import Progress


class KeptPieces:
    """Stands before ``export_pieces``: those of the last networks, weights and all, are at hand."""

    LAST = 4

    def __init__(self) -> None:
        self._kept: dict[str, Pieces] = {}

    def __call__(
        self,
        model: AnyDepthModel,
        size: Size,
        *,
        depths: Collection[Depth] | None = None,
        progress: Progress | None = None,
    ) -> Pieces:
        if depths is not None:
            return pieces.export_pieces(model, size, depths=depths, progress=progress)
        start = (model.family, model.config, model.suppression, size)
        digest = hashlib.sha256(repr(start).encode())
        for name, tensor in model.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
        key = digest.hexdigest()
        found = self._kept.pop(key, None)
        if found is None:
            found = pieces.export_pieces(model, size, progress=progress)
        elif progress is not None:
            for index, piece in enumerate(found.pieces):
                progress(piece.prefix, index, len(found.pieces))
        self._kept[key] = found
        if len(self._kept) > self.LAST:
            del self._kept[next(iter(self._kept))]
        return found


def keep_macs(
    count: Callable[[AnyDepthModel, Size], Macs],
) -> Callable[[AnyDepthModel, Size], Macs]:
    """``count_macs`` of networks alike but for their weights and the thresholds of suppression, at
    which it does not look."""
    known: dict[str, Macs] = {}

    def kept(model: AnyDepthModel, size: Size) -> Macs:
        where = None if model.suppression is None else model.suppression.where
        key = repr((model.family, model.config, where, size))
        if key not in known:
            known[key] = count(model, size)
        return known[key]

    return kept


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Keep what is exported from here on."""
    kept = KeptPieces()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "export_pieces", kept)
        counted = keep_macs(macs.count_macs)
        # Tests of the count itself have the function from before; `inspect` asks for it each time.
        for module in (export, checkpoint, macs):
            patch.setattr(module, "count_macs", counted)
        patch.setattr(calibrate, "export_pieces", kept)
        yield
