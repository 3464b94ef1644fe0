"""Stands in for Triton's ``onnxruntime`` backend in tests and the demo; ``stand_in.py`` says what
that proves, and what it does not."""

from __future__ import annotations

from typing import Any

from triton_server.stand_in import StandIn


class TritonPythonModel(StandIn):
    FILE = "model.onnx"

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Nothing: configurations of production are complete."""
        return auto_complete_model_config
