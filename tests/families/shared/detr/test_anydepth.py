from __future__ import annotations

import pytest
import torch
from anydepth_detrs import *
from conftest import random_images


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_depth_equals_the_oracle(name):
    model = anydepth_network(name)
    state = dict(model.state_dict())
    images = torch.from_numpy(random_images(2, 96, 160))
    assert len(model.space.every) == DEPTHS[name]
    for depth in model.space.every:
        with torch.no_grad():
            found = by_token(model(images, depth))
        expected = by_token(oracle(name, state, images, depth))
        assert torch.equal(found["queries"], expected["queries"])
        for key, limit in (("logits", 5e-5), ("boxes", 5e-6)):
            gap = float((found[key] - expected[key]).abs().max())
            assert gap < limit, (str(depth), key, gap)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_fill(name):
    static = static_network(name)
    model = filled(name, static)
    images = torch.from_numpy(random_images(2, 96, 160))
    with torch.no_grad():
        a, b, c = static(images), model(images), model(images, "base")
    for k in a:
        assert torch.equal(a[k], b[k])
    assert (a["logits"] - c["logits"]).abs().max() > 1e-2
