"""deploy/kubernetes: what users apply, and every combination of it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import yaml
from conftest import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
COMPONENTS = FOLDER / "components"

OVERLAYS = ("overlays/cpu", "overlays/gpu")
TARGETS = (*OVERLAYS, "models", "kserve")
CHOICES: tuple[tuple[str, ...], ...] = (
    (),
    ("monitoring",),
    ("monitoring", "hpa"),
    ("monitoring", "keda"),
    ("models-image",),
    ("models-http", "hpa"),
)
"""Components that are taken together."""


def compose(folder: Path, target: str, components: Iterable[str]) -> Path:
    """A kustomization as users write it, of ``target`` with ``components``, in ``folder``."""
    said = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(FOLDER / target, folder)],
        "components": [os.path.relpath(COMPONENTS / name, folder) for name in components],
    }
    if not said["components"]:
        del said["components"]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(said), "utf-8")
    return folder
