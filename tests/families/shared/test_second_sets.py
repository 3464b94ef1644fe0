"""Second norm sets by name, and as copies of the first."""

from __future__ import annotations

import torch

from anydepth_deploy.families.shared.second_sets import (
    is_second_set,
    second_set_of,
    with_second_sets,
)

PAIRS = {
    "a.norm": "a.norm_skippable",
    "a.norm1": "a.norm1_skippable",
    "a.norm2": "a.norm2_skippable",
    "a.bn": "a.bn_skip",
    "a.bn1": "a.bn1_skip",
    "a.lab": "a.lab_skip",
}


def test_names() -> None:
    for first, second in PAIRS.items():
        assert second_set_of(first) == second
        assert is_second_set(second)
        assert not is_second_set(first)
    assert is_second_set("backbone.layer1.0.downsample_skip")
    for other in ("model.6.conv_skip", "a.norm_skippable.x", "a.skip", "norms_skip"):
        assert not is_second_set(other)


def test_absent_sets_are_copies_of_the_first() -> None:
    state = {f"{first}.weight": torch.rand(3) for first in PAIRS}
    kept = torch.rand(3)
    state["a.norm_skippable.weight"] = kept
    wanted = [*state, *(f"{second}.weight" for second in PAIRS.values()), "b.norm_skippable.weight"]
    found = with_second_sets(state, wanted)
    assert found["a.norm_skippable.weight"] is kept
    assert "b.norm_skippable.weight" not in found
    for first, second in PAIRS.items():
        if second == "a.norm_skippable":
            continue
        assert torch.equal(found[f"{second}.weight"], state[f"{first}.weight"])
        # Of its own: what trains one must not change the other.
        assert found[f"{second}.weight"].data_ptr() != state[f"{first}.weight"].data_ptr()
    assert state.keys() < found.keys()


def test_a_shortcut_ends_with_its_norm() -> None:
    state = {
        "l.0.downsample.0.weight": torch.rand(4, 4, 1, 1),
        "l.0.downsample.1.weight": torch.rand(4),
        "m.0.downsample.1.weight": torch.rand(4, 4, 1, 1),
        "m.0.downsample.2.weight": torch.rand(4),
        "m.0.downsample.2.running_var": torch.rand(4),
    }
    wanted = [f"{stage}.0.downsample_skip.{entry}" for stage in "lm" for entry in ("weight",)]
    found = with_second_sets(state, [*wanted, "m.0.downsample_skip.running_var"])
    assert torch.equal(found["l.0.downsample_skip.weight"], state["l.0.downsample.1.weight"])
    assert torch.equal(found["m.0.downsample_skip.weight"], state["m.0.downsample.2.weight"])
    assert torch.equal(
        found["m.0.downsample_skip.running_var"], state["m.0.downsample.2.running_var"]
    )
