"""The manifest that each of our models in a repository carries beside its code."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from anydepth_deploy.bundle.files import DOCUMENT
from anydepth_deploy.manifest import Manifest
from anydepth_deploy.serve.names import MANIFEST

__all__ = ["read_manifest"]

_AGAIN = "write the repository again with 'anydepth-deploy triton'"
_DOCUMENT = dataclasses.replace(
    DOCUMENT, missing=f"{{path}} is missing: {_AGAIN}", remedy=_AGAIN, other_version=_AGAIN
)


def read_manifest(folder: Path) -> Manifest:
    """The manifest in ``folder``, the version of a model. Raises :class:`BundleError`; the message
    begins with the file's path."""
    return _DOCUMENT.read(folder / MANIFEST)
