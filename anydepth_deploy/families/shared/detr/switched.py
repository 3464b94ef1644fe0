"""Which norms of a static DETR have two sets, read from names; nothing of torch."""

from __future__ import annotations

import re
from collections.abc import Iterable

from anydepth_deploy.errors import shorten
from anydepth_deploy.families.shared.detr.essentials import Essentials
from anydepth_deploy.families.shared.detr.fine_config import FINE
from anydepth_deploy.families.shared.detr.static import StaticConfig
from anydepth_deploy.families.shared.detr.structure import Reader, UnfitError
from anydepth_deploy.families.shared.second_sets import is_second_set, second_set_of

__all__ = ["has_static_stem", "read_essentials", "switched_norms"]

STEMS = ("backbone.res_layers.", "backbone.stages.", "backbone.conv1.conv1_")
"""Of static DETRs, where AnyDepth-DETR has another backbone."""

FIRST = re.compile(r".*\.(?:norm[12]?|bn|lab)")
STAGE = re.compile(
    r"backbone\.(?:res_layers|stages)\.(\d{1,4})\.(?:blocks\.(\d{1,4})|downsample)\..*"
)
BOTTLENECK = re.compile(r"encoder\.(?:fpn|pan)_blocks\.\d+\..*\.?bottlenecks\.(\d{1,4})\..*")


def has_static_stem(keys: Iterable[str]) -> bool:
    """Whether these keys are of a backbone of the static DETRs."""
    return any(key.startswith(STEMS) for key in keys)


def switched_norms(config: StaticConfig, paths: Iterable[str]) -> set[str]:
    """Of the module names ``paths`` those of norms and affine layers that have a second set in the
    network of ``config``: all of the essential path of stages and of an encoder that skip others,
    and the decoder's projections with the encoder."""
    return {path for path in paths if FIRST.fullmatch(path) and _is_switched(config, path)}


def _is_switched(config: StaticConfig, path: str) -> bool:
    if stage := STAGE.fullmatch(path):
        index = int(stage[1])
        essential = stage[2] is None or int(stage[2]) < config.essential_blocks[index]
        return config.skips_stages[index] and essential
    if not config.skips_encoder or path.startswith(f"{FINE}."):
        return False
    if bottleneck := BOTTLENECK.fullmatch(path):
        return int(bottleneck[1]) < config.essential_bottlenecks
    return path.startswith(("encoder.", "decoder.input_proj."))


def read_essentials(reader: Reader, config: StaticConfig) -> Essentials | None:
    """What always runs in a network with these keys, which is ``config`` otherwise; None where no
    norm has a second set.

    Raises :class:`UnfitError` where second sets are not those of an any-depth network: in part of
    the essential path only, behind what is skipped, or where nothing is.
    """
    paths = {key.rpartition(".")[0] for key in reader.shapes}
    found = {path for path in paths if is_second_set(path)}
    if not found:
        return None
    run = [_run(found, STAGE, 2, index) for index in range(len(config.backbone.blocks))]
    blocks = tuple(count or total for count, total in zip(run, config.backbone.blocks, strict=True))
    bottlenecks = config.csp_blocks
    if any(path.startswith("encoder.") for path in found):
        bottlenecks = max(1, _run(found, BOTTLENECK, 1))
    essential = Essentials(blocks, bottlenecks)
    expected = {
        second_set_of(path) for path in switched_norms(config.replace(essential=essential), paths)
    }
    if missing := sorted(expected - found):
        raise UnfitError(
            f"with part of its second norm sets: without {shorten(missing, 2)} "
            f"({len(missing)} in all); fetch the file again"
        )
    if more := sorted(found - expected):
        raise UnfitError(
            f"with second norm sets in places that have one set: {shorten(more, 2)} ({len(more)} "
            "in all); expected them in the first blocks of what skips its others"
        )
    return essential


def _run(found: Iterable[str], pattern: re.Pattern[str], group: int, stage: int = -1) -> int:
    """How many blocks from the first on have a second set; of the backbone's ``stage``."""
    numbers = set()
    for path in found:
        match = pattern.fullmatch(path)
        if match and match[group] is not None and stage in (-1, int(match[1])):
            numbers.add(int(match[group]))
    count = 0
    while count in numbers:
        count += 1
    return count
