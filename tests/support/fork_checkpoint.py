"""Write a checkpoint as the authors' fork of another framework does: the network as an object.

The fork's classes are made up here and exist only inside :func:`fork_modules`, so a reader that
needs them fails. Every layer of the given network becomes an object of such a class; parameters,
buffers and names are the network's own.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

NETWORK = ("ultralytics.nn.tasks", "DetectionModel")
SOURCES: dict[int, Any] = {10: [-1, 6], 13: [-1, 4], 16: [-1, 11], 19: [-1, 8], 21: [14, 17, 20]}
"""Layers that read something else than the layer before."""
UPSAMPLING = (9, 12)

_classes: dict[tuple[str, str], type] = {}


def fork_class(module: str, name: str, base: type = nn.Module) -> type:
    """A class of that name, which pickles as a member of that module."""
    if (module, name) not in _classes:
        _classes[module, name] = type(name, (base,), {"__module__": module})
    return _classes[module, name]


@contextlib.contextmanager
def fork_modules() -> Iterator[None]:
    """While this lasts, the made-up classes can be imported."""
    modules: dict[str, ModuleType] = {}
    for (path, name), cls in _classes.items():
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            part = ".".join(parts[:end])
            modules.setdefault(part, ModuleType(part))
        setattr(modules[path], name, cls)
    with mock.patch.dict(sys.modules, modules):
        yield


def write_fork_checkpoint(
    path: Path,
    network: nn.Module,
    *,
    entry: str = "ema",
    half: bool = True,
    names: Mapping[int, str] | None = None,
    criterion: bool = False,
    cuda: bool = False,
    train_args: Mapping[str, Any] | None = None,
    **said: Any,
) -> Path:
    """Write ``network`` under ``entry`` (``ema``, or ``model`` as in a stripped file).

    ``criterion`` adds the losses that training leaves in the network; ``cuda`` says that the
    storages were on 'cuda:0'. ``said``: what else the network says of itself (``stride``).
    """
    assert entry in ("ema", "model")
    names = {index: f"thing {index}" for index in range(8)} if names is None else dict(names)
    train_args = {"imgsz": 640, "batch": 16} if train_args is None else dict(train_args)
    copy = fork_network(network, half=half, names=names, imgsz=train_args.get("imgsz"))
    vars(copy).update(said)
    if criterion:
        _add_losses(copy)
    content = {
        "epoch": -1 if entry == "model" else 539,
        "best_fitness": None,
        "model": copy if entry == "model" else None,
        "ema": copy if entry == "ema" else None,
        "updates": None,
        "optimizer": None,
        "train_args": train_args,
        "date": "2025-05-01T12:00:00",
        "version": "8.3.63",
    }
    tag = mock.patch("torch.serialization.location_tag", return_value="cuda:0")
    with fork_modules(), tag if cuda else contextlib.nullcontext():
        torch.save(content, path)
    return path


def fork_network(
    network: nn.Module, *, half: bool, names: Mapping[int, str], imgsz: Any = 640
) -> nn.Module:
    """The network as the fork would hold it; its state dict is the network's own."""
    activation = nn.SiLU(inplace=True)
    copy = _copy(network, NETWORK, activation, half)
    if layers := copy._modules.get("model"):
        numbered = {int(name): layer for name, layer in layers._modules.items() if name.isdigit()}
        layers._modules.clear()
        for index in range(max(numbered, default=-1) + 1):
            layer = numbered.get(index) or _without_weights(index)
            vars(layer).update(
                i=index,
                f=SOURCES.get(index, -1),
                type=f"{type(layer).__module__}.{type(layer).__qualname__}",
                np=sum(x.numel() for x in layer.parameters()),
            )
            layers.add_module(str(index), layer)
    strides = torch.tensor([8.0, 16.0, 32.0])
    options = fork_class("ultralytics.utils", "IterableSimpleNamespace", SimpleNamespace)
    vars(copy).update(
        yaml={"nc": len(names), "scale": "l", "backbone": [[-1, 1, "Conv", [64, 3, 2]]]},
        names=dict(names),
        nc=len(names),
        stride=strides.half() if half else strides,
        args=options(imgsz=imgsz, box=7.5, single_cls=False),
        save=[4, 6, 11],
        inplace=True,
    )
    return copy


def _copy(
    module: nn.Module, cls: tuple[str, str] | None, activation: nn.Module, half: bool
) -> nn.Module:
    """The same tree with classes of the fork; layers of torch itself keep theirs."""
    kind = type(module)
    if cls is None and kind.__module__.startswith("torch.") and not module._modules:
        made: type = kind
    else:
        container = isinstance(module, nn.ModuleDict | nn.ModuleList | nn.Sequential)
        made = nn.Sequential if container else fork_class(*(cls or _fork_name(kind)))
    copy: nn.Module = object.__new__(made)
    nn.Module.__init__(copy)
    plain = (int, float, str, tuple)
    vars(copy).update(
        (name, value)
        for name, value in vars(module).items()
        if isinstance(value, plain) and name not in vars(copy) and not name.startswith("__")
    )
    copy.training = module.training
    copy._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    for name, parameter in module._parameters.items():
        value = None if parameter is None else nn.Parameter(_narrow(parameter.detach(), half))
        copy._parameters[name] = value
    for name, buffer in module._buffers.items():
        copy._buffers[name] = None if buffer is None else _narrow(buffer, half)
    for name, child in module._modules.items():
        if child is not None and child.state_dict():
            copy._modules[name] = _copy(child, None, activation, half)
    if "conv" in copy._modules:
        copy._modules["act"] = activation  # one object in every layer
    return copy


def _fork_name(kind: type) -> tuple[str, str]:
    part = "conv" if "Conv" in kind.__name__ else "head" if kind.__name__ == "Detect" else "block"
    return f"ultralytics.nn.modules.{part}", kind.__name__


def _narrow(value: Tensor, half: bool) -> Tensor:
    return value.half() if half and value.is_floating_point() else value.clone()


def _without_weights(index: int) -> nn.Module:
    if index in UPSAMPLING:
        return nn.Upsample(scale_factor=2)
    concat: nn.Module = fork_class("ultralytics.nn.modules.conv", "Concat")()
    return concat


def _add_losses(network: nn.Module) -> None:
    """What training leaves behind: one loss that is no module, one that is, with weights."""
    loss = fork_class("ultralytics.utils.loss", "v8DetectionLoss", object)()
    assigner = fork_class("ultralytics.utils.tal", "TaskAlignedAssigner")()
    assigner.topk = 10
    boxes = fork_class("ultralytics.utils.loss", "BboxLoss")()
    boxes.register_buffer("project", torch.arange(16.0))
    vars(loss).update(
        bce=nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)),
        stride=torch.tensor([8.0, 16.0, 32.0]),
        assigner=assigner,
        bbox_loss=boxes,
        device=torch.device("cpu"),
        hyp=network.args,
    )
    network.criterion = loss
    distillation = fork_class("ultralytics.utils.loss", "DistillationLoss")()
    distillation.register_parameter("weight", nn.Parameter(torch.ones(4)))
    distillation.add_module("align", nn.Conv2d(4, 4, 1))
    network.criterion_kd = distillation
