"""``doctor``: what is on this machine."""

from __future__ import annotations

from pathlib import Path

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.machine.look import Machine, look

__all__ = ["doctor"]


def doctor(bundle: str | Path | Bundle | None = None, *, seconds: float = 20.0) -> Machine:
    """What is on this machine, which commands would work, and the line to type for what is missing,
    as the command ``doctor`` says it; of ``bundle``, which artifacts run here.

    Libraries are asked in processes of their own, for at most ``seconds``: one that is broken or
    hangs is named in its row. Raises :class:`BundleError` where ``bundle`` is none.
    """
    return look(bundle, seconds=seconds)
