"""Sizes of D-FINE as published, of DEIM and RT-DETRv4 on the same network, and a tiny one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from anydepth_deploy.families.shared.detr.backbones import HGNETS, HGNetConfig, HGNetStage
from anydepth_deploy.families.shared.detr.static import StaticConfig

__all__ = ["CONFIGS", "DFineConfig", "deepen"]


@dataclass(frozen=True)
class DFineConfig(StaticConfig):
    """Defaults are those of D-FINE L.

    ``release``: ``d-fine``, ``deim`` or ``v4`` (RT-DETRv4). ``csp_channels``: of the branches
    inside the encoder's blocks. ``bins``: of the distribution of each edge, of which the ``best``
    are judged by a layer of ``quality`` channels. ``reach`` (``reg_scale``) and
    ``bound`` (``up``): how far the bins reach.
    """

    release: str = "d-fine"
    backbone: HGNetConfig = HGNETS["b4"]
    csp_channels: int = 128
    points: tuple[int, ...] = (3, 6, 3)
    bins: int = 33
    best: int = 4
    quality: int = 64
    reach: float = 4.0
    bound: float = 0.5


def _published() -> dict[str, DFineConfig]:
    large = DFineConfig()
    small = large.replace(backbone=HGNETS["b0"], csp_blocks=1, csp_channels=64, decoder_layers=3)
    sizes = {
        "n": small.replace(
            hidden=128,
            feedforward=512,
            csp_blocks=2,
            csp_channels=21,
            decoder_hidden=128,
            decoder_feedforward=512,
            points=(6, 6),
        ),
        "s": small,
        "m": large.replace(backbone=HGNETS["b2"], csp_blocks=2, decoder_layers=4),
        "l": large,
        "x": large.replace(
            backbone=HGNETS["b5"], hidden=384, feedforward=2048, csp_channels=192, reach=8.0
        ),
    }
    found = dict(sizes)
    for release in ("deim", "v4"):
        for name, config in sizes.items():
            if (release, name) == ("v4", "n"):
                continue
            found[f"{release}-{name}"] = config.replace(
                release=release,
                backbone=replace(config.backbone, frozen=False),
                decoder_activation="silu",
            )
    return found


TINY = DFineConfig(
    backbone=HGNetConfig(
        (8, 16),
        (
            HGNetStage(8, 16, 1, 2, False, 3, downsample=False),
            HGNetStage(8, 32, 1, 2, False, 3),
            HGNetStage(16, 64, 2, 2, True, 5),
            HGNetStage(16, 64, 1, 2, True, 5),
        ),
        affine=True,
    ),
    hidden=64,
    feedforward=128,
    csp_blocks=1,
    csp_channels=16,
    decoder_hidden=64,
    decoder_feedforward=128,
    decoder_layers=3,
    points=(3, 6, 3),
    queries=60,
    classes=8,
    max_detections=100,
    input_size=(160, 160),
)

CONFIGS: dict[str, DFineConfig] = {
    name: config.replace(name=name) for name, config in {**_published(), "tiny": TINY}.items()
}


def deepen(config: DFineConfig) -> DFineConfig:
    """The any-depth form of ``config``, see :meth:`StaticConfig.deepened`."""
    return config.deepened(CONFIGS)
