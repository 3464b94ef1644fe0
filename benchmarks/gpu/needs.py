"""What steps need, by name, and why it is not there: the words of a skipped step.

A new need is a probe (:mod:`.probe`) and its name here, or a function of the machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from .device import ROOT, Machine, ask

__all__ = ["NEEDS", "Needs", "marked_tests"]

Need = Callable[[Machine], str | None]
"""Why the thing cannot be had on a machine; None where it can."""

MARK = re.compile(r"^\s*(?:@|pytestmark\s*=.*?)pytest\.mark\.gpu\b", re.MULTILINE)


def marked_tests(folder: Path = ROOT / "tests") -> list[Path]:
    """Test files in which something carries pytest's marker ``gpu``."""
    return [
        path
        for path in sorted(folder.rglob("test_*.py"))
        if MARK.search(path.read_text(encoding="utf-8"))
    ]


def _gpu(machine: Machine) -> str | None:
    return None if machine.gpu is not None else f"no NVIDIA GPU: {machine.without}"


def _probed(name: str, libraries: bool = False) -> Need:
    def need(machine: Machine) -> str | None:
        reason: str | None = ask(name, libraries)["reason"]
        return reason

    return need


def _rtx_matrices(machine: Machine) -> str | None:
    """Of its FP32 and INT8 on Turing: docs/tensorrt.md."""
    old = machine.gpu is not None and machine.gpu.capability == "sm75"
    return "TensorRT-RTX has FP16 alone for SM75" if old else None


def _tests(machine: Machine) -> str | None:
    return None if marked_tests() else "no test carries the marker gpu"


NEEDS: dict[str, Need] = {
    "gpu": _gpu,
    "package": _probed("package"),
    "export": _probed("export"),
    "plot": _probed("plot"),
    "evaluation": _probed("evaluation"),
    "sensors": _probed("sensors"),
    "torch": _probed("torch"),
    "torch-compile": _probed("torch-compile"),
    "onnxruntime-cuda": _probed("onnxruntime-cuda", libraries=True),
    "onnxruntime-tensorrt": _probed("onnxruntime-tensorrt", libraries=True),
    "tensorrt": _probed("tensorrt"),
    "tensorrt-rtx": _probed("tensorrt-rtx"),
    "rtx-beyond-fp16": _rtx_matrices,
    "marked-tests": _tests,
}

ALWAYS = ("gpu", "package")
"""What every step needs, asked first: without a GPU nothing else is looked for."""


class Needs:
    """What this machine has, each thing looked for once and only when a step needs it."""

    def __init__(self, machine: Machine, needs: dict[str, Need] | None = None) -> None:
        self._machine = machine
        self._needs = NEEDS if needs is None else needs
        self._known: dict[str, str | None] = {}

    def lacks(self, name: str) -> str | None:
        """Why ``name`` cannot be had here; None where it can."""
        if name not in self._known:
            self._known[name] = self._needs[name](self._machine)
        return self._known[name]

    def first_lacking(self, names: tuple[str, ...]) -> str | None:
        """The reason of the first of ``names`` that is lacking, after what every step needs."""
        for name in (*ALWAYS, *names):
            if (reason := self.lacks(name)) is not None:
                return reason
        return None
