"""``doctor``: what is on this machine, which commands work, and what to type for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anydepth_deploy.commands.options import Json
from anydepth_deploy.errors import shorten

if TYPE_CHECKING:
    from anydepth_deploy.machine.look import Machine

__all__ = ["doctor"]

UNKNOWN = "unknown"


def doctor(
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="BUNDLE", help="A bundle: which of its artifacts run here?"),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="Seconds that a library may take to answer.", min=1, max=600)
    ] = 20.0,
    json: Json = False,
) -> None:
    """Show what is on this machine, what works, and what to type for the rest.

    Libraries are imported in processes of their own, so that a broken one is named and harms
    nothing else. The exit status is 0 whatever is missing.
    """
    from anydepth_deploy import console
    from anydepth_deploy.bundle.bundle import open_bundle
    from anydepth_deploy.machine.look import look

    opened = None if bundle is None else open_bundle(bundle)
    found = look(opened, seconds=seconds)
    if json:
        console.print_json(found.to_json())
        return
    for line in _lines(found):
        console.print_line(line)
    console.print_table(
        "runtimes of bundles",
        ["runtime", "version", "works", "on, or why not"],
        [
            [
                row.name,
                row.version or "-",
                "yes" if row.works else "no",
                ", ".join(row.devices) if row.works else row.reason,
            ]
            for row in found.runtimes
        ],
    )
    if found.extras is not None:
        console.print_table(
            "extras",
            ["extra", "state", "packages"],
            [
                [extra.name, extra.state, ", ".join(map(_package, extra.packages))]
                for extra in found.extras
            ],
        )
    console.print_table(
        "commands",
        ["command", "of", "works", "why not"],
        [
            [row.command, row.what or "-", "yes" if row.works else "no", row.reason or "-"]
            for row in found.commands
        ],
        keys=2,
    )
    if found.bundle is not None:
        console.print_table(
            f"artifacts of {found.bundle['path']}",
            ["file", "runs on", "not on"],
            [
                [
                    item["file"],
                    ", ".join(item["runs_on"]) or "-",
                    "; ".join(f"{name}: {why}" for name, why in item["not_on"].items()) or "-",
                ]
                for item in found.bundle["artifacts"]
            ],
        )
    for advice in found.advice:
        console.print_line(f"for {advice['missing']}: {advice['type']}")


def _lines(found: Machine) -> Iterator[str]:
    """What is no table."""
    source = "" if found.package["installed"] else " (not installed: run from its source)"
    yield f"anydepth-deploy {found.package['version']}{source}, Python {found.python['version']}"
    yield f"system: {found.system['platform'] or UNKNOWN}"
    processor = found.processor
    quota = processor["quota_cores"]
    limits = "" if quota is None else f", a quota of {quota:g}"
    yield (
        f"processor: {processor['name']}, {_count(processor['cores'])} processors, "
        f"{_count(processor['usable_cores'])} cores usable{limits}"
    )
    if processor["features"]:
        yield "  " + ", ".join(f"{name} {_yes(has)}" for name, has in processor["features"].items())
    memory = found.memory
    limit = "" if memory["limit"] is None else f", the container's limit {_giga(memory['limit'])}"
    yield f"memory: {_giga(memory['available'])} free of {_giga(memory['total'])}{limit}"
    writable = {True: "", False: ", cannot be written", None: ""}[found.folder["writable"]]
    yield (
        f"working folder: {found.folder['path'] or UNKNOWN}, {_giga(found.folder['free'])} free of "
        f"{_giga(found.folder['total'])}{writable}"
    )
    if found.jetson is not None:
        told = ", ".join(f"{key} {value}" for key, value in found.jetson.items() if value)
        yield f"Jetson: {told}"
    if not found.gpus:
        yield "GPU: none of NVIDIA's found" if found.gpus == [] else "GPU: unknown"
    for gpu in found.gpus or ():
        yield (
            f"GPU {gpu['index']}: {gpu['name'] or UNKNOWN}, {gpu['capability'] or UNKNOWN}, "
            f"{_giga(gpu['memory_free'])} free of {_giga(gpu['memory_total'])}"
            f"{', divided (MIG)' if gpu['mig'] else ''}"
        )
    versions = [f"{name} {value}" for name, value in found.cuda.items() if value]
    yield f"CUDA: {', '.join(versions) or 'nothing found'}"
    for sensor in found.sensors or ():
        if sensor["reads"]:
            yield f"sensors of {sensor['name']}: {shorten(_kinds(sensor['reads']), 8)}"
        elif sensor["kind"] == "cpu" or found.gpus:
            yield f"sensors of {sensor['name']}: none; unknown: {shorten(sensor['unknown'], 4)}"


def _kinds(readings: list[str]) -> list[str]:
    """Each kind once: there may be a clock for every processor."""
    return list(dict.fromkeys(name.split()[0] for name in readings))


def _package(package: Any) -> str:
    if package.state == "missing":
        return f"{package.name} (missing)"
    outside = f" (outside of {package.wanted})" if package.state == "outside" else ""
    return f"{package.name} {package.version}{outside}"


def _yes(value: bool | None) -> str:
    return UNKNOWN if value is None else "yes" if value else "no"


def _count(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


def _giga(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value / 1e9:.1f} GB"
