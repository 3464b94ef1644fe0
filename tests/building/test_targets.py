"""Devices by name, as targets of engines."""

from __future__ import annotations

import pytest
from command_line import Run, fails

from anydepth_deploy.building.targets import ALIASES, capabilities
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import UsageError


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["t4"], ("sm75",)),  # compute capability 7.5, and so on: NVIDIA's list of CUDA GPUs
        (["A10"], ("sm86",)),
        (["L4", "rtx4090", "RTX-4090", "rtx 4090"], ("sm89",)),
        (["t4", "SM89", "sm75"], ("sm75", "sm89")),
        (["magic"], ("magic",)),
        ([], ()),
    ],
)
def test_names_and_numbers(words: list[str], expected: tuple[str, ...]) -> None:
    assert capabilities(words) == expected


def test_aliases_are_what_the_builder_takes() -> None:
    module = pytest.importorskip("tensorrt_rtx")
    known = {name.lower() for name in module.ComputeCapability.__members__}
    assert {*ALIASES.values()} <= known


@pytest.mark.parametrize("word", ["orin", "Orin-Nano", "thor", "agx-orin", "orin_nx"])
def test_a_jetson_gets_a_sentence(run: Run, bundle: Bundle, word: str) -> None:
    with pytest.raises(UsageError, match="build on the device"):
        capabilities([word])
    command = ("build", bundle.path, "--runtime", "tensorrt-rtx", "--target", word)
    fails(run(*command), 2, f"'{word}' is a Jetson, which TensorRT-RTX does not build for")
