"""What a run learns from a teacher, by its settings."""

from __future__ import annotations

from dataclasses import replace

from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.train.config import TrainConfig
from anydepth_deploy.train.processes import Processes
from anydepth_deploy.train.semantics.distillation import SemanticDistillation
from anydepth_deploy.train.semantics.modulation import SemanticSettings
from anydepth_deploy.train.semantics.teachers import SemanticTeacher
from anydepth_deploy.train.semantics.vision_transformers import open_vision_transformer

__all__ = ["open_semantics"]


def open_semantics(
    config: TrainConfig,
    model: AnyDepthModel,
    processes: Processes,
    teacher: SemanticTeacher | None,
) -> SemanticDistillation | None:
    """``teacher``, or the one of the folder that the settings name; None for a run without.

    Settings that are left open are those published for the size nearest to ``model``'s.
    """
    if not config.teacher and teacher is None:
        return None
    usual = SemanticSettings.nearest(sum(value.numel() for value in model.parameters()))
    named = {
        "weight": config.semantic_weight,
        "rho": config.semantic_share,
        "delta": config.semantic_band,
    }
    return SemanticDistillation(
        model,
        teacher or open_vision_transformer(config.teacher),
        replace(usual, **{name: value for name, value in named.items() if value is not None}),
        seed=config.seed,
        average=processes.average,
    )
