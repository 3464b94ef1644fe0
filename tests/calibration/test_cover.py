"""Every branch of the gated graph is calibrated."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from anydepth_deploy.calibration.cover import covering_depths
from anydepth_deploy.depth import Depth, DepthTable
from anydepth_deploy.families.detr.config import CONFIGS
from anydepth_deploy.families.detr.model import AnyDepthDETR
from anydepth_deploy.families.shared.stages import AnyDepthModel, Stage
from anydepth_deploy.families.yolo.config import CONFIGS as YOLO_CONFIGS
from anydepth_deploy.families.yolo.model import AnyDepthYOLO

MODELS: dict[str, AnyDepthModel] = {}


def model_of(family: str) -> AnyDepthModel:
    """Tiny networks; the DETR with the decoder of R50. Stages do not look at weights."""
    if family not in MODELS:
        MODELS[family] = (
            AnyDepthYOLO(YOLO_CONFIGS["tiny"])
            if family == "yolo"
            else AnyDepthDETR(CONFIGS["tiny"].replace(decoder_layers=6, base_decoder_layers=4))
        )
    return MODELS[family]


def variants(stages: Sequence[Stage]) -> set[tuple[str, str]]:
    return {(stage.name, variant) for stage in stages for variant in stage.variants}


def run_at(stages: Sequence[Stage], depth: Depth) -> set[tuple[str, str]]:
    """What runs at a depth, from the gates' settings alone."""
    found = set()
    for stage in stages:
        words = []
        for gate in stage.gates:
            setting = depth.settings[gate.gate]
            full = setting == 0 if gate.layer == 0 else setting >= gate.layer
            words.append("full" if full else "skipped")
        name = "-".join(words) or "full"
        if name in stage.variants:
            found.add((stage.name, name))
    return found


CASES = [
    ("yolo", YOLO_CONFIGS["s"].ladder),
    ("yolo", YOLO_CONFIGS["tiny"].ladder),
    ("yolo", ("TTTTTTTT", "FFFFFFFF")),
    ("yolo", ("TTTTTTTT", "FTTTTTTT", "TFTTTTTT", "FFFFFFFF")),
    ("detr", CONFIGS["r50"].ladder),
    ("detr", CONFIGS["r101"].ladder),
    ("detr", ("TTTT-T-4", "FFFF-F-6")),
]


@pytest.mark.parametrize(("family", "ladder"), CASES)
def test_every_variant_is_covered_by_as_few_depths_as_can_be(
    family: str, ladder: tuple[str, ...]
) -> None:
    model = model_of(family)
    stages = model.stages((160, 160))
    table = DepthTable(model.space, tuple(model.space.parse(text) for text in ladder))
    further = covering_depths(stages, table, table.ladder)
    everything = variants(stages)
    covered = set().union(*(run_at(stages, depth) for depth in (*table.ladder, *further)))
    assert covered == everything
    assert not set(further) & set(table.ladder)

    # No fewer would do, and each is as near to a rung as a depth that helps so much can be.
    missing = everything - set().union(*(run_at(stages, depth) for depth in table.ladder))
    gains = [run_at(stages, depth) & missing for depth in table.rows]
    for fewer in range(len(further)):
        for group in itertools.combinations(gains, fewer):
            assert set().union(*group) != missing

    def distance(depth: Depth) -> int:
        return min(
            sum(a != b for a, b in zip(depth.settings, rung.settings, strict=True))
            for rung in table.ladder
        )

    for depth in further:
        gain = run_at(stages, depth) & missing
        rivals = [row for row in table.rows if len(run_at(stages, row) & missing) >= len(gain)]
        assert distance(depth) == min(distance(row) for row in rivals)
        missing -= gain


def test_only_the_entry_of_a_yolo_needs_further_depths() -> None:
    """The default ladder of s runs both first blocks or neither."""
    model = model_of("yolo")
    stages = model.stages((160, 160))
    ladder = tuple(model.space.parse(text) for text in YOLO_CONFIGS["s"].ladder)
    found = covering_depths(stages, DepthTable(model.space, ladder), ladder)
    assert sorted(str(depth)[:2] for depth in found) == ["FT", "TF"]


def test_what_is_calibrated_besides_the_ladder_counts() -> None:
    model = model_of("yolo")
    stages = model.stages((160, 160))
    table = DepthTable(model.space, (model.space.base, model.space.super))
    given = [model.space.parse("FTFFFFFF"), model.space.parse("TFFFFFFF"), *table.ladder]
    assert covering_depths(stages, table, given) == []
    assert len(covering_depths(stages, table, given[1:])) == 1
    covered = covering_depths(stages, table, [])  # not even the ladder
    assert set().union(*(run_at(stages, depth) for depth in covered)) == variants(stages)


def test_ladders_of_a_detr_cover_themselves() -> None:
    model = model_of("detr")
    ladder = tuple(model.space.parse(text) for text in CONFIGS["r50"].ladder)
    table = DepthTable(model.space, ladder)
    assert covering_depths(model.stages((160, 160)), table, table.ladder) == []
