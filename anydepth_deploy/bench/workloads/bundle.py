"""A bundle's artifacts on one of its runtimes, to be timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from anydepth_deploy.annotations.evaluations import DataSet, fullest, read_evaluations
from anydepth_deploy.bench.results import Accuracy, Scope, Subject
from anydepth_deploy.bench.timing.loops import Call
from anydepth_deploy.bench.workloads.pictures import Batches
from anydepth_deploy.bench.workloads.workload import boundaries, whole_pictures
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.choose import Choice, choose_artifacts, export_words
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.bundle.trust import check_passed, check_trust, last_passed
from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import BundleError, UsageError, readable, shorten
from anydepth_deploy.manifest import Artifact
from anydepth_deploy.pictures.images import Preprocess
from anydepth_deploy.runtimes.registry import on_device

__all__ = ["BundleWorkload"]


class BundleWorkload:
    """Runs the artifacts that ``choice`` chooses, on what ``batches`` makes for their recipe.

    Raises :class:`BundleError` for artifacts that are not there or failed ``verify``, and
    :class:`UsageError` for transfers that cannot be left out.
    """

    def __init__(
        self,
        bundle: Bundle,
        choice: Choice,
        batches: Callable[[Preprocess], Batches],
        scope: Scope,
        *,
        transfers: bool | None = None,
    ) -> None:
        copies = on_device(choice.runtime)
        if transfers is not None and not (copies and transfers):
            where = "always timed" if copies else "not there on a CPU"
            raise UsageError(
                f"copies between host and device are {where} with the runtime '{choice.runtime}': "
                "leave --transfers and --no-transfers out"
            )
        self._transfers = True if copies else None
        self._bundle, self._choice, self._scope = bundle, choice, scope
        self.table = bundle.table
        found = choose_artifacts(
            bundle, choice.layout, choice.precision, choice.weights, choice.target, choice.runtime
        )
        check_trust(found)
        check_passed(bundle, found, choice.precision, choice.runtime)
        self._artifacts = found
        self.batches = batches(bundle.manifest.preprocess)
        self._session: Session | None = None
        self._depths: Sequence[Depth] = ()

    def load(self, depths: Sequence[Depth]) -> None:
        choice = self._choice
        self._depths = depths
        self._check_depths(depths)
        session = self._bundle.session(
            choice.runtime,
            self._artifacts[0].layout,
            choice.precision,
            weights=choice.weights,
            target=choice.target,
            threads=choice.threads,
            raw=self._scope == "raw",
        )
        self._session = session  # at once, so that close gives back what is refused below, too
        profile = session.batch
        size = len(self.batches.pictures[0])
        if profile is not None and not profile.smallest <= size <= profile.largest:
            raise UsageError(
                f"a batch of {size}: the engines of {self._bundle.path} take {profile.smallest} to "
                f"{profile.largest}; choose another --batch, or build them for it"
            )
        if self._scope != "raw" and not session.detects:
            raise UsageError(
                f"bundle {self._bundle.path} gives predictions, not detections (--nms none): "
                "measure it with --scope raw"
            )
        session.load(depths)

    def _check_depths(self, depths: Sequence[Depth]) -> None:
        """A static graph holds one depth."""
        held = {item.depth for item in self._artifacts}
        missing = [depth for depth in depths if held != {None} and str(depth) not in held]
        if missing:
            names = shorten(item.depth for item in self._artifacts if item.depth)
            raise BundleError(
                f"bundle {self._bundle.path} has no static graph of depth {shorten(missing)}; it "
                f"has {names}: choose another --depth or --layout gated, or add it with 'export "
                f"--layout set --depth …{export_words(self._artifacts[0])}'"
            )

    @property
    def _opened(self) -> Session:
        assert self._session is not None, "load comes first"
        return self._session

    def call(self, depth: Depth) -> Call:
        session, prepared = self._opened, self.batches.prepared
        if self._scope == "raw":
            return lambda item: session.run_raw(prepared[item], depth)
        if self._scope == "detections":
            return lambda item: session.run(prepared[item], depth)
        return whole_pictures(self.batches, lambda images: session.run(images, depth))

    def check(self, depths: Sequence[Depth]) -> None:
        # What artifacts compute is for verify to say, which was asked when they were chosen.
        return

    def subject(self) -> Subject:
        manifest, choice, first = self._bundle.manifest, self._choice, self._artifacts[0]
        return Subject(
            kind="bundle",
            name=readable(self._bundle.path.resolve().name),
            source_sha256=manifest.source.sha256,
            family=manifest.family,
            config=manifest.config,
            input_size=self._bundle.size,
            runtime=choice.runtime,
            device="cuda" if on_device(choice.runtime) else "cpu",
            precision=choice.precision,
            layout=first.layout,
            weights=first.weights,
            artifacts={item.name: item.sha256 for item in self._artifacts},
            verified=last_passed(self._bundle, self._artifacts, choice.precision, choice.runtime),
            cuda_graph=self._opened.captured,
        )

    def boundaries(self) -> dict[str, str]:
        rule = self._bundle.manifest.suppression
        where = "none" if rule is None else rule.where
        if where == "graph" and any(_cut(item) for item in self._artifacts):
            where = "host"
        return boundaries(self._scope, transfers=self._transfers, suppression=where)

    def macs(self, depth: Depth) -> int:
        return self._bundle.macs(depth)["total"]

    def accuracy(self, depth: Depth) -> Accuracy | None:
        asked = [str(one) for one in self._depths or [depth]]
        return self._measured(asked).get(str(depth))

    def _measured(self, depths: Sequence[str]) -> dict[str, Accuracy]:
        """The newest AP of these artifacts by depth, all on one data set: that of the most depths,
        the newest of several."""
        found: dict[DataSet, dict[str, Accuracy]] = {}
        for item in reversed(read_evaluations(self._bundle.manifest.results)):
            if item.precision != self._choice.precision:
                continue
            for depth in depths:
                running = {a.sha256 for a in self._artifacts if a.depth in (None, depth)}
                if depth in item.rows and running <= item.hashes:
                    name, pictures, sha256 = item.data
                    accuracy = Accuracy(
                        ap=item.rows[depth], data=name, pictures=pictures, data_sha256=sha256
                    )
                    found.setdefault(item.data, {}).setdefault(depth, accuracy)
        chosen = fullest({data: len(rows) for data, rows in found.items()})
        return {} if chosen is None else found[chosen]

    def device_memory(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for use in self._opened.memory.values():
            for name, size in asdict(use).items():
                found[name] = found.get(name, 0) + int(size)
        return found

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


def _cut(artifact: Artifact) -> bool:
    """Whether an engine ends before suppression."""
    return artifact.engine is not None and not artifact.engine.detections
