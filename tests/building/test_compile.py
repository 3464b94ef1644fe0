"""Engines built for real by TensorRT-RTX, ahead of time, and children that die on the way."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from int8 import Network, networks
from onnx import helper

from anydepth_deploy.building import compile as compile_module
from anydepth_deploy.building.backend import load
from anydepth_deploy.building.compile import BuildSettings, Built, compile_engine
from anydepth_deploy.building.worker import clean
from anydepth_deploy.errors import BuildError, PrecisionError
from anydepth_deploy.manifest import BatchProfile, Precision

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed: no engine is built")

__all__ = ["networks"]  # a fixture

DETR, YOLO = "anydepth-detr", "anydepth-yolo"
BATCH = BatchProfile(smallest=1, typical=1, largest=2)
TITLE = load("tensorrt-rtx").title
ALL = ("sm75", "sm86", "sm89", "sm120")

Graphs = Callable[[str, Precision], Path]


@pytest.fixture(scope="module")
def graphs(networks: dict[str, Network], tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    """Static graphs of the trained tiny networks at base, without suppression."""
    folder = tmp_path_factory.mktemp("graphs")

    def graph(family: str, precision: Precision) -> Path:
        path = folder / f"{family}-{precision}.onnx"
        if not path.exists():
            network = networks[family]
            made = network.lower(depth=network.rungs[0], target="tensorrt", precision=precision)
            onnx.save(made[1], path)
        return path

    return graph


def settings(precision: str = "fp16", *capabilities: str, **changes: Any) -> BuildSettings:
    return BuildSettings(
        runtime="tensorrt-rtx",
        precision=precision,
        capabilities=capabilities or ("sm89",),
        batch=BATCH,
        **changes,
    )


def products(path: Path) -> tuple[int, int]:
    """Convolutions and matrix products of a graph."""
    nodes = onnx.load(path).graph.node
    return sum(node.op_type == "Conv" for node in nodes), sum(
        node.op_type in ("MatMul", "Gemm") for node in nodes
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One operator, built in no time."""
    return one_operator(tmp_path_factory.mktemp("small") / "small.onnx", "Relu")


