"""What a Python model is told when it is loaded: parameters of its configuration, the manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anydepth_deploy.errors import BundleError
from anydepth_deploy.manifest import Manifest
from anydepth_deploy.serve import manifests

__all__ = ["number", "parameters", "read_manifest"]


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


def read_manifest(arguments: Mapping[str, str]) -> Manifest:
    """The bundle's manifest, which lies beside ``model.py``.

    Raises :class:`BundleError` when it is missing or damaged.
    """
    return manifests.read_manifest(Path(arguments["model_repository"]) / arguments["model_version"])
