"""The reader of torch files: what it rebuilds, what it refuses, and that it executes nothing.

torch's own reader is the oracle for files that were made here. ``ANYDEPTH_EXAMPLES=100`` tries a
hundred times as many random files.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import json
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import types
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from plain import is_plain
from torch import Tensor, nn

from anydepth_deploy.checkpoints.archive import Archive, read_tensors
from anydepth_deploy.checkpoints.inert import (
    LazyTensor,
    Reference,
    StorageEntry,
    Stub,
    UnusableTensor,
)
from anydepth_deploy.checkpoints.rebuild import CALLS, Rebuilder
from anydepth_deploy.checkpoints.unpickle import MAX_PICKLE_BYTES, unpickle
from anydepth_deploy.errors import CheckpointError

random_files = examples(300)

# --- what watches ------------------------------------------------------------------------------

FORBIDDEN = (
    "compile",
    "exec",
    "import",
    "marshal.",
    "os.",
    "pickle.find_class",
    "shutil.",
    "socket.",
    "subprocess.",
)
_events: list[str] | None = None


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _events is not None and event.startswith(FORBIDDEN):
        _events.append(f"{event}{arguments}"[:200])


sys.addaudithook(_watch)


@contextmanager
def watched() -> Iterator[None]:
    """Fail if the interpreter imports, compiles, executes or starts anything meanwhile."""
    global _events
    _events = []
    try:
        yield
        assert "; ".join(_events) == ""
    finally:
        _events = None


def test_the_watch_sees_what_it_should() -> None:
    with pytest.raises(AssertionError, match="find_class"), watched():
        pickle.loads(b"\x80\x02cfractions\nFraction\n.")
    with pytest.raises(AssertionError, match="exec"), watched():
        pickle.loads(b"\x80\x02c__builtin__\neval\nX\x03\x00\x00\x001+1\x85R.")


# --- helpers -----------------------------------------------------------------------------------


def read_file(path: Path) -> Any:
    """The content of a file, its tensors read."""
    with watched(), Archive(path) as archive:
        rebuilder = Rebuilder(f"checkpoint {path}", archive.sizes)
        found = unpickle(archive.read("data.pkl", MAX_PICKLE_BYTES), rebuilder)
        return with_tensors(found, archive)


def with_tensors(value: Any, archive: Archive) -> Any:
    if isinstance(value, LazyTensor):
        return read_tensors(archive, {"x": value})["x"]
    if isinstance(value, dict):
        return {key: with_tensors(item, archive) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(with_tensors(item, archive) for item in value)
    return value


def saved(path: Path, content: object, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, path, **options)
    return path


def archive_of(
    path: Path, program: bytes, storages: dict[str, bytes] | None = None, **others: bytes
) -> Path:
    """An archive as torch writes it, around any pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", program)
        for name, content in others.items():
            file.writestr(f"archive/{name}", content)
        for key, content in (storages or {}).items():
            file.writestr(f"archive/data/{key}", content)
        file.writestr("archive/version", b"3\n")
    return path


def refused(path: Path) -> str:
    """The message with which a file is refused: one line that names it."""
    with pytest.raises(CheckpointError) as caught:
        read_file(path)
    message = str(caught.value)
    assert message.startswith(f"checkpoint {path} ")
    assert is_plain(message)
    return message.removeprefix(f"checkpoint {path} ")


def run(program: bytes, sizes: dict[str, int] | None = None) -> Any:
    """The value of a pickle at protocol 2 or 4 whose head and end are added here."""
    with watched():
        return unpickle(b"\x80\x04" + program + b".", Rebuilder("checkpoint x", sizes or {}))


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(module: str, member: str) -> bytes:
    return f"c{module}\n{member}\n".encode()


