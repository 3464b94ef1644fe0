"""Weights and metadata of a network that was saved as an object: read from its inert stubs.

A pickled ``torch.nn.Module`` keeps its parameters, buffers and children in three dictionaries.
Walking them gives the state dict that the network would have given, without its classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from anydepth_deploy.checkpoints.inert import (
    NOT_PLAIN,
    LazyTensor,
    PlainCopies,
    Stub,
    UnusableTensor,
    kind_of,
)
from anydepth_deploy.errors import CheckpointError, shorten

__all__ = [
    "LOSS_ATTRIBUTES",
    "MAX_KEY",
    "is_network",
    "is_side",
    "network_metadata",
    "network_weights",
]

MAX_ENTRIES = 100_000
"""Modules, parameters and buffers, also those that are None. The published networks have up to
10 000; a module that is shared a few times on every level could stand for any number."""
MAX_DEPTH = 32
DICTIONARIES = ("_modules", "_parameters", "_buffers")
MAX_KEY = 512
"""Characters in the name of a weight."""
MAX_METADATA_NUMBERS = 64

LOSS_ATTRIBUTES = ("criterion", "loss", "assigner")
WRAPPED = ("module", "_orig_mod")
"""What wrappers call the network in them."""
LOSS_CLASSES = ("loss", "criterion", "assigner")


def is_network(value: object) -> bool:
    """Whether ``value`` is the stub of a network object."""
    return isinstance(value, Stub) and all(
        isinstance(value.attributes.get(name), dict) for name in DICTIONARIES
    )


def network_weights(origin: str, network: Stub) -> dict[str, LazyTensor | UnusableTensor]:
    """The state dict of a network object, in the network's own order.

    Losses that training keeps inside the network (see :func:`_is_loss`) are left out, and so are
    buffers marked as not persistent. Raises :class:`CheckpointError` when a module contains
    itself, or is not built as modules are.
    """
    found: dict[str, LazyTensor | UnusableTensor] = {}
    parents: list[Stub] = []
    visited = 0

    def walk(module: Stub, prefix: str) -> None:
        nonlocal visited
        visited += 1 + sum(len(module.attributes[kind]) for kind in DICTIONARIES)
        if module in parents:
            raise CheckpointError(
                f"{origin}: in its network object, '{_key(prefix)}' contains itself; expected a "
                "tree of modules: save the state dict alone, torch.save(model.state_dict(), ...)"
            )
        if visited > MAX_ENTRIES or len(parents) >= MAX_DEPTH:
            raise CheckpointError(
                f"{origin}: its network object has more than {MAX_ENTRIES} entries or {MAX_DEPTH} "
                "levels; expected the network of a detector: save the state dict alone, "
                "torch.save(model.state_dict(), ...)"
            )
        parents.append(module)
        for name, value in _own_tensors(origin, module, prefix).items():
            key = prefix + name
            if key in found or len(key) > MAX_KEY:
                raise CheckpointError(
                    f"{origin}: its network object has the weight '{_key(key)}' twice, or with a "
                    f"name of more than {MAX_KEY} characters; fetch the file again from its source"
                )
            found[key] = value
        for name, child in module.attributes["_modules"].items():
            if child is None or (isinstance(child, Stub) and _is_loss(name, child)):
                continue
            if not isinstance(name, str) or len(prefix + name) > MAX_KEY or not is_network(child):
                raise CheckpointError(
                    f"{origin}: in its network object, '{_key(prefix + str(name)[:80])}' is "
                    f"{kind_of(child)}; expected a module: fetch the file again from its source"
                )
            walk(child, f"{prefix}{name}.")
        parents.pop()

    walk(network, "")
    return found


def _own_tensors(origin: str, module: Stub, prefix: str) -> dict[str, LazyTensor | UnusableTensor]:
    """Parameters and persistent buffers of one module, without its children's."""
    state = module.attributes
    transient = state.get("_non_persistent_buffers_set")
    left_out = transient if isinstance(transient, set | frozenset) else set()
    found = {}
    for kind in ("_parameters", "_buffers"):
        for name, value in state[kind].items():
            if value is None or (kind == "_buffers" and name in left_out):
                continue
            if not isinstance(name, str) or not isinstance(value, LazyTensor | UnusableTensor):
                raise CheckpointError(
                    f"{origin}: in its network object, '{_key(prefix + str(name)[:80])}' is "
                    f"{kind_of(value)}; expected a tensor: fetch the file again from its source"
                )
            found[name] = value
    return found


