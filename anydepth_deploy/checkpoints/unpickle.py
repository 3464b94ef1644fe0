"""A pickle machine that cannot execute anything.

A pickle is a program for a small stack machine, and Python's own machine imports modules and calls
functions on its behalf. This one reads the same instructions, those that ``torch.save`` writes at
protocols 2 to 5, on a stack of plain values. A global name stays a name
(:class:`~.inert.Reference`), so nothing that can be called is ever on the stack; what a call would
have built, :class:`~.rebuild.Rebuilder` builds from its own list. The machine never recurses and
never runs longer than its limits.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from anydepth_deploy.checkpoints.inert import Stub, kind_of
from anydepth_deploy.checkpoints.rebuild import Rebuilder
from anydepth_deploy.errors import CheckpointError

__all__ = ["MAX_PICKLE_BYTES", "unpickle"]

MAX_PICKLE_BYTES = 32 << 20
"""Of ``data.pkl``, which holds no weights: the published networks' is below 1 MB.

Texts and bytes come from here alone, so this bounds them too (a text may take four times its
bytes).
"""
MAX_STEPS = 1_000_000
"""Instructions. A network object takes about 150 000, a training file with its optimiser
three times as many; one instruction costs at most 1 µs and 220 bytes (an empty set)."""
MAX_INTEGER_BYTES = 256
"""Python turns longer integers into text only on request, and messages would show them."""
MAX_NAME = 512
PROTOCOLS = range(2, 6)


def unpickle(data: bytes | bytearray, rebuilder: Rebuilder) -> Any:
    """The value that the pickle ``data`` describes, made of plain and inert values only.

    Raises :class:`CheckpointError` when the pickle asks for a call that is not on the list, is
    damaged, or is larger than any checkpoint's.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise rebuilder.damaged(f"its pickle has more than {MAX_PICKLE_BYTES >> 20} MiB")
    return _Machine(bytes(data), rebuilder).run()


