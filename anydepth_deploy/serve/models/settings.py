"""What a Python model is told when it is loaded: parameters of its configuration, the manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anydepth_deploy.errors import BundleError
from anydepth_deploy.manifest import Manifest
from anydepth_deploy.serve import limits, manifests, names
from anydepth_deploy.serve.budgets import budget_of

__all__ = ["budget", "max_images", "number", "parameters", "read_manifest"]

OLD_MAX_BATCH = re.compile(
    rf'key:\s*"{names.MAX_BATCH}"\s*value:?\s*\{{\s*string_value:\s*"([1-9][0-9]{{0,17}})"'
)


def parameters(arguments: Mapping[str, str]) -> dict[str, str]:
    """The parameters in the configuration of the model that Triton initialises with
    ``arguments``."""
    config: dict[str, Any] = json.loads(arguments["model_config"])
    found = config.get("parameters") or {}
    return {name: value.get("string_value", "") for name, value in found.items()}


def number(given: Mapping[str, str], key: str, default: int) -> int:
    """The parameter ``key``, a number from 1 on; ``default`` where a configuration, written before
    there was such a parameter, has none.

    Raises :class:`BundleError` for anything else.
    """
    text = given.get(key) or str(default)
    if not re.fullmatch("[1-9][0-9]{0,17}", text):
        raise BundleError(
            f"parameter '{key}' is {text[:40]!a}: expected a number from 1 on; write the "
            "repository again with 'anydepth-deploy triton'"
        )
    return int(text)


def budget(given: Mapping[str, str]) -> float | None:
    """Milliseconds that a request at depth ``auto`` may take where it does not say; None where it
    has to.

    Raises :class:`BundleError` for what is no positive number.
    """
    text = given.get(names.BUDGET_MS)
    found = budget_of(text)
    if text and found is None:
        raise BundleError(
            f"parameter '{names.BUDGET_MS}' is {text[:40]!a}: expected a positive number of "
            "milliseconds; write the repository again with 'anydepth-deploy triton'"
        )
    return found


def max_images(arguments: Mapping[str, str], given: Mapping[str, str]) -> int:
    """The most images that one request may bring to a router, or pictures to preprocessing.

    In a repository written before there was such a number, what the levels take, and at least
    :data:`~anydepth_deploy.serve.limits.MAX_BATCH`. The router knows that; preprocessing reads it
    in the router's configuration, which lies beside its own: what one of them takes, the other must
    not refuse. Raises :class:`BundleError`.
    """
    levels = given.get(names.MAX_BATCH)
    if names.MAX_IMAGES not in given and levels is None:
        levels = _of_the_router(Path(arguments["model_repository"]))
    least = int(levels) if levels and levels.isdecimal() else 0
    return number(given, names.MAX_IMAGES, max(limits.MAX_BATCH, least))


def _of_the_router(folder: Path) -> str:
    """What levels take, by the configuration of the router beside a model's ``folder``; nothing
    where it does not lie there, as Triton may load models from elsewhere, each by itself."""
    ensemble = folder.name.removesuffix(names.Names("").preprocess)
    path = folder.with_name(names.Names(ensemble).router) / "config.pbtxt"
    try:
        found = OLD_MAX_BATCH.search(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return found[1] if found else ""


def read_manifest(arguments: Mapping[str, str]) -> Manifest:
    """The bundle's manifest, which lies beside ``model.py``.

    Raises :class:`BundleError` when it is missing or damaged.
    """
    return manifests.read_manifest(Path(arguments["model_repository"]) / arguments["model_version"])
