"""``triton``: a model repository for the Triton Inference Server, written or checked."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, get_args

import typer

from anydepth_deploy import console
from anydepth_deploy.commands.options import (
    ARTIFACTS,
    Json,
    Panel,
    WeightsOption,
    precision_names,
    words_of,
)
from anydepth_deploy.errors import CheckFailedError, UsageError
from anydepth_deploy.serve import limits, plan
from anydepth_deploy.serve.names import check_name

__all__ = ["triton"]

SERVER = Panel("Server")


def triton(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A bundle; with --check, a model repository.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Model repository, new or with other models.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check a model repository, ours or any other.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(help="Of the models; default: that of the bundle, or of its folder."),
    ] = None,
    layout: Annotated[
        str | None,
        ARTIFACTS.option(
            "gated (one model for all depths), set (one each), or both; default: what the "
            "bundle has."
        ),
    ] = None,
    precision: Annotated[
        str, ARTIFACTS.one_of(precision_names(), "Of the artifacts: fp32, fp16 or int8.")
    ] = "fp32",
    weights: WeightsOption = None,
    runtime: Annotated[
        plan.Runtime, SERVER.one_of(plan.RUNTIMES, "Triton's backend.")
    ] = "onnxruntime",
    device: Annotated[
        str,
        SERVER.one_of(
            ("auto", *get_args(plan.Device)), "auto: the GPU for engines, the CPU for graphs."
        ),
    ] = "auto",
    target: Annotated[
        str | None, ARTIFACTS.option("Engines: those for this compute capability, e.g. sm89.")
    ] = None,
    default_depth: Annotated[str, SERVER.option("Of requests that name none.")] = "super",
    budget_ms: Annotated[
        float | None,
        SERVER.option(
            "Milliseconds that requests at depth auto may take where they do not say.",
        ),
    ] = None,
    max_batch: Annotated[
        int,
        SERVER.option(
            "Images that a model of one depth takes at once, and one request brings.", min=1
        ),
    ] = limits.MAX_BATCH,
    max_pixels: Annotated[
        int, SERVER.option("Pixels of all pictures of one request.", min=1)
    ] = limits.MAX_PIXELS,
    max_queue: Annotated[
        int | None,
        SERVER.option(
            "Images that wait in the router; more are refused. Default: 64, or two of the largest "
            "requests.",
            min=1,
        ),
    ] = None,
    queue_delay_us: Annotated[
        int, SERVER.option("Microseconds it waits for more of them.", min=0)
    ] = 0,
    instances: Annotated[int, SERVER.option("Of each model with weights.", min=1)] = 1,
    workers: Annotated[int, SERVER.option("Processes for pre- and for postprocessing.", min=1)] = 2,
    threads: Annotated[int | None, SERVER.option("Threads inside one operator.", min=1)] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace models of the same name.")
    ] = False,
    json: Json = False,
) -> None:
    """Write a model repository for the Triton Inference Server, or check one."""
    if check:
        if out is not None or name is not None or force:
            raise UsageError("--check takes no --out, --name or --force: it writes nothing")
        _check(path, as_json=json)
        return
    if out is None:
        raise UsageError("--out is missing: name the model repository to write")
    options = plan.ServeOptions(
        runtime=runtime,
        device=device,
        layouts=None if layout is None else tuple(words_of(layout)),
        precision=precision,
        weights=weights,
        target=target,
        default_depth=default_depth,
        budget_ms=budget_ms,
        max_batch=max_batch,
        max_pixels=max_pixels,
        max_queue=max_queue,
        queue_delay_us=queue_delay_us,
        instances=instances,
        workers=workers,
        threads=threads,
    )
    plan.check_options(options)
    if name is not None:
        check_name(name)
    _write(path, out, name=name, options=options, force=force, as_json=json)


def _write(
    bundle: Path,
    out: Path,
    *,
    name: str | None,
    options: plan.ServeOptions,
    force: bool,
    as_json: bool,
) -> None:
    """Write a repository and list its models. Raises what ``write_repository`` does."""
    from anydepth_deploy.bundle.bundle import open_bundle
    from anydepth_deploy.serve.repository import write_repository

    found = write_repository(open_bundle(bundle), out, name=name, options=options, force=force)
    if as_json:
        console.print_json({**asdict(found), "path": str(found.path)})
        return
    rows = [
        [
            model.name,
            model.backend,
            model.depth or "-",
            model.max_batch or "one request",
            model.artifact or "-",
        ]
        for model in found.models
    ]
    title = (
        f"{found.path} for the {found.device.upper()}, {found.default_depth} where none is asked"
    )
    console.print_table(title, ["model", "backend", "depth", "batches of", "artifact"], rows)
    console.print_line(f"start it: tritonserver --model-repository={found.path}")


def _check(repository: Path, *, as_json: bool) -> None:
    """Check a repository and list what is wrong. Raises :class:`CheckFailedError`."""
    from anydepth_deploy.serve.check.repository import check_repository

    problems = check_repository(repository)
    if as_json:
        console.print_json(
            {"path": str(repository), "problems": [asdict(item) for item in problems]}
        )
    else:
        for problem in problems:
            console.print_line(str(problem))
    if problems:
        one = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise CheckFailedError(f"repository {repository} has {one}")
    if not as_json:
        console.print_line(f"repository {repository}: no problems found")
