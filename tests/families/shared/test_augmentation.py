"""Settings of augmentation: what a family has, and what nothing can be done with."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from anydepth_deploy.errors import UsageError
from anydepth_deploy.families.registry import find_training
from anydepth_deploy.families.shared.augmentation import DETR, PLAIN, YOLO, Augmentation


def test_each_family_has_its_own() -> None:
    assert find_training("anydepth-detr").augmentation is DETR
    assert find_training("anydepth-yolo").augmentation is YOLO
    assert Augmentation() == PLAIN == PLAIN.calm()


@pytest.mark.parametrize(
    "changes",
    [
        {"flip": 1.1},
        {"crop": -0.1},
        {"colour": float("nan")},
        {"brightness": 1.0},
        {"hue": 0.6},
        {"zoom_out_most": 0.5},
        {"crop_least": 0.0},
        {"fill": 256},
        {"sizes": (0.0, 1.0)},
        {"sizes": (1.1, 1.2)},
    ],
    ids=str,
)
def test_values_that_nothing_can_be_done_with_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(changes))} of pictures .*expected"):
        Augmentation(**changes)


def test_settings_need_no_torch() -> None:
    code = (
        "import sys, anydepth_deploy.families.shared.augmentation; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
