"""D-FINE, DEIM-D-FINE and RT-DETRv4: as they are, their decoder may stop early."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anydepth_deploy.families.dfine.config import CONFIGS, DFineConfig
from anydepth_deploy.families.dfine.recognise import recognise_dfine
from anydepth_deploy.families.dfine.settle import remember_dfine, settle_dfine
from anydepth_deploy.families.family import Family
from anydepth_deploy.families.shared.detr.outputs import DetrOutputs
from anydepth_deploy.families.shared.detr.settle import CHOICES

if TYPE_CHECKING:
    from anydepth_deploy.families.dfine.model import DFINE

__all__ = ["FAMILY"]


def _build(config: DFineConfig) -> DFINE:
    from anydepth_deploy.families.dfine.model import DFINE

    return DFINE(config)


FAMILY = Family(
    name="d-fine",
    title="D-FINE",
    description="D-FINE, DEIM-D-FINE and RT-DETRv4, whose decoder stops after any layer",
    sizes=CONFIGS,
    recognise=recognise_dfine,
    settle=settle_dfine,
    choices=CHOICES,
    remember=remember_dfine,
    outputs=DetrOutputs(),
    build=_build,
)
