"""The table of steps. A new one is a function of a :class:`Run` and a row in :func:`table`.

A step takes less than eight minutes, makes what it needs where no other step has, and goes on after
a check that failed: on a machine that is lent for minutes every figure counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from .needs import marked_tests
from .step import Run, Step
from .work import (
    NETWORKS,
    bench,
    bench_figures,
    build,
    copy_of,
    evaluate,
    families,
    predict,
    published_bundle,
    random_network,
    required,
    tiny_bundle,
    verify,
)

__all__ = ["table"]

LAYOUTS = ("gated", "set", "stages")
PRECISIONS = ("fp32", "fp16", "int8")
ENGINES = ("tensorrt", "tensorrt-rtx")
PROVIDERS = ("onnxruntime-cuda", "onnxruntime-tensorrt")

QUICK = ("--depth", "all", "--duration", 1, "--count", 100)
"""Of a tiny network: enough for a median with an interval."""

PROPER = ("--depth", "all", "--duration", 3, "--count", 100, "--warmup", 1)


def table() -> tuple[Step, ...]:
    """All steps, in the order that they are run in: what others build on first, then from what is
    installed everywhere to what is rare."""
    return (*_torch(), *_tiny(), *_published(), *_around())


def _torch() -> Iterator[Step]:
    for family, checkpoint in families().items():
        yield Step(
            f"torch-parity-{family}",
            "the tiny checkpoint on the GPU against the CPU, eager and CUDA graphs",
            ("export", "torch"),
            partial(torch_parity, checkpoint=checkpoint),
        )
        for mode, runtime in (("eager", "torch"), ("cudagraph", "torch-cudagraph")):
            yield Step(
                f"torch-{mode}-{family}",
                f"bench of the tiny checkpoint with {runtime}, with and without copies",
                ("export", "torch"),
                partial(torch_bench, checkpoint=checkpoint, runtime=runtime),
            )
        yield Step(
            f"torch-compile-{family}",
            "bench of the tiny checkpoint with torch.compile at base and super",
            ("export", "torch", "torch-compile"),
            partial(torch_compile, checkpoint=checkpoint),
        )
    yield Step(
        "sensors",
        "what NVML tells during a run of bench",
        ("export", "torch", "sensors"),
        sensors,
    )
    for precision in ("fp16", "fp32"):
        yield Step(
            f"curve-torch-{precision}",
            "the speed-up curve with CUDA graphs of torch: R50, R101, YOLO s and l",
            ("export", "torch", "plot"),
            partial(torch_curve, precision=precision),
        )


def _tiny() -> Iterator[Step]:
    for family, checkpoint in families().items():
        yield Step(
            f"bundle-{family}",
            "the tiny network in every layout and precision (steps that need it make it, too)",
            ("export",),
            partial(make, bundle=partial(tiny_bundle, family=family)),
        )
        for runtime in PROVIDERS:
            for precision in PRECISIONS:
                yield Step(
                    f"{runtime}-{family}-{precision}",
                    "parity with the checkpoint, predict, bench of every layout, accuracy",
                    ("export", runtime),
                    partial(
                        provider,
                        family=family,
                        checkpoint=checkpoint,
                        runtime=runtime,
                        precision=precision,
                    ),
                )
        for runtime in ENGINES:
            for precision in PRECISIONS:
                weak = runtime == "tensorrt-rtx" and precision != "fp16"
                yield Step(
                    f"{runtime}-{family}-{precision}",
                    "engines of every layout: build, parity at every depth, predict, bench, "
                    "switching, accuracy",
                    ("export", runtime, *(("rtx-beyond-fp16",) if weak else ())),
                    partial(engines, family=family, runtime=runtime, precision=precision),
                )


def _published() -> Iterator[Step]:
    for network in NETWORKS:
        yield Step(
            f"bundle-{network}",
            "random weights at the published size, exported (steps that need it make it, too)",
            ("export",),
            partial(make, bundle=partial(published_bundle, network=network)),
        )
        for runtime in PROVIDERS:
            yield Step(
                f"curve-{runtime}-{network}",
                "every rung of the gated graph in FP16 at the published size",
                ("export", runtime),
                partial(provider_curve, network=network, runtime=runtime),
            )
        for runtime in ENGINES:
            for layout in LAYOUTS:
                yield Step(
                    f"curve-{runtime}-{layout}-{network}",
                    "engines in FP16 at the published size: build, bench of every rung, parity",
                    ("export", runtime),
                    partial(engine_curve, network=network, runtime=runtime, layout=layout),
                )


def _around() -> Iterator[Step]:
    yield Step("tests", "the tests that carry the marker gpu", ("marked-tests",), tests)
    yield Step(
        "curve-pictures",
        "the speed-up curves of what the other steps have measured",
        ("plot",),
        curve_pictures,
        limit=120,
        always=True,
    )


def torch_parity(run: Run, checkpoint: Path) -> None:
    done = run.script("-m", "benchmarks.gpu.torch_parity", checkpoint)
    run.figures["parity"] = done.content


def torch_bench(run: Run, checkpoint: Path, runtime: str) -> None:
    words = ("--device", "cuda", "--precision", "fp32,fp16,bf16", "--batch", "1,4")
    bench(run, checkpoint, runtime, *words, *QUICK)
    bench(run, checkpoint, runtime, *words[:4], "--no-transfers", *QUICK)


def torch_compile(run: Run, checkpoint: Path) -> None:
    words = ("--device", "cuda", "--duration", 1, "--count", 100, "--depth", "base,super")
    for precision in ("fp32", "fp16"):
        bench(run, checkpoint, "torch-compile", "--precision", precision, *words)


def torch_curve(run: Run, precision: str) -> None:
    """As docs/benchmarking.md says it is run."""
    for network in NETWORKS:
        random_network(run, network)
    words = ("--runtime", "torch-cudagraph", "--precision", precision)
    run.script("benchmarks/curve.py", *words, "--folder", run.shared)
    name = f"curve-torch-cudagraph-{precision}"
    for path in sorted((run.shared / name).glob("*.json")):
        run.figure("bench", bench_figures(json.loads(path.read_text(encoding="utf-8"))))
    _keep_picture(run, run.shared / f"{name}.png")


def sensors(run: Run) -> None:
    """The result has to name the GPU, and a clock of it that was read."""
    checkpoint = next(iter(families().values()))
    bench(run, checkpoint, "torch-cudagraph", "--device", "cuda", *PROPER)
    files = sorted(run.runs.glob("*.json"))
    required(files, "there is no result of bench")
    devices = json.loads(files[-1].read_text(encoding="utf-8"))["devices"]
    found = [one for one in devices if one["kind"] in ("nvidia", "jetson")]
    required(found, "the result of bench names no GPU")
    run.figures["device"] = {**found[0], "states": found[0]["states"][:3]}
    clocks = any(state.get("clocks_mhz") for state in found[0]["states"])
    required(clocks, f"no clock of the GPU was read: {'; '.join(found[0]['unknown'])}")


def make(run: Run, bundle: Callable[[Run], Path]) -> None:
    bundle(run)


def provider(run: Run, family: str, checkpoint: Path, runtime: str, precision: str) -> None:
    bundle = copy_of(run, tiny_bundle(run, family))
    words = ("--precision", precision)
    verify(run, bundle, runtime, "--checkpoint", checkpoint, *words)
    predict(run, bundle, runtime, precision)
    for layout in LAYOUTS:
        bench(run, bundle, runtime, "--layout", layout, "--batch", "1,4", *words, *QUICK)
        evaluate(run, bundle, runtime, precision, layout)


def engines(run: Run, family: str, runtime: str, precision: str) -> None:
    bundle = copy_of(run, tiny_bundle(run, family))
    there = [layout for layout in LAYOUTS if build(run, bundle, runtime, precision, layout)]
    required(there, "no engine was built")
    for layout in there:
        verify(run, bundle, runtime, "--layout", layout, "--precision", precision)
    predict(run, bundle, runtime, precision)
    for layout in there:
        words = ("--precision", precision, "--layout", layout)
        bench(run, bundle, runtime, *words, "--batch", "1,4", *QUICK)
        bench(run, bundle, runtime, *words, "--mode", "switching", *QUICK)
        evaluate(run, bundle, runtime, precision, layout)


def provider_curve(run: Run, network: str, runtime: str) -> None:
    bundle = copy_of(run, published_bundle(run, network))
    bench(run, bundle, runtime, "--precision", "fp16", *PROPER)


def engine_curve(run: Run, network: str, runtime: str, layout: str) -> None:
    """Timed before it is verified: what fails with random weights is worth knowing, and so is what
    it would have taken."""
    bundle = copy_of(run, published_bundle(run, network))
    required(build(run, bundle, runtime, "fp16", layout), "the engines were not built")
    words = ("--precision", "fp16", "--layout", layout)
    bench(run, bundle, runtime, *words, *PROPER)
    verify(run, bundle, runtime, *words, "--depth", "all")


def tests(run: Run) -> None:
    files = [str(path) for path in marked_tests()]
    run.script("-m", "pytest", "-q", "-m", "gpu", *files)


def curve_pictures(run: Run) -> None:
    """One picture by runtime and layout, of the networks that were measured."""
    groups: dict[str, list[Path]] = {}
    for path in sorted(run.folder.parent.glob("curve-*/runs/*.json")):
        group = path.parent.parent.name
        for network in NETWORKS:
            group = group.removesuffix(f"-{network}")
        groups.setdefault(group, []).append(path)
    if not groups:
        run.notes.append("no other step has measured a curve")
    for group, files in groups.items():
        picture = run.folder / f"{group}.png"
        run.tool("report", *files, "--plot", picture)
        _keep_picture(run, picture)


def _keep_picture(run: Run, picture: Path) -> None:
    """Move a picture to where those of results are taken from."""
    if picture.is_file():
        run.pictures.mkdir(parents=True, exist_ok=True)
        picture.replace(run.pictures / picture.name)
