"""Vision transformers of transformers (Hugging Face) as teachers, from a folder on this machine.

Nothing is fetched and nothing executed: ``config.json`` is read as JSON, of which only what the
architecture has is taken, weights as safetensors; no code, pickle, adapter or kernel that a folder
names is looked at.

As RT-DETRv4 asks its teacher: pictures averaged over 2x2 pixels and normalised, patch tokens after
the last norm. A patch of 16 pixels is then one cell of the student's stride 32.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydepth_deploy.checkpoints.hugging_face import read_document, weight_files
from anydepth_deploy.checkpoints.present import CONFIG, INDEX, PREPROCESSOR, WEIGHTS
from anydepth_deploy.checkpoints.safetensors_files import is_finite, read_safetensors
from anydepth_deploy.errors import CheckpointError, first_line, missing_extra, shorten
from anydepth_deploy.families.shared.usual_state import usual_state

__all__ = ["VisionTransformer", "open_vision_transformer"]

POOL = 2
"""Pixels that are averaged to one, each way."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet, by channel: red, green, blue."""

LARGEST: Mapping[str, int] = MappingProxyType(
    {
        "hidden_size": 16384,
        "num_hidden_layers": 256,
        "num_attention_heads": 1024,
        "patch_size": 256,
        "image_size": 4096,
        "num_channels": 3,
        "intermediate_size": 65536,
        "num_register_tokens": 1024,
    }
)
"""What a document may ask for: time and memory are taken before weights show that it is wrong."""

UNUSED = ("pooler.", "embeddings.mask_token")
"""Weights that may be absent: of what is made of patch tokens, or only in their training."""


@dataclass(frozen=True)
class _Kind:
    """``network``: the class in transformers. ``tokens``: before those of the patches, but for the
    registers that a configuration counts."""

    network: str
    tokens: int


KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "dinov3_vit": _Kind("DINOv3ViTModel", 1),
        "dinov2": _Kind("Dinov2Model", 1),
        "dinov2_with_registers": _Kind("Dinov2WithRegistersModel", 1),
        "vit": _Kind("ViTModel", 1),
        "vit_msn": _Kind("ViTMSNModel", 1),
        "deit": _Kind("DeiTModel", 2),
        "ijepa": _Kind("IJepaModel", 0),
    }
)
"""By ``model_type`` of a configuration."""


class VisionTransformer(nn.Module):
    """A vision transformer as a teacher, see
    :class:`~anydepth_deploy.train.semantics.teachers.SemanticTeacher`.

    ``network``: of transformers; ``tokens``: how many it has before those of the patches;
    ``patch``: pixels of a patch's side; ``mean`` and ``std``: by channel. Computes in float32, or
    as an autocast around it says.

    Attributes:
        channels: of a token.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        channels: int,
        patch: int,
        tokens: int,
        mean: tuple[float, ...] = MEAN,
        std: tuple[float, ...] = STD,
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.channels = channels
        self.patch = patch
        self.tokens = tokens
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        # Position embeddings are of one size where a network has such; some resize them by
        # themselves, others where they are told to.
        takes = inspect.signature(network.forward).parameters
        self._options = dict.fromkeys({"interpolate_pos_encoding"} & takes.keys(), True)
        self.eval()

    def train(self, mode: bool = True) -> VisionTransformer:
        """It stays in evaluation mode, whatever the network beside it does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """``images``: float32 [N, 3, H, W] in 0..1. Gives float32 [N, channels, h, w] with h and w
        the patches of the picture at half its size. Where these are no whole number, it is
        stretched to the nearest, so that the map covers all of the picture."""
        pictures = F.avg_pool2d(images, POOL)
        height, width = (max(1, round(side / self.patch)) for side in pictures.shape[-2:])
        size = (height * self.patch, width * self.patch)
        if size != tuple(pictures.shape[-2:]):
            pictures = F.interpolate(pictures, size=size, mode="bilinear", align_corners=False)
        pictures = (pictures - self.mean) / self.std
        found = self.network(pixel_values=pictures, **self._options).last_hidden_state
        patches: Tensor = found[:, self.tokens :].float()
        return patches.transpose(1, 2).reshape(len(images), -1, height, width)


