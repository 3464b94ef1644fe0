"""What this processor computes in."""

from __future__ import annotations

import pytest

from anydepth_deploy.runtimes.registry import runtime_computes


def has_bf16() -> bool:
    """Whether OpenVINO computes in BF16 here; without OpenVINO the test is skipped."""
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    return "bf16" in runtime_computes("openvino")
