"""The process that builds one engine: ``python -m anydepth_deploy.building.worker REQUEST``.

REQUEST is a JSON file with the graph, the file to write the engine to, the file to write the answer
to, and :class:`BuildSettings`. What is being done goes to the standard output, a line each. The
libraries below print there as they please, so they get the standard error instead.

What runs on TensorRT proper has been tried against the names of its bindings only, and is
**unverified on hardware**.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anydepth_deploy.building.backend import Backend, load
from anydepth_deploy.building.compile import MEMORY_ADVICE, BuildSettings, Built
from anydepth_deploy.building.evidence import (
    Listing,
    asked_types,
    check_precision,
    from_inspector,
    from_log,
)
from anydepth_deploy.errors import BuildError, DeviceError, PrecisionError

__all__ = ["build", "main"]

ABANDONED = 3
"""Exit status of a child that nobody waits for."""


class Log:
    """What a builder says: its errors, and the lines that list layers."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.layers: list[str] = []

    def hear(self, error: bool, message: str) -> None:
        """Called by the library in the midst of its work, from any thread: it must not raise."""
        if error:
            self.errors.append(message)
        elif "LayerType: " in message:
            self.layers.append(message)


def build(graph: Path, engine: Path, settings: BuildSettings, say: Callable[[str], None]) -> Built:
    """Build ``graph`` into the file ``engine``, in this process; see :func:`compile_engine`."""
    began = time.monotonic()
    backend = load(settings.runtime)
    device = None
    if not settings.capabilities:
        from anydepth_deploy.runtimes.tensorrt.cuda import load_cuda

        # Before any builder: without a GPU the one of TensorRT proper may crash.
        device = load_cuda().device()
    log = Log()
    logger = backend.logger(log.hear)
    builder = backend.builder(logger)
    network = backend.network(builder)
    say(f"reading {graph.name}")
    parser = backend.parser(network, logger)  # owns the weights until the engine is built
    _parse(backend, parser, network, graph)
    asked = asked_types(backend.typed_layers(network))
    config = backend.config(builder, workspace=settings.workspace)
    backend.set_targets(config, settings.capabilities)
    notes = _types(backend, builder, network, config, settings, graph)
    _add_profile(backend, builder, network, config, settings, graph)
    cache, remarks = _attach_cache(backend, config, settings)
    notes += remarks
    say(f"building {graph.name} with {backend.title}, {network.num_layers} layers")
    log.errors.clear()
    built = builder.build_serialized_network(network, config)
    targets = settings.capabilities or (() if device is None else (device.capability,))
    if built is None:
        raise _refused(graph, backend, log.errors, settings, targets)
    content = bytes(built)
    del built
    say("checking the precision")
    listing = _listing(backend, logger, log, content)
    try:
        notes += check_precision(
            listing, asked, settings.precision, capabilities=targets, title=backend.title
        )
    except PrecisionError as error:
        raise PrecisionError(f"{graph}: {error}") from None
    try:
        engine.write_bytes(content)
    except OSError as error:
        raise BuildError(f"cannot write the engine of {graph}: {error.strerror}") from None
    if cache is not None and settings.timing_cache is not None:
        notes += _save_cache(cache, settings.timing_cache)
    return Built(
        version=backend.version,
        device=None if device is None else device.name,
        capabilities=tuple(targets),
        seconds=round(time.monotonic() - began, 3),
        layers=dict(sorted(listing.layers.items())),
        strongly_typed=backend.strongly_typed,
        peak_memory=_peak_memory(),
        notes=tuple(notes),
    )


