"""Which type an engine's convolutions and matrix products compute in, and whether it was asked for.

TensorRT tells it through the engine inspector, in JSON, on the device. TensorRT-RTX needs no device
to build, but one to inspect; there the same facts stand in the builder's verbose log, a line each.

An engine of TensorRT-RTX for several targets holds one program, that of the weakest: what it is for
``sm75`` and ``sm89`` has the layers, and but for 8 bytes the size, of the one for ``sm75``. So one
listing speaks for every target.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from anydepth_deploy.errors import PrecisionError

__all__ = ["Listing", "asked_types", "check_precision", "from_inspector", "from_log"]

TYPES = (
    ("int8", ("int8",)),
    ("fp8", ("fp8",)),
    ("bf16", ("bf16", "bfloat16")),
    ("fp16", ("half", "fp16", "float16")),
    ("fp32", ("float", "fp32", "tf32")),
)
"""Types by how the libraries write them; a longer word comes before one it contains."""

PRODUCTS = re.compile(
    r"(?i)correlation|gemm|matrixmultiply|matmul|fullyconnected|conv(?!ert)|deconvolution"
)
"""In the type of a layer: a convolution or a matrix product."""

FUSED = frozenset({"kgen", "runtime_fusion", "runtime_function", "fusion"})
"""Layers of generated kernels, whose names list the operators in them: ``__myl_CorrMulAddRelu``."""

FUSED_PRODUCT = re.compile(r"_+(?:myl_)?\w*?(?:Corr|Conv(?!e)|Fc|Gemm|gemm|Bmm|mha)")

OPAQUE = frozenset({"myelin", "foreignnode"})
"""Layers that hold whole parts of a network, before TensorRT 10, and say nothing of them."""

LINE = re.compile(
    r"\s*Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*?)\], Outputs: \["
)

OPERAND = re.compile(r"Dimensions: \[(?P<sides>[-0-9, ]*)\].*?Datatype: (?P<type>\w+)")

Operand = tuple[tuple[int, ...], str]
"""Dimensions of a tensor that a layer reads, and its type in the library's words."""


@dataclass
class Listing:
    """Convolutions and matrix products of an engine by type, and layers that cannot be seen into.

    Layers are counted, as the builder has merged them: two products of one input are one.
    """

    layers: Counter[str] = field(default_factory=Counter)
    opaque: int = 0

    def add(self, name: str, kind: str, types: Iterable[str]) -> None:
        """Count a layer; ``types``: of its factors, else of inputs in order, then of constants.

        What a product computes in is the type of its first factor. Sizes that come first in
        branches of an If are integers, and skipped.
        """
        fused = kind in FUSED and FUSED_PRODUCT.match(name)
        if fused or (kind not in FUSED and PRODUCTS.search(kind)):
            known = [found for text in types if (found := type_of(text)) is not None]
            if known:
                self.layers[known[0]] += 1
            else:
                self.opaque += 1
        elif kind.lower() in OPAQUE:
            self.opaque += 1


def type_of(text: str) -> str | None:
    """``fp16`` for ``Half``, ``Row major linear FP16 format``; None for what is no product's."""
    lower = text.lower()
    for name, words in TYPES:
        if any(word in lower for word in words):
            return name
    return None


def from_log(messages: Iterable[str]) -> Listing:
    """Read the verbose log of a builder of TensorRT-RTX, at detailed profiling verbosity."""
    listing = Listing()
    for message in messages:
        for line in message.splitlines():
            if found := LINE.match(line):
                inputs, constants = _operands(found["inputs"]), _operands(found["constants"])
                listing.add(found["name"], found["kind"], _types(inputs, constants))
    return listing


def from_inspector(text: str) -> Listing:
    """Read what the engine inspector says of an engine built at detailed profiling verbosity."""
    listing = Listing()
    for layer in json.loads(text).get("Layers", []):
        if isinstance(layer, str):  # a name only: an older library, or less than detailed
            listing.opaque += 1
            continue
        kind = str(layer.get("LayerType", ""))
        if not PRODUCTS.search(kind) and PRODUCTS.search(str(layer.get("ParameterType", ""))):
            kind = str(layer["ParameterType"])
        types = _types(_entries(layer, "Inputs"), _entries(layer, "Constants"))
        # With a free batch TensorRT 8.6 gives no format of tensors, but that of the weights.
        weights = layer.get("Weights")
        if isinstance(weights, dict):
            types.append(str(weights.get("Type", "")))
        listing.add(str(layer.get("Name", "")), kind, types)
    return listing


