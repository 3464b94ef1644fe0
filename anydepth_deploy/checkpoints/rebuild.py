"""What the names in a pickle would have done, done by us: the list of all that may be called.

The pickle machine (:mod:`.unpickle`) holds no function and no class, only names. Where the pickle
asks for a call, :class:`Rebuilder` looks the name up in its own short list and does the work
itself, after checking every argument. What is not on the list is refused; a class of an unknown
package becomes a :class:`~.inert.Stub`, which can do nothing.
"""

from __future__ import annotations

import math
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import torch

from anydepth_deploy.checkpoints.inert import (
    LazyTensor,
    Reference,
    StorageEntry,
    Stub,
    UnusableTensor,
    kind_of,
)
from anydepth_deploy.errors import CheckpointError, shorten

__all__ = ["Rebuilder"]

MAX_COPIED = 1_000_000
"""Elements (or 64 bytes of text) that all rebuilt collections may copy together.

A pickle can name one large list a million times and ask for a set of it each time.
"""
MAX_DIMENSIONS = 16
MAX_ELEMENTS = 1 << 40
"""Of one tensor. More than any file holds: only an empty tensor could claim it."""

DTYPES = {
    name: dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)
}  # a table of constants: no name from a file is looked up in torch itself
STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "QInt32Storage": torch.qint32,
    "QInt8Storage": torch.qint8,
    "QUInt8Storage": torch.quint8,
    "ShortStorage": torch.int16,
}
NUMPY_SCALARS = {
    "b1": "?",
    "f2": "e",
    "f4": "f",
    "f8": "d",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "Q",
}
STANDARD_STATEFUL = {
    ("argparse", "Namespace"),
    ("types", "SimpleNamespace"),
    ("collections", "ChainMap"),
    ("collections", "UserDict"),
    ("collections", "UserList"),
    ("decimal", "Decimal"),
    ("fractions", "Fraction"),
    ("uuid", "UUID"),
}
"""Classes of the standard library that are no more than their state: they become stubs too."""

INSTALLED = {*sys.stdlib_module_names, "anydepth_deploy", "numpy", "torch"}
"""Packages whose functions must not be called, not even without arguments.

Nothing would happen, since nothing is imported; but whoever writes ``os.abort()`` into a
checkpoint means harm, and the file should not be used.
"""


@dataclass(slots=True, eq=False)
class _NumpyType:
    code: str
    order: str = "<"


KEYS = {
    bool,
    bytes,
    float,
    str,
    torch.dtype,
    LazyTensor,
    Reference,
    StorageEntry,
    Stub,
    UnusableTensor,
}
"""Types of keys whose hashes a file cannot choose, beside short integers."""


