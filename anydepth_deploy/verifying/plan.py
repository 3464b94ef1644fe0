"""What is tried at which depths: the graphs of a bundle that a runtime computes as they are meant
to, or the engines that run on the device at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.choose import chains, other_devices, stored_precision
from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import BundleError, UsageError, shorten
from anydepth_deploy.manifest import Artifact, BatchProfile
from anydepth_deploy.runtimes.registry import (
    RUNTIMES,
    device_capability,
    runs_on,
    why_not_here,
)
from anydepth_deploy.verifying.parity import depths_of

__all__ = ["Plan", "batch_sizes", "name_of", "plan_engines", "plan_graphs"]


@dataclass(frozen=True)
class Plan:
    """``chains``: what is opened as a whole, each with its depths, one at least. ``left_out``:
    names of artifacts that are not tried. ``device``: what engines are run on."""

    chains: list[tuple[list[Artifact], tuple[Depth, ...]]]
    left_out: list[str]
    device: str | None = None

    @property
    def steps(self) -> int:
        """Depths of all chains together."""
        return sum(len(tried) for _, tried in self.chains)


def plan_graphs(
    bundle: Bundle,
    runtime: str,
    layout: str | None,
    precision: str | None,
    depths: Sequence[Depth] | None,
    default: Sequence[Depth],
) -> Plan:
    """The graphs for ``runtime``; see :func:`depths_of` for ``depths`` and ``default``.

    Raises :class:`BundleError` where there is nothing to try, and :class:`UsageError` for an
    unknown precision, and for INT8 where ``runtime`` computes it wrongly on this CPU: left out
    beside other artifacts.
    """
    stored = stored_precision(precision)[0] if precision is not None else None
    found = bundle.artifacts(layout, stored, format="onnx")
    able = [item for item in found if runs_on(item, runtime)]
    wrong = {item.name: reason for item in able if (reason := why_not_here(item, runtime))}
    usable = {item.name for item in able} - wrong.keys()
    plan = [
        (
            chain,
            depths_of(chain[0], bundle.table, depths, default) if chain[0].name in usable else (),
        )
        for chain in chains(found)
    ]
    if not any(tried for _, tried in plan):
        if wrong:
            raise UsageError(next(iter(wrong.values())))
        wanted = "" if precision is None else f" in {precision}"
        raise BundleError(
            f"bundle {bundle.path} has no artifact for the depths asked for{wanted}; "
            f"it has {', '.join(item.name for item in bundle.artifacts()) or 'none'}"
            f"{_other_runtimes(found, runtime)}"
        )
    return _divided(plan)


def plan_engines(
    bundle: Bundle,
    runtime: str,
    layout: str | None,
    precision: str | None,
    depths: Sequence[Depth] | None,
    default: Sequence[Depth],
) -> Plan:
    """The engines for ``runtime`` and the device at hand, alike. Raises :class:`BundleError` where
    there is none, and what the runtime raises where there is no device."""
    found = bundle.artifacts(layout, precision, format=runtime)
    here = device_capability(runtime) if found else None
    fitting = [item for item in found if item.engine and _fits(here, item.engine.capabilities)]
    plan = [
        (chain, depths_of(chain[0], bundle.table, depths, default)) for chain in chains(fitting)
    ]
    if not any(tried for _, tried in plan):
        raise BundleError(_nothing_to_try(bundle, runtime, found, fitting, here))
    return _divided(plan, [item.name for item in found if item not in fitting], here)


def _divided(
    plan: Sequence[tuple[list[Artifact], tuple[Depth, ...]]],
    left_out: Sequence[str] = (),
    device: str | None = None,
) -> Plan:
    return Plan(
        [(chain, tried) for chain, tried in plan if tried],
        [*left_out, *(item.name for chain, tried in plan if not tried for item in chain)],
        device,
    )


def name_of(chain: Sequence[Artifact]) -> str:
    """Of an artifact, or of the pieces of a chain together."""
    first = chain[0]
    if first.piece is None:
        return first.name
    return first.name.replace(f"{first.piece.stage}.{first.piece.variant}", "*")


def batch_sizes(profile: BatchProfile, given: Sequence[int]) -> list[int]:
    """The sizes to try an engine at: the ``given`` ones, brought into its profile, and those that
    the profile names. Two at least, unless the profile allows one only."""
    wanted = {min(max(size, profile.smallest), profile.largest) for size in given}
    return sorted(wanted | {profile.smallest, profile.typical, profile.largest})


def _other_runtimes(artifacts: Sequence[Artifact], runtime: str) -> str:
    """What to do about graphs that ``runtime`` would compute something else with."""
    strange = next((item for item in artifacts if not runs_on(item, runtime)), None)
    if strange is None or strange.quantisation is None:
        return ""
    able = next(name for name in RUNTIMES if runs_on(strange, name))
    return (
        f". {strange.name} is made for {strange.quantisation.target}, which {runtime} does not "
        f"run as it is meant: verify it with --runtime {able}"
    )


def _fits(here: str | None, capabilities: Sequence[str]) -> bool:
    return here is None or here in capabilities


def _nothing_to_try(
    bundle: Bundle,
    runtime: str,
    found: Sequence[Artifact],
    fitting: Sequence[Artifact],
    here: str | None,
) -> str:
    has = shorten([item.name for item in bundle.artifacts()]) or "none"
    if not found:
        return (
            f"bundle {bundle.path} has no engine of that kind for the runtime '{runtime}'; it has "
            f"{has}. 'build {bundle.path} --runtime {runtime}' adds engines"
        )
    if not fitting:
        return other_devices(bundle, found, runtime, here)
    return f"bundle {bundle.path} has no engine for the depths asked for; it has {has}"
