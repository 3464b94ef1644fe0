"""What the probe of the C++ library should answer, by the Python package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cpp_build import CppError, Probe

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import AnyDepthError, BundleError, InputError
from anydepth_deploy.manifest import MeasuredLadder, StagePiece
from anydepth_deploy.runtimes.chain import Chain


def outcome(call: Callable[[], Any]) -> Any:
    """The result, or the class and text of the error."""
    try:
        return call()
    except AnyDepthError as error:
        return type(error).__name__, str(error)
    except CppError as error:
        return error.kind, error.message


def described(bundle: Bundle) -> dict[str, Any]:
    """What the probe tells of a manifest."""
    found = bundle.manifest
    recipe = found.preprocess.model_dump(
        mode="json", exclude={"interpolation", "channels", "layout"}
    )
    return {
        "tool_version": found.tool_version,
        "source_file": found.source.file,
        "source_sha256": found.source.sha256,
        "family": found.family,
        "config": found.config,
        "classes": found.classes,
        "preprocess": recipe,
        "gates": [[gate.name, gate.group, gate.layers] for gate in found.gates],
        "rows": [str(depth) for depth in bundle.table.rows],
        "levels": bundle.table.levels,
        "ladder": [bundle.table.row(depth) for depth in bundle.table.ladder],
        "measured": [described_ladder(item) for item in found.measured],
        "macs": [row.macs["total"] for row in found.depths],
        "raw_outputs": [list(item) for item in found.raw_outputs.items()],
        "suppression": None if found.suppression is None else found.suppression.model_dump(),
        "max_detections": found.max_detections,
        "artifacts": [_artifact(item.model_dump()) for item in found.artifacts],
    }


def described_ladder(item: MeasuredLadder) -> dict[str, Any]:
    """What the probe tells of a measured ladder."""
    same = ("when", "device", "runtime", "precision", "layout", "artifacts", "batch", "threads")
    data = item.data
    return {
        **item.model_dump(mode="json", include={*same, "calls", "error"}),
        "data": [data.kind, data.name, data.sha256, data.pictures],
        "rungs": [[r.depth, r.milliseconds, r.p95, r.p99, r.score] for r in item.rungs],
    }


def _artifact(item: dict[str, Any]) -> dict[str, Any]:
    same = ("name", "file", "format", "layout", "precision", "weights", "deformable", "depth")
    spec, made, checked = item["piece"], item["engine"], item["verified"]
    found = {key: item[key] for key in (*same, "row", "raw", "bytes", "sha256")}
    found["target"] = item["quantisation"] and item["quantisation"]["target"]
    found["piece"] = spec and {
        **spec,
        "when": [list(condition.values()) for condition in spec["when"]],
        "reads": [list(pair) for pair in spec["reads"].items()],
        "writes": [list(pair) for pair in spec["writes"].items()],
    }
    found["engine"] = made and {
        **{key: made[key] for key in ("source", "version", "device", "capabilities", "detections")},
        "batch": list(made["batch"].values()),
    }
    found["verified"] = checked and {key: checked[key] for key in ("when", "passed", "reference")}
    return found


def plans(pieces: dict[str, StagePiece], depths: Sequence[Depth], outputs: list[str] | None) -> Any:
    """What the probe answers, by the Python package."""
    chain = Chain(list(pieces.items()))
    found: list[Any] = []
    for depth in depths:
        try:
            running = chain.at(depth)
            steps = [
                {
                    "piece": step.piece,
                    "reads": [list(item) for item in step.reads.items()],
                    "writes": [list(item) for item in step.writes.items()],
                    "live": sorted(step.live),
                }
                for step in chain.steps(running, list(chain.ends) if outputs is None else outputs)
            ]
            plan = {"running": list(running), "tensors": chain.tensors(running), "steps": steps}
            found.append(plan)
        except (BundleError, InputError) as error:
            found.append(str(error))
    return {"ends": list(chain.ends), "plans": found}


def piece_for_probe(spec: StagePiece) -> dict[str, Any]:
    """A piece as the probe takes it."""
    content = spec.model_dump()
    return {**content, "when": [[item.gate, item.layer, item.runs] for item in spec.when]}


def compare_plans(
    probe: Probe,
    pieces: dict[str, StagePiece],
    depths: Sequence[Depth],
    outputs: list[str] | None = None,
) -> None:
    """Plan in both languages."""
    expected = outcome(lambda: plans(pieces, depths, outputs))
    given = {} if outputs is None else {"outputs": outputs}
    found = outcome(
        lambda: probe.call(
            "chain",
            pieces=[[name, piece_for_probe(spec)] for name, spec in pieces.items()],
            depths=[[str(depth), list(depth.settings)] for depth in depths],
            **given,
        )
    )
    assert found == expected