def integer(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def whole(value: object) -> bytes:
    """The instructions that make a plain value."""
    return pickle.dumps(value, 2)[2:-1]


STORAGE = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu")


def tensor(size: object, stride: object, offset: object = 0, elements: int = 6) -> bytes:
    """The instructions that make a tensor of a storage of floats, key '0'."""
    view = whole(offset) + whole(size) + whole(stride)
    hooks = name("collections", "OrderedDict") + b")R"
    return (
        name("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + (STORAGE + integer(elements) + b"tQ")
        + (view + b"\x89" + hooks)
        + b"tR"
    )


# --- what is rebuilt ---------------------------------------------------------------------------

PLAIN: list[Any] = [
    None,
    True,
    -1,
    255,
    65535,
    -(2**31),
    2**63,
    -(10**40),
    0.1,
    float("inf"),
    "",
    "dépth\n\U0001f600",
    b"",
    b"\x00\xff" * 200,
    bytearray(b"ab\xff"),
    1 + 2j,
    [],
    [1, [2, [3]]],
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
    {},
    {"a": 1, 2: "b", None: {}, (1, "x"): 0, 1.5: [], b"k": 1},
    set(),
    {1, "a"},
    frozenset({2, "b"}),
    collections.OrderedDict(a=1, b=[2]),
    collections.Counter({30: 1, 60: 2}),
    torch.float16,
    ["same"] * 300,
    list(range(3000)),
    {str(index): index for index in range(2500)},
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values(tmp_path: Path, protocol: int) -> None:
    path = saved(tmp_path / "c.pt", PLAIN, pickle_protocol=protocol)
    assert read_file(path) == torch.load(path, weights_only=False) == PLAIN


def test_values_that_become_plain(tmp_path: Path) -> None:
    content = {
        "default": collections.defaultdict(list, a=[1]),
        "size": torch.Size([2, 3]),
        "device": torch.device("cuda:1"),
        "cpu": torch.device("cpu"),
        "path": Path("/data/coco"),
        "windows": pathlib.PureWindowsPath("C:\\data\\coco"),
        "float64": np.float64(0.25),
        "float16": np.float16(0.5),
        "int": np.int64(-3),
        "bool": np.bool_(True),
        "version": torch.__version__,
    }
    for protocol in (2, 4):
        assert read_file(saved(tmp_path / "c.pt", content, pickle_protocol=protocol)) == {
            "default": {"a": [1]},
            "size": (2, 3),
            "device": "cuda:1",
            "cpu": "cpu",
            "path": "/data/coco",
            "windows": "C:\\data\\coco",
            "float64": 0.25,
            "float16": 0.5,
            "int": -3,
            "bool": True,
            "version": str(torch.__version__),
        }


def test_values_that_become_stubs(tmp_path: Path) -> None:
    content = [
        argparse.Namespace(lr=0.1),
        types.SimpleNamespace(lr=0.1),
        datetime.datetime(2025, 5, 1),
        datetime.timedelta(1),
        np.zeros(3),
        nn.SiLU(),
        Slotted(),
        Listed([1, 2]),
        Mapped(a=1),
        Own(),
    ]
    found = read_file(saved(tmp_path / "c.pt", content))
    assert all(isinstance(value, Stub) for value in found)
    assert [f"{value.module}.{value.name}" for value in found] == [
        "argparse.Namespace",
        "types.SimpleNamespace",
        "datetime.datetime",
        "datetime.timedelta",
        "numpy.ndarray",
        "torch.nn.modules.activation.SiLU",
        f"{__name__}.Slotted",
        f"{__name__}.Listed",
        f"{__name__}.Mapped",
        f"{__name__}.Own",
    ]
    assert found[0].attributes == found[1].attributes == {"lr": 0.1}
    assert found[5].attributes["training"] is True
    assert found[6].state == (None, {"x": 1})
    assert found[7].entries == [1, 2]
    assert found[8].entries == [("a", 1)]
    assert (found[9].state, found[9].attributes) == ("anything", {})


class Slotted:
    __slots__ = ("x",)

    def __init__(self) -> None:
        self.x = 1


class Listed(list[int]):
    pass


class Mapped(dict[str, int]):
    pass


class Own:
    def __getstate__(self) -> Any:
        return "anything"

    def __setstate__(self, state: object) -> None:
        raise AssertionError("this must not be called")


class Function:
    """Pickles as the name of something, which nobody calls."""

    def __reduce__(self) -> str:
        return "helper"


def helper() -> None:
    raise AssertionError("this must not be called")


def test_names_that_nobody_calls_are_inert(tmp_path: Path) -> None:
    found = read_file(saved(tmp_path / "c.pt", [helper, os.system, eval, Own]))
    assert found == [
        Reference(__name__, "helper"),
        Reference(os.system.__module__, "system"),
        Reference("builtins", "eval"),
        Reference(__name__, "Own"),
    ]


def test_shared_values_and_cycles() -> None:
    shared = run(whole([[1]] * 3))
    assert shared[0] is shared[1]
    cycle: list[Any] = []
    cycle.append((cycle, {"self": cycle}))
    found = run(whole(cycle))
    assert found[0][0] is found
    assert found[0][1]["self"] is found


WIDTHS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn]
OTHERS = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16]


@pytest.mark.parametrize("dtype", [*WIDTHS, *OTHERS])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (4, 3, 2)])
def test_tensors_of_every_kind(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    value = torch.arange(0, 24).reshape(4, 3, 2)[tuple(slice(n) for n in shape)]
    value = value.reshape(-1)[: int(np.prod(shape))].reshape(shape).to(dtype)
    path = saved(tmp_path / "c.pt", {"x": value, "p": nn.Parameter(value, requires_grad=False)})
    oracle = torch.load(path, weights_only=True)
    wide = torch.float32 if dtype.is_floating_point else dtype
    for key, found in read_file(path).items():
        assert (found.dtype, found.shape) == (wide, oracle[key].shape)
        assert torch.equal(found, oracle[key].to(wide))


def test_views_ties_and_parameters(tmp_path: Path) -> None:
    base = torch.rand(6, 8)
    attributed = torch.rand(3)
    attributed.note = "kept outside"  # type: ignore[attr-defined]
    parameter = nn.Parameter(torch.rand(2))
    parameter.note = "too"  # type: ignore[attr-defined]
    content = {
        "base": base,
        "tied": base,
        "transposed": base.t(),
        "part": base[2:4, 1::3],
        "expanded": base[:1, :1].expand(3, 4),
        "channels": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "attributed": attributed,
        "parameter": parameter,
        "buffer": nn.Buffer(torch.rand(2)),
        "grad": torch.rand(2, requires_grad=True),
    }
    path = saved(tmp_path / "c.pt", content)
    found, oracle = read_file(path), torch.load(path, weights_only=False)
    assert found.keys() == oracle.keys()
    assert all(torch.equal(found[key], oracle[key]) for key in oracle)
    assert found["part"].stride() == oracle["part"].stride()
    assert not any(value.requires_grad for value in found.values())


def test_tied_tensors_share_memory(tmp_path: Path) -> None:
    base = torch.rand(6).half()
    path = saved(tmp_path / "c.pt", {"a": base, "b": base[2:]})
    with Archive(path) as archive:
        lazy = unpickle(archive.read("data.pkl"), Rebuilder("checkpoint", archive.sizes))
        found = read_tensors(archive, lazy)
    assert found["a"][2:].data_ptr() == found["b"].data_ptr()


def test_storages_of_another_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.serialization.location_tag", lambda storage: "cuda:0")
    path = saved(tmp_path / "c.pt", torch.ones(3))
    assert torch.equal(read_file(path), torch.ones(3))


def strange_tensors() -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "sparse": torch.eye(3).to_sparse(),
            "rows": torch.eye(3).to_sparse_csr(),
            "quantised": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
            "complex": torch.ones(2, dtype=torch.complex64),
            "conjugate": torch.ones(2, dtype=torch.complex64).conj(),
            "negative": torch.ones(2, dtype=torch.complex64).conj().imag,
            "meta": torch.ones(2, device="meta"),
            "claims": torch.ones(1).expand(10**12),
            "claims without elements": torch.ones(0).expand(10**6, 10**6, 10**6, 0),
        }


