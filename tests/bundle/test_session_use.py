"""Sessions and the life of a process: threads that close, forks, pickles."""

from __future__ import annotations

import copy
import os
import pickle
import random
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import manifest
from numpy.typing import NDArray

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.errors import UsageError

TABLE = manifest().table()
IMAGES = np.zeros((1, 3, 8, 8), np.float32)
CLOSED = "this session is closed: open the bundle again"


class Fake:
    """An engine that counts who is inside; `during` is called by every run."""

    inputs: Sequence[str] = ("images",)
    outputs: Sequence[str] = ("labels", "boxes", "scores")

    def __init__(self, during: Callable[[], None] = lambda: None) -> None:
        self._during = during
        self._lock = threading.Lock()
        self.inside = 0
        self.runs = 0
        self.closed_with: list[int] = []

    def run(
        self, feeds: Mapping[str, NDArray[np.generic]], outputs: Sequence[str]
    ) -> dict[str, NDArray[np.generic]]:
        with self._lock:
            assert not self.closed_with, "ran after its memory was given back"
            self.inside += 1
            self.runs += 1
        try:
            self._during()
        finally:
            with self._lock:
                self.inside -= 1
        return {
            name: np.zeros(
                (1, 5, 4)[: 2 + (name == "boxes")], np.int64 if name == "labels" else np.float32
            )
            for name in outputs
        }

    def close(self) -> None:
        with self._lock:
            self.closed_with.append(self.inside)


class Engines:
    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def at(self, row: int) -> tuple[Any, dict[str, NDArray[np.generic]]]:
        return self.engine, {}

    def depths(self) -> tuple[int, ...]:
        return (0, 2)

    def opened(self) -> list[tuple[str, object]]:
        return [("all", self.engine)]


def opened(engine: Any) -> Session:
    return Session(TABLE, (8, 8), (), Engines(engine))


# --- closing ---------------------------------------------------------------------------------


def test_a_closed_session_says_so() -> None:
    engine = Fake()
    session = opened(engine)
    session.run(IMAGES, 0)
    session.close()
    session.close()
    assert engine.closed_with == [0]  # once
    for call in (
        lambda: session.run(IMAGES, 0),
        lambda: session.run_raw(IMAGES, 0),
        lambda: session.run_both(IMAGES, 0),
        lambda: session.warm(0),
        lambda: session.load(),
    ):
        with pytest.raises(UsageError, match=CLOSED):
            call()
    assert (engine.runs, session.memory, session.captured) == (1, {}, None)
    assert session.depths == (TABLE.rows[0], TABLE.rows[2])


def test_closing_lets_go_of_engines_that_cannot_be_closed() -> None:
    """Those of ONNX Runtime hold their memory as long as somebody refers to them."""

    class Plain:
        pass

    engine = Plain()
    there = weakref.ref(engine)
    session = opened(engine)
    del engine
    assert there() is not None
    session.close()
    assert there() is None


def test_closing_waits_for_what_has_begun() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def during() -> None:
        begun.set()
        assert go_on.wait(10)

    engine = Fake(during)
    session = opened(engine)
    results: list[object] = []
    runner = threading.Thread(target=lambda: results.append(session.run(IMAGES, 0)))
    closer = threading.Thread(target=session.close)
    runner.start()
    assert begun.wait(10)
    closer.start()
    closer.join(0.1)
    assert closer.is_alive()
    assert engine.closed_with == []
    go_on.set()
    runner.join(10)
    closer.join(10)
    assert len(results) == 1
    assert engine.closed_with == [0]


@pytest.mark.parametrize("seed", range(8))
def test_closing_at_any_moment(seed: int) -> None:
    """Whatever threads do, each call gives a result or says that the session is closed, and nobody
    is inside when memory is given back."""
    rng = random.Random(seed)
    naps = [rng.random() / 500 for _ in range(64)]
    engine = Fake(lambda: time.sleep(rng.choice(naps)))
    session = opened(engine)
    done: list[object] = []
    refused: list[str] = []
    strange: list[BaseException] = []

    def work(count: int) -> None:
        for _ in range(count):
            try:
                done.append(session.run(IMAGES, 0))
            except UsageError as error:
                refused.append(str(error))
            except BaseException as error:
                strange.append(error)

    counts = [rng.randint(1, 12) for _ in range(6)]
    workers = [threading.Thread(target=work, args=(count,)) for count in counts]
    closers = [threading.Thread(target=session.close) for _ in range(rng.randint(1, 3))]
    for worker in workers:
        worker.start()
    time.sleep(rng.random() / 100)
    for closer in closers:
        closer.start()
    for thread in (*workers, *closers):
        thread.join(20)
        assert not thread.is_alive()
    assert strange == []
    assert len(done) + len(refused) == sum(counts)
    assert len(done) == engine.runs
    assert set(refused) <= {CLOSED}
    assert engine.closed_with == [0]


def test_closing_within_a_call_of_the_same_thread() -> None:
    """As the handler of a signal would: it could only wait for itself."""
    told: list[str] = []

    def during() -> None:
        with pytest.raises(UsageError, match="cannot be closed while this thread runs it") as error:
            session.close()
        told.append(str(error.value))

    engine = Fake(during)
    session = opened(engine)
    session.run(IMAGES, 0)
    assert len(told) == 1
    assert engine.closed_with == []
    session.close()
    assert engine.closed_with == [0]


def test_a_failed_call_is_over() -> None:
    def during() -> None:
        raise KeyboardInterrupt

    engine = Fake(during)
    session = opened(engine)
    with pytest.raises(KeyboardInterrupt):
        session.run(IMAGES, 0)
    session.close()
    assert engine.closed_with == [0]


# --- pickling --------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_session_is_not_pickled(protocol: int) -> None:
    with pytest.raises(UsageError, match=r"a session cannot be pickled or copied.*send the path"):
        pickle.dumps({"session": opened(Fake())}, protocol)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_nor_copied(copied: Callable[[Session], Session]) -> None:
    with pytest.raises(UsageError, match="a session cannot be pickled or copied"):
        copied(opened(Fake()))


def test_a_bundle_is(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, manifest())
    again = pickle.loads(pickle.dumps(bundle))
    assert (again.path, again.manifest, again.table.rows) == (tmp_path, manifest(), TABLE.rows)


# --- forks -----------------------------------------------------------------------------------

FORK = """
import multiprocessing, os, sys
import numpy as np
from test_session_use import IMAGES, Fake, opened
from anydepth_deploy.errors import UsageError

engine = Fake()
session = opened(engine)
session.run(IMAGES, 0)

def tell(queue):
    try:
        session.run(IMAGES, 0)
    except UsageError as error:
        queue.put((os.getpid(), str(error), engine.runs))
    session.close()  # not this process's to give back
    queue.put(engine.closed_with)

context = multiprocessing.get_context("fork")
queue = context.Queue()
child = context.Process(target=tell, args=(queue,))
child.start()
number, message, runs = queue.get(timeout=20)
assert queue.get(timeout=20) == []
child.join()
assert runs == 1
assert f"this session was opened by process {os.getpid()}" in message, message
assert f"this one, {number}, was forked" in message, message
assert message.endswith("open the bundle again in each process"), message
session.run(IMAGES, 0)  # here it goes on
session.close()
assert (engine.runs, engine.closed_with) == (2, [0])
print("as it should be")
"""


def test_a_forked_process_is_told() -> None:
    folders = [Path(__file__).parent, *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
    )
    assert (done.stdout, done.returncode) == ("as it should be\n", 0), done.stderr