def _parse(backend: Backend, parser: Any, network: Any, graph: Path) -> None:
    read = parser.parse_from_file(str(graph))
    # Without a complaint, plain text is read as a graph with nothing in it.
    if read and network.num_outputs:
        return
    errors = [backend.parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
    about = [item for item in errors if item[0] >= 0 or item[1]]
    if not about:
        reason = f" ({clean(errors[0][3])})" if errors and not _unreadable(errors[0][3]) else ""
        raise BuildError(
            f"{graph} is not a readable ONNX graph{reason}: it is cut off or something else, so "
            "copy or export it again"
        )
    index, name, operator, text = about[0]
    if not name:
        name, operator = _node(graph, index)
    raise BuildError(
        f"{graph}: {backend.title} cannot read the node {name} ({operator}): {clean(text)}: "
        "export the graph again without this operator, or take another runtime"
    )


def _unreadable(text: str) -> bool:
    return "ParseFromCodedStream" in text or "Failed to parse" in text


def _node(graph: Path, index: int) -> tuple[str, str]:
    """Name and operator of a node by its number, for parsers that give no more than that."""
    try:
        import onnx

        node = onnx.load(graph, load_external_data=False).graph.node[index]
    except Exception:  # only the wording of a message is at stake
        return f"number {index}", "unknown operator"
    return node.name or f"number {index}", node.op_type


def _types(
    backend: Backend,
    builder: Any,
    network: Any,
    config: Any,
    settings: BuildSettings,
    graph: Path,
) -> list[str]:
    try:
        kept = backend.set_types(builder, network, config, settings.precision, settings.float32)
    except PrecisionError as error:
        raise PrecisionError(f"{graph}: {error}") from None
    wanted = len(settings.float32)
    if backend.strongly_typed or settings.precision == "fp32" or kept == wanted:
        return []
    return [f"{wanted - kept} of {wanted} nodes to keep in FP32 are no layers of their own"]


def _add_profile(
    backend: Backend, builder: Any, network: Any, config: Any, settings: BuildSettings, graph: Path
) -> None:
    batch = settings.batch
    try:
        profile = backend.profile(builder, network, (batch.smallest, batch.typical, batch.largest))
    except BuildError as error:
        raise BuildError(f"{graph}: {error}") from None
    if profile is not None and config.add_optimization_profile(profile) < 0:
        raise BuildError(
            f"{graph}: {backend.title} takes no batches of {batch.smallest} to {batch.largest}: "
            "choose others with --batch"
        )


def _attach_cache(
    backend: Backend, config: Any, settings: BuildSettings
) -> tuple[Any | None, list[str]]:
    path = settings.timing_cache
    if path is None:
        return None, []
    content = b""
    with contextlib.suppress(FileNotFoundError):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise BuildError(f"the timing cache {path} cannot be read: {error.strerror}") from None
    cache, useful = backend.attach_cache(config, content)
    if cache is None:
        return None, [f"{backend.title} times nothing while it builds: {path} was not used"]
    if content and not useful:
        return cache, [f"{path} is of another version or device, so it was begun anew"]
    return cache, []


def _save_cache(cache: Any, path: Path) -> list[str]:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            part.write_bytes(bytes(cache.serialize()))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        return [f"the timing cache {path} could not be written: {error.strerror}"]
    return []


def _listing(backend: Backend, logger: Any, log: Log, engine: bytes) -> Listing:
    if backend.ahead_of_time:
        return from_log(log.layers)
    return from_inspector(backend.inspect(logger, engine))


def _refused(
    graph: Path,
    backend: Backend,
    errors: list[str],
    settings: BuildSettings,
    targets: tuple[str, ...],
) -> BuildError:
    """What a failed build is to be called, from the first thing that went wrong."""
    reason = clean(errors[0]) if errors else "it gives no reason"
    if "FP32 GEMM is not supported" in reason:
        where = f" for {', '.join(targets)}" if targets else ""
        return PrecisionError(
            f"{graph}: {settings.precision.upper()} cannot be delivered{where} by {backend.title}: "
            f"{reason}: build fp16"
        )
    advice = "try another --layout or --precision"
    if errors and re.search(r"(?i)out ?of ?memory|allocat|insufficient workspace", errors[0]):
        advice = MEMORY_ADVICE
    elif "no runners that implement it" in reason:
        advice = f"{backend.title} has no such operator, so export the graph without it"
    return BuildError(f"{graph}: {backend.title} cannot build it: {reason}: {advice}")


def clean(message: str) -> str:
    """The first line of an error without the places in the library's sources it came from.

    >>> clean('[a.cpp::f::48] Error Code 2: Internal Error (No x. In f at /_src/a.cpp:48)')
    'No x'
    """
    text = (message.strip().splitlines() or [""])[0].strip()
    text = re.sub(r"^\[[\w.]+::[^\]]*\]\s*", "", text)  # [file::function::line]
    text = re.sub(r"^\w+::\w+:\s*", "", text)  # IBuilder::buildSerializedNetwork:
    if found := re.match(r"Error Code \d+: [^(]*\((.*)\)$", text):
        text = found[1]
    text = re.sub(r"\[[\w./]+:\d+: \w+\]\s*", "", text)  # [pass.cpp:337: function]
    text = re.sub(r"\s*In \S+ at \S+:\d+\)?$", "", text)
    if found := re.search(r'&& "(.+)"', text):  # of an assertion, what it says to people
        text = found[1]
    text = re.sub(r"^Assertion failed: [^:]*: ", "", text)
    return " ".join(text.split()).rstrip(" .:") or "it gives no reason"


def _peak_memory() -> int:
    """Most memory this process held, in bytes; 0 where the system does not say."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        # Not getrusage, which counts what the parent held when it started this process.
        text = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(text.split("VmHWM:")[1].split()[0]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _answer(request: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    try:
        built = build(
            Path(request["graph"]),
            Path(request["engine"]),
            BuildSettings.from_json(request["settings"]),
            say,
        )
    except PrecisionError as error:
        return {"error": "precision", "message": str(error)}
    except BuildError as error:
        return {"error": "build", "message": str(error)}
    except DeviceError as error:
        return {"error": "device", "message": str(error)}
    return {"built": built.to_json()}


def _leave_with_parent(engine: Path) -> None:
    """End this process, and what it has written, when the one that waits for it is gone."""
    sys.stdin.buffer.read()
    with contextlib.suppress(OSError):
        engine.unlink(missing_ok=True)
    os._exit(ABANDONED)


def main() -> None:
    """Read a request, build, answer. Failures that nobody foresaw end in a traceback."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(text: str) -> None:
        print(text, file=out, flush=True)

    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    engine = Path(request["engine"])
    threading.Thread(target=_leave_with_parent, args=(engine,), daemon=True).start()
    answer = json.dumps(_answer(request, say))
    Path(request["answer"]).write_text(answer, encoding="utf-8")
    # Not the orderly end: a library that crashes in its destructors has built its engine all the
    # same.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
