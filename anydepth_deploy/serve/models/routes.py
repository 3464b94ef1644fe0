"""Which of Triton's models runs a depth."""

from __future__ import annotations

import json
from collections.abc import Mapping

from anydepth_deploy.depth import DepthTable
from anydepth_deploy.errors import DepthError, InputError, shorten
from anydepth_deploy.manifest import Manifest
from anydepth_deploy.serve import names
from anydepth_deploy.serve.budgets import AUTO, is_auto
from anydepth_deploy.serve.models.asked import Asked

__all__ = ["Routes"]


class Routes:
    """The models behind the router, by the parameters ``given`` in its configuration.

    Raises :class:`DepthError` where the default depth is none of the model's.
    """

    def __init__(self, manifest: Manifest, given: Mapping[str, str]) -> None:
        self.table: DepthTable = manifest.table()
        self.gated = given.get(names.GATED, "")
        levels: dict[str, str] = json.loads(given.get(names.LEVELS) or "{}")
        self.levels = {int(row): model for row, model in levels.items()}
        self.max_batch = int(given.get(names.MAX_BATCH) or 0)
        """The most images that one request to a level model may hold; 0: no level model."""
        default = given.get(names.DEFAULT_DEPTH) or "super"
        self.default: Asked = AUTO if is_auto(default) else self.table.row(default)

    def serves(self, row: int) -> bool:
        """Whether a model runs that depth, with one image at least."""
        return bool(self.gated) or row in self.levels

    def model(self, row: int, count: int) -> str:
        """The model for ``count`` images at ``row``: its own, or else the gated one.

        Raises :class:`DepthError` where no model runs that depth, and :class:`InputError` where the
        one that does takes no batch as large.
        """
        own = self.levels.get(row)
        if own is not None and (count <= self.max_batch or not self.max_batch):
            return own
        if self.gated:
            return self.gated
        if own is not None:
            raise InputError(
                f"a batch of {count} images is more than the {self.max_batch} that {own} takes in "
                "one request: send several requests"
            )
        rows = self.table.rows
        raise DepthError(
            f"depth '{rows[row]}' is not served here, only "
            f"{shorten((rows[found] for found in sorted(self.levels)), 12)}: write the repository "
            "from a bundle with a gated graph to serve all"
        )
