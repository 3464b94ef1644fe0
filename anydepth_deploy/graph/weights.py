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
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

__all__ = ["fingerprints", "hoist", "shared_weights"]

SMALLEST_SHARED = 1024
"""Bytes below which a constant is cheaper to repeat than to look up in the outer graph."""


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


def shared_weights(variants: Mapping[str, ir.Graph]) -> set[str]:
    """Content hashes of the constants that every variant of a stage holds."""
    if len(variants) < 2:
        return set()
    return set.intersection(*(set(fingerprints(graph).values()) for graph in variants.values()))


def hoist(variants: Mapping[str, ir.Graph], prefix: str) -> list[ir.Value]:
    """Move equal constants of all variants out of them; return the outer graph's initializers."""
    hoisted: dict[str, ir.Value] = {}
    common = shared_weights(variants)
    for graph in variants.values():
        for name, digest in fingerprints(graph).items():
            if digest not in common:
                continue
            value = graph.initializers[name]
            outer = hoisted.get(digest)
            if outer is None:
                outer_name = f"{prefix}/{name.split('/', 1)[1]}"
                outer = ir.val(outer_name, value.dtype, value.shape, const_value=value.const_value)
                hoisted[digest] = outer
            ir.convenience.replace_all_uses_with(value, outer)
            del graph.initializers[name]
    return list(hoisted.values())
