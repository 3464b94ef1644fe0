"""Stands in for Triton's ``tensorrt`` backend in tests; ``stand_in.py`` says what that proves, and
what it does not.

It executes no engines: the ``model.plan`` that it opens must be an ONNX graph, which no engine is.
"""

from __future__ import annotations

from typing import Any

from triton_server.stand_in import StandIn

OUTPUTS = [
    {"name": "labels", "data_type": "TYPE_INT64", "dims": [-1]},
    {"name": "boxes", "data_type": "TYPE_FP32", "dims": [-1, 4]},
    {"name": "scores", "data_type": "TYPE_FP32", "dims": [-1]},
]


class TritonPythonModel(StandIn):
    FILE = "model.plan"

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Outputs, where the configuration lists none. The real backend asks the engine."""
        if not auto_complete_model_config.as_dict()["output"]:
            for output in OUTPUTS:
                auto_complete_model_config.add_output(output)
        return auto_complete_model_config