@pytest.mark.parametrize("kind", sorted(strange_tensors()))
def test_tensors_that_are_not_plain(tmp_path: Path, kind: str) -> None:
    found = read_file(saved(tmp_path / "c.pt", strange_tensors()[kind]))
    assert isinstance(found, UnusableTensor)


# --- what is refused: calls --------------------------------------------------------------------


class Call:
    """Unpickles as the result of a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments

    def __call__(self) -> None:
        """Only what can be called may stand where a function is expected."""


CALLED: list[tuple[str, str, tuple[object, ...]]] = [
    ("os", "system", ("true",)),
    ("posix", "system", ("true",)),
    ("nt", "system", ("true",)),
    ("os", "abort", ()),
    ("subprocess", "Popen", (["true"],)),
    ("subprocess", "Popen", ()),
    ("__builtin__", "eval", ("1",)),
    ("builtins", "exec", ("1",)),
    ("builtins", "getattr", ("x", "y")),
    ("builtins", "__import__", ("os",)),
    ("builtins", "open", ("x", "w")),
    ("builtins", "type", ("X", (), {})),
    ("builtins", "range", (3,)),
    ("builtins", "object", ()),
    ("torch.storage", "_load_from_bytes", (b"",)),
    ("torch", "load", ("x",)),
    ("torch.hub", "load", ()),
    ("torch._utils", "_import_dotted_name", ("os.system",)),
    ("numpy", "load", ("x",)),
    ("numpy.core.multiarray", "fromfile", ()),
    ("operator", "attrgetter", ("system",)),
    ("functools", "partial", ("x",)),
    ("copyreg", "__newobj__", ("x",)),
    ("importlib", "import_module", ("os",)),
    ("pty", "spawn", ("sh",)),
    ("unknown.package", "function", ("argument",)),
    ("unknown.package", "function", ((),)),
    ("anydepth_deploy.cli", "main", ()),
    ("_codecs", "decode", (b"x", "rot13")),
    ("collections", "namedtuple", ("X", "y")),
    ("pathlib", "Path.unlink", ("x",)),
    ("pathlib", "PosixPath.unlink", ()),
    ("builtins", "set.__init__", ()),
    ("torch", "Size.__class__", ()),
]


@pytest.mark.parametrize(("module", "member", "arguments"), CALLED)
def test_calls_that_are_not_on_the_list(
    tmp_path: Path, module: str, member: str, arguments: tuple[object, ...]
) -> None:
    called = whole(arguments) + b"R."
    for opcode in (name(module, member), text(module) + text(member) + b"\x93"):
        path = archive_of(tmp_path / "c.pt", b"\x80\x04" + opcode + called)
        message = refused(path)
        shown = module.replace("__builtin__", "builtins")
        assert f"'{shown}.{member}', which would have to be executed and was not" in message
        assert "save the state dict alone" in message


@pytest.mark.parametrize("position", ["list", "state", "argument", "function", "key"])
def test_a_call_anywhere(tmp_path: Path, position: str) -> None:
    call = Call(os.system, "true")
    content: Any = {
        "list": [1, call],
        "argument": Call(list, [call]),
        "function": Call(call, "true"),
        "key": {call: 1},
        "state": types.SimpleNamespace(x=call),
    }[position]
    assert "system', which would have to be executed" in refused(saved(tmp_path / "c.pt", content))


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (whole(1) + b")R", "a call of int"),
        (whole([]) + b")R", "a call of list"),
        (name("x.y", "Z") + b")R)R", "a call of x.y.Z"),
        (name("x.y", "Z") + b")\x81)R", "a call of x.y.Z"),
        (name("x.y", "Z") + b")\x81)\x81", "a call of x.y.Z"),
        (name("x.y", "Z") + b"]R", "without a tuple"),
        (name("x.y", "Z") + b"]\x81", "without a tuple"),
        (name("os", "system") + b")\x81", "'os.system'"),
        (name("subprocess", "Popen") + b")\x81", "'subprocess.Popen'"),
        (name("subprocess", "Popen") + b")}\x92", "'subprocess.Popen'"),
        (name("x.y", "Z") + b")]\x92", "made by names"),
        (name("os", "system") + b"}b", "the state of os.system"),
        (b"]}b", "the state of list"),
        (b"}}b", "the state of dict"),
        (whole("x") + b"}b", "the state of str"),
        (name("x.y", "Z\x1b") + b"}b", r"the state of 'x.y.Z\x1b'"),
        (name("copyreg", "_reconstructor") + whole((1, 2, 3)) + b"R", "a call of int"),
        (
            name("copyreg", "_reconstructor")
            + b"("
            + name("os", "system")
            + name("builtins", "object")
            + b"NtR",
            "'os.system'",
        ),
        (b"\x82\x01", "0x82"),  # registered extension codes
        (b"\x83\x01\x00", "0x83"),
        (b"\x84\x01\x00\x00\x00", "0x84"),
        (b"P0\n", "0x50"),  # a persistent id as text
        (b"(ios\nsystem\n", "0x69"),  # instances of protocol 0
        (b"(cos\nsystem\no", "0x6f"),
        (b"I1\n", "0x49"),
        (b"L1L\n", "0x4c"),
        (b"S'x'\n", "0x53"),
        (b"\x97", "0x97"),  # a buffer outside the file
        (whole("x") + b"Q", "persistent id"),
        (whole(("module", "x")) + b"Q", "persistent id"),
        (whole(("storage", "FloatStorage", "0", "cpu", 6)) + b"Q", "persistent id"),
        (b"(" + text("storage") + name("os", "system") + whole("0") * 2 + b"K\x06tQ", "os.system"),
        (STORAGE + b"J\xff\xff\xff\xfftQ", "persistent id"),
        (STORAGE + integer(10**30) + b"tQ", "24 bytes"),
        (STORAGE + b"K\x05tQ", "24 bytes"),
        (STORAGE.replace(b"FloatSt", b"HalfSt") + b"K\x06tQ", "24 bytes"),
        (STORAGE.replace(text("0"), text("1")) + b"K\x06tQ", "not in the file"),
        (STORAGE.replace(text("0"), text("../data.pkl")) + b"K\x06tQ", "not in the file"),
        (
            STORAGE + b"K\x06tQ" + STORAGE.replace(b"FloatSt", b"IntSt") + b"K\x06tQ\x86",
            "two types",
        ),
        (name("_codecs", "encode") + whole(("x", "rot13")) + b"R", "latin-1"),
        (name("_codecs", "encode") + whole(("\u20ac", "latin1")) + b"R", "latin-1"),
        (name("builtins", "set") + whole(("text",)) + b"R", "a collection made of str"),
        (name("builtins", "set") + whole((5,)) + b"R", "a collection made of int"),
        (name("builtins", "bytearray") + whole((10**12,)) + b"R", "bytes made of int"),
        (name("builtins", "bytes") + whole((10**12,)) + b"R", "bytes made of int"),
        (name("builtins", "set") + whole((1, 2)) + b"R", "is given 2 arguments"),
        (name("builtins", "complex") + whole(("1j", 0.0)) + b"R", "complex"),
        (name("collections", "OrderedDict") + whole(([1, 2],)) + b"R", "pairs"),
        (name("torch", "device") + whole((5,)) + b"R", "device"),
        (name("numpy", "dtype") + whole((5,)) + b"R", "number type"),
        (name("pathlib", "PosixPath") + whole((5,)) + b"R", "path"),
        (name("torch._utils", "_rebuild_parameter") + whole((1, 2, 3)) + b"R", "parameter"),
        (
            name("torch._tensor", "_rebuild_from_type_v2")
            + b"("
            + name("os", "system")
            + b"N"
            + whole(("true",))
            + b"NtR",
            "'os.system'",
        ),
        (b"}" + b"]\x85K\x01s", "a nested tuple"),
        (b"}" + whole(1 << 70) + b"K\x01s", "very large integer"),
        (b"}]K\x01s", "is list"),
        (b"\x8f(]\x90", "is list"),
        (b"(}\x91", "is dict"),
        (whole("x") + b"K\x01a", "appends to str"),
        (b")K\x01a", "appends to tuple"),
        (b"](K\x01u", "without a value"),
        (b"]K\x01K\x01s", "sets items of list"),
        (b"](K\x01\x90", "adds elements to list"),
        (b"\x8b\x00\x00\x00\x7f", "integer"),
        (b"X\xff\xff\xff\xffabc", "middle of a value"),
        (b"B\xff\xff\xff\xffabc", "middle of a value"),
        (b"\x8d" + b"\xff" * 8, "middle of a value"),
        (b"\x8e" + b"\xff" * 7 + b"\x7f", "middle of a value"),
        (b"\x96" + b"\xff" * 8, "middle of a value"),
        (b"\x95" + b"\xff" * 8, "middle of a frame"),
        (b"X\x01\x00\x00\x00\xff", "UTF-8"),
        (b"X\x03\x00\x00\x00\xed\xa0\x80", "UTF-8"),  # half of a surrogate pair
        (b"cos", "no end"),
        (b"c" + b"x" * 600 + b"\ny\n", "no end"),
        (whole("x" * 300) * 2 + b"\x93", "not a short text"),
        (whole(1) + whole(2) + b"\x93", "not a short text"),
        (b"h\x05", "never kept"),
        (b"j\xff\xff\xff\xff", "never kept"),
        (b"q\x00", "not there"),
        (b"a", "not there"),
        (b"t", "not there"),
        (b"R", "not there"),
        (b"(", "one value"),
        (b"NN", "one value"),
        (b"", "one value"),
        (b"\x80\x07N", "protocol"),
        (b"\x80\x01N", "protocol"),
    ],
)
def test_programs_that_no_torch_writes(tmp_path: Path, program: bytes, told: str) -> None:
    path = archive_of(tmp_path / "c.pt", b"\x80\x04" + program + b".", {"0": bytes(24)})
    message = refused(path)
    assert told in message
    assert "expected" in message


def test_the_longest_integer() -> None:
    assert run(b"\x8a\xff" + b"\x01" * 255) == int.from_bytes(b"\x01" * 255, "little")


def test_a_pickle_of_protocol_0_or_without_end(tmp_path: Path) -> None:
    assert "begin" in refused(archive_of(tmp_path / "c.pt", b"cos\nsystem\n."))
    assert "no end" in refused(archive_of(tmp_path / "c.pt", b"\x80\x02N"))
    assert "begin" in refused(archive_of(tmp_path / "c.pt", b""))


def test_the_list_of_calls_names_no_function_that_acts() -> None:
    """The list is part of the argument for safety: it must not grow unseen."""
    assert {module for module, _ in CALLS} == {
        "_codecs",
        "builtins",
        "collections",
        "copyreg",
        "datetime",
        "numpy",
        "numpy._core.multiarray",
        "numpy.core.multiarray",
        "pathlib",
        "pathlib._local",
        "torch",
        "torch._tensor",
        "torch._utils",
        "torch.serialization",
    }
    assert len(CALLS) == 40
    assert all(
        getattr(rebuild, "__module__", "") == "anydepth_deploy.checkpoints.rebuild"
        for rebuild, _, _ in CALLS.values()
    )


# --- what is refused: tensors ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((7,), (1,), 0),
        ((6,), (1,), 1),
        ((1,), (1,), 6),
        ((2, 3), (4, 1), 0),
        ((2,), (6,), 0),
        ((2,), (2**62,), 0),
        ((2**62,), (1,), 0),
        ((2**62, 2**62), (2**62, 2**62), 0),
        ((2**63,), (0,), 0),
        ((-1,), (1,), 0),
        ((2,), (-1,), 5),
        ((2,), (1,), -1),
        ((2,), (1,), 2**70),
        ((2,), (1, 1), 0),
        ((2, 2), (1,), 0),
        ((1,) * 17, (1,) * 17, 0),
        ([2], [1], 0),
        ((2.0,), (1,), 0),
        ((True,), (1,), 0),
        ((2,), (1,), "0"),
        ("ab", "cd", 0),
        (None, None, 0),
    ],
)
def test_views_beyond_their_storage(
    tmp_path: Path, size: object, stride: object, offset: object
) -> None:
    program = b"\x80\x02" + tensor(size, stride, offset) + b"."
    message = refused(archive_of(tmp_path / "c.pt", program, {"0": bytes(24)}))
    assert "beyond its storage" in message or "impossible shape" in message


def test_the_same_views_within_their_storage(tmp_path: Path) -> None:
    values = np.arange(6, dtype="<f4")
    for size, stride, offset in (((6,), (1,), 0), ((2, 3), (3, 1), 0), ((2, 2), (1, 3), 1)):
        program = b"\x80\x02" + tensor(size, stride, offset) + b"."
        found = read_file(archive_of(tmp_path / "c.pt", program, {"0": values.tobytes()}))
        assert torch.equal(found, torch.arange(6.0).as_strided(size, stride, offset))


def test_only_wanted_storages_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.pt", {"a": torch.ones(100), "b": torch.full((100,), 3.0)})
    damaged = path.read_bytes().replace(struct.pack("<f", 3.0), struct.pack("<f", 4.0))
    path.write_bytes(damaged)
    with Archive(path) as archive:
        lazy = unpickle(archive.read("data.pkl"), Rebuilder("checkpoint", archive.sizes))
        assert torch.equal(read_tensors(archive, {"a": lazy["a"]})["a"], torch.ones(100))
    assert "checksum of its entry 'data/1'" in refused(path)


# --- what is refused: archives -----------------------------------------------------------------


def stored(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def entries(raw: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        return {name: file.read(name) for name in file.namelist()}


def rezipped(content: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in content.items():
            file.writestr(name, data)
    return buffer.getvalue()


def compressed(raw: bytes) -> bytes:
    return rezipped(entries(raw), zipfile.ZIP_DEFLATED)


def bomb(raw: bytes) -> bytes:
    content = entries(raw)
    content["archive/data/0"] = bytes(400 << 20)
    return rezipped(content, zipfile.ZIP_DEFLATED)


def big_endian(raw: bytes) -> bytes:
    return rezipped({**entries(raw), "archive/byteorder": b"big"})


def without_pickle(raw: bytes) -> bytes:
    return rezipped({k: v for k, v in entries(raw).items() if k != "archive/data.pkl"})


def without_storage(raw: bytes) -> bytes:
    return rezipped({k: v for k, v in entries(raw).items() if k != "archive/data/0"})


def other_folder(raw: bytes) -> bytes:
    return rezipped({**entries(raw), "elsewhere/data.pkl": b""})


def climbing(raw: bytes) -> bytes:
    return rezipped({**entries(raw), "archive/../x": b""})


def backslash(raw: bytes) -> bytes:
    return rezipped({**entries(raw), "archive/a\\b": b""})


def absolute(raw: bytes) -> bytes:
    return rezipped({"/" + name: data for name, data in entries(raw).items()})


def unprintable(raw: bytes) -> bytes:
    return rezipped({**entries(raw), "archive/a\nb\x1b": b""})


def no_text(raw: bytes) -> bytes:
    return rezipped({**entries(raw), "archive/abcd": b""}).replace(b"e/abcd", b"e/a\xff\xfed")


def comment(raw: bytes) -> bytes:
    return raw[:-2] + b"\x02\x00hi"


def appended(raw: bytes) -> bytes:
    return raw + b"more"


def prepended(raw: bytes) -> bytes:
    return b"more" + raw


def longer_directory(raw: bytes) -> bytes:
    with_hole = rezipped(entries(raw))
    end = with_hole.rindex(b"PK\x05\x06")
    fields = list(struct.unpack("<4s4H2IH", with_hole[end:]))
    fields[5] += 8
    return with_hole[:end] + bytes(8) + struct.pack("<4s4H2IH", *fields)


def duplicate(raw: bytes) -> bytes:
    doubled = rezipped({**entries(raw), "archive/data/1": b"x" * 24})
    return doubled.replace(b"archive/data/1", b"archive/data/0")


def change_central(raw: bytes, entry: bytes, at: int, form: str, value: int) -> bytes:
    """One field of the directory's record of an entry."""
    changed = bytearray(raw)
    begin = raw.rindex(b"PK\x01\x02", 0, raw.rindex(entry))
    struct.pack_into(form, changed, begin + at, value)
    return bytes(changed)


