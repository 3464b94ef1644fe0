"""What is odd about a data set and does not keep it from being used: counted, said, recorded."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True)
class Finding:
    """Something in a data set that changes a figure.

    ``kind``: a short name that stays; ``count`` of ``of`` boxes, areas, pictures or categories;
    ``text``: one line for people, with the count and the first of them.
    """

    kind: str
    count: int
    of: int
    text: str

    def record(self) -> dict[str, object]:
        """What a manifest keeps of it."""
        return {"kind": self.kind, "count": self.count, "of": self.of}