def one_operator(path: Path, operator: str) -> Path:
    shape: list[str | int | None] = ["N", 3, 8, 8]
    nodes = [
        helper.make_node("Relu", ["images"], ["a"], "net/Relu_0"),
        helper.make_node(operator, ["a"], ["y"], f"net/{operator}_1"),
    ]
    values = [helper.make_tensor_value_info(name, 1, shape) for name in ("images", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


# Engines


@pytest.mark.parametrize(
    ("family", "capabilities"),
    [(DETR, ("sm75",)), (DETR, ALL), (YOLO, ("sm86",)), (YOLO, ("sm120", "sm89"))],
)
def test_fp16(family: str, capabilities: tuple[str, ...], graphs: Graphs, tmp_path: Path) -> None:
    graph, engine = graphs(family, "fp16"), tmp_path / "net.engine"
    said: list[str] = []
    made = compile_engine(graph, engine, settings("fp16", *capabilities), progress=said.append)
    convolutions, others = products(graph)
    assert set(made.layers) == {"fp16"}
    # Products that share an input are merged, those of attention too.
    assert convolutions < made.layers["fp16"] <= convolutions + others
    assert made.capabilities == capabilities
    assert made.version.startswith("1.")
    assert (made.device, made.strongly_typed, made.notes) == (None, True, ())
    assert made.peak_memory > 5e7
    assert engine.stat().st_size > graph.stat().st_size
    assert list(tmp_path.iterdir()) == [engine]
    assert [line.split()[0] for line in said] == ["reading", "building", "checking"]


@pytest.mark.parametrize(
    ("family", "capability"), [(DETR, "sm86"), (DETR, "sm89"), (YOLO, "sm120")]
)
def test_int8(family: str, capability: str, graphs: Graphs, tmp_path: Path) -> None:
    graph = graphs(family, "int8")
    made = compile_engine(graph, tmp_path / "net.engine", settings("int8", capability))
    convolutions, _ = products(graph)
    floating = sum(
        node.op_type == "Conv" and not node.input[1].endswith("/dequantised")
        for node in onnx.load(graph).graph.node
    )
    assert made.layers["int8"] == convolutions - floating
    assert set(made.layers) == {"int8", "fp16"}


@pytest.mark.parametrize("capabilities", [("sm75",), ("sm89", "sm75")])
def test_int8_is_refused_where_it_would_be_fp16(
    capabilities: tuple[str, ...], graphs: Graphs, tmp_path: Path
) -> None:
    graph, engine = graphs(DETR, "int8"), tmp_path / "net.engine"
    engine.write_bytes(b"an older engine")
    with pytest.raises(PrecisionError) as error:
        compile_engine(graph, engine, settings("int8", *capabilities))
    message = str(error.value)
    targets = ", ".join(capabilities)
    assert message.startswith(f"{graph}: INT8 cannot be delivered for {targets} by TensorRT-RTX 1.")
    assert message.endswith("build fp16")
    assert ("leave sm75 out" in message) == (len(capabilities) > 1)
    assert [(path, path.read_bytes()) for path in tmp_path.iterdir()] == [
        (engine, b"an older engine")
    ]


def test_fp32(graphs: Graphs, tmp_path: Path) -> None:
    graph, engine = graphs(DETR, "fp32"), tmp_path / "net.engine"
    made = compile_engine(graph, engine, settings("fp32", "sm89"))
    assert set(made.layers) == {"fp32"}
    engine.unlink()
    with pytest.raises(PrecisionError, match=r"FP32 cannot .* for sm75 .*FP32 GEMM.*: build fp16$"):
        compile_engine(graph, engine, settings("fp32", "sm75"))
    assert list(tmp_path.iterdir()) == []


def test_a_graph_of_another_precision_than_said(graphs: Graphs, tmp_path: Path) -> None:
    with pytest.raises(PrecisionError, match=r"fp32\.onnx: the graph is not in FP16: all its"):
        compile_engine(graphs(YOLO, "fp32"), tmp_path / "a.engine", settings("fp16", "sm120"))
    assert list(tmp_path.iterdir()) == []


def test_a_timing_cache_is_of_no_use_here(small: Path, tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    made = compile_engine(
        small, tmp_path / "a.engine", settings("fp32", timing_cache=cache, workspace=2**26)
    )
    assert made.notes == (f"{TITLE} times nothing while it builds: {cache} was not used",)
    assert not cache.exists()


# Graphs that cannot be built


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    graph = one_operator(tmp_path / "a.onnx", "Wobble")
    with pytest.raises(BuildError) as error:
        compile_engine(graph, tmp_path / "a.engine", settings())
    assert str(error.value) == (
        f"{graph}: {TITLE} cannot read the node net/Wobble_1 (Wobble): Plugin not found, are the "
        "plugin name, version, and namespace correct?: export the graph again without this "
        "operator, or take another runtime"
    )


def test_files_that_are_no_graphs(graphs: Graphs, tmp_path: Path) -> None:
    content = graphs(DETR, "fp16").read_bytes()
    graph = tmp_path / "a.onnx"
    for damaged in (content[: len(content) // 2], b"once upon a time\n", b""):
        graph.write_bytes(damaged)
        with pytest.raises(BuildError, match=r"a\.onnx is not a readable ONNX graph.*again$"):
            compile_engine(graph, tmp_path / "a.engine", settings())
    graph.unlink()
    with pytest.raises(BuildError, match=r"a\.onnx does not exist"):
        compile_engine(graph, tmp_path / "a.engine", settings())
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_nobody_knows(small: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"does not build for sm61: expected sm75, .*sm120"):
        compile_engine(small, tmp_path / "a.engine", settings("fp16", "sm61"))


def test_without_a_gpu_there_must_be_targets(small: Path, tmp_path: Path) -> None:
    from anydepth_deploy.errors import DeviceError
    from anydepth_deploy.runtimes.tensorrt.cuda import load_cuda

    if load_cuda().devices():
        pytest.skip("there is a GPU here")
    here = BuildSettings(runtime="tensorrt-rtx", precision="fp32", batch=BATCH)
    with pytest.raises(DeviceError, match="no NVIDIA GPU"):
        compile_engine(small, tmp_path / "a.engine", here)


def test_destinations_that_cannot_be_written(small: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for engine in (
        tmp_path / "no" / "a.engine",
        tmp_path / "file" / "a.engine",
        tmp_path / "folder",
    ):
        with pytest.raises(BuildError, match=f"cannot write {engine}: "):
            compile_engine(small, engine, settings())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_errors_without_their_place_in_the_source() -> None:
    nms = (
        "[tacticSupply.cpp::getSupportedFormats::48] Error Code 2: Internal Error (Assertion "
        "!layerImpls.empty() failed. a/NonMaxSuppression_8 has no runners that implement it In "
        "getSupportedFormats at /_src/optimizer/builder/tacticSupply.cpp:48)"
    )
    assert clean(nms) == (
        "Assertion !layerImpls.empty() failed. a/NonMaxSuppression_8 has no runners that implement "
        "it"
    )
    assert clean("In node 3: (x) y") == "In node 3: (x) y"
    assert clean("") == "it gives no reason"


# Children that die

Worker = Callable[[str], None]


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Worker:
    """Run this code instead of the worker, with half an engine written; it knows `request`."""
    script = tmp_path_factory.mktemp("worker") / "worker.py"

    def replace(code: str) -> None:
        script.write_text(
            "import json, os, signal, sys, time\n"
            "request = json.load(open(sys.argv[1]))\n" + HALF_WRITTEN + textwrap.dedent(code)
        )
        monkeypatch.setattr(compile_module, "COMMAND", (sys.executable, str(script)))

    return replace


HALF_WRITTEN = "open(request['engine'], 'wb').write(b'half an eng')\n"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed .* memory: .*--workspace.*--batch"),
        (
            "print('free(): invalid pointer', file=sys.stderr, flush=True)\nos.abort()",
            r"crashed while it built, by SIGABRT \(last words: free\(\): invalid pointer\)",
        ),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashed while it built, by SIGSEGV: "),
        ("raise SystemError('oops')", "exit status 1 .*SystemError: oops"),
        ("sys.exit(0)", "ended without an engine, with exit status 0"),
        ("open(request['answer'], 'w').write('[1')", "ended without an engine"),
    ],
)
def test_a_child_that_dies(
    code: str, message: str, instead: Worker, small: Path, tmp_path: Path
) -> None:
    instead(code)
    engine = tmp_path / "a.engine"
    engine.write_bytes(b"an older engine")
    with pytest.raises(BuildError, match=message) as error:
        compile_engine(small, engine, settings())
    assert str(error.value).startswith(f"{small}: TensorRT-RTX 1.")
    assert "\n" not in str(error.value)
    assert [(path, path.read_bytes()) for path in tmp_path.iterdir()] == [
        (engine, b"an older engine")
    ]


def test_an_interrupt_ends_a_child_that_does_not_listen(
    instead: Worker, small: Path, tmp_path: Path
) -> None:
    instead(
        """
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        print(os.getpid(), flush=True)
        time.sleep(600)
        """
    )
    pids = []

    def interrupt(text: str) -> None:
        pids.append(int(text))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_engine(small, tmp_path / "a.engine", settings(), progress=interrupt)
    assert not alive(pids[0])
    assert list(tmp_path.iterdir()) == []


def test_chatter_is_no_progress_and_fills_no_pipe(
    monkeypatch: pytest.MonkeyPatch, small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # A library that prints from C, more than a pipe holds.
    noisy = tmp_path / "noisy.py"
    noisy.write_text(
        "import ctypes\nfrom anydepth_deploy.building import worker\n"
        "build = worker.build\n"
        "def chatty(*arguments):\n"
        "    for _ in range(20000): ctypes.CDLL(None).puts(b'chatter')\n"
        "    return build(*arguments)\n"
        "worker.build = chatty\nworker.main()\n"
    )
    monkeypatch.setattr(compile_module, "COMMAND", (sys.executable, str(noisy)))
    said: list[str] = []
    made = compile_engine(small, tmp_path / "a.engine", settings("fp32"), progress=said.append)
    assert made.layers == {}
    assert len(said) == 3
    assert capfd.readouterr() == ("", "")


def test_a_child_leaves_when_nobody_waits(graphs: Graphs, tmp_path: Path) -> None:
    # The program that asked is killed in the middle of a real build.
    code = f"""
        from pathlib import Path
        from anydepth_deploy.building.compile import BuildSettings, compile_engine
        from anydepth_deploy.manifest import BatchProfile
        batch = BatchProfile(smallest=1, typical=1, largest=2)
        how = BuildSettings(
            runtime="tensorrt-rtx", precision="fp16", capabilities=("sm89",), batch=batch
        )
        say = lambda text: print(text, flush=True)
        graph, engine = Path({str(graphs(DETR, "fp16"))!r}), Path({str(tmp_path / "a.engine")!r})
        compile_engine(graph, engine, how, progress=say)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        while "building" not in parent.stdout.readline():
            assert parent.poll() is None
        children = children_of(parent.pid)
        parent.kill()
    assert len(children) == 1
    deadline = time.monotonic() + 5
    while alive(children[0]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []


def children_of(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("this system does not list the children of a process")
    return [int(word) for word in path.read_text().split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A child of nobody may not have been collected yet.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def test_settings_and_results_survive_the_way_to_the_child_and_back() -> None:
    asked = settings("int8", "sm75", timing_cache=Path("/a/cache"), workspace=5, float32=("a/b",))
    assert BuildSettings.from_json(asked.to_json()) == asked
    made = Built("1.7.1", None, ("sm75",), 1.5, {"fp16": 3}, True, 7, ("a note",))
    assert Built.from_json(made.to_json()) == made