def encrypted(raw: bytes) -> bytes:
    return change_central(raw, b"archive/data/0", 8, "<H", 1)


def on_another_disk(raw: bytes) -> bytes:
    return change_central(raw, b"archive/data/0", 34, "<H", 1)


def overlapping(raw: bytes) -> bytes:
    # One entry reaches over the next.
    raw = rezipped({**entries(raw), "archive/y1": b"", "archive/y2": b""})
    raw = change_central(raw, b"archive/y1", 20, "<I", 30)
    return change_central(raw, b"archive/y1", 24, "<I", 30)


def same_place(raw: bytes) -> bytes:
    # Two entries with one content: so a bomb without compression is made.
    raw = rezipped({**entries(raw), "archive/data/1": b"x" * 24})
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        first = file.getinfo("archive/data/0").header_offset
    return change_central(raw, b"archive/data/1", 42, "<I", first)


def beyond_the_file(raw: bytes) -> bytes:
    raw = change_central(raw, b"archive/data/0", 20, "<I", 2**31)
    return change_central(raw, b"archive/data/0", 24, "<I", 2**31)


def header_beyond_the_file(raw: bytes) -> bytes:
    return change_central(raw, b"archive/data/0", 42, "<I", 2**31)


def huge_marks(raw: bytes) -> bytes:
    raw = change_central(raw, b"archive/data/0", 20, "<I", 2**32 - 1)
    return change_central(raw, b"archive/data/0", 24, "<I", 2**32 - 1)


