"""The router's places, with a stand-in for the module that only a server has."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from anydepth_deploy.serve.models.places import Places

ROUTER = "anydepth_deploy.serve.models.router"


class Error(Exception):
    INVALID_ARG, UNAVAILABLE = 3, 14

    def __init__(self, text: str, code: int = 2) -> None:
        super().__init__(text)


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Any:
    """One that refuses whatever is asked of it, and has places for one request of 64 images."""
    utils = SimpleNamespace(
        TritonError=Error,
        InferenceResponse=SimpleNamespace,
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=1,
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    for name in (ROUTER, "anydepth_deploy.serve.models.metrics"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    model = importlib.import_module(ROUTER).TritonPythonModel
    found = model.__new__(model)
    found._held, found._under_way = Places(64), Places(64)
    found._metrics = SimpleNamespace(failed=lambda _: None)
    return found


def test_who_has_an_answer_finds_a_place_for_the_next_request(router: Any) -> None:
    """However soon: the answer may be there before the router goes on."""
    found = []

    def send(_: object, flags: int) -> None:
        found.append((router._held.try_take(64), router._under_way.try_take(64)))

    request = SimpleNamespace(get_response_sender=lambda: SimpleNamespace(send=send))
    held, taken = router._held.take(64), router._under_way.take(64)
    router._serve(request, 0.0, held, taken)
    assert found == [(64, 64)]
