"""Whether there is a checkpoint at all; asked before torch is imported."""

from __future__ import annotations

from pathlib import Path

from anydepth_deploy.errors import CheckpointError
from anydepth_deploy.reading.regular import kind_of_file

__all__ = ["SUPPORTED", "check_present", "is_bundle", "is_saved_folder"]

SUPPORTED = "expected a PyTorch file (.pth, .pt), safetensors or a folder of transformers"

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
PREPROCESSOR = "preprocessor_config.json"
"""Files of a folder as transformers saves it."""


def is_saved_folder(path: Path) -> bool:
    """Whether ``path`` is a folder with a network of transformers in it, and no bundle."""
    if (path / "manifest.json").is_file():
        return False
    return any((path / name).is_file() for name in (CONFIG, WEIGHTS, INDEX))


def is_bundle(path: Path) -> bool:
    """Whether ``path``, which may be a checkpoint or a bundle, is to be opened as a bundle."""
    return path.is_dir() and not is_saved_folder(path)


def check_present(path: str | Path) -> Path:
    """``path``, which is a file, or a folder as transformers saves it. Raises
    :class:`CheckpointError` where it is neither."""
    path = Path(path)
    if is_saved_folder(path):
        return path
    if not path.is_file():
        try:
            what = f"is {kind_of_file(path)}"
        except (OSError, ValueError):  # too long for a name, or with a zero in it
            what = "does not exist"
        if (path / "manifest.json").is_file():
            what = "is a folder, a bundle: name the file that it was exported from"
        raise CheckpointError(f"checkpoint {path} {what}; {SUPPORTED}")
    if path.suffix.lower() == ".onnx":
        raise CheckpointError(
            f"checkpoint {path} is an ONNX graph; {SUPPORTED}, or name the folder of the graph's "
            "bundle where a bundle is taken"
        )
    return path
