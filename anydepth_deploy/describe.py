"""``inspect``: what a checkpoint or a bundle holds, as data and as a table."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anydepth_deploy import console
from anydepth_deploy.annotations.evaluations import labels, read_evaluations
from anydepth_deploy.bundle.bundle import open_bundle
from anydepth_deploy.bundle.verdicts import read_verdicts
from anydepth_deploy.depth import DepthSpace, count_depths
from anydepth_deploy.errors import shorten, shown
from anydepth_deploy.families.shared.settling import Said, assumption
from anydepth_deploy.manifest import depth_rows

__all__ = ["describe_bundle", "describe_checkpoint", "show"]

ABOUT = ("version", "date", "epoch", "last_epoch", "stride", "nc")
MOST_NUMBERS = 64
"""In one of them: a network has a few strides."""


def describe_checkpoint(
    path: str | Path, size: tuple[int, int] | None = None, said: Said | None = None
) -> dict[str, Any]:
    """Family, configuration, gates, parameters and multiply-adds per depth of a checkpoint.

    ``about`` is what the file says of itself: version, epoch, date and, of a network that was
    saved as an object, its strides and its class count, as far as these are texts and numbers.
    ``notes`` say what of it was left out. ``layout``: whose names its weights have. ``said``: what
    no key reveals, of which ``assumed`` was said by nobody.
    Multiply-adds are of one image of ``size`` (height, width; by default the checkpoint's).
    Raises :class:`CheckpointError` and :class:`InputError`.
    """
    from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
    from anydepth_deploy.checkpoints.class_names import class_names
    from anydepth_deploy.families.shared.macs import count_macs

    checkpoint = read_checkpoint(path, said)
    model = load_model(checkpoint)
    chosen = size or checkpoint.usual_size()
    macs = count_macs(model, chosen)
    table = model.table
    about, notes = _about(checkpoint.extra)
    return {
        "kind": "checkpoint",
        "path": str(path),
        "family": checkpoint.family.name,
        "config": checkpoint.config.name,
        "weights": checkpoint.weights,
        "layout": checkpoint.layout,
        "said": dict(checkpoint.chosen),
        "assumed": dict(checkpoint.assumed),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "classes": class_names(checkpoint.config.classes, stored=checkpoint.class_names),
        "input_size": list(chosen),
        "about": about,
        "notes": [*checkpoint.notes, *notes],
        "gates": _gates(table.space),
        "depths": [row.model_dump() for row in depth_rows(table, macs.at, macs.executed)],
    }


def describe_bundle(path: str | Path) -> dict[str, Any]:
    """The same of a bundle, and its artifacts and recorded results; needs no torch. ``notes`` say
    how many of the results are not understood.

    Raises :class:`BundleError` for a missing bundle or one whose files were altered.
    """
    bundle = open_bundle(path)
    manifest = bundle.manifest
    for artifact in manifest.artifacts:
        bundle.file(artifact)
    return {
        "kind": "bundle",
        "path": str(path),
        "name": manifest.name,
        "family": manifest.family,
        "config": manifest.config,
        "weights": manifest.source.weights,
        "said": manifest.said,
        "source": manifest.source.model_dump(),
        "parameters": manifest.parameters,
        "classes": manifest.classes,
        "exported_classes": manifest.exported_classes,
        "golden": manifest.golden and manifest.golden.model_dump(),
        "input_size": list(bundle.size),
        "preprocess": manifest.preprocess.model_dump(),
        "suppression": manifest.suppression and manifest.suppression.model_dump(),
        "gates": _gates(bundle.table.space),
        "ladder": manifest.ladder,
        "measured": [ladder.model_dump() for ladder in manifest.measured],
        "depths": [row.model_dump() for row in manifest.depths],
        "artifacts": [artifact.model_dump() for artifact in manifest.artifacts],
        "results": manifest.results,
        "notes": _not_understood(manifest.results),
    }


def show(
    found: dict[str, Any], *, every: bool, as_json: bool, checkpoint: str | Path | None = None
) -> None:
    """Print a description as JSON, or as a few short tables; ``checkpoint``: the file that a bundle
    was made from, if that is known."""
    if as_json:
        console.print_json(found)
        return
    height, width = found["input_size"]
    gates = ", ".join(f"{gate['name']} ({'/'.join(gate['choices'])})" for gate in found["gates"])
    console.print_line(
        f"{found['kind']} {found['path']}: {found['family']} {found['config']}, "
        f"{found['parameters'] / 1e6:.3f} M parameters, {len(found['classes'])} classes, "
        f"input {height}x{width}, weights: {found['weights']}"
    )
    if name := found.get("name"):
        console.print_line(f"name: {_shown(name)}")
    console.print_line(f"gates: {gates or 'none'}; {count_depths(len(found['depths']))}")
    if found.get("layout") == "hugging face":
        console.print_line("names of weights: those of transformers (Hugging Face)")
    for name, value in found.get("assumed", {}).items():
        console.print_line(assumption(name, value))
    said = {key: word for key, word in found["said"].items() if key not in found.get("assumed", {})}
    if said:
        console.print_line(", ".join(f"{key}: {_shown(word)}" for key, word in said.items()))
    if about := found.get("about"):
        console.print_line(", ".join(f"{key}: {_shown(value)}" for key, value in about.items()))
    for note in found.get("notes", []):
        console.print_line(note)
    if recipe := found.get("preprocess"):
        console.print_line(f"pictures: {_fitting(recipe)}; {_suppression(found['suppression'])}")
    rows = [row for row in found["depths"] if every or row["level"] is not None]
    if not every:
        rows.sort(key=lambda row: row["level"])
    # Levels are rows, too, unless another ladder came into use since the export.
    moved = any(row["level"] not in (None, row["index"]) for row in rows)
    top = max(row["macs"]["total"] for row in found["depths"])
    parts = list(dict.fromkeys(part for row in rows for part in row["macs"] if part != "total"))
    executed = any(row["macs_executed"] not in (None, row["macs"]["total"]) for row in rows)
    console.print_table(
        "every depth" if every else "ladder",
        [
            *(["level"] if moved else []),
            "row",
            "depth",
            "multiply-adds",
            *(["executed"] if executed else []),
            "of super",
            *parts,
        ],
        [
            [
                *(["-" if row["level"] is None else row["level"]] if moved else []),
                row["index"],
                row["depth"],
                console.giga(row["macs"]["total"]),
                *([console.giga(row["macs_executed"])] if executed else []),
                f"{row['macs']['total'] / top:.2f}",
                *(console.giga(row["macs"].get(part, 0)) for part in parts),
            ]
            for row in rows
        ],
        keys=3 if moved else 2,
    )
    if golden := found.get("golden"):
        pictures = "1 picture" if golden["pictures"] == 1 else f"{golden['pictures']} pictures"
        console.print_line(
            f"golden outputs: {pictures} at {count_depths(len(golden['depths']))}, "
            f"{golden['bytes'] / 1000:.0f} kB; 'verify {found['path']}' compares with them"
        )
    for ladder in found.get("measured", []):
        console.print_line(_measured(ladder))
    if "artifacts" in found:
        words = (
            "verify",
            found["path"],
            "--checkpoint",
            str(checkpoint or found["source"]["file"]),
        )
        command = f"anydepth-deploy {shlex.join(words)}"
        _show_artifacts(found["artifacts"], found["results"], command)


def _show_artifacts(
    artifacts: list[dict[str, Any]], results: dict[str, list[dict[str, Any]]], verify: str
) -> None:
    graphs = [item for item in artifacts if item["engine"] is None]
    console.print_table(
        "artifacts",
        ["file", "layout", "precision", "weights", "depth", "size", "int8 convs", "kept"],
        [
            [
                item["file"],
                item["layout"],
                item["precision"],
                item["weights"],
                item["depth"] or _part(item),
                console.megabytes(item["bytes"]),
                item["quantised"] or "-",
                len(item["kept"]) or "-",
            ]
            for item in graphs
        ],
    )
    engines = [item for item in artifacts if item["engine"] is not None]
    if engines:
        console.print_table(
            "engines",
            ["file", "depth", "size", "batch", "computes in", "verdict"],
            [
                [
                    item["file"],
                    item["depth"] or _part(item),
                    console.megabytes(item["bytes"]),
                    "{smallest}-{largest}".format(**item["engine"]["batch"]),
                    console.counts(item["engine"]["layers"]),
                    _verdict(item["verified"]),
                ]
                for item in engines
            ],
        )
    for line in _precision(graphs):
        console.print_line(line)
    for line in _results(results, graphs, verify):
        console.print_line(line)
    builders = {
        f"{item['format']} {item['engine']['version']} for "
        f"{' and '.join(item['engine']['capabilities'])}"
        for item in engines
    }
    if builders:
        console.print_line(f"engines built with {', '.join(sorted(builders))}")


def _measured(ladder: dict[str, Any]) -> str:
    """A ladder that was measured on some device."""
    measure = "AP" if ladder["data"]["kind"] == "ap" else "agreement"
    rungs = [
        f"{rung['depth']} {rung['milliseconds']:.4g} ms {rung['score']:.1f}"
        for rung in ladder["rungs"]
    ]
    return (
        f"ladder measured on {_shown(ladder['device'])} ({_shown(ladder['runtime'])} "
        f"{ladder['precision']}, {ladder['layout']}, batch {ladder['batch']}; {measure}): "
        f"{shorten(rungs, 12)}"
    )


def _part(item: dict[str, Any]) -> str:
    """Which depths a graph holds that is not of one."""
    return "all" if item["piece"] is None else f"piece {item['piece']['order'] + 1}"


def _verdict(verified: dict[str, Any] | None) -> str:
    """What comparing an engine with its graph has found."""
    if verified is None:
        return "unverified"
    if not verified["passed"]:
        return f"FAILED on {verified['device']}"
    return f"verified on {verified['device']}, {verified['depths']} depths"


def _about(extra: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What a checkpoint says of itself, and a note of what is too odd to be shown."""
    said = {key: extra[key] for key in ABOUT if key in extra}
    plain = {key: value for key, value in said.items() if _is_plain(value)}
    odd = [key for key in said if key not in plain]
    if not odd:
        return plain, []
    expected = "expected a text, a number, or a list of numbers"
    return plain, [f"left out: what the file says of its {shorten(odd)}; {expected}"]


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return len(value) <= MOST_NUMBERS and all(map(_is_number, value))
    return value is None or isinstance(value, str | bool) or _is_number(value)


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return type(value) is int and abs(value) < 2**63


def _not_understood(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A note of recorded results that are of another shape than this version writes."""
    counts = {
        "verify": sum(read_verdicts(record) is None for record in results.get("verify", [])),
        "eval": len(results.get("eval", [])) - len(read_evaluations(results)),
    }
    told = [f"{count} of '{kind}'" for kind, count in counts.items() if count]
    return [f"left out: recorded results that are not understood: {shorten(told)}"] if told else []


def _shown(value: object) -> str:
    """What a file says of itself, without what could steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value)[:60])