class _Machine:
    """The stack, the stacks set aside by MARK, the memo, and one method per instruction."""

    def __init__(self, data: bytes, rebuilder: Rebuilder) -> None:
        self.data = data
        self.at = 0
        self.rebuilder = rebuilder
        self.stack: list[Any] = []
        self.aside: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        instructions: list[Callable[[], None] | None] = [None] * 256
        for code, method in _INSTRUCTIONS.items():
            instructions[code] = method.__get__(self)
        data, stop = self.data, ord(".")
        if len(data) < 2 or data[0] != 0x80:
            raise self.damaged("its pickle does not begin as one")
        for _ in range(MAX_STEPS):
            if self.at >= len(data):
                raise self.damaged("its pickle has no end")
            code = data[self.at]
            self.at += 1
            if code == stop:
                if len(self.stack) != 1 or self.aside:
                    raise self.damaged("its pickle leaves more or less than one value")
                return self.stack[0]
            instruction = instructions[code]
            if instruction is None:
                raise self.damaged(
                    f"its pickle has the instruction {code:#04x}, which torch never uses"
                )
            instruction()
        raise self.damaged(f"its pickle has more than {MAX_STEPS} instructions")

    # --- reading -------------------------------------------------------------------------------

    def damaged(self, what: str) -> CheckpointError:
        return self.rebuilder.damaged(what)

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise self.damaged("its pickle ends in the middle of a value")
        found = self.data[self.at : end]
        self.at = end
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self, size: int) -> str:
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError:
            raise self.damaged("a text in its pickle is not UTF-8") from None

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + MAX_NAME)
        if end < 0:
            raise self.damaged("a name in its pickle has no end")
        found = self.text(end - self.at)
        self.at += 1
        return found

    def pop(self) -> Any:
        if not self.stack:
            raise self.damaged("its pickle takes a value that is not there")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack:
            raise self.damaged("its pickle takes a value that is not there")
        return self.stack[-1]

    def marked(self) -> list[Any]:
        """The values since the last MARK; the stack is what it was before."""
        if not self.aside:
            raise self.damaged("its pickle takes values that are not there")
        found, self.stack = self.stack, self.aside.pop()
        return found

    def remembered(self, index: int) -> None:
        if index not in self.memo:
            raise self.damaged("its pickle recalls a value that it never kept")
        self.stack.append(self.memo[index])

    # --- plain values --------------------------------------------------------------------------

    def protocol(self) -> None:
        if self.number(1) not in PROTOCOLS:
            raise self.damaged("its pickle is of an unknown protocol")

    def frame(self) -> None:
        if self.number(8) > len(self.data) - self.at:
            raise self.damaged("its pickle ends in the middle of a frame")

    def none(self) -> None:
        self.stack.append(None)

    def true(self) -> None:
        self.stack.append(True)

    def false(self) -> None:
        self.stack.append(False)

    def int4(self) -> None:
        self.stack.append(int.from_bytes(self.take(4), "little", signed=True))

    def int1(self) -> None:
        self.stack.append(self.number(1))

    def int2(self) -> None:
        self.stack.append(self.number(2))

    def long1(self) -> None:
        self._long(self.number(1))

    def long4(self) -> None:
        self._long(self.number(4))

    def _long(self, size: int) -> None:
        if size > MAX_INTEGER_BYTES:
            raise self.damaged(f"an integer in its pickle has {size} bytes")
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def float8(self) -> None:
        self.stack.append(struct.unpack(">d", self.take(8))[0])

    def text1(self) -> None:
        self.stack.append(self.text(self.number(1)))

    def text4(self) -> None:
        self.stack.append(self.text(self.number(4)))

    def text8(self) -> None:
        self.stack.append(self.text(self.number(8)))

    def bytes1(self) -> None:
        self.stack.append(self.take(self.number(1)))

    def bytes4(self) -> None:
        self.stack.append(self.take(self.number(4)))

    def bytes8(self) -> None:
        self.stack.append(self.take(self.number(8)))

    def bytearray8(self) -> None:
        self.stack.append(bytearray(self.take(self.number(8))))

    # --- collections ---------------------------------------------------------------------------

    def empty_list(self) -> None:
        self.stack.append([])

    def empty_tuple(self) -> None:
        self.stack.append(())

    def empty_dict(self) -> None:
        self.stack.append({})

    def empty_set(self) -> None:
        self.stack.append(set())

    def mark(self) -> None:
        self.aside.append(self.stack)
        self.stack = []

    def tuple_marked(self) -> None:
        found = tuple(self.marked())
        self.stack.append(found)

    def tuple1(self) -> None:
        self.stack.append((self.pop(),))

    def tuple2(self) -> None:
        second, first = self.pop(), self.pop()
        self.stack.append((first, second))

    def tuple3(self) -> None:
        third, second, first = self.pop(), self.pop(), self.pop()
        self.stack.append((first, second, third))

    def list_marked(self) -> None:
        found = self.marked()
        self.stack.append(found)

    def dict_marked(self) -> None:
        found = self.marked()
        self.stack.append({})
        self._set_items(found)

    def frozenset_marked(self) -> None:
        found = frozenset(self.rebuilder.key(item) for item in self.marked())
        self.stack.append(found)

    def append(self) -> None:
        self._extend([self.pop()])

    def appends(self) -> None:
        self._extend(self.marked())

    def _extend(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, Stub):
            target.entries.extend(items)
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise self.damaged(f"its pickle appends to {kind_of(target)}")

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self._set_items([key, value])

    def set_items(self) -> None:
        self._set_items(self.marked())

    def _set_items(self, items: list[Any]) -> None:
        target = self.top()
        if len(items) % 2:
            raise self.damaged("a dictionary in its pickle has a key without a value")
        pairs = zip(items[::2], items[1::2], strict=True)
        if isinstance(target, Stub):
            target.entries.extend(pairs)
        elif isinstance(target, dict):
            for key, value in pairs:
                target[self.rebuilder.key(key)] = value
        else:
            raise self.damaged(f"its pickle sets items of {kind_of(target)}")

    def add_items(self) -> None:
        items, target = self.marked(), self.top()
        if not isinstance(target, set):
            raise self.damaged(f"its pickle adds elements to {kind_of(target)}")
        target.update(self.rebuilder.key(item) for item in items)

    # --- stack and memo ------------------------------------------------------------------------

    def drop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.marked()

    def drop_marked(self) -> None:
        self.marked()

    def get1(self) -> None:
        self.remembered(self.number(1))

    def get4(self) -> None:
        self.remembered(self.number(4))

    def put1(self) -> None:
        self.memo[self.number(1)] = self.top()

    def put4(self) -> None:
        self.memo[self.number(4)] = self.top()

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.top()

    # --- what another machine would import, call and execute -----------------------------------

    def global_name(self) -> None:
        module = self.line()
        self.stack.append(self.rebuilder.reference(module, self.line()))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        texts = type(name) is str and type(module) is str
        if not texts or len(module) + len(name) > MAX_NAME:
            raise self.damaged("a name in its pickle is not a short text")
        self.stack.append(self.rebuilder.reference(module, name))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        self.stack.append(self.rebuilder.call(function, arguments))

    def new(self) -> None:
        arguments, cls = self.pop(), self.pop()
        self.stack.append(self.rebuilder.new(cls, arguments))

    def new_with_names(self) -> None:
        names, arguments, cls = self.pop(), self.pop(), self.pop()
        if type(names) is not dict:
            raise self.damaged(f"an object of {kind_of(cls)} is made by names")
        self.stack.append(self.rebuilder.new(cls, arguments))

    def build(self) -> None:
        state = self.pop()
        self.rebuilder.build(self.top(), state)

    def persistent(self) -> None:
        self.stack.append(self.rebuilder.storage(self.pop()))


