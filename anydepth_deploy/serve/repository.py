"""Writes a Triton model repository for a bundle.

All models are made in a hidden folder beside the repository, checked there
(:mod:`anydepth_deploy.serve.check.repository`), and only then renamed into it, the ensemble last;
when that fails, what was there before is put back. So a server never sees a model that is half
written.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import BundleError, CheckFailedError
from anydepth_deploy.serve import configs, names
from anydepth_deploy.serve.check.problem import CONFIG
from anydepth_deploy.serve.check.repository import check_repository
from anydepth_deploy.serve.plan import Plan, Served, ServeOptions, plan
from anydepth_deploy.serve.protocol import messages, parse, to_text
from anydepth_deploy.serve.warmup import write_rows

__all__ = ["Model", "Repository", "write_repository"]

VERSION = "1"

PYTHON_MODEL = '''"""{purpose}: the code is anydepth-deploy's, which the server's Python needs."""

from anydepth_deploy.serve.models.{module} import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


@dataclass(frozen=True)
class Model:
    """A model that was written. ``depth``: its one depth, ``any``, or None where that is not its
    business; ``artifact``: what it executes, likewise."""

    name: str
    backend: str
    max_batch: int
    depth: str | None = None
    artifact: str | None = None


@dataclass(frozen=True)
class Repository:
    """What :func:`write_repository` wrote. ``name``: of the ensemble."""

    path: Path
    name: str
    device: str
    default_depth: str
    models: tuple[Model, ...]


def write_repository(
    bundle: Bundle,
    out: str | Path,
    *,
    name: str | None = None,
    options: ServeOptions | None = None,
    force: bool = False,
) -> Repository:
    """Write the models that serve ``bundle`` into the model repository ``out``.

    ``name``: of the ensemble, and the beginning of all other models' names; by default that of the
    bundle's folder. ``out`` may be new, empty, or a repository with other models, which stay as
    they are; models of this name are replaced with ``force``. Artifacts are linked into the
    repository where the file system allows that, else copied.

    Raises :class:`UsageError`, :class:`DepthError` and :class:`BundleError` for what cannot be
    served, :class:`BundleError` for a folder that is in the way or cannot be written,
    :class:`MissingExtraError` without ``tritonclient``, and :class:`CheckFailedError` where what
    was made does not pass :func:`~anydepth_deploy.serve.check.repository.check_repository`; nothing
    is left of it then.
    """
    messages()  # what is missing is said before files are read
    found = plan(bundle, name, options or ServeOptions())
    path = Path(out)
    existing = _existing(path)
    mine = [model for model in existing if _maker(path / model) == found.names.ensemble]
    wanted = _order(found)
    strangers = [model for model in wanted if model in existing and model not in mine]
    if strangers:
        raise BundleError(
            f"{path / strangers[0]} exists and is not of the bundle '{found.names.ensemble}': "
            "choose another --name or --out"
        )
    if mine and not force:
        raise BundleError(
            f"{path} has models of '{found.names.ensemble}' already: replace them with --force, or "
            "choose another --name or --out"
        )
    try:
        staging = _staging(path)
    except OSError as error:
        raise _disk_error(path, error) from None
    try:
        made = staging / "new"
        _stage(found, made)
        problems = check_repository(made)
        if problems:
            raise CheckFailedError(
                f"the repository was not written, {len(problems)} of its checks failed; the first: "
                f"{problems[0]}"
            )
        _publish(made, path, wanted, mine, staging / "old")
    except OSError as error:
        raise _disk_error(path, error) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Repository(
        path, found.names.ensemble, found.device, found.options.default_depth, _models(found)
    )


def _staging(path: Path) -> Path:
    """A new folder from which a rename leads into the repository."""
    parent = path.resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not _same_volume(path, parent):
        parent = path
    return Path(tempfile.mkdtemp(prefix=f".{path.resolve().name}.", dir=parent))


def _same_volume(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def _order(found: Plan) -> list[str]:
    """The models in the order in which they appear: what is asked comes after what answers."""
    own = found.names
    served = [model.name for model in found.served]
    return [*served, own.preprocess, own.postprocess, own.router, own.ensemble]


def _existing(path: Path) -> list[str]:
    """The models in a repository; none where there is none yet.

    Raises :class:`BundleError` for a folder that is something else.
    """
    if not path.exists():
        return []
    if not path.is_dir():
        raise BundleError(f"{path} is a file: choose another --out")
    items = [item for item in path.iterdir() if not item.name.startswith(".")]
    models = [item.name for item in items if item.is_dir() and _is_model(item)]
    if items and not models:
        raise BundleError(
            f"folder {path} is not empty and no model repository (it holds {items[0].name}): "
            "choose another --out"
        )
    return models


def _is_model(folder: Path) -> bool:
    return (folder / CONFIG).is_file() or any(item.name.isdigit() for item in folder.iterdir())


def _maker(folder: Path) -> str | None:
    """The name of the bundle whose model is in ``folder``; None for a model of anybody else."""
    try:
        parameters = parse(folder / CONFIG).parameters
    except BundleError:
        return None
    if names.MADE_BY not in parameters or names.NAME not in parameters:
        return None
    return str(parameters[names.NAME].string_value)


def _stage(found: Plan, folder: Path) -> None:
    """Make all models in ``folder``."""
    for model in found.served:
        _stage_served(found, model, folder / model.name)
    own = found.names
    for name, config, module, purpose in (
        (own.preprocess, configs.preprocess(found), "preprocess", "Pictures to network input"),
        (own.router, configs.router(found), "router", "Runs the model for a depth"),
        (own.postprocess, configs.postprocess(found), "postprocess", "Boxes back to the pictures"),
    ):
        version = _model_folder(folder / name, {CONFIG: config})
        text = PYTHON_MODEL.format(module=module, purpose=purpose)
        (version / "model.py").write_text(text, encoding="utf-8")
        _write_manifest(found, version)
    # An ensemble has no files, but object stores keep no empty folders.
    _write_manifest(found, _model_folder(folder / own.ensemble, {CONFIG: configs.ensemble(found)}))


def _write_manifest(found: Plan, version: Path) -> None:
    text = found.bundle.manifest.model_dump_json(indent=1) + "\n"
    (version / names.MANIFEST).write_text(text, encoding="utf-8")


def _stage_served(found: Plan, model: Served, folder: Path) -> None:
    content = {CONFIG: configs.served(found, model, found.device)}
    engine = model.artifact.engine is not None
    for device in () if engine else ("cpu", "gpu"):
        content[f"configs/{device}.pbtxt"] = configs.served(found, model, device)
    version = _model_folder(folder, content)
    if model.max_batch == 0:
        write_rows(folder, found.warm_rows)
    _link(model.file, version / ("model.plan" if engine else "model.onnx"))


def _model_folder(folder: Path, content: dict[str, Any]) -> Path:
    """Make a model's folder with its configurations; returns the folder of its version."""
    version = folder / VERSION
    version.mkdir(parents=True)
    for file, config in content.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(to_text(config), encoding="utf-8")
    return version


