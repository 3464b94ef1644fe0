"""What shapes FINE; nothing of torch."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FINE", "FineConfig"]

FINE = "encoder.sa_cross_attn"
"""Where the authors' RT-DETR has it, one for each step of the top-down path."""


@dataclass(frozen=True)
class FineConfig:
    """FINE in the top-down path, the same at each step. Defaults are those of the authors' RT-DETR.

    ``heads``, ``feedforward``: of its attention, and channels inside the layers behind it.
    ``position``: whether tokens get a position embedding; ``cosformer``: whether they are weighted
    by where they stand in their row of tokens; ``upsampling``: ``bilinear`` or ``nearest``, how the
    coarser map grows before it is joined. No key reveals these three.
    """

    heads: int = 16
    feedforward: int = 1024
    position: bool = True
    cosformer: bool = True
    upsampling: str = "bilinear"

    @property
    def usual(self) -> FineConfig:
        """The same structure with the authors' switches."""
        return FineConfig(self.heads, self.feedforward)
