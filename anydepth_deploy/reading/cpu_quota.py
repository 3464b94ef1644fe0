"""What share of the processors containers leave to this process (Linux control groups 1 and 2)."""

from __future__ import annotations

from anydepth_deploy.reading.system_files import Tree, UnreadableError

__all__ = ["CpuQuota"]


class CpuQuota:
    """The share of processors that control groups leave to this process (containers)."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._limits: list[tuple[float, str]] = []
        self._reason: UnreadableError | None = None
        try:
            self._limits = [limit for folder in self._folders() for limit in self._limit(folder)]
        except UnreadableError as error:
            self._reason = error

    def cores(self) -> float | None:
        """The smallest limit up to the root, in cores; None: none.

        Raises :class:`UnreadableError`.
        """
        if self._reason is not None:
            raise self._reason
        return min((cores for cores, _ in self._limits), default=None)

    def throttled(self) -> int | None:
        """Periods in which the process had to wait for its quota; None without quota or count."""
        counts = []
        for _, path in self._limits:
            try:
                words = self._tree.text(path).split()
                counts.append(int(words[words.index("nr_throttled") + 1]))
            except (UnreadableError, ValueError, IndexError):
                return None
        return sum(counts) if counts else None

    def _folders(self) -> list[str]:
        """The control groups of this process that exist, with all above, for the CPU."""
        found: list[str] = []
        for line in self._tree.text("/proc/self/cgroup").splitlines():
            number, controllers, path = ([*line.split(":", 2), "", ""])[:3]
            if number == "0" and not controllers:
                mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            elif "cpu" in controllers.split(","):
                mounts = [f"/sys/fs/cgroup/{controllers}", "/sys/fs/cgroup/cpu"]
            else:
                continue
            parts = [part for part in path.split("/") if part]
            if ".." in parts:  # a group outside of what this container sees
                parts = []
            for mount in mounts:
                levels = ["/".join([mount, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
                found += [level for level in levels if self._tree.exists(level)]
        if not found:
            raise UnreadableError("no control group of this process in /sys/fs/cgroup")
        return list(dict.fromkeys(found))

    def _limit(self, folder: str) -> list[tuple[float, str]]:
        """The limit of one group in cores, with the file of its counter; empty: none."""
        try:
            quota, _, period = self._tree.text(f"{folder}/cpu.max").partition(" ")
        except UnreadableError:
            try:
                quota = self._tree.text(f"{folder}/cpu.cfs_quota_us")
                period = self._tree.text(f"{folder}/cpu.cfs_period_us")
            except UnreadableError:
                return []
        if quota in ("max", "-1"):
            return []
        try:
            cores = int(quota) / int(period)
        except (ValueError, ZeroDivisionError):
            raise UnreadableError(f"{folder}: quota {quota[:12]!a} of {period[:12]!a}") from None
        return [(cores, f"{folder}/cpu.stat")]
