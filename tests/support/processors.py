"""What this processor computes in."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from anydepth_deploy.errors import UsageError
from anydepth_deploy.runtimes.registry import runtime_computes
from anydepth_deploy.runtimes.vnni import lacks_vnni


def has_bf16() -> bool:
    """Whether OpenVINO computes in BF16 here; without OpenVINO the test is skipped."""
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    return "bf16" in runtime_computes("openvino")


def refuses_int8(run: Callable[[], object]) -> bool:
    """Whether OpenVINO computes no INT8 here, an x86 processor without VNNI: then it says so."""
    if not lacks_vnni():
        return False
    with pytest.raises(UsageError, match="CPU without VNNI"):
        run()
    return True
