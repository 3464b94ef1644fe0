"""Rules between models: ensembles, routers and what they refer to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anydepth_deploy.bundle.session import DETECTION_OUTPUTS
from anydepth_deploy.errors import BundleError, DepthError
from anydepth_deploy.manifest import Manifest
from anydepth_deploy.serve import manifests, names
from anydepth_deploy.serve.budgets import is_auto
from anydepth_deploy.serve.check.problem import Loaded, Problem, dims_text
from anydepth_deploy.serve.signature import Tensor

__all__ = ["check_manifests", "check_wiring"]

Models = Mapping[str, Loaded]


def check_wiring(models: Models) -> Iterator[Problem]:
    """``models``: by name, one configuration each, as one server would load them."""
    for model in models.values():
        if model.backend == "ensemble":
            yield from _ensemble(model, models)
        if model.is_router:
            yield from _router(model, models)


def check_manifests(loaded: list[Loaded]) -> Iterator[Problem]:
    """Our Python models and ensembles carry their bundle's manifest: those of one bundle the
    same."""
    seen: dict[str, tuple[str, bytes]] = {}
    for model in loaded:
        ours = model.owner is not None and model.backend in ("python", "ensemble")
        if model.variant or not ours or model.owner is None:
            continue
        for version in model.versions():
            file = f"{model.folder.name}/{version.name}/{names.MANIFEST}"
            manifest = _manifest(version)
            if isinstance(manifest, str):
                yield Problem(file, manifest)
                continue
            content = (version / names.MANIFEST).read_bytes()
            first, expected = seen.setdefault(model.owner, (file, content))
            if content != expected:
                yield Problem(file, f"differs from {first}: write the repository again")
            yield from _sizes(model, manifest)


def _manifest(version: Path) -> Manifest | str:
    """A manifest, or what is wrong with it."""
    try:
        return manifests.read_manifest(version)
    except BundleError as error:
        return str(error).removeprefix(f"{version / names.MANIFEST} ")


def _sizes(model: Loaded, manifest: Manifest) -> Iterator[Problem]:
    """Network inputs of a Python model have the size that its manifest says."""
    expected = (-1, 3, *manifest.preprocess.size)
    for tensor in (*model.inputs.values(), *model.outputs.values()):
        if tensor.name == "images" and not _compatible(tensor.dims, expected):
            yield model.problem(
                f"'images' has dims {dims_text(tensor.dims)}, the manifest says "
                f"{dims_text(expected)}: write the repository again"
            )


def _router(model: Loaded, models: Models) -> Iterator[Problem]:
    gated = model.parameter(names.GATED) or ""
    try:
        levels = json.loads(model.parameter(names.LEVELS) or "{}")
        rows = {int(row): str(name) for row, name in levels.items()}
    except (ValueError, AttributeError, TypeError):
        yield model.problem(f"parameter '{names.LEVELS}' is no JSON object of models by row")
        return
    if not gated and not rows:
        yield model.problem(
            f"the router has nowhere to go: name models in '{names.GATED}' or '{names.LEVELS}'"
        )
    if gated:
        yield from _target(model, names.GATED, gated, models, gated=True)
    for name in rows.values():
        yield from _target(model, names.LEVELS, name, models, gated=False)
    yield from _rows(model, gated, set(rows))
    yield from _largest(model, [models[name] for name in rows.values() if name in models])


def _target(
    router: Loaded, key: str, name: str, models: Models, *, gated: bool
) -> Iterator[Problem]:
    """A model that the router sends requests to."""
    target = models.get(name)
    if target is None:
        yield router.problem(
            f"parameter '{key}' names the model '{name}', which is not in the repository: add it, "
            "or write the repository again"
        )
        return
    wanted = [Tensor("images", "FP32", _full(router, router.inputs.get("images")))]
    if gated:
        wanted.append(Tensor("depth", "INT64", (1,)))
    for tensor in wanted:
        has = target.inputs.get(tensor.name)
        if has is None:
            yield router.problem(
                f"'{key}' names '{name}', which has no input '{tensor.name}': choose a model that "
                "has it"
            )
        elif has.datatype != tensor.datatype or not _compatible(_full(target, has), tensor.dims):
            yield router.problem(
                f"the router sends '{tensor.name}' as {tensor.datatype} "
                f"{dims_text(tensor.dims)}, '{name}' takes {has.datatype} "
                f"{dims_text(_full(target, has))}: make them the same"
            )
    more = sorted(set(target.inputs) - {tensor.name for tensor in wanted} - target.optional)
    if more:
        yield router.problem(f"'{name}' wants '{more[0]}', which the router does not send")
    raw = router.parameter(names.RAW_OUTPUT)
    given = target.outputs
    for output in (raw,) if raw else DETECTION_OUTPUTS:
        if output not in given and not target.completed(given):
            yield router.problem(
                f"'{name}' gives no '{output}', which the router reads: list it in its output"
            )


def _rows(router: Loaded, gated: str, rows: set[int]) -> Iterator[Problem]:
    """Rows and the default depth are those of the manifest."""
    versions = router.versions()
    manifest = _manifest(versions[-1]) if versions else "no version"
    if isinstance(manifest, str):
        return  # said by check_manifests
    table = manifest.table()
    strange = sorted(row for row in rows if not 0 <= row < len(table.rows))
    if strange:
        yield router.problem(
            f"'{names.LEVELS}' has row {strange[0]}, the depth table has rows 0 to "
            f"{len(table.rows) - 1}: write the repository again"
        )
    text = router.parameter(names.DEFAULT_DEPTH) or ""
    if is_auto(text):
        if not router.parameter(names.BUDGET_MS):
            yield router.problem(
                f"the default depth is '{text}', and parameter '{names.BUDGET_MS}' says nothing: "
                "write the repository again with --budget-ms"
            )
        return
    try:
        row = table.row(text)
    except DepthError as error:
        yield router.problem(f"parameter '{names.DEFAULT_DEPTH}': {error}")
        return
    if not gated and row not in rows:
        yield router.problem(
            f"the default depth '{text}' has no model: choose a depth of '{names.LEVELS}'"
        )


def _largest(router: Loaded, levels: list[Loaded]) -> Iterator[Problem]:
    text = router.parameter(names.MAX_BATCH)
    if not levels or text is None:
        return
    least = min(levels, key=lambda model: model.max_batch)
    if not text.isdigit() or not 1 <= int(text) <= max(least.max_batch, 1):
        yield router.problem(
            f"parameter '{names.MAX_BATCH}' is '{text}', '{least.folder.name}' takes "
            f"{least.max_batch} images at most: write that"
        )


def _ensemble(model: Loaded, models: Models) -> Iterator[Problem]:
    """Steps exist and fit; every tensor has one producer, and a reader."""
    made: dict[str, tuple[str, Tensor]] = {
        name: ("the ensemble's input", tensor) for name, tensor in model.inputs.items()
    }
    steps = [(step, models.get(step.model_name)) for step in model.config.ensemble_scheduling.step]
    for step, target in steps:
        if target is None:
            yield model.problem(
                f"a step runs '{step.model_name}', which is not in the repository: add it, or "
                "correct the name"
            )
            continue
        if 0 < target.max_batch < model.max_batch:
            yield model.problem(
                f"max_batch_size is {model.max_batch}, '{step.model_name}' takes "
                f"{target.max_batch}: lower it"
            )
        yield from _outputs(model, step, target, made)
    for step, target in steps:
        if target is not None:
            yield from _inputs(model, step, target, made)
    yield from _flow(model, [step for step, target in steps if target is not None], made)
    for name, tensor in model.outputs.items():
        if name in made and name not in model.inputs:
            source, given = made[name]
            yield from _match(model, name, f"output '{name}'", tensor, source, given)


def _outputs(
    model: Loaded, step: Any, target: Loaded, made: dict[str, tuple[str, Tensor]]
) -> Iterator[Problem]:
    """What a step gives, entered into ``made``."""
    listed = not target.completed(target.outputs)
    for name, tensor in step.output_map.items():
        has = target.outputs.get(name)
        if listed and has is None:
            yield model.problem(
                f"'{tensor}' is output '{name}' of '{step.model_name}', which has none of that "
                f"name, but {', '.join(target.outputs)}: correct output_map"
            )
        elif tensor in made:
            yield model.problem(
                f"'{tensor}' comes from {made[tensor][0]} and from '{step.model_name}': name one "
                "of them otherwise"
            )
        else:
            given = has or Tensor(name, "", ())
            made[tensor] = f"'{step.model_name}'", Tensor(name, given.datatype, _full(target, has))


def _inputs(
    model: Loaded, step: Any, target: Loaded, made: Mapping[str, tuple[str, Tensor]]
) -> Iterator[Problem]:
    has = target.inputs
    for name, tensor in step.input_map.items():
        if target.completed(has):
            continue
        if name not in has:
            yield model.problem(
                f"'{tensor}' goes to input '{name}' of '{step.model_name}', which has none of that "
                f"name, but {', '.join(has)}: correct input_map"
            )
            continue
        if tensor not in made:
            yield model.problem(
                f"'{tensor}', which '{step.model_name}' reads, comes from no step and is no "
                "input: correct input_map"
            )
            continue
        source, given = made[tensor]
        mine = Tensor(name, has[name].datatype, _full(target, has[name]))
        where = f"input '{name}' of '{step.model_name}'"
        yield from _match(model, tensor, where, mine, source, given)
        if tensor in model.optional and name not in target.optional:
            yield model.problem(
                f"'{tensor}' may be left out, but {where} may not: make it optional there, or not "
                "here"
            )
    for name in sorted(set(has) - set(step.input_map) - target.optional):
        yield model.problem(
            f"input '{name}' of '{step.model_name}' gets nothing: add it to input_map"
        )


def _match(
    model: Loaded, tensor: str, where: str, mine: Tensor, source: str, given: Tensor
) -> Iterator[Problem]:
    if not given.datatype:  # of a model whose configuration lists none
        return
    if mine.datatype != given.datatype or not _compatible(mine.dims, given.dims):
        yield model.problem(
            f"'{tensor}' is {given.datatype} {dims_text(given.dims)} from {source}, {where} is "
            f"{mine.datatype} {dims_text(mine.dims)}: make them the same"
        )


def _flow(model: Loaded, steps: list[Any], made: Mapping[str, object]) -> Iterator[Problem]:
    """Data reaches every step and every output, and nothing is made that nobody reads."""
    ready, waiting = set(model.inputs), list(steps)
    while True:
        runs = [step for step in waiting if set(step.input_map.values()) & set(made) <= ready]
        if not runs:
            break
        for step in runs:
            ready |= set(step.output_map.values())
            waiting.remove(step)
    for step in waiting:
        yield model.problem(
            f"'{step.model_name}' waits for what is made of its own outputs: undo the circle"
        )
    for name in model.outputs:
        if name not in made or name in model.inputs:
            yield model.problem(f"output '{name}' comes from no step: correct output_map")
    read = Counter(tensor for step in steps for tensor in step.input_map.values())
    for tensor in made:
        if tensor not in read and (tensor not in model.outputs or tensor in model.inputs):
            yield model.problem(
                f"'{tensor}' is read by no step and is no output: Triton refuses that, leave it out"
            )


def _full(model: Loaded, tensor: Tensor | None) -> tuple[int, ...]:
    """All dimensions, the batch included."""
    if tensor is None:
        return ()
    return (-1, *tensor.dims) if model.max_batch > 0 else tensor.dims


def _compatible(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(
        -1 in (mine, theirs) or mine == theirs for mine, theirs in zip(one, other, strict=True)
    )
