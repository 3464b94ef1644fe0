"""The command ``triton``: writes or checks a repository and prints what came of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from anydepth_deploy import console
from anydepth_deploy.bundle.bundle import open_bundle
from anydepth_deploy.errors import CheckFailedError
from anydepth_deploy.serve.check.repository import check_repository
from anydepth_deploy.serve.plan import ServeOptions
from anydepth_deploy.serve.repository import write_repository

__all__ = ["check", "write"]


def write(
    bundle: Path,
    out: Path,
    *,
    name: str | None,
    options: ServeOptions,
    force: bool,
    as_json: bool,
) -> None:
    """Write a repository and list its models. Raises what :func:`write_repository` does."""
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


def check(repository: Path, *, as_json: bool) -> None:
    """Check a repository and list what is wrong. Raises :class:`CheckFailedError`."""
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
