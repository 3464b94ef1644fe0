"""As much of Ray as a job uses, in this process: calls are answered at once, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

__all__ = ["LocalRay", "ray", "stand_in"]


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"Traceback: {cause!r}")
        self.cause = cause


class RayActorError(RayError):
    pass


class OutOfMemoryError(RayError):
    pass


class LocalRay:
    """``cores`` and ``gpus`` of one node. ``before``: is called with the name and the arguments of
    each call to a worker; what it raises is how the call ends. ``started``: how often."""

    exceptions = SimpleNamespace(
        RayError=RayError,
        RayTaskError=RayTaskError,
        RayActorError=RayActorError,
        OutOfMemoryError=OutOfMemoryError,
    )

    def __init__(self, cores: float = 2, gpus: float = 0) -> None:
        self.there = {"CPU": cores, "GPU": gpus}
        self.before: Callable[[str, tuple[Any, ...]], None] = lambda name, given: None
        self.started = 0
        self.living = False
        self.workers: list[LocalWorker] = []

    def is_initialized(self) -> bool:
        return self.living

    def init(self, **options: Any) -> None:
        assert not self.living
        self.living, self.started = True, self.started + 1

    def shutdown(self) -> None:
        self.living = False

    def nodes(self) -> list[Any]:
        return [None]

    def cluster_resources(self) -> Mapping[str, float]:
        return {name: count for name, count in self.there.items() if count}

    def remote(self, kind: Any) -> Any:
        def make(*given: Any) -> LocalWorker:
            self.workers.append(LocalWorker(self, kind(*given)))
            return self.workers[-1]

        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=make))

    def wait(self, answers: Sequence[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        assert answers
        return [*answers[:num_returns]], [*answers[num_returns:]]

    def get(self, answer: Answer) -> Any:
        if answer.error is not None:
            raise answer.error
        return answer.found

    def kill(self, worker: LocalWorker) -> None:
        worker.killed = True


class Answer:
    """What was ``found``, or the ``error``."""

    def __init__(self, ray: LocalRay, name: str, call: Any, given: tuple[Any, ...]) -> None:
        self.found, self.error = None, None
        try:
            ray.before(name, given)
            self.found = call(*given)
        except RayError as error:
            self.error = error
        except Exception as error:
            self.error = RayTaskError(error)


class LocalWorker:
    def __init__(self, ray: LocalRay, held: Any) -> None:
        self.ray, self.held, self.killed = ray, held, False

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.held, name)
        return SimpleNamespace(remote=lambda *given: Answer(self.ray, name, call, given))


def stand_in(patch: pytest.MonkeyPatch, **options: Any) -> LocalRay:
    """A Ray of this process that jobs run on."""
    ray = LocalRay(**options)
    patch.setattr("anydepth_deploy.ray.job._ray", lambda: ray)
    patch.delenv("RAY_ADDRESS", raising=False)
    return ray


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> LocalRay:
    return stand_in(monkeypatch)
