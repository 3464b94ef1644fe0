"""What runs at several depths: variants of stages, and what each of them reads.

Depths run the same steps until the first gate that they set differently, and again none behind it:
a step is one variant of a stage on certain tensors, whichever depths run it, so that it need be
computed once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from anydepth_deploy.calibration.graphs import StageRun, stage_runs
from anydepth_deploy.depth import Depth
from anydepth_deploy.graph.pieces import Pieces

__all__ = ["Step", "shared_steps"]


@dataclass(eq=False)
class Step:
    """A variant of a stage that reads certain tensors.

    ``run``: as any of its depths has it, all alike. ``sources``: the step that made each input of
    the stage, None for the images. ``depths``: those that run it, in the order they were given.
    """

    run: StageRun
    sources: tuple[Step | None, ...]
    depths: list[Depth] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        """That of its run."""
        return self.run.prefix

    @property
    def inputs(self) -> list[tuple[Step | None, str]]:
        """For each input of the stage what made it, and its name there."""
        return list(zip(self.sources, (here for here, _ in self.run.inputs), strict=True))


def shared_steps(pieces: Pieces, depths: Iterable[Depth]) -> list[Step]:
    """The steps of all ``depths``, each once, those of the first depth first; each comes behind
    what it reads."""
    found: dict[tuple[object, ...], Step] = {}
    for depth in depths:
        makers: dict[str, Step | None] = {"images": None}
        for run in stage_runs(pieces, depth):
            if run.variant is None:
                continue
            sources = tuple(makers[here] for here, _ in run.inputs)
            key = (run.stage.name, run.variant, sources, run.inputs)
            step = found.setdefault(key, Step(run, sources))
            step.depths.append(depth)
            makers.update((here, step) for here, _ in run.outputs)
    return list(found.values())
