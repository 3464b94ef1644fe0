"""Work that somebody has before him, first come, first served: how long the next call waits."""

from __future__ import annotations

__all__ = ["Backlog"]


class Backlog:
    """Calls that were begun and have not ended, with what each is thought to take alone.

    The oldest one is the one that is worked at, since it was begun or since the one before it
    ended; it takes no less than it has taken so far. One that is overtaken is in nobody's way: it
    runs beside others, or hangs. Exact where one worker takes calls in their order and they take
    what was thought; where calls run beside each other or in batches, waits are too long, by a
    factor that whoever compares them with what calls took can learn. Times are milliseconds of any
    clock. Not for several threads at once.
    """

    def __init__(self) -> None:
        self._costs: dict[int, float] = {}  # by ticket, oldest first
        self._begun = 0
        self._since = 0.0

    def __len__(self) -> int:
        return len(self._costs)

    def wait(self, now: float) -> float:
        """How long a call that is begun ``now`` waits for those before it."""
        if not self._costs:
            return 0.0
        oldest = next(iter(self._costs.values()))
        done = min(oldest, now - self._since)
        return sum(self._costs.values()) - done

    def begin(self, now: float, cost: float) -> int:
        """A call that takes ``cost`` begins; its ticket, for :meth:`end`."""
        if not self._costs:
            self._since = now
        self._begun += 1
        self._costs[self._begun] = cost
        return self._begun

    def end(self, now: float, ticket: int) -> None:
        """The call of this ticket ended."""
        if ticket not in self._costs:  # it was overtaken
            return
        while True:
            oldest = next(iter(self._costs))
            del self._costs[oldest]
            if oldest == ticket:
                break
        self._since = now
