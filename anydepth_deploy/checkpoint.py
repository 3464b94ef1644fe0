"""Read untrusted checkpoint files: nothing in a file is executed.

Accepted are the authors' training dictionary (``ema`` first, then ``model``), a bare state dict
and safetensors; keys may carry the ``module.`` prefix of distributed training. Pickles are read
by torch's restricted unpickler (``weights_only``), which rebuilds tensors and plain containers and
refuses everything else.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anydepth_deploy.errors import CheckpointError, shorten
from anydepth_deploy.models.registry import Family, build_model, recognise
from anydepth_deploy.models.stages import AnyDepthModel

__all__ = ["Checkpoint", "load_model", "read_checkpoint"]

SUPPORTED = "expected a PyTorch file (.pth, .pt) or safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds, recognised but not yet loaded into a network.

    ``state`` maps the authors' key names to tensors; ``weights`` says which entry they came from
    (``ema``, ``model`` or ``state dict``); ``extra`` holds the plain values beside the weights.
    """

    path: Path
    family: Family
    config: Any
    state: dict[str, Tensor]
    weights: str
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def class_names(self) -> list[str] | None:
        """Class names stored in the file, if they fit the number of classes."""
        names = self.extra.get("class_names")
        if isinstance(names, list) and len(names) == self.config.classes:
            return [str(name) for name in names]
        return None

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Input size (height, width) stored in the file."""
        size = self.extra.get("input_size")
        if isinstance(size, list | tuple) and len(size) == 2:
            height, width = size
            if isinstance(height, int) and isinstance(width, int):
                return height, width
        return None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read and recognise a checkpoint file.

    Raises :class:`CheckpointError` when the file is missing, truncated, not a checkpoint, holds
    objects that would have to be executed, or belongs to no known family.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"checkpoint {path} {what}; {SUPPORTED}")
    content = _read_safetensors(path) if _is_safetensors(path) else _read_pickle(path)
    tensors, weights, extra = _find_weights(path, content)
    state = {_without_prefix(key): value.detach() for key, value in tensors.items()}
    if len(state) < len(tensors):
        twice = [key for key in tensors if key != _without_prefix(key) in tensors]
        raise CheckpointError(
            f"checkpoint {path} names weights twice, with and without the prefix 'module.': "
            f"{shorten(twice)}"
        )
    if strange := [key for key, value in state.items() if not _is_plain(value)]:
        raise CheckpointError(
            f"checkpoint {path}: {len(strange)} tensors are not plain dense numbers (but sparse, "
            f"quantised, complex, or larger than what the file holds): {shorten(strange)}"
        )
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    try:
        family, config = recognise(shapes, f"checkpoint {path}")
    except CheckpointError as error:
        message = str(error)
        prefix = f"checkpoint {path}: "
        raise CheckpointError(message if message.startswith(prefix) else prefix + message) from None
    return Checkpoint(path, family, config, state, weights, extra)


def load_model(checkpoint: Checkpoint) -> AnyDepthModel:
    """The torch model of a checkpoint, in evaluation mode, weights in float32.

    Raises :class:`CheckpointError` that lists missing, unexpected and mis-shaped keys.
    """
    model = build_model(checkpoint.family, checkpoint.config)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = checkpoint.state
    problems = {
        "missing keys": [
            key
            for key in expected
            if key not in found
            and not key.startswith(model.optional_keys)
            and not key.endswith("num_batches_tracked")
        ],
        "unexpected keys": [key for key in found if key not in expected],
        "keys with integers for weights": [
            key
            for key, value in model.state_dict().items()
            if key in found and value.is_floating_point() != found[key].is_floating_point()
        ],
        "wrong shapes": [
            f"{key} {list(found[key].shape)} (expected {list(shape)})"
            for key, shape in expected.items()
            if key in found and tuple(found[key].shape) != shape
        ],
        "not numbers": [
            key
            for key, value in found.items()
            if value.is_floating_point() and not bool(torch.isfinite(value.float()).all())
        ],
    }
    told = [f"{len(keys)} {what}: {shorten(keys)}" for what, keys in problems.items() if keys]
    if told:
        name = f"{checkpoint.family.name} {checkpoint.config.name}"
        raise CheckpointError(
            f"checkpoint {checkpoint.path} does not fit {name}: {'; '.join(told)}"
        )
    state = {
        key: value.float() if value.is_floating_point() else value for key, value in found.items()
    }
    for key in expected:  # what only training uses may be absent from a deployed file
        if key not in state:
            state[key] = torch.zeros(expected[key])
    model.load_state_dict(state)
    return model.requires_grad_(False)


def _is_safetensors(path: Path) -> bool:
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:  # 8 bytes of header length, then JSON
        head = file.read(9)
    return len(head) == 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path} is not a readable safetensors file ({error}); it may be truncated: "
            "fetch it again"
        ) from None


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():  # what torch has to say about old files helps nobody
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error)
        if "Unsupported global" in reason or "Unsupported class" in reason or "GLOBAL" in reason:
            name = reason.split("GLOBAL ", 1)[-1].split(" ", 1)[0] if "GLOBAL " in reason else "?"
            raise CheckpointError(
                f"checkpoint {path} holds the object '{shorten([name])}', which would have to be "
                "executed and was not; expected tensors and plain values only: save the state dict "
                "alone, torch.save(model.state_dict(), ...)"
            ) from None
        raise CheckpointError(_unreadable(path, reason)) from None
    except (RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(_unreadable(path, str(error) or type(error).__name__)) from None
    except Exception as error:  # a damaged pickle can fail anywhere inside the reader
        raise CheckpointError(_unreadable(path, f"{type(error).__name__}: {error}")) from None


def _unreadable(path: Path, reason: str) -> str:
    line = reason.strip().splitlines()[0] if reason.strip() else "no reason given"
    return (
        f"checkpoint {path} ({path.stat().st_size} bytes) cannot be read: {line[:160]}; "
        f"{SUPPORTED}. If it was downloaded, it may be truncated: fetch it again"
    )


def _find_weights(path: Path, content: Any) -> tuple[dict[str, Tensor], str, dict[str, Any]]:
    """The state dict to deploy, the name of its entry, and the plain values beside it."""
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"checkpoint {path} holds a {type(content).__name__}, expected a dictionary of weights"
        )
    ema = content.get("ema")
    averaged = ema.get("module", ema) if isinstance(ema, Mapping) else ema
    if averaged is not None:
        if isinstance(averaged, Mapping) and averaged and _all_tensors(averaged):
            return dict(averaged), "ema", _plain_values(content)
        raise CheckpointError(
            f"checkpoint {path}: its 'ema' entry is not a state dict (tensors by name), and the "
            "averaged weights are the ones to deploy; to deploy others, save their state dict alone"
        )
    for entry, candidate in (
        ("model", content.get("model")),
        ("state dict", content.get("state_dict")),
        ("state dict", content),
    ):
        if isinstance(candidate, Mapping) and candidate and _all_tensors(candidate):
            return dict(candidate), entry, _plain_values(content)
    raise CheckpointError(
        f"checkpoint {path} has no weights: expected 'ema', 'model' or a state dict; found the "
        f"entries {shorten(content) or 'none'}"
    )


def _plain_values(content: Mapping[Any, Any]) -> dict[str, Any]:
    """What stands beside the weights, as far as it is plain."""
    return {
        str(key): value
        for key, value in content.items()
        if isinstance(value, str | int | float | list | tuple)
    }


def _all_tensors(candidate: Mapping[Any, Any]) -> bool:
    return all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in candidate.items()
    )


def _is_plain(value: Tensor) -> bool:
    """Dense numbers that the file really holds; a view can claim any size for a few bytes."""
    return (
        value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_complex()
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _without_prefix(key: str) -> str:
    while key.startswith("module."):
        key = key.removeprefix("module.")
    return key