def _fitting(recipe: dict[str, Any]) -> str:
    if recipe["resize"] == "letterbox":
        return f"letterboxed on grey {recipe['padding']}"
    return "stretched to the input"


def _suppression(rule: dict[str, Any] | None) -> str:
    if rule is None:
        return "no suppression needed"
    if rule["where"] == "none":
        return "suppression left to the application"
    place = "in the graph" if rule["where"] == "graph" else "on the host"
    return (
        f"suppression {place}: scores above {rule['score_threshold']:g}, "
        f"IoU {rule['iou_threshold']:g}"
    )


def _gates(space: DepthSpace) -> list[dict[str, Any]]:
    return [
        {"name": gate.name, "choices": [gate.letter(choice) for choice in gate.choices]}
        for gate in space.gates
    ]


def _precision(artifacts: list[dict[str, Any]]) -> list[str]:
    """Of each lower precision: where scales come from, and what stays in a higher one."""
    lines: dict[str, None] = {}
    kept: dict[tuple[str, str], dict[str, None]] = {}
    for item in artifacts:
        name = item["precision"]
        if scheme := item["quantisation"]:
            table = scheme["calibration"]
            name = f"int8 for {scheme['target']}"
            lines[
                f"{name}: ranges of {table['file']} (sha256 {table['sha256'][:12]}…, "
                f"{table['method']}, {table['pictures']} pictures)"
            ] = None
        for operator in item["kept"]:
            kept.setdefault((name, operator["reason"]), {})[operator["node"]] = None
    lines |= {
        f"{name}: {len(nodes)} kept ({reason}): {shorten(nodes, 4)}": None
        for (name, reason), nodes in kept.items()
    }
    return sorted(lines)