@usual_state()
def open_vision_transformer(folder: str | Path) -> VisionTransformer:
    """The vision transformer in ``folder``, as transformers saves it: ``config.json``,
    ``model.safetensors`` or its shards, and ``preprocessor_config.json``, without which pictures
    are normalised as those of ImageNet usually are.

    Raises :class:`CheckpointError` for a folder without one, for weights that are a pickle, missing
    or do not fit, and :class:`MissingExtraError` where transformers is not installed.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        what = "has no config.json" if folder.is_dir() else "is no folder"
        raise CheckpointError(
            f"teacher {folder} {what}; expected a folder with a vision transformer as transformers "
            f"saves it: {CONFIG}, {WEIGHTS} and {PREPROCESSOR}"
        )
    document = read_document(folder / CONFIG)
    kind = KINDS.get(str(document.get("model_type")))
    if kind is None:
        shown = shorten([repr(document.get("model_type"))])
        raise CheckpointError(
            f"teacher {folder} is no vision transformer: its {CONFIG} has model_type {shown}, "
            f"expected one of {', '.join(KINDS)}"
        )
    mean, std = _normalisation(folder)
    state = read_safetensors(folder, _weights(folder))
    if odd := [name for name, value in state.items() if not is_finite(value)]:
        raise CheckpointError(
            f"teacher {folder} has weights that are not numbers: {shorten(odd)}; fetch it again"
        )
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise (missing_extra(error, "a teacher of transformers") or error) from error
    network = _load(folder, getattr(transformers, kind.network), document, state)
    config = network.config
    return VisionTransformer(
        network,
        channels=config.hidden_size,
        patch=config.patch_size,
        tokens=kind.tokens + getattr(config, "num_register_tokens", 0),
        mean=mean,
        std=std,
    )


def _weights(folder: Path) -> tuple[Path, ...]:
    pickles = [path.name for path in folder.glob("*.bin")]
    if pickles and not any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        raise CheckpointError(
            f"teacher {folder} has its weights as a pickle only ({shorten(sorted(pickles))}), "
            f"which is not read, as it could execute anything; expected {WEIGHTS}: fetch or save "
            "it as safetensors"
        )
    return weight_files(folder)


def _load(folder: Path, cls: Any, document: Mapping[str, Any], state: dict[str, Tensor]) -> Any:
    """A network of ``cls`` with the weights of ``state``, in evaluation mode."""
    from transformers import PreTrainedConfig

    # Only what this architecture has: the rest of a document may name code, kernels or files.
    own = {field.name for field in dataclasses.fields(cls.config_class)}
    own -= {field.name for field in dataclasses.fields(PreTrainedConfig)}
    for name, most in LARGEST.items():
        found = document.get(name)
        least = 0 if name == "num_register_tokens" else 1
        if found is not None and not (type(found) is int and least <= found <= most):
            raise CheckpointError(
                f"teacher {folder}: its {CONFIG} has {name} = {shorten([repr(found)])}, expected a "
                f"whole number from {least} to {most}"
            )
    try:
        with _quietly(), torch.random.fork_rng(devices=[]):
            config = cls.config_class(**{k: v for k, v in document.items() if k in own})
            network, found = cls.from_pretrained(
                None,
                config=config,
                state_dict=state,
                dtype=torch.float32,
                attn_implementation="sdpa",
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # whatever transformers makes of an odd document
        raise CheckpointError(
            f"teacher {folder} does not fit {cls.__name__} of transformers "
            f"({type(error).__name__}: {first_line(error)}); fetch it again"
        ) from None
    if missing := sorted(k for k in found["missing_keys"] if not k.startswith(UNUSED)):
        raise CheckpointError(
            f"teacher {folder} lacks {len(missing)} weights of {cls.__name__}: "
            f"{shorten(missing)}; fetch it again"
        )
    return network


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' bars and reports; what it was set to comes back."""
    from transformers import utils

    logging: Any = utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by channel, from ``preprocessor_config.json`` if there is one."""
    if not (folder / PREPROCESSOR).is_file():
        return MEAN, STD
    recipe = read_document(folder / PREPROCESSOR)
    scale = recipe.get("rescale_factor", 1 / 255)
    if not (isinstance(scale, float) and abs(scale - 1 / 255) < 1e-6):
        raise _odd(folder, "rescale_factor", scale, "1 / 255")
    if recipe.get("do_normalize", True) is False:
        return (0.0,) * 3, (1.0,) * 3
    mean, std = recipe.get("image_mean", [*MEAN]), recipe.get("image_std", [*STD])
    if not _three(mean):
        raise _odd(folder, "image_mean", mean, "three numbers")
    if not (_three(std) and min(std) > 0):
        raise _odd(folder, "image_std", std, "three numbers above 0")
    return tuple(mean), tuple(std)


def _three(values: object) -> bool:
    if not isinstance(values, list) or len(values) != 3:
        return False
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)


def _odd(folder: Path, key: str, found: object, expected: str) -> CheckpointError:
    return CheckpointError(
        f"teacher {folder}: its {PREPROCESSOR} has {key} = {shorten([repr(found)])}, expected "
        f"{expected}"
    )