def _operands(text: str) -> list[Operand]:
    """Those of a line of the log."""
    return [
        (tuple(int(side) for side in found["sides"].split(",") if side.strip()), found["type"])
        for found in OPERAND.finditer(text)
    ]


def _entries(layer: Mapping[str, Any], key: str) -> list[Operand]:
    """Those of a layer of the inspector."""
    found = layer.get(key)
    items = [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
    types = (item.get("Datatype") or item.get("Format/Datatype", "") for item in items)
    return [
        (_sides(item.get("Dimensions")), str(kind)) for item, kind in zip(items, types, strict=True)
    ]


def _sides(value: object) -> tuple[int, ...]:
    sides = value if isinstance(value, list) else []
    return tuple(side if isinstance(side, int) else -1 for side in sides)


def _types(inputs: list[Operand], constants: list[Operand]) -> list[str]:
    """Types of what a layer reads, those of the factors of its product first.

    What is added to a product in the same layer may come before its factors, and be of another
    type. Factors tell themselves by their dimensions: [..., K] and [..., K, M], of one type; K is
    more than 1, since [..., 1] and [1, M] are a number and a bias that are added to all columns.
    """
    factors = {
        kind
        for sides, kind in inputs
        for others, other in constants
        if kind == other and len(others) > 1 and sides[-1:] == others[-2:-1] != (1,)
    }
    found = [kind for _, kind in (*inputs, *constants)]
    return [*factors, *found] if len(factors) == 1 else found


def asked_types(layers: Iterable[tuple[str, str]]) -> Counter[str]:
    """Convolutions and matrix products of a parsed network by type, from their names and types."""
    return Counter(type_of(kind) or kind for _, kind in layers)


def check_precision(
    listing: Listing,
    asked: Mapping[str, int],
    precision: str,
    *,
    capabilities: Iterable[str],
    title: str,
) -> list[str]:
    """Compare what an engine computes in with what its graph asks for; remarks on the result.

    ``asked``: convolutions and matrix products of the graph by type. The graph is the measure,
    since it says node by node what is kept higher:

    - it has to be in the precision it is said to be in: a graph with nothing below FP32 is not in
      FP16 or INT8;
    - none may compute higher than FP16 beyond those that the graph has in FP32 (precisions ``fp16``
      and ``int8``), and none lower than FP32 beyond those it has lower (``fp32``). Counts compare,
      as builders only ever merge products;
    - where the graph asks for INT8, something must compute in it. Not all: whether a layer has a
      kernel in 8 bits is decided one by one, and the counts are recorded.

    Raises :class:`PrecisionError`.
    """
    layers = listing.layers
    remarks = []
    if precision != "fp32" and set(asked) == {"fp32"}:
        raise PrecisionError(
            f"the graph is not in {precision.upper()}: all its {asked['fp32']} convolutions and "
            f"matrix products are in FP32: export it in {precision}, or build fp32"
        )
    if listing.opaque:
        remarks.append(f"{listing.opaque} layers do not show what they compute in")
    if not sum(layers.values()):
        if sum(asked.values()):
            remarks.append("no convolution or matrix product shows what it computes in")
        return remarks
    targets = tuple(capabilities)
    refusal = f"{precision.upper()} cannot be delivered{_for(targets)} by {title}"
    together = ""
    if len(targets) > 1:
        weakest = min(targets, key=lambda name: int(name.removeprefix("sm")))
        together = f"leave {weakest} out, since an engine for several computes as the weakest, or "
    found = ", ".join(f"{count} in {name.upper()}" for name, count in sorted(layers.items()))
    if precision in ("fp16", "int8") and layers["fp32"] > asked.get("fp32", 0):
        raise PrecisionError(
            f"{refusal}: of the convolutions and matrix products {found} compute, but the graph "
            f"has {asked.get('fp32', 0)} in FP32: {together}build fp32"
        )
    if precision == "fp32" and sum(layers.values()) - layers["fp32"] > sum(
        count for name, count in asked.items() if name != "fp32"
    ):
        raise PrecisionError(
            f"{refusal}: of the convolutions and matrix products {found} compute: {together}build "
            "fp16"
        )
    if precision == "int8" and asked.get("int8", 0):
        if not layers["int8"]:
            raise PrecisionError(
                f"{refusal}: none of {asked['int8']} convolutions computes in INT8 "
                f"({found}): {together}build fp16"
            )
        if layers["int8"] < asked["int8"]:
            remarks.append(f"{layers['int8']} of {asked['int8']} quantised layers compute in INT8")
    return remarks


def _for(targets: tuple[str, ...]) -> str:
    return f" for {', '.join(targets)}" if targets else ""
