"""What is on this machine, put together: :func:`look`."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anydepth_deploy.bench.sensors.jetson import JetsonSensor, is_jetson
from anydepth_deploy.bench.sensors.sysfs import UnreadableError, run_command
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.machine import hardware
from anydepth_deploy.machine.artifacts import bundle_here
from anydepth_deploy.machine.commands import CommandHere, commands_here
from anydepth_deploy.machine.probes import SECONDS, Answer, ask
from anydepth_deploy.machine.requirements import Extra, extras, installed
from anydepth_deploy.machine.runtimes import RuntimeHere, probe_of, runtimes_here
from anydepth_deploy.reading.system_files import Tree
from anydepth_deploy.runtimes.registry import RUNTIMES
from anydepth_deploy.version import __version__

__all__ = ["Machine", "look"]

Ask = Callable[[Iterable[str], float], Mapping[str, Answer]]

SMI = (
    "nvidia-smi",
    "--query-gpu=index,name,driver_version,compute_cap,memory.total,memory.free",
    "--format=csv,noheader,nounits",
)
SMI_SECONDS = 5.0


@dataclass(frozen=True)
class Machine:
    """What was found; the fields are the keys of ``doctor --json`` (docs/json.md). What could not
    be found out is None. Sizes in bytes."""

    package: dict[str, Any]
    python: dict[str, Any]
    system: dict[str, Any]
    processor: dict[str, Any]
    memory: dict[str, int | None]
    folder: dict[str, Any]
    gpus: list[dict[str, Any]] | None
    cuda: dict[str, Any]
    jetson: dict[str, Any] | None
    sensors: list[dict[str, Any]] | None
    runtimes: list[RuntimeHere]
    extras: list[Extra] | None
    commands: list[CommandHere]
    bundle: dict[str, Any] | None
    advice: list[dict[str, str]]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @property
    def works(self) -> tuple[str, ...]:
        """The runtimes that work here, by name."""
        return tuple(row.name for row in self.runtimes if row.works)


def look(
    bundle: str | Path | Bundle | None = None,
    *,
    seconds: float = SECONDS,
    root: Path = Path("/"),
    asking: Ask = ask,
) -> Machine:
    """Look at this machine, and at what of ``bundle`` runs here.

    Libraries are asked in processes of their own, for at most ``seconds``; nothing heavy is
    imported, and what is broken or hangs is named in its row. ``root`` and ``asking`` are for
    tests: where ``/proc`` and ``/sys`` are, and what asks libraries. Raises :class:`BundleError`
    where ``bundle`` is none.
    """
    tree = Tree(root)
    jetson = _jetson(tree, root)
    names = {probe_of(name): None for name in RUNTIMES}
    told = asking([*names, "torch", "nvml", "cuda", "sensors"], seconds)
    gpus = _gpus(told, jetson, root)
    cuda = told.get("cuda", Answer())
    gpu = cuda.found.get("name") or _first_name(gpus)
    capability = cuda.found.get("capability") or _first(gpus, "capability")
    rows = runtimes_here(told, gpu=gpu, jetson=jetson is not None)
    torch = told.get("torch", Answer())
    broken = {
        name: answer.reason
        for name, answer in (("torch", torch), ("onnxruntime", told.get("onnxruntime", Answer())))
        if answer.reason and not answer.missing
    }
    found = extras()
    commands = commands_here(rows, installed, broken)
    return Machine(
        package={"version": __version__, "installed": installed("anydepth-deploy") is not None},
        python={"version": platform.python_version(), "executable": sys.executable or None},
        system=hardware.system(),
        processor=hardware.processor(root),
        memory=hardware.memory(root),
        folder=hardware.folder(Path()),
        gpus=gpus,
        cuda=_versions(told),
        jetson=jetson,
        sensors=told.get("sensors", Answer()).found.get("sensors"),
        runtimes=rows,
        extras=found,
        commands=commands,
        bundle=None if bundle is None else bundle_here(bundle, rows, capability),
        advice=_advice(rows, found, commands, gpus, root),
    )


def _jetson(tree: Tree, root: Path) -> dict[str, Any] | None:
    if not is_jetson(tree):
        return None
    device = JetsonSensor(root).describe()
    return {
        "model": device.name,
        "l4t": device.settings.get("l4t"),
        "jetpack": installed("nvidia-jetpack"),
        "power_mode": device.settings.get("power mode"),
        "gpu_clock": device.settings.get("gpu clock"),
    }


def _gpus(
    told: Mapping[str, Answer], jetson: dict[str, Any] | None, root: Path
) -> list[dict[str, Any]] | None:
    """From NVML, from ``nvidia-smi``, or from CUDA; None where none of them can tell."""
    nvml, cuda = told.get("nvml", Answer()), told.get("cuda", Answer())
    if "gpus" in nvml.found:
        return list(nvml.found["gpus"])
    if root == Path("/") and jetson is None:
        try:
            return _listed(run_command(SMI, SMI_SECONDS))
        except UnreadableError:
            pass
    if cuda.found.get("name"):
        return [
            {
                "index": 0,
                "name": cuda.found["name"],
                "capability": cuda.found.get("capability"),
                "memory_total": cuda.found.get("memory_total"),
                "memory_free": None,
                "mig": None,
            }
        ]
    plugged = hardware.nvidia_on_the_bus(root)
    return [] if cuda.found.get("devices") == 0 or plugged == 0 or jetson is None else None


def _listed(text: str) -> list[dict[str, Any]]:
    """What ``nvidia-smi`` says, a GPU a line."""
    found = []
    for line in text.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) != 6 or not words[0].isdigit():
            continue
        index, name, _, capability, total, free = words
        found.append(
            {
                "index": int(index),
                "name": name,
                "capability": f"sm{capability.replace('.', '')}" if "." in capability else None,
                "memory_total": int(total) << 20 if total.isdigit() else None,
                "memory_free": int(free) << 20 if free.isdigit() else None,
                "mig": None,
            }
        )
    return found


def _versions(told: Mapping[str, Answer]) -> dict[str, Any]:
    """Of what lies between the driver and the runtimes."""
    nvml, cuda, torch = (told.get(name, Answer()).found for name in ("nvml", "cuda", "torch"))
    cudnn = torch.get("cudnn")
    return {
        "driver": nvml.get("driver"),
        "driver_cuda": nvml.get("cuda") or cuda.get("driver"),
        "runtime": cuda.get("runtime"),
        "bindings": installed("cuda-bindings"),
        "cudnn": _first_version("nvidia-cudnn-cu13", "nvidia-cudnn-cu12") or (cudnn and str(cudnn)),
        "tensorrt": told.get("tensorrt", Answer()).found.get("version"),
        "tensorrt_rtx": told.get("tensorrt-rtx", Answer()).found.get("version"),
        "torch": torch.get("version"),
        "torch_cuda": torch.get("cuda"),
    }


def _first_version(*names: str) -> str | None:
    return next((version for name in names if (version := installed(name))), None)


def _first(gpus: list[dict[str, Any]] | None, key: str) -> Any:
    return gpus[0][key] if gpus else None


def _first_name(gpus: list[dict[str, Any]] | None) -> str | None:
    name = _first(gpus, "name")
    return None if name is None else str(name)


def _advice(
    rows: list[RuntimeHere],
    found: list[Extra] | None,
    commands: list[CommandHere],
    gpus: list[dict[str, Any]] | None,
    root: Path,
) -> list[dict[str, str]]:
    """What is missing, and the line to type for it, each line once."""
    lines: dict[str, str] = {}
    if not gpus and (hardware.nvidia_on_the_bus(root) or 0) > 0:
        lines["sudo ubuntu-drivers install"] = "an NVIDIA GPU is plugged in, and no driver answers"
    for row in rows:
        if row.fix is not None:
            lines.setdefault(row.fix, f"runtime {row.name}")
    for command in commands:
        if command.fix is not None:
            what = f"{command.command} {command.what}".strip()
            lines[command.fix] = f"{lines[command.fix]}, {what}" if command.fix in lines else what
    for extra in found or ():
        for package in extra.packages:
            if package.state == "outside":
                line = f"pip install '{package.name}{package.wanted}'"
                lines.setdefault(
                    line, f"{package.name} {package.version} is outside of what was tried"
                )
    return [{"missing": what, "type": line} for line, what in lines.items()]