def many(raw: bytes) -> bytes:
    return rezipped({f"archive/{index}": b"" for index in range(65535)})


def another_header(raw: bytes) -> bytes:
    at = raw.index(b"archive/data/0")
    return raw[:at] + b"archive/data/9" + raw[at + 14 :]


def two_ends(raw: bytes) -> bytes:
    at = raw.rindex(b"PK\x06\x06")
    return raw[: at + 32] + b"\x01" + raw[at + 33 :]


def inserted(raw: bytes, at: int, content: bytes) -> bytes:
    """Bytes between two entries, or before the directory, all offsets behind them made right."""
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        start = file.start_dir
        names = [entry.filename for entry in file.infolist() if entry.header_offset >= at]
        offsets = {name: file.getinfo(name).header_offset for name in names}
    for name, offset in offsets.items():
        raw = change_central(raw, name.encode(), 42, "<I", offset + len(content))
    end = len(raw) - 22
    raw = raw[: end + 16] + struct.pack("<I", start + len(content)) + raw[end + 20 :]
    return raw[:at] + content + raw[at:]


def place_of(raw: bytes, name: str | None) -> int:
    """Where the header of an entry begins, or the directory."""
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        return file.start_dir if name is None else file.getinfo(name).header_offset


def junk_before_directory(raw: bytes) -> bytes:
    raw = rezipped(entries(raw))
    return inserted(raw, place_of(raw, None), b"junk")