def _is_loss(name: object, module: Stub) -> bool:
    """Whether a child is a loss or an assigner, which only training uses.

    A loss is a module too, so ``network.criterion = loss`` puts it among the network's children,
    and its constants among the weights. It is known by its attribute or its class: no layer of a
    detector is called ``criterion`` or ``...Loss``. Were this ever wrong, weights would be missing
    and :func:`~anydepth_deploy.checkpoints.checkpoint.load_model` would list them.
    """
    attribute, cls = str(name)[:80].lower(), module.name.lower()
    return attribute.startswith(LOSS_ATTRIBUTES) or cls.endswith(LOSS_CLASSES)


def network_metadata(
    network: Stub, content: Mapping[Any, Any], read: Callable[[LazyTensor], Tensor]
) -> dict[str, Any]:
    """What a network object says about itself, as far as it is plain and makes sense.

    ``class_names``, ``stride``, ``yaml``, ``nc``, ``input_size`` (height, width) and ``layers``
    (a dictionary of ``i``, ``f``, ``type`` for each top-level layer). ``content`` is the file's
    dictionary around the network, ``read`` reads a tensor. What is odd is left out: the weights
    decide, not what is written beside them.
    """
    state = _inner(network).attributes
    found = {
        "class_names": _names(state.get("names")),
        "stride": _numbers(state.get("stride"), read),
        "yaml": _dictionary(state.get("yaml")),
        "nc": state.get("nc") if type(state.get("nc")) is int else None,
        "input_size": _size(content.get("train_args")) or _size(state.get("args")),
        "layers": _layers(state),
    }
    return {key: value for key, value in found.items() if value is not None}


def _inner(network: Stub) -> Stub:
    """The network inside the wrappers of distributed training, averaging and compilation."""
    for _ in range(MAX_DEPTH):
        children = list(network.attributes["_modules"].items())
        if len(children) != 1 or children[0][0] not in WRAPPED or not is_network(children[0][1]):
            break
        network = children[0][1]
    return network


def _names(names: object) -> list[str] | None:
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            return None
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list | tuple) or not names:
        return None
    return list(names) if all(type(name) is str for name in names) else None


def _numbers(value: object, read: Callable[[LazyTensor], Tensor]) -> list[float] | None:
    if isinstance(value, LazyTensor):
        few = len(value.shape) == 1 and 0 < value.shape[0] <= MAX_METADATA_NUMBERS
        return [float(number) for number in read(value).tolist()] if few else None
    if isinstance(value, list | tuple) and 0 < len(value) <= MAX_METADATA_NUMBERS:
        return [float(x) for x in value] if all(map(_is_number, value)) else None
    return None


def _is_number(value: object) -> bool:
    """Whether float can hold ``value``."""
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def _dictionary(value: object) -> dict[Any, Any] | None:
    found = PlainCopies().copy(value)
    return found if isinstance(found, dict) else None


def _size(arguments: object) -> list[int] | None:
    """The input size in a dictionary or a namespace of training options."""
    options = arguments.attributes if isinstance(arguments, Stub) else arguments
    size = options.get("imgsz") if isinstance(options, Mapping) else None
    sides = [size, size] if type(size) is int else size
    if not isinstance(sides, list | tuple) or len(sides) != 2:
        return None
    return list(sides) if all(map(is_side, sides)) else None


def is_side(side: object) -> bool:
    """Whether an input of a detector may be so many pixels high or wide. What a file says there is
    not trusted: memory grows with its square."""
    return type(side) is int and 32 <= side <= 8192 and side % 32 == 0


def _layers(state: Mapping[Any, Any]) -> list[dict[str, Any]] | None:
    """Index, inputs and type that each top-level layer notes about itself."""
    container = state["_modules"].get("model")
    if not is_network(container):
        return None
    layers = []
    copies = PlainCopies()
    for layer in container.attributes["_modules"].values():
        notes = layer.attributes if isinstance(layer, Stub) else {}
        layers.append(
            {
                name: value
                for name in ("i", "f", "type")
                if name in notes and (value := copies.copy(notes[name])) is not NOT_PLAIN
            }
        )
    return layers if any(layers) else None


def _key(prefix: str) -> str:
    return shorten([prefix.removesuffix(".")[:160]])
