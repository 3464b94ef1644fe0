"""Checks a Triton model repository before a server sees it.

A server finds some mistakes when it loads a model, some when the first request comes (a name that
occurs twice), and some never (a router that refers to a model that is not there). All of them are
found here from the files alone. Works on any repository; models with a backend that is not known
here are checked as far as their configuration goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anydepth_deploy.errors import BundleError
from anydepth_deploy.serve.check.config import check_config
from anydepth_deploy.serve.check.files import check_files
from anydepth_deploy.serve.check.problem import CONFIG, Loaded, Problem
from anydepth_deploy.serve.check.warmup import check_warmup
from anydepth_deploy.serve.check.wiring import check_manifests, check_wiring
from anydepth_deploy.serve.protocol import messages, parse

__all__ = ["Problem", "check_repository"]


def check_repository(path: str | Path) -> list[Problem]:
    """What is wrong in the model repository ``path``, one line each; empty when nothing is.

    Raises :class:`BundleError` where there is no repository, and :class:`MissingExtraError` without
    ``tritonclient`` or ``onnx``.
    """
    root = Path(path)
    messages()
    if not root.is_dir():
        raise BundleError(
            f"repository {root} {'is a file' if root.exists() else 'does not exist'}: "
            "'anydepth-deploy triton BUNDLE --out FOLDER' writes one"
        )
    folders = sorted(
        item for item in root.iterdir() if item.is_dir() and not item.name.startswith(".")
    )
    if not folders:
        raise BundleError(f"repository {root} holds no model folder: name a model repository")
    found: dict[Problem, None] = {}  # kept in order, each once
    loaded: list[Loaded] = []
    for folder in folders:
        for item in _load(root, folder):
            if isinstance(item, Problem):
                found[item] = None
                continue
            loaded.append(item)
            found.update(dict.fromkeys(check_config(item)))
            found.update(dict.fromkeys(check_files(item)))
            found.update(dict.fromkeys(check_warmup(item)))
    found.update(dict.fromkeys(check_manifests(loaded)))
    for variant in sorted({item.variant for item in loaded}):
        found.update(dict.fromkeys(check_wiring(_view(loaded, variant))))
    return list(found)


def _load(root: Path, folder: Path) -> Iterator[Loaded | Problem]:
    """A model's configuration and its variants."""
    if not (folder / CONFIG).is_file():
        yield Problem(
            f"{folder.name}/{CONFIG}",
            "is missing: write one, without it nothing of the model can be checked",
        )
    for path in (folder / CONFIG, *sorted((folder / "configs").glob("*.pbtxt"))):
        file = path.relative_to(root).as_posix()
        if not path.is_file():
            continue
        try:
            yield Loaded(folder, file, "" if path.name == CONFIG else path.stem, parse(path))
        except BundleError as error:
            yield Problem(file, str(error))


def _view(loaded: list[Loaded], variant: str) -> dict[str, Loaded]:
    """The models by name, as a server sees them that was started with ``--model-config-name``:
    where a model has no such variant, its ordinary configuration counts."""
    plain = {item.folder.name: item for item in loaded if not item.variant}
    chosen = {item.folder.name: item for item in loaded if item.variant == variant}
    return {**plain, **chosen}
