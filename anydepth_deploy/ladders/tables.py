"""What ``ladder`` found, as JSON and as tables."""

from __future__ import annotations

from typing import Any

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.console import print_line, print_note, print_table
from anydepth_deploy.ladders.diagnose import Diagnosis
from anydepth_deploy.ladders.measure import Found
from anydepth_deploy.ladders.scores import Scores

__all__ = ["health_content", "ladder_content", "show_health", "show_ladder"]

NOTHING = 0.1
"""Percent of score: a gate that gains less is said to bring nothing."""

TRUSTED = 3.0
"""Percent that predicted times may be off without a note."""


def ladder_content(found: Found, bundle: Bundle, *, used: bool) -> dict[str, Any]:
    """The document of a ladder; ``used``: whether it was put into use."""
    costs = found.costs
    return {
        "ladder": found.ladder.model_dump(mode="json"),
        "in_use": [str(depth) for depth in bundle.table.ladder],
        "used": used,
        "beaten": [str(depth) for depth in found.beaten],
        "prediction": {
            "method": costs.method,
            "median_error_percent": costs.error,
            "noise_percent": costs.noise,
            "parts_ms": dict(costs.parts),
            "checks": [
                {"depth": str(depth), "predicted_ms": one, "measured_ms": other}
                for depth, one, other in costs.checks
            ],
        },
        "gates": [{**vars(gain), "brings_nothing": gain.nothing(NOTHING)} for gain in found.gains],
        "depths": [
            {
                "depth": str(depth),
                "milliseconds": time,
                "timed": depth in found.timed,
                "score": found.scores.get(depth),
            }
            for depth, time in found.times.items()
        ],
    }


def show_ladder(found: Found, what: str) -> None:
    """Print a ladder, how far its predictions are off, and gates that bring nothing."""
    data, costs = found.ladder.data, found.costs
    measure = "AP" if data.kind == "ap" else "agreement"

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.4g}"

    print_table(
        f"ladder of {what} on {found.ladder.device}: {measure} on {data.pictures} pictures",
        ["level", "depth", "ms", "p95", "p99", measure],
        [
            [
                level,
                rung.depth,
                shown(rung.milliseconds),
                shown(rung.p95),
                shown(rung.p99),
                f"{rung.score:.1f}",
            ]
            for level, rung in enumerate(found.ladder.rungs)
        ],
        keys=2,
    )
    for depth in found.beaten:
        end = "begins" if str(depth) == found.ladder.rungs[0].depth else "ends"
        print_line(f"{depth} is beaten by another depth: it stays, since a ladder {end} with it")
    if costs.error is None:
        print_line(f"all {len(costs.measured)} depths were timed, none predicted")
    else:
        print_line(
            f"times of {len(costs.predicted)} depths were predicted by {costs.method}: median "
            f"error {costs.error:.1f} % at {len(costs.checks)} depths that were not used for it, "
            f"whose times differ by {costs.noise or 0:.1f} % between halves of the rounds"
        )
    if (costs.error or 0) > TRUSTED:
        print_note(
            f"times are predicted to more than {TRUSTED:g} %: measure with more --rounds, or while "
            "nothing else runs; rungs were timed for themselves"
        )
    for gain in found.gains:
        if gain.nothing(NOTHING):
            told = [
                f"{value:+.2f} {where}"
                for value, where in ((gain.at_super, "at super"), (gain.at_base, "at base"))
                if value is not None
            ]
            print_line(
                f"{gain.name} brings nothing for {gain.milliseconds:.3g} ms: {measure} "
                f"{' and '.join(told)}"
            )


def health_content(found: Diagnosis, scores: Scores) -> dict[str, Any]:
    """The document of a diagnosis."""
    return {
        "sound": found.sound,
        "tolerance": found.tolerance,
        "data": scores.described.model_dump(mode="json"),
        "stages": [
            {
                "stage": stage.stage,
                "loss": found.losses.get(stage.stage),
                "growth": stage.growth,
                "own": [vars(item) for item in stage.own],
                "behind": [vars(item) for item in stage.behind],
            }
            for stage in found.stages
        ],
        "depths": [
            {"depth": str(depth), "score": score, "explained": found.explained[depth]}
            for depth, score in found.scores.items()
        ],
        "cliffs": [
            {
                "depth": str(cliff.depth),
                "fall": cliff.fall,
                "below": None if cliff.below is None else str(cliff.below),
                "stage": cliff.stage,
            }
            for cliff in found.cliffs
        ],
    }


def show_health(found: Diagnosis, what: str, measure: str) -> None:
    """Print a diagnosis; ``measure``: what scores are."""
    rows: list[list[object]] = []
    for stage in found.stages:
        loss = found.losses.get(stage.stage)
        maps = [item for item in (*stage.own, *stage.behind) if item.size]
        # The pyramid: the last tensor of each size that is a map.
        levels = {item.size: item for item in maps}
        own = stage.own[0] if stage.own else None
        rows.append(
            [
                stage.stage,
                "-" if own is None else f"{own.cosine:.3f}",
                "-" if own is None else f"{own.norms:.2f}",
                "-" if own is None else f"{own.distance:.2f}",
                " ".join(
                    f"{size[0]}x{size[1]}:{item.distance:.2f}"
                    for size, item in sorted(levels.items(), reverse=True)
                ),
                f"{stage.growth:.1f}",
                "-" if loss is None else f"{loss:+.2f}",
            ]
        )
    print_table(
        f"{what}: outputs skipped against taken, at super",
        ["stage", "cosine", "norms", "distance", "by level", "growth", f"{measure} lost alone"],
        rows,
    )
    for cliff in found.cliffs[:10]:
        score = found.scores[cliff.depth]
        why = (
            f"{found.explained[cliff.depth]:.1f} by its stages"
            if cliff.below is None
            else f"{found.scores[cliff.below]:.1f} of {cliff.below}, which does less"
        )
        print_line(f"cliff: {cliff.depth} has {measure} {score:.1f}, against {why}: {cliff.stage}")
    if found.sound:
        print_line(
            f"sound: no cliff of more than {found.tolerance:.1f} among {len(found.scores)} depths "
            "between base and super"
        )
