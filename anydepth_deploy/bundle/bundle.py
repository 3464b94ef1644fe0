"""An opened bundle, and sessions over what is in it."""

from __future__ import annotations

from pathlib import Path

from anydepth_deploy.bundle.choose import choose_artifacts, stored_precision
from anydepth_deploy.bundle.engines import open_artifacts
from anydepth_deploy.bundle.files import BundleFiles, read_manifest
from anydepth_deploy.bundle.measured import find_measured
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.bundle.trust import check_trust

__all__ = ["Bundle", "open_bundle"]


class Bundle(BundleFiles):
    """An opened bundle; see :func:`open_bundle`."""

    def session(
        self,
        runtime: str = "onnxruntime",
        artifact: str | None = None,
        precision: str = "fp32",
        *,
        weights: str | None = None,
        target: str | None = None,
        threads: int | None = None,
        kept_depths: int | None = None,
        raw: bool = False,
        rounded: bool = False,
        check: bool = True,
        preload: bool = False,
    ) -> Session:
        """Open artifacts for running.

        ``artifact``: ``gated`` (all depths in one graph), ``set`` (one static graph per depth) or
        ``stages`` (the pieces of the network, chained); by default the first of them that the
        bundle has. Graphs and pieces are opened when first used, or all at once with ``preload``.
        ``runtime``: for ``tensorrt`` and ``tensorrt-rtx`` the bundle holds engines, which
        ``anydepth-deploy build`` made; one that failed its verification is refused, and the log of
        this package warns of one that was never verified. ``precision``:
        that of the artifact, ``fp32``, ``fp16`` or ``int8`` (``target``: what an INT8 graph was
        made for, by default what the runtime likes best), or ``bf16``: an FP32 artifact,
        computed in BF16 by a runtime that can. ``raw`` makes :meth:`Session.run_raw` work on
        artifacts exported without raw outputs, at the cost of a copy in memory; ``rounded`` has
        ONNX Runtime round to FP16 wherever an FP16 graph does, which it leaves out by itself.
        ``threads``: inside one operator, by default the runtime's
        own choice, but no more than a container's quota and the processors that the process may
        run on. ``kept_depths``: how many depths of a gated graph stay compiled, the latest
        used, where each is compiled by itself: by OpenVINO always, by default 8; by ONNX Runtime on
        CPUs where a number is given (see docs/graphs.md). ``check`` compares the files' hashes with
        the manifest; what files say of themselves is compared with it in any case
        (:mod:`anydepth_deploy.bundle.graphs`). What ``ladder`` measured of these artifacts on this
        device is :attr:`Session.measured_ladder`.

        Raises :class:`BundleError`, :class:`UsageError` for an unknown runtime or precision, and
        :class:`MissingExtraError` when the runtime is not installed.
        """
        chosen = choose_artifacts(self, artifact, precision, weights, target, runtime)
        check_trust(chosen)
        session = open_artifacts(
            self,
            chosen,
            runtime=runtime,
            threads=threads,
            kept_depths=kept_depths,
            raw=raw,
            compute=stored_precision(precision)[1],
            rounded=rounded,
            check=check,
            measured=find_measured(self.manifest, chosen, runtime, precision, threads),
        )
        if preload:
            session.load()
        return session


def open_bundle(path: str | Path) -> Bundle:
    """Open the bundle in folder ``path``; needs no torch.

    Raises :class:`BundleError` when there is none, or its manifest is damaged or of another
    version.
    """
    folder = Path(path)
    return Bundle(folder, read_manifest(folder))