def _results(
    results: dict[str, list[dict[str, Any]]], artifacts: list[dict[str, Any]], verify: str
) -> list[str]:
    """What is known of these very files: the newest verdict on each, and the newest evaluation on
    each data set. ``verify``: the command that gives a verdict."""
    verdicts: dict[str, bool] = {}
    references: dict[str, str] = {}
    for record in results.get("verify", []):
        for tried in read_verdicts(record) or []:
            if tried.precision != "bf16":  # that says nothing of the artifact in FP32
                verdicts[tried.sha256] = tried.passed
                references[tried.sha256] = str(record.get("compared_with", "checkpoint"))
    hashes = [item["sha256"] for item in artifacts]
    equal = sum(verdicts.get(digest, False) for digest in hashes)
    failed = sum(not verdicts.get(digest, True) for digest in hashes)
    held = sorted({references[digest] for digest in hashes if digest in references})
    beside = " or ".join(f"the {shown(name)}" for name in held)
    verdict = f"verified: {equal} of {len(hashes)} artifacts agree with {beside}"
    lines = [f"{verdict}, {failed} DIFFER" if failed else verdict] if equal or failed else []
    if (untried := len(hashes) - equal - failed) > 0:
        lines.append(f"not verified yet: {untried} of {len(hashes)} artifacts; next: {verify}")
    found = read_evaluations(results)
    newest = {(item.data, item.precision, item.runtime): item for item in found}
    named = labels([item.data for item in newest.values()])
    for item in newest.values():
        rows = ", ".join(f"{depth} {ap:.1f}" for depth, ap in [*item.rows.items()][:8])
        measured = ", ".join(item.artifacts[:2]) or "an artifact"
        how = f"{item.precision}, {item.runtime}" if item.runtime else item.precision
        lines.append(f"AP of {measured} ({how}) on {named[item.data]}: {rows}")
    return lines
