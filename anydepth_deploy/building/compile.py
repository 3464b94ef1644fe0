"""One graph becomes one engine, in a process of its own.

Parsers and builders are large libraries that abort, crash, or are killed for want of memory, and
that hold an interrupt back for minutes. None of that may happen to the program that asked, so it
asks a child (:mod:`anydepth_deploy.building.worker`), and ends it when it is itself interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from anydepth_deploy.building.backend import load
from anydepth_deploy.errors import BuildError, DeviceError, PrecisionError
from anydepth_deploy.manifest import BatchProfile

__all__ = ["BuildSettings", "Built", "compile_engine"]

COMMAND: Sequence[str] = (sys.executable, "-m", "anydepth_deploy.building.worker")
"""What is run, with the file of the request as its only argument."""

MEMORY_ADVICE = (
    "build with a smaller --workspace or a smaller largest --batch, and with nothing else running"
)


@dataclass(frozen=True)
class BuildSettings:
    """How to build an engine.

    ``runtime``: ``tensorrt`` or ``tensorrt-rtx``. ``precision``: what the graph is in, ``fp32``,
    ``fp16`` or ``int8``. ``capabilities``: targets to build for ahead of time (``sm75``;
    TensorRT-RTX only), () for the device at hand. ``workspace``: limit of the builder's scratch
    memory in bytes, None for its own. ``timing_cache``: a file that later builds profit from; of no
    use to TensorRT-RTX. ``float32``: nodes that have to compute in FP32 where the builder is weakly
    typed.
    """

    runtime: str
    precision: str
    batch: BatchProfile
    capabilities: tuple[str, ...] = ()
    workspace: int | None = None
    timing_cache: Path | None = None
    float32: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        cache = None if self.timing_cache is None else str(self.timing_cache.absolute())
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        return own | {"batch": self.batch.model_dump(), "timing_cache": cache}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BuildSettings:
        cache = data["timing_cache"]
        return cls(
            **data
            | {
                "batch": BatchProfile(**data["batch"]),
                "capabilities": tuple(data["capabilities"]),
                "timing_cache": None if cache is None else Path(cache),
                "float32": tuple(data["float32"]),
            }
        )


@dataclass(frozen=True)
class Built:
    """What an engine turned out to be.

    ``device``: the GPU it was built on; None where it was built ahead of time. ``capabilities``:
    what it runs on. ``layers``: convolutions and matrix products by the type they compute in
    (``{"fp16": 61}``), as the builder has merged them; of an engine for several targets those of
    the weakest, which all of them run. ``peak_memory``: of the process that built it, bytes.
    ``notes``: what did not go as asked, though nothing failed.
    """

    version: str
    device: str | None
    capabilities: tuple[str, ...]
    seconds: float
    layers: dict[str, int]
    strongly_typed: bool
    peak_memory: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Built:
        lists = {name: tuple(data[name]) for name in ("capabilities", "notes")}
        return cls(**data | lists)


def compile_engine(
    graph: Path,
    engine: Path,
    settings: BuildSettings,
    *,
    progress: Callable[[str], None] | None = None,
) -> Built:
    """Build ``graph``, an ONNX file, into ``engine``, which is written whole or not at all.

    ``progress`` hears what is being done. An exception in it, Ctrl-C included, ends the build.

    Raises :class:`PrecisionError` where the engine would not compute in the graph's precision,
    :class:`BuildError` for a graph that cannot be read or built and for a builder that died,
    :class:`DeviceError` where there is no GPU and one is needed, and what
    :func:`anydepth_deploy.building.backend.load` raises.
    """
    title = load(settings.runtime).title
    if not graph.is_file():
        raise BuildError(f"{graph} does not exist or is not a file: give an ONNX graph")
    with _unfinished(engine) as part:
        with tempfile.TemporaryDirectory(prefix="anydepth-compile-") as folder:
            answer = _ask(
                {
                    "graph": str(graph.absolute()),
                    "engine": str(part),
                    "settings": settings.to_json(),
                },
                Path(folder),
                f"{graph}: {title}",
                progress,
            )
        if "error" in answer:
            raise _error(answer["error"], str(answer["message"]))
        try:
            part.replace(engine)
        except OSError as error:
            raise BuildError(f"cannot write {engine}: {error.strerror}") from None
    return Built.from_json(answer["built"])


@contextlib.contextmanager
def _unfinished(engine: Path) -> Iterator[Path]:
    """A file beside ``engine`` to write into, gone in the end; shows at once whether one can."""
    if engine.is_dir():
        raise BuildError(f"cannot write {engine}: it is a folder, expected the name of a file")
    part = engine.absolute().with_name(f".{engine.name}.{secrets.token_hex(4)}.part")
    try:
        part.touch(exist_ok=False)
    except OSError as error:
        raise BuildError(f"cannot write {engine}: {error.strerror}") from None
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _ask(
    request: dict[str, Any], folder: Path, what: str, progress: Callable[[str], None] | None
) -> dict[str, Any]:
    """Run the child and read its answer. ``what``: graph and library, for messages."""
    answer, words = folder / "answer.json", folder / "said.txt"
    asked = folder / "request.json"
    asked.write_text(json.dumps(request | {"answer": str(answer)}), encoding="utf-8")
    with words.open("wb") as said:
        try:
            child = subprocess.Popen(
                [*COMMAND, str(asked)],
                # Held open: its end tells the child that nobody waits any more.
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                # Python looks for modules there first: it must hold none.
                cwd=folder,
                env=_environment(),
                # Ctrl-C is for this process, which knows what to do about it.
                start_new_session=True,
            )
        except OSError as error:
            raise BuildError(f"{what} cannot be started: {error.strerror}") from None
        with child:
            try:
                assert child.stdout is not None
                for line in child.stdout:
                    if progress is not None:
                        progress(line.decode("utf-8", "replace").strip())
                code = child.wait()
            finally:
                _end(child)
    if code == 0:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(answer.read_text(encoding="utf-8"))
            if isinstance(found, dict):
                return found
    raise BuildError(_death(what, code, words))


def _environment() -> dict[str, str]:
    """One in which the child finds this very package, even where it is not installed."""
    source = Path(__file__).absolute().parents[2]
    environment = dict(os.environ)
    # A folder of installed packages must not come before the standard library.
    if source.name not in ("site-packages", "dist-packages"):
        places = (str(source), os.environ.get("PYTHONPATH"))
        environment["PYTHONPATH"] = os.pathsep.join(place for place in places if place)
    return environment


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child at once, and whatever it has started: there is nothing it has to tidy up."""
    if child.poll() is None:
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(child.pid, signal.SIGKILL)
            else:
                child.kill()
        child.wait()


def _death(what: str, code: int, words: Path) -> str:
    """Why there is no answer, from the exit status and the last thing that was said."""
    said = words.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = f" (last words: {said[-1].strip()[:200]})" if said else ""
    if code == -9:
        return f"{what} was killed while it built, most likely for want of memory: {MEMORY_ADVICE}"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return (
            f"{what} crashed while it built, by {name}{last}: {MEMORY_ADVICE}; if it crashes "
            "again, try another --layout"
        )
    return f"{what} ended without an engine, with exit status {code}{last}: build again"


def _error(kind: Literal["build", "precision", "device"], message: str) -> Exception:
    if kind == "precision":
        return PrecisionError(message)
    if kind == "device":
        return DeviceError(message)
    return BuildError(message)
