"""Whether the input of an export is what the checkpoint was trained with."""

from __future__ import annotations

from anydepth_deploy.checkpoints.checkpoint import Checkpoint

__all__ = ["other_size"]


def other_size(checkpoint: Checkpoint, size: tuple[int, int]) -> str:
    """What to say, for a person, of an input of another ``size`` (height, width) than the file
    names, or else than the network usually has; empty where they are one."""
    stored = checkpoint.input_size
    trained: tuple[int, int] = stored or checkpoint.config.input_size
    if size == trained:
        return ""
    found, usual = ("x".join(map(str, sides)) for sides in (size, trained))
    other = "size" if size[0] * trained[1] == size[1] * trained[0] else "aspect ratio"
    source = "the checkpoint was trained with" if stored else "such networks are trained with"
    return (
        f"the input of {found} (height x width) has another {other} than {source}, {usual}: "
        "'anydepth-deploy eval' shows what that does to accuracy"
    )
