"""Where weights live: once for both modes of a stage, or once in each branch.

ONNX Runtime reaches its fast convolution kernels only for weights that are constants of the graph
the convolution is in. A branch gets such constants in one of two ways: they are its own from the
start (``folded``), or they appear when the session folds a batch norm into a convolution whose
weight lies in the outer graph (``shared``; folding writes the result into the branch). So the
shared layout leaves the norms of shared convolutions unfolded, and shares nothing else that is
worth a kernel.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from anydepth_deploy.graph.passes.fold import constant
from anydepth_deploy.graph.passes.values import new_constant

__all__ = ["align_levels", "fingerprints", "share_constants", "share_slices", "shared_names"]

SMALLEST_SHARED = 1024
"""Bytes below which a constant is cheaper to repeat than to look up in the outer graph."""

ROUNDING_TIES = 1e-3
"""Share of quantised weights that may have fallen to the other side of a tie."""


def fingerprints(graph: ir.Graph) -> dict[str, str]:
    """Name -> content hash of every initializer worth sharing."""
    found = {}
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes >= SMALLEST_SHARED:
            array = np.ascontiguousarray(tensor.numpy())
            digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
            digest.update(array.data)
            found[name] = digest.hexdigest()
    return found


def shared_names(variants: Mapping[str, ir.Graph]) -> dict[str, set[str]]:
    """For each variant of a stage, the names of its constants that another variant holds, too."""
    if len(variants) < 2:
        return {variant: set() for variant in variants}
    hashes = {variant: fingerprints(graph) for variant, graph in variants.items()}
    counts = Counter(digest for found in hashes.values() for digest in set(found.values()))
    shared = {digest for digest, count in counts.items() if count > 1}
    return {
        variant: {name for name, digest in found.items() if digest in shared}
        for variant, found in hashes.items()
    }


def share_slices(variants: Mapping[str, ir.Graph]) -> int:
    """Store a convolution's weight that is the leading input channels of another variant's once;
    return how many copies went.

    Where a skipped block concatenates fewer maps, its last convolution uses the first input
    channels of the full one's weight. Such a weight becomes a Slice of the whole, which a session
    folds like the norm behind it, so that the convolution finds a constant of its own branch.
    """
    kernels = [
        (graph, name, array)
        for graph in variants.values()
        for name, value in graph.initializers.items()
        if _is_kernel(value) and (array := constant(value)) is not None
    ]
    removed = 0
    for graph, name, part in kernels:
        whole = next((array for _, _, array in kernels if _leads(part, array)), None)
        if whole is not None and part.nbytes >= SMALLEST_SHARED:
            _replace_by_slice(graph, name, whole, part.shape[1])
            removed += 1
    return removed


def share_constants(main: ir.Graph, branches: Sequence[ir.Graph], *, levels: bool = True) -> int:
    """Store equal constants of ``main`` and its ``branches`` once, in ``main``; return how many
    copies went.

    A constant that a convolution reads directly stays in its branch: only a norm behind the
    convolution would bring it back there. So do scales and zero points, without which a runtime
    fuses nothing, and without ``levels`` quantised weights, too: TensorRT takes none from outside.
    """
    kept: dict[str, ir.Value] = {}
    copies: dict[str, list[tuple[ir.Graph, ir.Value]]] = {}
    for graph in (main, *branches):
        for name, digest in fingerprints(graph).items():
            value = graph.initializers[name]
            if graph is main and _quantises(value, levels=levels):
                continue
            if graph is main and digest not in kept:
                kept[digest] = value
            elif graph is main or not (
                _feeds_bare_convolution(value) or _quantises(value, levels=levels)
            ):
                copies.setdefault(digest, []).append((graph, value))
    removed = 0
    for digest, places in copies.items():
        if digest not in kept:
            if len(places) < 2:
                continue
            graph, value = places.pop(0)
            del graph.initializers[value.name or ""]
            main.register_initializer(value)
            kept[digest] = value
        for graph, value in places:
            ir.convenience.replace_all_uses_with(value, kept[digest])
            del graph.initializers[value.name or ""]
            removed += 1
    return removed


def align_levels(graphs: Sequence[ir.Graph]) -> int:
    """Make quantised weights equal that differ by rounding ties; return how many were changed.

    A convolution that serves two modes has one weight and two norms. Folded and quantised per
    channel, the norms' factors end up in the scales, and the levels are the same, but for a few
    that float arithmetic puts on the other side of a tie: half a step away from the exact value
    either way.
    """
    seen: dict[tuple[int, ...], list[np.ndarray]] = {}
    changed = 0
    for graph in graphs:
        for name, value in graph.initializers.items():
            levels = constant(value)
            if levels is None or levels.dtype != np.int8 or levels.nbytes < SMALLEST_SHARED:
                continue
            earlier = seen.setdefault(levels.shape, [])
            twin = next((array for array in earlier if _differ_by_ties(levels, array)), None)
            if twin is None:
                earlier.append(levels)
            elif not np.array_equal(levels, twin):
                value.const_value = ir.Tensor(twin, name=name)
                changed += 1
    return changed


def _differ_by_ties(one: np.ndarray, other: np.ndarray) -> bool:
    # Different weights differ at once: a look at a few spares the rest.
    if np.abs(one.flat[:64].astype(np.int16) - other.flat[:64]).max() > 1:
        return False
    difference = np.abs(one.astype(np.int16) - other)
    return bool(difference.max() <= 1) and float(np.mean(difference)) <= ROUNDING_TIES


def _is_kernel(value: ir.Value) -> bool:
    """Whether convolutions read this constant as their weight, and nothing else reads it."""
    uses = list(value.uses())
    return bool(uses) and all(use.node.op_type == "Conv" and use.idx == 1 for use in uses)


def _leads(part: np.ndarray, whole: np.ndarray) -> bool:
    """Whether ``part`` is ``whole[:, :n]`` for an n that leaves something out."""
    return (
        part.ndim == whole.ndim == 4
        and part.dtype == whole.dtype
        and part.shape[0] == whole.shape[0]
        and part.shape[2:] == whole.shape[2:]
        and part.shape[1] < whole.shape[1]
        and bool(np.array_equal(part, whole[:, : part.shape[1]]))
    )


def _replace_by_slice(graph: ir.Graph, name: str, whole: np.ndarray, channels: int) -> None:
    """Cut the constant ``name`` out of a copy of ``whole``, which is left to be shared."""
    value = graph.initializers.pop(name)

    def add(suffix: str, array: np.ndarray) -> ir.Value:
        added = new_constant(f"{name}/{suffix}", array)
        graph.register_initializer(added)
        return added

    bounds = {"start": 0, "end": channels, "axis": 1}
    inputs = [add(suffix, np.asarray([number], np.int64)) for suffix, number in bounds.items()]
    node = ir.Node("", "Slice", [add("whole", whole), *inputs], name=f"{name}/Slice")
    cut = node.outputs[0]
    cut.name, cut.type, cut.shape = name, value.type, value.shape
    ir.convenience.replace_all_uses_with(value, cut)
    graph.insert_before(next(iter(graph)), node)


def _quantises(value: ir.Value, *, levels: bool) -> bool:
    """Whether this is a scale or a zero point, or (without ``levels``) a quantised weight."""
    return any(
        use.node.op_type in ("QuantizeLinear", "DequantizeLinear") and (use.idx > 0 or not levels)
        for use in value.uses()
    )


def _feeds_bare_convolution(value: ir.Value) -> bool:
    for node in value.consumers():
        if node.op_type != "Conv":
            continue
        readers = [reader.op_type for reader in node.outputs[0].consumers()]
        if readers != ["BatchNormalization"]:
            return True
    return False
