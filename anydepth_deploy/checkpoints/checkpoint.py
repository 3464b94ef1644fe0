"""Read untrusted checkpoint files: nothing in a file is executed.

Accepted are the authors' training dictionary (``ema`` first, then ``model``) of state dicts or of
network objects, a bare state dict and safetensors; what wrappers put before names and beside
weights is left out (:mod:`.wrappers`). torch's own reader is not used,
:mod:`anydepth_deploy.checkpoints` is. Only the weights to deploy are read into memory. Folders
of transformers are found by :mod:`.hugging_face`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from anydepth_deploy.checkpoints.archive import Archive, read_tensors
from anydepth_deploy.checkpoints.class_names import listed_names
from anydepth_deploy.checkpoints.hugging_face import find_saved
from anydepth_deploy.checkpoints.inert import (
    NOT_PLAIN,
    LazyTensor,
    PlainCopies,
    Stub,
    UnusableTensor,
    kind_of,
)
from anydepth_deploy.checkpoints.network import (
    is_network,
    is_side,
    network_metadata,
    network_weights,
)
from anydepth_deploy.checkpoints.present import SUPPORTED, check_present
from anydepth_deploy.checkpoints.rebuild import Rebuilder
from anydepth_deploy.checkpoints.safetensors_files import is_finite, read_safetensors
from anydepth_deploy.checkpoints.unpickle import MAX_PICKLE_BYTES, unpickle
from anydepth_deploy.checkpoints.wrappers import Unwrapped, unwrap
from anydepth_deploy.documents import file_sha256
from anydepth_deploy.errors import CheckpointError, UsageError, shorten
from anydepth_deploy.families.family import Family
from anydepth_deploy.families.registry import recognise
from anydepth_deploy.families.shared.detr.names import is_hugging_face
from anydepth_deploy.families.shared.settling import Beside, Said, Settled, option_of
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.families.shared.usual_state import usual_state
from anydepth_deploy.reading.regular import open_regular

__all__ = ["Checkpoint", "load_model", "read_checkpoint"]

TENSORS = (Tensor, LazyTensor, UnusableTensor)
PLAIN = (str, int, float, list, tuple)

NAMES = ("class_names", "names")
"""Entries beside the weights that hold class names, the first of them that fits."""

NETWORK = "network"
"""The entry beside the weights that says of the network what they do not: see
:attr:`anydepth_deploy.families.family.Family.remember`."""

MAPPED = (*NAMES, NETWORK)
"""Entries beside the weights that may be dictionaries."""

LARGEST = 2048
"""Pixels of a side of the input that a file may decide; ``--size`` may be larger."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds, recognised but not yet loaded into a network.

    ``state`` maps the authors' key names to tensors, floating point numbers in float32 whatever
    the file has; ``weights`` says which entry they came from (``ema``, ``model`` or ``state
    dict``); ``extra`` holds the plain values beside the weights and, where the network was saved
    as an object, what it says about itself (``class_names``, ``input_size``, ``stride``, ``nc``,
    ``yaml``, ``layers``); ``notes`` say in words what of the file was left out. ``chosen``: what no
    key reveals, as it was said or assumed, by the fields of
    :class:`~anydepth_deploy.families.shared.settling.Said`; ``assumed``: which of it nobody said.
    ``projector``: tensors that only training with a teacher uses, by their names in files of
    RT-DETRv4. ``files``: what the weights were read from. ``layout``: whose names they had there,
    ``authors`` or ``hugging face``.
    """

    path: Path
    family: Family
    config: Any
    state: dict[str, Tensor]
    weights: str
    extra: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    chosen: Mapping[str, str] = field(default_factory=dict)
    assumed: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    layout: str = "authors"
    projector: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Of the file's bytes; where weights are in several, of their digests in hexadecimal, one
        after the other in the order of their names. Reads them all."""
        digests = [file_sha256(path) for path in self.files or (self.path,)]
        return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()

    @property
    def bytes(self) -> int:
        """Of all files of weights."""
        return sum(path.stat().st_size for path in self.files or (self.path,))

    @property
    def class_names(self) -> list[str] | None:
        """Class names stored in the file, if they fit the number of classes and can be shown."""
        for entry in NAMES:
            names = listed_names(self.extra.get(entry))
            if names is not None and len(names) == self.config.classes:
                return names
        return None

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Input size (height, width) stored in the file, if a network could have it."""
        size = self.extra.get("input_size")
        if isinstance(size, list | tuple) and len(size) == 2 and all(map(is_side, size)):
            return size[0], size[1]
        return None

    def usual_size(self) -> tuple[int, int]:
        """Height and width of the input where nobody asks for others: those in the file, else those
        of the network.

        Raises :class:`CheckpointError` for sizes beyond :data:`LARGEST`: memory grows with their
        product, and it is not for a file to say how much of it is taken.
        """
        stored = self.input_size
        if stored is not None and max(stored) > LARGEST:
            size = "x".join(map(str, stored))
            raise CheckpointError(
                f"checkpoint {self.path} asks for an input of {size}, more than {LARGEST} pixels a "
                f"side, which takes many gigabytes: --size {size} if that is wanted, or a smaller "
                "one"
            )
        usual: tuple[int, int] = stored or self.config.input_size
        return usual


@usual_state()
def read_checkpoint(path: str | Path, said: Said | None = None) -> Checkpoint:
    """Read and recognise a checkpoint file, or a folder of transformers. ``said``: what a person
    says of it that no key reveals.

    Raises :class:`CheckpointError` when the file is missing, truncated, not a checkpoint, holds
    objects that would have to be executed, or belongs to no known family; :class:`UsageError` where
    something is said that a family has no choice of.
    """
    said = said or Said()
    path = check_present(path)
    saved = find_saved(path)
    if saved is not None:
        state, weights, extra, notes = _read_safetensors(path, saved.files)
        extra = {**extra, **saved.extra}
    else:
        read = _read_safetensors if _is_safetensors(path) else _read_archive
        state, weights, extra, notes = read(path)
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    try:
        family, config = recognise(shapes, f"checkpoint {path}")
    except CheckpointError as error:
        message = str(error)
        prefix = f"checkpoint {path}: "
        if saved is not None:
            message += f" (its config.json says {_shown(saved.document.get('model_type'))})"
        raise CheckpointError(message if message.startswith(prefix) else prefix + message) from None
    layout = "hugging face" if is_hugging_face(state) else "authors"
    document = None if saved is None or layout == "authors" else saved.document
    network = extra.get(NETWORK)
    beside = Beside(
        f"checkpoint {path}", said, document, network if isinstance(network, dict) else None
    )
    settled = _settle(family, config, state, beside)
    found = Checkpoint(
        path,
        family,
        settled.config,
        settled.state,
        weights,
        extra,
        (*notes, *settled.notes),
        settled.chosen,
        settled.assumed,
        (path,) if saved is None else saved.files,
        layout,
        settled.projector,
    )
    config, notes = found.config, found.notes
    if found.class_names is None and not extra.keys().isdisjoint(NAMES):
        note = f"left out: class names that do not fit {config.classes} classes or cannot be shown"
        found = replace(found, notes=(*notes, note))
    stored = extra.get("input_size")
    if stored is not None and found.input_size is None:
        note = (
            f"left out: the input size {_shown(stored)}; expected a height and a width, multiples "
            "of 32"
        )
        found = replace(found, notes=(*found.notes, note))
    return found


def _settle(family: Family, config: Any, state: dict[str, Tensor], beside: Beside) -> Settled:
    for name, value in beside.said.words.items():
        words = family.choices.get(name, ())
        if value not in words:
            able = f"expected one of {', '.join(words)}" if words else "leave it out"
            raise UsageError(
                f"{option_of(name)} {value}: {family.title} has no such choice; {able}"
            )
    if family.settle is None:
        return Settled(config, state)
    return family.settle(config, state, beside)


@usual_state()
def load_model(checkpoint: Checkpoint) -> AnyDepthModel:
    """The torch model of a checkpoint, in evaluation mode, weights in float32.

    The model uses the tensors of ``checkpoint.state`` themselves, so that they are in memory once:
    do not change the one while the other is needed.

    Raises :class:`CheckpointError` that lists missing, unexpected and mis-shaped keys.
    """
    family, config = checkpoint.family, checkpoint.config
    with _WithoutMemory():  # the weights of the file take the place of these
        model = family.build(config).eval()
    wanted = model.state_dict()
    expected = {key: tuple(value.shape) for key, value in wanted.items()}
    found = checkpoint.state
    fitting = [key for key in expected if key in found and found[key].shape == expected[key]]
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
            for key, value in wanted.items()
            if key in found and value.is_floating_point() != found[key].is_floating_point()
        ],
        "wrong shapes": [
            f"{key} {list(found[key].shape)} (expected {list(shape)})"
            for key, shape in expected.items()
            if key in found and tuple(found[key].shape) != shape
        ],
        "not numbers": [
            key for key in fitting if found[key].is_floating_point() and not is_finite(found[key])
        ],
    }
    told = [f"{len(keys)} {what}: {shorten(keys)}" for what, keys in problems.items() if keys]
    if told:
        name = f"{checkpoint.family.name} {checkpoint.config.name}"
        raise CheckpointError(
            f"checkpoint {checkpoint.path} does not fit {name}: {'; '.join(told)}"
        )
    state = {
        # What only training uses may be absent from a deployed file.
        key: found[key].to(value.dtype) if key in found else torch.zeros_like(value, device="cpu")
        for key, value in wanted.items()
    }
    model.load_state_dict(state, assign=True)
    for name, value in itertools.chain(model.named_parameters(), model.named_buffers()):
        assert not value.is_meta, f"{name} of {config.name} is neither in the file nor computed"
    return model.requires_grad_(False)


class _WithoutMemory(TorchFunctionMode):
    """What has no content yet takes no memory: ``torch.empty`` gives tensors on the meta device.

    Unlike ``torch.device("meta")``, what a network computes when it is built stays real, and torch
    need not import its 80 MB of operators in Python for it.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        tensor = kwargs.get("tensor")
        initial = getattr(func, "__module__", None) == "torch.nn.init"
        if initial and isinstance(tensor, Tensor) and tensor.is_meta:
            return tensor  # of what has no content yet
        return func(*args, **kwargs)


