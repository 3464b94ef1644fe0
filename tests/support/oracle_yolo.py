"""AnyDepth-YOLO once more, as one walk over a state dict with the authors' own names.

The oracle of parity tests: it shares no code with the package, takes no modules and no graph, and
lets the names present decide what is what. The same walk over tensors without values counts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]

# The layer of each skip flag, and the flag of each down-sampling convolution that has one.
GATED = (2, 4, 6, 8, 11, 14, 17, 20)
FOLLOWS = {3: 1, 5: 2, 7: 3, 15: 6, 18: 7}
SUPER, BASE = (False,) * 8, (True,) * 8
BINS = 16


def predictions(state: State, images: Tensor, skip: Sequence[bool]) -> Tensor:
    """Boxes (cx, cy, w, h in input pixels) and class scores [N, 4 + nc, A] at one depth."""
    return Walk(state, skip).network(images)


def multiply_adds(
    state: State, size: tuple[int, int], skip: Sequence[bool], *, dfl: bool = False
) -> int:
    """Of one image of `size` (height, width): the convolutions and the two attention products."""
    walk = _walk_without_values(state, size, skip)
    return walk.multiply_adds + (walk.expectation if dfl else 0)


def parameters_used(state: State, skip: Sequence[bool]) -> int:
    """Parameters one depth reads: not the running statistics, nor the constant bins of the head."""
    return sum(_walk_without_values(state, (64, 64), skip).read.values())


def _walk_without_values(state: State, size: tuple[int, int], skip: Sequence[bool]) -> Walk:
    walk = Walk({key: value.to("meta") for key, value in state.items()}, skip)
    walk.network(torch.empty(1, 3, *size, device="meta", dtype=state["model.0.conv.weight"].dtype))
    return walk


class Walk:
    """One pass over `state`, which also notes what it did: multiply-adds, and elements read."""

    def __init__(self, state: State, skip: Sequence[bool]) -> None:
        if len(skip) != len(GATED):
            raise ValueError(f"{len(GATED)} skip flags, not {len(skip)}")
        self.state = state
        self.skip = dict(zip(GATED, skip, strict=True))
        self.skip.update({layer: skip[flag] for layer, flag in FOLLOWS.items()})
        self.multiply_adds = 0
        self.expectation = 0
        self.read: dict[str, int] = {}

    def network(self, images: Tensor) -> Tensor:
        x = self.conv("model.0", images, stride=2)
        x = self.conv("model.1", x, stride=2)
        x = self.split_block(2, x)
        x = self.down(3, x)
        x4 = self.split_block(4, x)
        x = self.down(5, x4)
        x6 = self.chain_block(6, x, area=4)
        x = self.down(7, x6)
        x8 = self.chain_block(8, x, area=1)
        x11 = self.chain_block(11, torch.cat([_double(x8), x6], 1))
        x14 = self.chain_block(14, torch.cat([_double(x11), x4], 1))
        x17 = self.chain_block(17, torch.cat([self.down(15, x14), x11], 1))
        x20 = self.split_block(20, torch.cat([self.down(18, x17), x8], 1))
        return self.detect([x14, x17, x20], images.shape[-2])

    # What every layer is made of.

    def take(self, key: str, inputs: int | None = None) -> Tensor:
        """A parameter, of a convolution's weight only the first `inputs` input channels."""
        value = self.state[key] if inputs is None else self.state[key][:, :inputs]
        self.read[key] = max(self.read.get(key, 0), value.numel())
        return value

    def convolve(self, key: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.take(key, x.shape[1])
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        self.multiply_adds += x.numel() * weight[0].numel()
        return x

    def conv(
        self, key: str, x: Tensor, skip: bool = False, stride: int = 1, act: bool = True
    ) -> Tensor:
        """Convolution, batch norm and SiLU; skipped, the second weight and norm where there are."""
        second_conv = skip and f"{key}.conv_skip.weight" in self.state
        name = "conv_skip" if second_conv else "conv"
        if not (skip or x.shape[1] % self.state[f"{key}.{name}.weight"].shape[1] == 0):
            raise ValueError(f"{key}: {x.shape[1]} channels")  # only a skipped block is narrower
        x = self.convolve(f"{key}.{name}.weight", x, stride)
        norm = f"{key}.bn_skip" if skip and f"{key}.bn_skip.weight" in self.state else f"{key}.bn"
        mean, variance = self.statistics(norm, x)
        x = (x - _column(mean)) / _column(torch.sqrt(variance + 1e-3))
        x = x * _column(self.take(f"{norm}.weight")) + _column(self.take(f"{norm}.bias"))
        return x * torch.sigmoid(x) if act else x

    def statistics(self, norm: str, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.state[f"{norm}.running_mean"], self.state[f"{norm}.running_var"]

    def down(self, layer: int, x: Tensor) -> Tensor:
        return self.conv(f"model.{layer}", x, self.skip[layer], stride=2)

    def repeats(self, key: str, skip: bool) -> list[str]:
        """The repeats `{key}.m.*` that run: all, or when skipped those with a second norm."""
        start = f"{key}.m."
        count = len(
            {name[len(start) :].split(".")[0] for name in self.state if name.startswith(start)}
        )
        every = [f"{start}{number}" for number in range(count)]
        return [name for name in every if self.switchable(name)] if skip else every

    def switchable(self, key: str) -> bool:
        return any(
            name.startswith(f"{key}.") and name.endswith(".bn_skip.weight") for name in self.state
        )

    # The blocks.

    def bottleneck(self, key: str, x: Tensor, skip: bool) -> Tensor:
        y = self.conv(f"{key}.cv2", self.conv(f"{key}.cv1", x, skip), skip)
        return x + y

    def c3k(self, key: str, x: Tensor, skip: bool) -> Tensor:
        y = self.conv(f"{key}.cv1", x, skip)
        for name in self.repeats(key, skip):
            y = self.bottleneck(name, y, skip)
        return self.conv(f"{key}.cv3", torch.cat([y, self.conv(f"{key}.cv2", x, skip)], 1), skip)

    def split_block(self, layer: int, x: Tensor) -> Tensor:
        """C3k2: half of the first convolution goes through the repeats, all is concatenated."""
        key, skip = f"model.{layer}", self.skip[layer]
        branches = list(self.conv(f"{key}.cv1", x, skip).chunk(2, 1))
        for name in self.repeats(key, skip):
            deep = f"{name}.cv3.conv.weight" in self.state
            branches.append((self.c3k if deep else self.bottleneck)(name, branches[-1], skip))
        return self.conv(f"{key}.cv2", torch.cat(branches, 1), skip)

    def chain_block(self, layer: int, x: Tensor, area: int = 1) -> Tensor:
        """A2C2f: the first convolution goes through the repeats, all is concatenated."""
        key, skip = f"model.{layer}", self.skip[layer]
        branches = [self.conv(f"{key}.cv1", x, skip)]
        for name in self.repeats(key, skip):
            y = branches[-1]
            if f"{name}.0.attn.qk.conv.weight" in self.state:
                y = self.attention_block(f"{name}.0", y, skip, area)
                y = self.attention_block(f"{name}.1", y, skip, area)
            else:
                y = self.c3k(name, y, skip)
            branches.append(y)
        y = self.conv(f"{key}.cv2", torch.cat(branches, 1), skip)
        if f"{key}.gamma" in self.state:
            y = x + _column(self.take(f"{key}.gamma")) * y
        return y

    def attention_block(self, key: str, x: Tensor, skip: bool, area: int) -> Tensor:
        x = x + self.attention(f"{key}.attn", x, skip, area)
        y = self.conv(f"{key}.mlp.0", x, skip)
        return x + self.conv(f"{key}.mlp.1", y, skip, act=False)

    def attention(self, key: str, x: Tensor, skip: bool, area: int) -> Tensor:
        """Every token attends to those of its own run of rows: `area` runs of equal length."""
        channels, (height, width) = x.shape[1], x.shape[-2:]
        heads = channels // 32
        tokens = height * width // area
        q, k = self.conv(f"{key}.qk", x, skip, act=False).chunk(2, 1)
        v = self.conv(f"{key}.v", x, skip, act=False)
        position = self.conv(f"{key}.pe", v, skip, act=False)
        # N, heads, channels of a head, runs, tokens of a run
        q, k, v = (part.reshape(len(x), heads, -1, area, tokens) for part in (q, k, v))
        logits = torch.einsum("nhcai,nhcaj->nhaij", q, k) / math.sqrt(channels // heads)
        weights = torch.exp(logits - logits.amax(-1, keepdim=True))
        weights = weights / weights.sum(-1, keepdim=True)
        y = torch.einsum("nhaij,nhcaj->nhcai", weights, v)
        self.multiply_adds += 2 * len(x) * area * heads * tokens**2 * (channels // heads)
        return self.conv(f"{key}.proj", y.reshape(x.shape) + position, skip, act=False)

    # The head.

    def detect(self, maps: list[Tensor], image_height: int) -> Tensor:
        levels = []
        for level, x in enumerate(maps):
            box = self.conv(f"model.21.cv2.{level}.0", x)
            box = self.conv(f"model.21.cv2.{level}.1", box)
            box = self.last(f"model.21.cv2.{level}.2", box)
            cls = x
            for pair in range(2):
                cls = self.conv(f"model.21.cv3.{level}.{pair}.0", cls)
                cls = self.conv(f"model.21.cv3.{level}.{pair}.1", cls)
            cls = self.last(f"model.21.cv3.{level}.2", cls)
            boxes = self.decode(box, image_height // x.shape[-2])
            levels.append(torch.cat([boxes, torch.sigmoid(cls).flatten(2)], 1))
        return torch.cat(levels, 2)

    def last(self, key: str, x: Tensor) -> Tensor:
        return self.convolve(f"{key}.weight", x) + _column(self.take(f"{key}.bias"))

    def decode(self, x: Tensor, stride: int) -> Tensor:
        """Distances to the four sides, each the mean of a distribution, from the cell's centre."""
        height, width = x.shape[-2:]
        shares = torch.softmax(x.reshape(len(x), 4, BINS, height, width), 2)
        bins = self.state["model.21.dfl.conv.weight"].reshape(BINS, 1, 1)
        left, top, right, bottom = (shares * bins).sum(2).unbind(1)
        self.expectation += 4 * height * width * BINS
        column = torch.arange(width, device=x.device).to(x.dtype) + 0.5
        row = torch.arange(height, device=x.device).to(x.dtype)[:, None] + 0.5
        boxes = [column + (right - left) / 2, row + (bottom - top) / 2, left + right, top + bottom]
        return torch.stack(boxes, 1).flatten(2) * stride


def _column(x: Tensor) -> Tensor:
    return x[:, None, None]


def _double(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


# The names and shapes of a network, from the table of its layers.

SCALES = {
    "tiny": (1.0, 0.25, 512),
    "n": (0.75, 0.25, 1024),
    "s": (1.0, 0.5, 512),
    "l": (1.0, 1.0, 512),
    "x": (1.0, 1.5, 512),
    "plain n": (0.5, 0.25, 1024),
    "plain s": (0.5, 0.5, 1024),
    "plain m": (0.5, 1.0, 512),
}
"""Of AnyDepth-YOLO; of YOLOv12 where it has others."""


def plain_shapes(scale: str, *, gamma: bool, classes: int = 80) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint without any-depth: one norm set, no second weights."""
    found = shapes(scale, classes=classes)
    return {
        key: shape
        for key, shape in found.items()
        if "_skip." not in key and (gamma or not key.endswith(".gamma"))
    }


def shapes(
    scale: str,
    *,
    layout: str = "skippable",
    conv_skip: bool = True,
    classes: int = 80,
    c3k_inner_skips: bool | Collection[int] = False,
) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint.

    `layout` says whether layers 2, 4 and 20 skip their refinement; `c3k_inner_skips` which layers'
    C3k have a refinement of their own (True: those of 2, 4 and 20).
    """
    if layout not in ("skippable", "switchable"):
        raise ValueError(layout)
    if isinstance(c3k_inner_skips, bool):
        c3k_inner_skips = (2, 4, 20) if c3k_inner_skips else ()
    depth, multiple, most = SCALES[scale]
    large = scale in ("l", "x")
    table: dict[str, tuple[int, ...]] = {}

    def wide(channels: int) -> int:
        return math.ceil(min(channels, most) * multiple / 8) * 8

    def repeated(count: int) -> int:
        return max(round(count * depth), 1)

    def conv(key: str, c1: int, c2: int, k: int = 1, groups: int = 1, norms: int = 2) -> None:
        table[f"{key}.conv.weight"] = (c2, c1 // groups, k, k)
        for norm in ("bn", "bn_skip")[:norms]:
            for name in ("weight", "bias", "running_mean", "running_var"):
                table[f"{key}.{norm}.{name}"] = (c2,)
            table[f"{key}.{norm}.num_batches_tracked"] = ()

    def c3k(key: str, c: int, norms: int, inner: bool) -> None:
        conv(f"{key}.cv1", c, c // 2, norms=norms)
        conv(f"{key}.cv2", c, c // 2, norms=norms)
        conv(f"{key}.cv3", c, c, norms=norms)
        for number in range(2):
            for name in ("cv1", "cv2"):
                its = 1 if inner and number == 1 else norms
                conv(f"{key}.m.{number}.{name}", c // 2, c // 2, 3, norms=its)

    def split_block(layer: int, c1: int, c2: int, share: float, deep: bool) -> None:
        key, c, count = f"model.{layer}", int(c2 * share), repeated(2)
        conv(f"{key}.cv1", c1, 2 * c)
        conv(f"{key}.cv2", (2 + count) * c, c2)
        for number in range(count):
            norms = 1 if layout == "skippable" and number >= (count + 1) // 2 else 2
            if deep:
                c3k(f"{key}.m.{number}", c, norms, layer in c3k_inner_skips)
            else:
                conv(f"{key}.m.{number}.cv1", c, c // 2, 3, norms=norms)
                conv(f"{key}.m.{number}.cv2", c // 2, c, 3, norms=norms)

    def chain_block(layer: int, c1: int, c2: int, times: int, attention: bool) -> None:
        key, c, count = f"model.{layer}", c2 // 2, repeated(times)
        essential = (count + 1) // 2
        if attention:
            table[f"{key}.gamma"] = (c2,)
        conv(f"{key}.cv1", c1, c)
        conv(f"{key}.cv2", (1 + count) * c, c2)
        if conv_skip and count == 4:
            table[f"{key}.cv2.conv_skip.weight"] = (c2, (1 + essential) * c, 1, 1)
        for number in range(count):
            norms = 2 if number < essential else 1
            if not attention:
                c3k(f"{key}.m.{number}", c, norms, layer in c3k_inner_skips)
                continue
            hidden = int(c * (1.5 if large else 2.0))
            for half in range(2):
                inner = f"{key}.m.{number}.{half}"
                conv(f"{inner}.attn.qk", c, 2 * c, norms=norms)
                conv(f"{inner}.attn.v", c, c, norms=norms)
                conv(f"{inner}.attn.pe", c, c, 5, groups=c, norms=norms)
                conv(f"{inner}.attn.proj", c, c, norms=norms)
                conv(f"{inner}.mlp.0", c, hidden, norms=norms)
                conv(f"{inner}.mlp.1", hidden, c, norms=norms)

    c64, c128, c256, c512, c1024 = (wide(channels) for channels in (64, 128, 256, 512, 1024))
    conv("model.0", 3, c64, 3, norms=1)
    conv("model.1", c64, c128, 3, groups=2, norms=1)
    deep = large or scale == "plain m"
    split_block(2, c128, c256, 0.25, deep)
    conv("model.3", c256, c256, 3, groups=4)
    split_block(4, c256, c512, 0.25, deep)
    conv("model.5", c512, c512, 3)
    chain_block(6, c512, c512, 4, attention=True)
    conv("model.7", c512, c1024, 3)
    chain_block(8, c1024, c1024, 4, attention=True)
    chain_block(11, c1024 + c512, c512, 2, attention=False)
    chain_block(14, c512 + c512, c256, 2, attention=False)
    conv("model.15", c256, c256, 3)
    chain_block(17, c256 + c512, c512, 2, attention=False)
    conv("model.18", c512, c512, 3)
    split_block(20, c512 + c1024, c1024, 0.5, True)

    box, cls = max(16, c256 // 4, 4 * BINS), max(c256, min(classes, 100))
    for level, c in enumerate((c256, c512, c1024)):
        key = f"model.21.cv2.{level}"
        conv(f"{key}.0", c, box, 3, norms=1)
        conv(f"{key}.1", box, box, 3, norms=1)
        table[f"{key}.2.weight"], table[f"{key}.2.bias"] = (4 * BINS, box, 1, 1), (4 * BINS,)
        key = f"model.21.cv3.{level}"
        for number, (before, after) in enumerate(pairwise((c, cls, cls))):
            conv(f"{key}.{number}.0", before, before, 3, groups=before, norms=1)
            conv(f"{key}.{number}.1", before, after, norms=1)
        table[f"{key}.2.weight"], table[f"{key}.2.bias"] = (classes, cls, 1, 1), (classes,)
    table["model.21.dfl.conv.weight"] = (1, BINS, 1, 1)
    return table


def random_state(
    scale: str,
    *,
    layout: str = "skippable",
    conv_skip: bool = True,
    classes: int = 80,
    seed: int = 0,
    c3k_inner_skips: bool | Collection[int] = False,
) -> dict[str, Tensor]:
    """A checkpoint of random values whose activations stay in range, as a trained network's do.

    The running statistics are near those of noise seen at full depth, then, of the second norms, at
    base. No two norms are alike: one taken for the other shows.
    """
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    table = shapes(
        scale,
        layout=layout,
        conv_skip=conv_skip,
        classes=classes,
        c3k_inner_skips=c3k_inner_skips,
    )
    for key, shape in table.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(1)
        elif key == "model.21.dfl.conv.weight":
            state[key] = torch.arange(float(BINS)).reshape(shape)
        elif key.endswith("running_var"):
            state[key] = torch.zeros(shape)  # not seen yet
        elif key.endswith((".running_mean", ".bias")):
            state[key] = torch.randn(shape, generator=generator) * 0.2
        elif len(shape) == 1:  # scales and gamma
            state[key] = torch.rand(shape, generator=generator) / 2 + 0.5
        else:
            gain = (8 if key.endswith(".2.weight") else 2) / math.sqrt(math.prod(shape[1:]))
            state[key] = torch.randn(shape, generator=generator) * gain
    noise = torch.rand(8, 3, 64, 96, generator=generator)
    noise[::2] = noise[::2, :, ::8, ::8].repeat_interleave(8, 2).repeat_interleave(8, 3)
    with torch.no_grad():
        _Settling(state, SUPER, generator).network(noise)
        _Settling(state, BASE, generator).network(noise)
    return state


class _Settling(Walk):
    """A pass that gives each norm not seen yet roughly the statistics of its input."""

    def __init__(
        self, state: dict[str, Tensor], skip: Sequence[bool], generator: torch.Generator
    ) -> None:
        super().__init__(state, skip)
        self.settled = state
        self.generator = generator

    def statistics(self, norm: str, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.settled[f"{norm}.running_var"].any():
            variance, mean = torch.var_mean(x, (0, 2, 3))
            off, share = torch.rand(2, x.shape[1], generator=self.generator)
            variance = (variance + 1) * (share + 0.5)  # not small: a norm must not amplify much
            self.settled[f"{norm}.running_mean"] = mean + (off - 0.5) * variance.sqrt()
            self.settled[f"{norm}.running_var"] = variance
        return super().statistics(norm, x)
