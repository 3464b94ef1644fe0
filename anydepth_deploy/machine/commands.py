"""Which commands of this package would work here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anydepth_deploy.errors import EXTRAS, shorten
from anydepth_deploy.machine.runtimes import RuntimeHere

__all__ = ["NEEDS", "CommandHere", "commands_here"]

DISTRIBUTIONS = {
    "cuda": "cuda-bindings",
    "faster_coco_eval": "faster-coco-eval",
    "onnx_ir": "onnx-ir",
    "pynvml": "nvidia-ml-py",
    "tensorrt_rtx": "tensorrt-rtx-cu13",
    "yaml": "pyyaml",
}
"""Packages whose distribution has another name."""

TORCH = ("torch",)
EXPORT = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors")
RUNTIME, BUILDER, ENGINES = "a runtime", "a builder", "engines"
RTX = "tensorrt-rtx"

NEEDS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("inspect", "a bundle", "", ()),
    ("inspect", "a checkpoint", "export", TORCH),
    ("calibrate", "", "export", (*EXPORT, "onnxruntime")),
    ("export", "", "export", EXPORT),
    ("build", "engines", "tensorrt", ("onnx", "onnx_ir", BUILDER)),
    ("build", "FP16 graphs", "graphs", ("onnx", "onnx_ir")),
    ("verify", "a bundle", "onnxruntime", (RUNTIME,)),
    ("verify", "--checkpoint", "export", ("torch", RUNTIME)),
    ("verify", "engines", "tensorrt", (ENGINES,)),
    ("eval", "", "eval", ("faster_coco_eval", RUNTIME)),
    ("bench", "a bundle", "onnxruntime", (RUNTIME,)),
    ("bench", "a checkpoint", "export", TORCH),
    ("sweep", "", "onnxruntime", (RUNTIME,)),
    ("report", "", "", ()),
    ("report", "--plot", "plot", ("matplotlib",)),
    ("report", "--html", "report", ("jinja2",)),
    ("ladder", "--images", "onnxruntime", (RUNTIME,)),
    ("ladder", "--data", "eval", ("faster_coco_eval", RUNTIME)),
    ("bundle", "edit", "", ()),
    ("predict", "", "onnxruntime", (RUNTIME,)),
    ("predict", "videos", "video", ("av", RUNTIME)),
    ("train", "", "train", ("torch", "kornia", "scipy", "yaml")),
    ("norms", "", "export", TORCH),
    ("shapes", "", "", ()),
    ("triton", "", "triton", ("onnx",)),
    ("page", "", "", ()),
    ("demo", "", "export", (*EXPORT, "faster_coco_eval", "onnxruntime")),
    ("doctor", "", "", ()),
)
"""Command, of what, the extra that brings most of it, and what it imports or needs."""


BRINGS = {"export": ("onnxruntime",), "graphs": ("export",), "tensorrt": ("export",)}
"""By extra, others whose packages it brings, as far as :data:`NEEDS` asks for them."""


@dataclass(frozen=True)
class CommandHere:
    """Whether a command would work. ``what``: of what, where that matters; ``reason``: why not;
    ``fix``: the line to type, if there is one."""

    command: str
    what: str
    works: bool
    reason: str | None
    fix: str | None


def commands_here(
    runtimes: Sequence[RuntimeHere],
    version_of: Callable[[str], str | None],
    broken: dict[str, str],
) -> list[CommandHere]:
    """A row for each of :data:`NEEDS`. ``version_of``: of a distribution, None where it is missing.
    ``broken``: packages that are installed and cannot be imported, and why."""
    working = {row.name for row in runtimes if row.works}
    builders = [row for row in runtimes if row.name in ("tensorrt", "tensorrt-rtx")]
    found = []
    for command, what, extra, needs in NEEDS:
        missing: list[str] = []
        reasons: list[str] = []
        for name in needs:
            if name == RUNTIME:
                if not working:
                    missing.append(name)
            elif name == BUILDER:
                # TensorRT-RTX builds for other devices without a GPU.
                if not any(row.works or (row.name == RTX and row.version) for row in builders):
                    missing.append("tensorrt_rtx")
            elif name == ENGINES:
                if not any(row.works for row in builders):
                    reasons.append("no runtime of engines works here")
            elif name in broken:
                reasons.append(f"{name} cannot be imported ({broken[name]})")
            elif version_of(DISTRIBUTIONS.get(name, name)) is None:
                missing.append(name)
        if missing:
            reasons.insert(0, f"missing: {shorten(missing)}")
        fix = _fix(missing, extra)
        found.append(CommandHere(command, what, not reasons, "; ".join(reasons) or None, fix))
    return found


def _fix(missing: Sequence[str], extra: str) -> str | None:
    """The extras that bring what is missing."""
    if not missing:
        return None
    names = [extra] if extra else []
    for name in missing:
        other = "onnxruntime" if name == RUNTIME else EXTRAS.get(name)
        if other and other not in (*names, *BRINGS.get(extra, ())):
            names.append(other)
    return f"pip install 'anydepth-deploy[{','.join(names)}]'" if names else None
