"""How sessions of ONNX Runtime on the CPU are opened."""

from __future__ import annotations

import onnxruntime as ort
import pytest

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.runtimes.engine import EngineOptions
from anydepth_deploy.runtimes.registry import open_engine


@pytest.mark.parametrize(("layout", "stops"), [("stages", True), ("gated", False), ("set", False)])
def test_threads_of_a_piece_do_not_wait_busily_for_its_next_run(
    bundle: Bundle, layout: str, stops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces run one behind the other, each with threads of its own, and there are more threads
    than cores; a graph by itself is quicker where its threads are awake."""
    opened: list[dict[str, str]] = []

    class Settings(ort.SessionOptions):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            opened.append({})

        def add_session_config_entry(self, key: str, value: str) -> None:
            opened[-1][key] = value
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(ort, "SessionOptions", Settings)
    artifact = bundle.artifacts("set")[0].model_copy(update={"layout": layout})
    open_engine("onnxruntime", bundle.file(artifact), EngineOptions(artifact=artifact))
    (found,) = opened
    assert (found.get("session.force_spinning_stop") == "1") == stops