def junk_between(raw: bytes) -> bytes:
    raw = rezipped(entries(raw))
    return inserted(raw, place_of(raw, "archive/data/0"), b"junk" * 1000)


def junk_like_a_descriptor(raw: bytes) -> bytes:
    raw = rezipped(entries(raw))
    return inserted(raw, place_of(raw, "archive/data/0"), b"PK\x07\x08" + bytes(12))


def junk_at_the_begin(raw: bytes) -> bytes:
    return inserted(rezipped(entries(raw)), 0, b"PK\x03\x04")


def another_descriptor(raw: bytes) -> bytes:
    at = raw.index(b"PK\x07\x08")
    return raw[: at + 4] + bytes(4) + raw[at + 8 :]


def wrong_checksum(raw: bytes) -> bytes:
    return raw.replace(struct.pack("<f", 1.5), struct.pack("<f", 2.5), 1)


SPOILT = [
    (compressed, "compressed"),
    (bomb, "compressed"),
    (big_endian, "byte order"),
    (without_pickle, "without one 'data.pkl'"),
    (without_storage, "not in the file"),
    (other_folder, "without one 'data.pkl'"),
    (climbing, "strange name"),
    (backslash, "strange name"),
    (absolute, "strange name"),
    (unprintable, "unreadable name"),
    (no_text, "unreadable name"),
    (comment, "does not end as a zip"),
    (appended, "truncated"),
    (prepended, "its directory"),
    (longer_directory, "holds more than entries"),
    (duplicate, "there twice"),
    (encrypted, "directory is damaged"),
    (on_another_disk, "directory is damaged"),
    (overlapping, "overlaps"),
    (same_place, "contradicts"),
    (beyond_the_file, "beyond the file"),
    (header_beyond_the_file, "outside the file"),
    (huge_marks, "beyond the file"),
    (many, "65534 entries"),
    (another_header, "contradicts"),
    (two_ends, "contradict each other"),
    (wrong_checksum, "checksum"),
    (junk_before_directory, "4 bytes behind its entry"),
    (junk_between, "4000 bytes behind its entry"),
    (junk_like_a_descriptor, "16 bytes behind its entry"),
    (junk_at_the_begin, "does not begin with an entry"),
    (another_descriptor, "16 bytes behind its entry 'archive/data.pkl'"),
]


@pytest.mark.parametrize(("spoil", "told"), SPOILT)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_no_torch_writes(tmp_path: Path, spoil: Any, told: str) -> None:
    path = tmp_path / "c.pt"
    raw = stored({"x": torch.full((6,), 1.5)})
    path.write_bytes(raw)
    assert torch.equal(read_file(path)["x"], torch.full((6,), 1.5))
    path.write_bytes(spoil(raw))
    assert told in refused(path)


