"""As many pairs as SciPy's maximum matching finds, each of two that may be partners."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from anydepth_deploy.verifying.matching import maximum_matching


@pytest.mark.parametrize("seed", range(60))
def test_as_many_as_scipy_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(0, 25, 2)
    close = rng.random((rows, columns)) < rng.choice([0.03, 0.1, 0.5])
    partner = maximum_matching(close)
    paired = partner >= 0
    assert close[paired, partner[paired]].all()
    assert len(set(partner[paired])) == paired.sum()
    wanted = maximum_bipartite_matching(csr_array(close), perm_type="column")
    assert paired.sum() == np.count_nonzero(wanted >= 0)


def test_a_long_way_of_turned_pairs() -> None:
    """Row k may have columns k and k + 1, the last row only the first column."""
    count = 400
    close = np.eye(count, dtype=bool) | np.eye(count, k=1, dtype=bool)
    close[-1] = False
    close[-1, 0] = True
    assert np.array_equal(maximum_matching(close), [*range(1, count), 0])