def _shown(value: object) -> str:
    """A word of a document, without what could steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in repr(value)[:60])


def _is_safetensors(path: Path) -> bool:
    if path.suffix == ".safetensors":
        return True
    with open_regular(path) as file:  # 8 bytes of header length, then JSON
        head = file.read(9)
    return len(head) == 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27


Read = tuple[dict[str, Tensor], str, dict[str, Any], tuple[str, ...]]
"""Weights, the entry they are from, the plain values beside them, and what was left out."""


def _read_safetensors(path: Path, files: Sequence[Path] = ()) -> Read:
    found, weights, extra = _find_weights(path, read_safetensors(path, files or (path,)))
    return found.tensors, weights, extra, found.notes


def _read_archive(path: Path) -> Read:
    with open_regular(path) as file:
        head = file.read(4)
    if head[:1] == b"\x80":
        raise CheckpointError(
            f"checkpoint {path} is a bare pickle, or in the format of torch before 1.6, and was "
            "not read, since it would have to be executed; expected torch's zip format. If you "
            "trust its source, load it with torch and save its state dict anew: "
            "torch.save(model.state_dict(), ...)"
        )
    if head and not b"PK\x03\x04".startswith(head):
        raise CheckpointError(f"checkpoint {path} is not a PyTorch file; {SUPPORTED}")
    origin = f"checkpoint {path}"
    with Archive(path) as archive:
        rebuilder = Rebuilder(origin, archive.sizes)
        content = unpickle(archive.read("data.pkl", MAX_PICKLE_BYTES), rebuilder)
        found, weights, extra = _find_weights(path, content)
        tensors = found.tensors
        strange = [key for key, value in tensors.items() if isinstance(value, UnusableTensor)]
        if strange:
            raise CheckpointError(
                f"checkpoint {path}: {len(strange)} tensors are not plain dense numbers (but "
                "sparse, quantised, complex, or larger than what the file holds): "
                f"{shorten(strange)}"
            )
        if network := _network_of(content):
            about = network_metadata(
                network,
                content if isinstance(content, dict) else {},
                lambda lazy: read_tensors(archive, {"": lazy})[""],
            )
            extra = {**about, **extra}
        return read_tensors(archive, tensors), weights, extra, found.notes


def _find_weights(path: Path, content: Any) -> tuple[Unwrapped, str, dict[str, Any]]:
    """The state dict to deploy, the name of its entry, and the plain values beside it."""
    if is_network(content):
        content = {"model": content}
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"checkpoint {path} holds a {kind_of(content)}, expected a dictionary of weights"
        )
    averaged = _averaged(content)
    if averaged is not None:
        if found := _state_dict(path, averaged):
            return unwrap(path, found), "ema", _plain_values(content)
        raise CheckpointError(
            f"checkpoint {path}: its 'ema' entry is not a state dict (tensors by name) or a "
            "network, and the averaged weights are the ones to deploy; to deploy others, save "
            "their state dict alone"
        )
    for entry, candidate in (
        ("model", content.get("model")),
        ("state dict", content.get("state_dict")),
        ("state dict", {key: value for key, value in content.items() if key not in MAPPED}),
    ):
        if found := _state_dict(path, candidate):
            return unwrap(path, found), entry, _plain_values(content)
    entries = [key[:80] if isinstance(key, str) else kind_of(key) for key in content]
    raise CheckpointError(
        f"checkpoint {path} has no weights: expected 'ema', 'model' or a state dict; found the "
        f"entries {shorten(entries) or 'none'}"
    )


def _averaged(content: Mapping[Any, Any]) -> Any:
    ema = content.get("ema")
    return ema.get("module", ema) if isinstance(ema, Mapping) else ema


def _network_of(content: Any) -> Stub | None:
    """The network object whose weights :func:`_find_weights` chooses, if it is one."""
    if isinstance(content, Mapping):
        averaged = _averaged(content)
        content = content.get("model") if averaged is None else averaged
    return content if is_network(content) else None


def _state_dict(path: Path, candidate: Any) -> dict[str, Any] | None:
    """Tensors by name, if that is what ``candidate`` is."""
    if is_network(candidate):
        return dict(network_weights(f"checkpoint {path}", candidate)) or None
    if isinstance(candidate, Mapping) and candidate and _all_tensors(candidate):
        return dict(candidate)
    return None


def _plain_values(content: Mapping[Any, Any]) -> dict[str, Any]:
    """What stands beside the weights, as far as it is plain."""
    copies = PlainCopies()
    found = {
        key: copies.copy(value)
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, (*PLAIN, dict) if key in MAPPED else PLAIN)
    }
    return {key: value for key, value in found.items() if value is not NOT_PLAIN}


def _all_tensors(candidate: Mapping[Any, Any]) -> bool:
    return all(
        isinstance(key, str) and isinstance(value, TENSORS) for key, value in candidate.items()
    )