def test_an_archive_packed_again_without_compression(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    path.write_bytes(rezipped(entries(stored([1, torch.ones(2)]))))
    assert read_file(path)[0] == 1


@pytest.mark.parametrize("signature", [b"", b"PK\x07\x08"])
@pytest.mark.parametrize("form", ["<3I", "<I2Q"])
def test_data_descriptors_of_every_form(tmp_path: Path, signature: bytes, form: str) -> None:
    raw = rezipped(entries(stored([1, torch.ones(2)])))
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        found = file.getinfo("archive/data.pkl")
        following = min(e.header_offset for e in file.infolist() if e.header_offset > 0)
    assert found.header_offset == 0
    descriptor = signature + struct.pack(form, found.CRC, found.file_size, found.file_size)
    path = tmp_path / "c.pt"
    path.write_bytes(inserted(raw, following, descriptor))
    assert read_file(path)[0] == 1


@pytest.mark.parametrize("count", [0, 1, 300])
@pytest.mark.parametrize("size", [0, 1, 63, 100_000])
def test_files_of_torch_have_no_gaps(tmp_path: Path, count: int, size: int) -> None:
    if count * size > 10**6:
        size = 1000
    value = {str(index): torch.full((size + index,), 2.0) for index in range(count)}
    found = read_file(saved(tmp_path / "c.pt", value))
    assert found.keys() == value.keys()
    assert all(torch.equal(found[key], value[key]) for key in value)


# --- what is refused: too much -----------------------------------------------------------------


def laughs(levels: int) -> bytes:
    """A list of ten lists of ten lists of ...: 10 ** levels elements."""
    program = b"]q\x00"
    for level in range(levels):
        get = b"h" + bytes([level])
        program += b"](" + get * 10 + b"eq" + bytes([level + 1])
    return program


def keys_that_collide() -> bytes:
    modulus = (1 << 61) - 1
    return b"}(" + b"".join(whole(index * modulus) + b"N" for index in range(1, 30000)) + b"u"


def tuples_that_collide() -> bytes:
    return b"}(" + b"".join(whole((index, index)) + b"N" for index in range(100000)) + b"u"


def memoised(big: bytes, function: bytes, times: int) -> bytes:
    return b"](" + big + b"q\x000" + (function + b"h\x00\x85R") * times + b"e"


LIST = b"](" + b"K\x01" * 100_000 + b"e"
TEXT = text("x" * (8 << 20))
TOO_MUCH = {
    "deep lists": b"](" * 400_000 + b"e" * 400_000,
    "deep tuples": b")" + b"\x85" * 900_000,
    "deep stubs": (name("x", "Y") + b"q\x00)\x81N")[:-1] + b"h\x00)\x81" * 150_000 + b"b" * 150_000,
    "deep dictionaries": b"}K\x01" * 300_000 + b"N" + b"s" * 300_000,
    "deep keys": b"}" + b")" + b"\x85" * 300_000 + b"Ns",
    "billion laughs": laughs(40),
    "laughing key": b"})" + b"q\x01h\x01\x86" * 60 + b"Ns",
    "empty sets": b"(" + b"\x8f" * 999_990 + b"t",
    "ordered dictionaries": b"(" + name("collections", "OrderedDict") + b"q\x00"
    + b"h\x00)R" * 300_000 + b"t",
    "more than the limit": b"N0" * 600_000 + b"N",
    "marks": b"(" * 900_000,
    "memo": b"N" + b"".join(b"r" + struct.pack("<I", 2**32 - 1 - i) for i in range(300_000)),
    "colliding integers": keys_that_collide(),
    "colliding tuples": tuples_that_collide(),
    "sets of one list": memoised(LIST, name("builtins", "set"), 10_000),
    "encodings of one text": memoised(TEXT, name("_codecs", "encode"), 10_000),
    "bytearrays of one text": memoised(TEXT, name("builtins", "bytearray"), 10_000),
    "paths of one text": memoised(TEXT, name("pathlib", "PosixPath"), 10_000),
    "a name of long texts": TEXT + b"q\x00" + b"h\x00h\x00\x93",
    "wide text": text("\U0001f600" + "x" * (20 << 20)),
    "a long pickle": text("x" * (33 << 20)),
    "merged states": name("x", "Y") + b")\x81" + (b"}(" + b"".join(
        whole(str(i)) + b"N" for i in range(20_000)) + b"uq\x00b") + b"h\x00b" * 100_000,
}  # fmt: skip

CHILD = """
import json, resource, sys, time
from pathlib import Path
from anydepth_deploy.checkpoints.archive import Archive
from anydepth_deploy.checkpoints.checkpoint import read_checkpoint
from anydepth_deploy.errors import CheckpointError
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
for path in sys.argv[1:]:
    began = time.perf_counter()
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        print(json.dumps([str(error), time.perf_counter() - began]), flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory as Linux does")
def test_files_that_ask_for_too_much(tmp_path: Path) -> None:
    """Each is refused in bounded time, by a process that may take 1 GiB more."""
    paths = [
        archive_of(tmp_path / f"{index}.pt", b"\x80\x04" + program + b".")
        for index, program in enumerate(TOO_MUCH.values())
    ]
    found = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, paths)], capture_output=True, text=True, timeout=300
    )
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    assert found.returncode == 0, found.stderr[-500:]
    for case, path, (message, seconds) in zip(TOO_MUCH, paths, answers, strict=True):
        assert message.startswith(f"checkpoint {path} "), case
        assert is_plain(message), case
        assert len(message) < 1000, case
        assert seconds < 30, case


# --- random files ------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=20)
    | st.binary(max_size=20)
)
keys = st.text(st.characters(codec="utf-8"), max_size=8) | st.integers(-(2**63), 2**63) | st.none()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=4)
        | st.sets(keys, max_size=4)
    ),
    max_leaves=25,
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    dtype = draw(st.sampled_from([*WIDTHS, *OTHERS]))
    value = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(len(shape)))
    value = value.to(dtype)
    if draw(st.booleans()) and value.dim() > 1:
        value = value.transpose(0, 1)
    if draw(st.booleans()) and value.dim() > 0:
        value = value[draw(st.integers(0, value.shape[0])) :]
    return value


@random_files
@given(
    value=values,
    weights=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), tensors()),
    protocol=st.integers(2, 5),
)
def test_random_values_are_read_as_torch_reads_them(
    tmp_path: Path, value: object, weights: dict[str, Tensor], protocol: int
) -> None:
    path = saved(tmp_path / "c.pt", [value, weights], pickle_protocol=protocol)
    found, oracle = read_file(path), torch.load(path, weights_only=False)
    assert found[0] == oracle[0] == value
    assert found[1].keys() == oracle[1].keys()
    for key, expected in oracle[1].items():
        wide = expected.float() if expected.is_floating_point() else expected
        assert (found[1][key].dtype, found[1][key].shape) == (wide.dtype, wide.shape)
        assert torch.equal(found[1][key], wide)


SAMPLE = {
    "ema": {"module": {"a.weight": torch.rand(4, 3), "a.bias": torch.rand(3).half()}, "updates": 5},
    "args": types.SimpleNamespace(lr=0.1, path=Path("x")),
    "best": np.float64(0.5),
    "raw": b"\xff\x00",
    "order": collections.OrderedDict(a={1, 2}),
}
VALID = stored(SAMPLE)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, Stub):
        return isinstance(other, Stub) and same(one.state, other.state)
    return bool(one == other)


edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "flip", "delete", "insert", "copy", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=5,
)


def edited(raw: bytes, changes: list[tuple[str, float, float, int]]) -> bytes:
    data = bytearray(raw)
    for kind, where, other, value in changes:
        at, source = int(where * len(data)), int(other * len(data))
        if not data:
            break
        if kind == "set":
            data[at] = value
        elif kind == "flip":
            data[at] ^= 1 << value % 8
        elif kind == "delete":
            del data[at : at + 1 + value % 16]
        elif kind == "insert":
            data[at:at] = bytes([value])
        elif kind == "copy":
            data[at : at + value] = data[source : source + value]
        elif value > 200:
            del data[at:]
    return bytes(data)


@random_files
@given(changes=edits)
def test_damaged_files_are_read_the_same_or_refused(tmp_path: Path, changes: Any) -> None:
    path = tmp_path / "c.pt"
    path.write_bytes(VALID)
    expected = read_file(path)
    path.write_bytes(edited(VALID, changes))
    try:
        found = read_file(path)
    except CheckpointError as error:
        found, message = expected, str(error)
    else:
        message = ""
    assert same(expected, found)
    assert not message or is_plain(message)


PROGRAM = entries(VALID)["archive/data.pkl"]
SIZES = {
    key.removeprefix("archive/data/"): len(data)
    for key, data in entries(VALID).items()
    if key.startswith("archive/data/")
}


def machine_answers(program: bytes) -> object:
    """The value of a program, or None if it is refused; nothing else may happen."""
    message = ""
    with watched():
        try:
            found = unpickle(program, Rebuilder("checkpoint x", SIZES))
        except CheckpointError as error:
            found, message = None, str(error)
    assert not message or is_plain(message)
    return found


@random_files
@given(changes=edits)
def test_damaged_pickles_are_read_or_refused(changes: Any) -> None:
    # Their checksum would be right: whoever means harm computes it anew.
    machine_answers(edited(PROGRAM, changes))


PARTS = [
    *[bytes([code]) for code in b"NK}](t)RbQaesu0201"],
    *[bytes([code]) for code in (0x81, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8F, 0x90, 0x91, 0x92, 0x94)],
    *[b"K" + bytes([value]) for value in range(4)],
    *[b"h" + bytes([index]) for index in range(4)],
    *[b"q" + bytes([index]) for index in range(4)],
    *[name(module, member) for module, member in sorted(CALLS)],
    name("os", "system"),
    name("builtins", "eval"),
    name("x.y", "Z"),
    name("torch", "float16"),
    name("torch.storage", "UntypedStorage"),
    text("true"),
    text("storage"),
    text("latin1"),
    whole((2, 2)),
    whole({"a": 1}),
    whole(0.5),
    whole(b"ab"),
    STORAGE + b"K\x06tQ",
    tensor((1,), (1,), elements=12),
    b"\x93",
    b"(",
    b"tR",
    b")R",
    b"\x85R",
]


@examples(1500)
@given(parts=st.lists(st.sampled_from(PARTS), max_size=30))
def test_random_programs_are_read_or_refused(parts: list[bytes]) -> None:
    machine_answers(b"\x80\x04" + b"".join(parts) + b".")


@examples(1500)
@given(
    function=st.sampled_from(sorted(CALLS)),
    arguments=st.lists(st.sampled_from(PARTS[-18:-5]), max_size=8),
    state=st.sampled_from([b"", b"}b", b"Nb", whole((3, "<", None)) + b"b"]),
)
def test_listed_calls_with_random_arguments(
    function: tuple[str, str], arguments: list[bytes], state: bytes
) -> None:
    machine_answers(
        b"\x80\x04" + name(*function) + b"(" + b"".join(arguments) + b"tR" + state + b"."
    )


def test_checksums_are_those_of_the_format() -> None:
    with zipfile.ZipFile(io.BytesIO(VALID)) as file:
        for entry in file.infolist():
            assert zlib.crc32(file.read(entry)) == entry.CRC


def test_storages_by_their_key(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    path.write_bytes(VALID)
    with Archive(path) as archive:
        assert archive.sizes == SIZES
    found = unpickle(PROGRAM, Rebuilder("checkpoint", SIZES))
    lazy = found["ema"]["module"]["a.bias"]
    assert isinstance(lazy, LazyTensor)
    assert isinstance(lazy.storage, StorageEntry)
    assert (lazy.dtype, lazy.shape, lazy.storage.nbytes) == (torch.float16, (3,), 6)