class Rebuilder:
    """Does what the listed names would do when called, on checked arguments.

    ``sizes`` gives the bytes of each storage in the archive by its key; ``origin`` begins every
    message ("checkpoint x.pt").
    """

    def __init__(self, origin: str, sizes: Mapping[str, int]) -> None:
        self.origin = origin
        self.sizes = sizes
        self.copied = 0
        self.storages: dict[str, StorageEntry] = {}

    def refuse(self, reference: object) -> CheckpointError:
        """The error for something that would have to be executed."""
        return CheckpointError(
            f"{self.origin} holds the object '{shorten([reference])}', which would have to be "
            "executed and was not; expected tensors and plain values only: save the state dict "
            "alone, torch.save(model.state_dict(), ...)"
        )

    def damaged(self, what: str) -> CheckpointError:
        """The error for what no intact file holds."""
        return CheckpointError(
            f"{self.origin} is damaged or was made to do harm: {what}; expected a file as "
            "torch.save writes it: fetch it again from its source"
        )

    def reference(self, module: str, name: str) -> Any:
        """What a global name stands for: a dtype, or a name that nobody will look up."""
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        return Reference(module, name)

    def call(self, function: object, arguments: object) -> Any:
        """The result of ``function(*arguments)``, if it is on the list."""
        if not isinstance(function, Reference):
            raise self.refuse(f"a call of {kind_of(function)}")
        if type(arguments) is not tuple:
            raise self.damaged(f"a call of {shorten([function])} without a tuple of arguments")
        if listed := CALLS.get((function.module, function.name)):
            rebuild, fewest, most = listed
            if not fewest <= len(arguments) <= most:
                raise self.damaged(f"{function} is given {len(arguments)} arguments")
            return rebuild(self, *arguments)
        if function.module == "torch._utils" and function.name.startswith("_rebuild_"):
            return UnusableTensor(function.name.removeprefix("_rebuild_")[:40])
        if arguments == () and self._may_be_stub(function, INSTALLED):
            return Stub(function.module, function.name)
        raise self.refuse(function)

    def new(self, cls: object, arguments: object) -> Any:
        """The result of ``cls.__new__(cls, *arguments)``: a stub."""
        if not isinstance(cls, Reference):
            raise self.refuse(f"a call of {kind_of(cls)}")
        if type(arguments) is not tuple:
            raise self.damaged(f"an object of {shorten([cls])} without a tuple of arguments")
        if not self._may_be_stub(cls, sys.stdlib_module_names):
            raise self.refuse(cls)
        if (cls.module, cls.name) == ("torch.torch_version", "TorchVersion"):
            return arguments[0] if arguments and type(arguments[0]) is str else None
        return Stub(cls.module, cls.name, arguments)

    def build(self, value: object, state: object) -> None:
        """Give ``value`` its state."""
        if isinstance(value, Stub):
            value.state = self._merged(value.state, state) if value.state else state
        elif isinstance(value, _NumpyType):
            order = state[1] if type(state) is tuple and len(state) > 1 else None
            value.order = order if type(order) is str else "unknown"
        elif not isinstance(value, OrderedDict | LazyTensor):
            # Of an ordered dictionary it is `_metadata`, the versions of modules: not needed.
            raise self.refuse(f"the state of {kind_of(value)}")

    def storage(self, identity: object) -> StorageEntry:
        """The storage behind a persistent id: ('storage', type, key, location, elements).

        The location ('cuda:0') is where it was; here it is always read into memory.
        """
        if type(identity) is not tuple or len(identity) != 5 or identity[0] != "storage":
            raise self.damaged("a persistent id that is not a tensor's storage")
        _, kind, key, location, elements = identity
        if (
            not isinstance(kind, Reference)
            or type(key) is not str
            or type(location) is not str
            or type(elements) is not int
            or elements < 0
        ):
            raise self.damaged("a persistent id that is not a tensor's storage")
        dtype = STORAGES.get(kind.name) if kind.module == "torch" else None
        if dtype is None and str(kind) not in (
            "torch.storage.UntypedStorage",
            "torch.storage._UntypedStorage",
        ):
            raise self.damaged(f"a storage of the unknown type '{shorten([kind])}'")
        if key not in self.sizes:
            raise self.damaged(f"the storage '{shorten([key[:40]])}' is named but not in the file")
        nbytes = elements * (dtype.itemsize if dtype else 1)
        if nbytes != self.sizes[key]:
            raise self.damaged(
                f"the storage '{key[:40]}' has {self.sizes[key]} bytes where {elements} elements "
                "were announced"
            )
        if key not in self.storages:
            self.storages[key] = StorageEntry(key, kind.name, nbytes, dtype)
        found = self.storages[key]
        if found.kind != kind.name:
            raise self.damaged(f"the storage '{key[:40]}' is given two types")
        return found

    def charge(self, elements: int) -> None:
        """Count what is about to be copied.

        Raises :class:`CheckpointError` when the file asks for too much.
        """
        self.copied += elements
        if self.copied > MAX_COPIED:
            raise self.damaged(f"its collections copy more than {MAX_COPIED} elements")

    def key(self, value: object) -> Any:
        """``value`` if it may be a key or an element of a set.

        Long integers and nested tuples have hashes that a file can choose, so that a dictionary
        of them takes quadratic time; hashing nested tuples can also take for ever.
        """
        kind = type(value)
        if kind is int:
            if not self._is_scalar(value):
                raise self.damaged("a key of a dictionary is a very large integer")
        elif kind is tuple:
            assert isinstance(value, tuple)
            self.charge(100 + len(value))
            if len(value) > 16 or not all(self._is_scalar(item) for item in value):
                raise self.damaged("a key of a dictionary is a nested tuple")
        elif value is not None and kind not in KEYS:
            raise self.damaged(f"a key of a dictionary is {kind_of(value)}")
        return value

    def _is_scalar(self, value: object) -> bool:
        if type(value) is str:
            return len(value) <= 256
        if type(value) is int:
            return -(1 << 63) <= value < 1 << 64
        return value is None or type(value) in (bool, float)

    def _may_be_stub(self, reference: Reference, known: Container[str]) -> bool:
        named = (reference.module, reference.name)
        return named in STANDARD_STATEFUL or reference.module.split(".")[0] not in known

    def _merged(self, old: object, new: object) -> object:
        """Attributes joined; what else ``__setstate__`` would have been given replaces."""
        if not isinstance(old, dict) or not isinstance(new, dict):
            return new
        self.charge(len(old) + len(new))
        return {**old, **new}

    # --- what the names on the list do ---------------------------------------------------------

    def _items(self, value: object = ()) -> list[Any]:
        if not isinstance(value, list | tuple | set | frozenset):
            raise self.damaged(f"a collection made of {kind_of(value)}")
        self.charge(len(value) + 1)
        return list(value)

    def _deque(self, value: object = (), longest: object = None) -> list[Any]:
        if type(longest) not in (int, type(None)):
            raise self.damaged("a queue whose length is no number")
        return self._items(value)

    def _set(self, value: object = ()) -> set[Any]:
        return {self.key(item) for item in self._items(value)}

    def _frozenset(self, value: object = ()) -> frozenset[Any]:
        return frozenset(self.key(item) for item in self._items(value))

    def _ordered(self, value: object = ()) -> OrderedDict[Any, Any]:
        return OrderedDict(self._dictionary(value))

    def _default(self, factory: object = None, value: object = ()) -> dict[Any, Any]:
        return self._dictionary(value)

    def _dictionary(self, value: object = ()) -> dict[Any, Any]:
        if isinstance(value, dict):
            self.charge(len(value) + 1)
            return dict(value)
        pairs = self._items(value)
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise self.damaged("a dictionary made of something else than pairs")
        return {self.key(key): item for key, item in pairs}

    def _encoded(self, text: object, codec: object = "latin1") -> bytes:
        # Bytes are written so at protocol 2.
        if type(text) is not str or codec not in ("latin1", "latin-1"):
            raise self.damaged("bytes that are not written as latin-1 text")
        self.charge(len(text) // 64 + 1)
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError:
            raise self.damaged("bytes that are not written as latin-1 text") from None

    def _bytes(self, value: object = b"", codec: object = "latin1") -> bytes:
        if type(value) is str:
            return self._encoded(value, codec)
        if not isinstance(value, bytes | bytearray):
            raise self.damaged(f"bytes made of {kind_of(value)}")
        self.charge(len(value) // 64 + 1)
        return bytes(value)

    def _bytearray(self, value: object = b"", codec: object = "latin1") -> bytearray:
        return bytearray(self._bytes(value, codec))

    def _complex(self, real: object, imaginary: object) -> complex:
        if type(real) is not float or type(imaginary) is not float:
            raise self.damaged("a complex number made of something else than two numbers")
        return complex(real, imaginary)

    def _tuple(self, value: object = ()) -> tuple[Any, ...]:
        return tuple(self._items(value))

    def _device(self, kind: object, index: object = None) -> str:
        if type(kind) is not str or len(kind) > 64 or type(index) not in (int, type(None)):
            raise self.damaged("a device has no name")
        return kind if index is None else f"{kind}:{index}"

    def _layout(self, name: object) -> str:
        return str(name) if type(name) is str else ""

    def _posix_path(self, *parts: object) -> str:
        return str(PurePosixPath(*self._parts(parts)))

    def _windows_path(self, *parts: object) -> str:
        return str(PureWindowsPath(*self._parts(parts)))

    def _parts(self, parts: tuple[object, ...]) -> list[str]:
        texts = [part for part in parts if type(part) is str]
        if len(texts) != len(parts) or sum(map(len, texts)) > 4096:
            raise self.damaged("a path that is not made of short texts")
        self.charge(64)
        return texts

    def _reconstructed(self, cls: object, base: object, state: object) -> Any:
        if not isinstance(cls, Reference) or not isinstance(base, Reference):
            raise self.refuse(f"a call of {kind_of(cls)}")
        return self.new(cls, () if state is None else (state,))

    def _numpy_type(self, code: object, *flags: object) -> _NumpyType:
        if type(code) is not str or len(code) > 64:
            raise self.damaged("a number type without a name")
        return _NumpyType(code)

    def _numpy_scalar(self, kind: object, content: object) -> Any:
        if not isinstance(kind, _NumpyType):
            raise self.damaged("a number without its type")
        form = NUMPY_SCALARS.get(kind.code)
        if form is None or not isinstance(content, bytes) or kind.order not in ("<", "|", "="):
            return Stub("numpy", "generic")  # of objects, text, another byte order: not needed
        if len(content) != struct.calcsize(f"<{form}"):
            raise self.damaged(f"a number of type {kind.code} has {len(content)} bytes")
        return struct.unpack(f"<{form}", content)[0]

    def _numpy_array(self, cls: object, *rest: object) -> Stub:
        return Stub("numpy", "ndarray")

    def _tensor(
        self,
        storage: object,
        offset: object,
        size: object,
        stride: object,
        requires_grad: object,
        hooks: object,
        metadata: object = None,
    ) -> LazyTensor | UnusableTensor:
        if not isinstance(storage, StorageEntry) or storage.dtype is None:
            raise self.damaged("a tensor without a storage of numbers")
        return self._view(storage, offset, size, stride, metadata)

    def _typed_tensor(
        self,
        storage: object,
        offset: object,
        size: object,
        stride: object,
        requires_grad: object,
        hooks: object,
        dtype: object,
        metadata: object = None,
    ) -> LazyTensor | UnusableTensor:
        if not isinstance(storage, StorageEntry) or not isinstance(dtype, torch.dtype):
            raise self.damaged("a tensor without a storage of numbers")
        if storage.dtype is None and storage.nbytes % dtype.itemsize == 0:
            storage.dtype = dtype
        if storage.dtype is not dtype:
            raise self.damaged(f"the storage '{storage.key[:40]}' is given two types")
        return self._view(storage, offset, size, stride, metadata)

    def _view(
        self, storage: StorageEntry, offset: object, size: object, stride: object, metadata: object
    ) -> LazyTensor | UnusableTensor:
        dtype = storage.dtype
        assert dtype is not None
        shape, strides = self._dimensions(size), self._dimensions(stride)
        if type(offset) is not int or offset < 0 or len(shape) != len(strides):
            raise self.damaged("a tensor of impossible shape")
        elements = math.prod(shape)
        held = storage.nbytes // dtype.itemsize
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if elements and last >= held:
            raise self.damaged(
                f"a tensor {shorten([list(shape)])} reaches beyond its storage of {held} elements"
            )
        if elements > held or math.prod(max(n, 1) for n in shape) > MAX_ELEMENTS:
            # A view can claim any size for a few bytes, by strides of 0.
            return UnusableTensor("larger than its storage")
        if metadata or dtype.is_complex or storage.kind.startswith("Q"):
            return UnusableTensor("complex or quantised")
        return LazyTensor(storage, offset if elements else 0, shape, strides)

    def _dimensions(self, value: object) -> tuple[int, ...]:
        if (
            type(value) is not tuple
            or len(value) > MAX_DIMENSIONS
            or not all(type(n) is int and 0 <= n < 1 << 63 for n in value)
        ):
            raise self.damaged("a tensor of impossible shape")
        return value

    def _parameter(self, data: object, *rest: object) -> Any:
        if not isinstance(data, LazyTensor | UnusableTensor):
            raise self.damaged(f"a parameter made of {kind_of(data)}")
        return data

    def _attributed(self, function: object, cls: object, arguments: object, state: object) -> Any:
        # A tensor with attributes of its own: the attributes are left behind.
        if not isinstance(function, Reference) or function.module != "torch._utils":
            raise self.refuse(function if isinstance(function, Reference) else kind_of(function))
        return self._parameter(self.call(function, arguments))


def _inert(module: str, name: str) -> Callable[..., Stub]:
    def stub(rebuilder: Rebuilder, *arguments: object) -> Stub:
        return Stub(module, name, arguments)

    return stub


Listed = tuple[Callable[..., Any], int, int]
_NUMPY: dict[str, Listed] = {
    "_reconstruct": (Rebuilder._numpy_array, 3, 3),
    "scalar": (Rebuilder._numpy_scalar, 2, 2),
}
_PATHS: dict[str, Listed] = {
    "PosixPath": (Rebuilder._posix_path, 0, 256),
    "PurePosixPath": (Rebuilder._posix_path, 0, 256),
    "PureWindowsPath": (Rebuilder._windows_path, 0, 256),
    "WindowsPath": (Rebuilder._windows_path, 0, 256),
}
CALLS: dict[tuple[str, str], Listed] = {
    ("_codecs", "encode"): (Rebuilder._encoded, 1, 2),
    ("builtins", "bytearray"): (Rebuilder._bytearray, 0, 2),
    ("builtins", "bytes"): (Rebuilder._bytes, 0, 2),
    ("builtins", "complex"): (Rebuilder._complex, 2, 2),
    ("builtins", "dict"): (Rebuilder._dictionary, 0, 1),
    ("builtins", "frozenset"): (Rebuilder._frozenset, 0, 1),
    ("builtins", "list"): (Rebuilder._items, 0, 1),
    ("builtins", "set"): (Rebuilder._set, 0, 1),
    ("builtins", "tuple"): (Rebuilder._tuple, 0, 1),
    ("collections", "Counter"): (Rebuilder._dictionary, 0, 1),
    ("collections", "OrderedDict"): (Rebuilder._ordered, 0, 1),
    ("collections", "defaultdict"): (Rebuilder._default, 0, 2),
    ("collections", "deque"): (Rebuilder._deque, 0, 2),
    ("copyreg", "_reconstructor"): (Rebuilder._reconstructed, 3, 3),
    ("numpy", "dtype"): (Rebuilder._numpy_type, 1, 3),
    ("torch", "Size"): (Rebuilder._tuple, 1, 1),
    ("torch", "device"): (Rebuilder._device, 1, 2),
    ("torch._tensor", "_rebuild_from_type_v2"): (Rebuilder._attributed, 4, 4),
    ("torch._utils", "_rebuild_parameter"): (Rebuilder._parameter, 3, 3),
    ("torch._utils", "_rebuild_parameter_with_state"): (Rebuilder._parameter, 4, 4),
    ("torch._utils", "_rebuild_tensor_v2"): (Rebuilder._tensor, 6, 7),
    ("torch._utils", "_rebuild_tensor_v3"): (Rebuilder._typed_tensor, 7, 8),
    ("torch.serialization", "_get_layout"): (Rebuilder._layout, 1, 1),
    **{
        (module, name): entry
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, entry in _NUMPY.items()
    },
    **{
        (module, name): entry
        for module in ("pathlib", "pathlib._local")
        for name, entry in _PATHS.items()
    },
    **{
        ("datetime", name): (_inert("datetime", name), 0, 8)
        for name in ("date", "datetime", "time", "timedelta", "timezone")
    },
}
"""All that may be called: its name, what is done instead, and how many arguments it takes."""