def _link(source: Path, target: Path) -> None:
    """``source`` under a second name, or a copy where the file system gives none.

    A bundle never changes a file in place, so a link stays what it is.
    """
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _publish(made: Path, path: Path, wanted: list[str], mine: list[str], aside: Path) -> None:
    """Rename the models in ``made`` into the repository, in the place of ``mine``."""
    if not path.exists():
        made.replace(path)
        return
    aside.mkdir()
    moved: list[tuple[Path, Path]] = []  # from, to: undone in reverse
    try:
        # The ensemble goes first and comes last: it is what refers to the others.
        for model in [name for name in reversed(wanted) if name in mine] + [
            name for name in mine if name not in wanted
        ]:
            _move(path / model, aside / model, moved)
        for model in wanted:
            _move(made / model, path / model, moved)
    except BaseException:
        for source, target in reversed(moved):
            target.rename(source)
        raise


def _move(source: Path, target: Path, moved: list[tuple[Path, Path]]) -> None:
    source.rename(target)
    moved.append((source, target))


def _models(found: Plan) -> tuple[Model, ...]:
    rows = found.bundle.table.rows
    static = {model.name: str(rows[row]) for row, model in found.levels.items()}
    served: Iterable[Model] = (
        Model(
            model.name,
            "onnxruntime" if model.artifact.engine is None else "tensorrt",
            model.max_batch,
            static.get(model.name, "any"),
            model.artifact.name,
        )
        for model in found.served
    )
    own = found.names
    return (
        *served,
        Model(own.preprocess, "python", 0),
        Model(own.postprocess, "python", 0),
        Model(own.router, "python", 0, "any"),
        Model(own.ensemble, "ensemble", 0, "any"),
    )


def _disk_error(path: Path, error: OSError) -> BundleError:
    return BundleError(
        f"{path} cannot be written: {error.strerror or error}; see to that or use another folder "
        "(what was there before is unchanged)"
    )