_INSTRUCTIONS: dict[int, Callable[[_Machine], None]] = {
    0x80: _Machine.protocol,
    0x95: _Machine.frame,
    ord("N"): _Machine.none,
    0x88: _Machine.true,
    0x89: _Machine.false,
    ord("J"): _Machine.int4,
    ord("K"): _Machine.int1,
    ord("M"): _Machine.int2,
    0x8A: _Machine.long1,
    0x8B: _Machine.long4,
    ord("G"): _Machine.float8,
    0x8C: _Machine.text1,
    ord("X"): _Machine.text4,
    0x8D: _Machine.text8,
    ord("C"): _Machine.bytes1,
    ord("B"): _Machine.bytes4,
    0x8E: _Machine.bytes8,
    0x96: _Machine.bytearray8,
    ord("]"): _Machine.empty_list,
    ord(")"): _Machine.empty_tuple,
    ord("}"): _Machine.empty_dict,
    0x8F: _Machine.empty_set,
    ord("("): _Machine.mark,
    ord("t"): _Machine.tuple_marked,
    0x85: _Machine.tuple1,
    0x86: _Machine.tuple2,
    0x87: _Machine.tuple3,
    ord("l"): _Machine.list_marked,
    ord("d"): _Machine.dict_marked,
    0x91: _Machine.frozenset_marked,
    ord("a"): _Machine.append,
    ord("e"): _Machine.appends,
    ord("s"): _Machine.set_item,
    ord("u"): _Machine.set_items,
    0x90: _Machine.add_items,
    ord("0"): _Machine.drop,
    ord("1"): _Machine.drop_marked,
    ord("h"): _Machine.get1,
    ord("j"): _Machine.get4,
    ord("q"): _Machine.put1,
    ord("r"): _Machine.put4,
    0x94: _Machine.memoize,
    ord("c"): _Machine.global_name,
    0x93: _Machine.stack_global,
    ord("R"): _Machine.reduce,
    0x81: _Machine.new,
    0x92: _Machine.new_with_names,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.persistent,
}
"""Instructions of protocols 2 to 5. Left out: numbers and texts of protocol 0, which torch never
wrote in this format; persistent ids as text; instances of protocol 0 and 1; registered extension
codes, which stand for names outside the file; out-of-band buffers, which a file does not have."""
