"""Sizes of RT-DETR: v1 and v2 as published, those that DEIM trained, and tiny ones for tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

from anydepth_deploy.families.shared.detr.backbones import (
    HGNETS,
    RESNETS,
    HGNetConfig,
    HGNetStage,
    ResNetConfig,
)
from anydepth_deploy.families.shared.detr.fine_config import FineConfig
from anydepth_deploy.families.shared.detr.static import StaticConfig

__all__ = ["CONFIGS", "RTDetrConfig", "deepen"]


@dataclass(frozen=True)
class RTDetrConfig(StaticConfig):
    """``release``: ``v1``, ``v2`` or ``deim``. ``position``: channels inside the embedding of
    boxes, between 4 and ``decoder_hidden``: one layer of twice as many, in DEIM's two. ``fine``: of
    the encoder, None where it has none."""

    release: str = "v1"
    position: tuple[int, ...] = (512,)
    fine: FineConfig | None = None

    @property
    def refines(self) -> bool:
        """By FINE."""
        return self.fine is not None

    def _structure(self) -> RTDetrConfig:
        plain = super()._structure()
        return plain.replace(fine=None if self.fine is None else self.fine.usual)


def _published() -> dict[str, RTDetrConfig]:
    r18 = RTDetrConfig(backbone=RESNETS["18"], csp_channels=128, decoder_layers=3)
    r50 = RTDetrConfig()
    wide = {"hidden": 384, "feedforward": 2048, "csp_channels": 384}
    sizes = {
        "r18": r18,
        "r34": r18.replace(backbone=RESNETS["34"], decoder_layers=4),
        "r50-m": r50.replace(csp_channels=128),
        "r50": r50,
        "r101": r50.replace(backbone=RESNETS["101"], **wide),
    }
    found = dict(sizes)
    found |= {f"{name}-fine": sizes[name].replace(fine=FineConfig()) for name in ("r18", "r50")}
    found |= {f"v2-{name}": config.replace(release="v2") for name, config in sizes.items()}
    for points in (1, 2, 3):
        found[f"v2-r18-sp{points}"] = r18.replace(release="v2", points=(points,) * 3)
    found["v2-hgnetv2-l"] = r50.replace(release="v2", backbone=HGNETS["b4"])
    found["v2-hgnetv2-x"] = r50.replace(release="v2", backbone=HGNETS["b5"], **wide)
    found["v2-hgnetv2-h"] = r50.replace(
        release="v2",
        backbone=HGNETS["b6"],
        hidden=512,
        feedforward=2048,
        csp_channels=512,
        aifi_layers=2,
    )
    for name, config in sizes.items():
        found[f"deim-{name}"] = config.replace(
            release="deim",
            backbone=replace(config.backbone, frozen=False),
            position=(256, 256),
            decoder_activation="silu",
            decoder_layers=3 if name == "r50-m" else config.decoder_layers,
        )
    return found


TINY = RTDetrConfig(
    backbone=ResNetConfig((1, 2, 1, 1), (16, 32, 64, 128), False, (8, 16), frozen=False),
    hidden=64,
    feedforward=128,
    csp_blocks=3,
    csp_channels=32,
    decoder_hidden=64,
    decoder_feedforward=128,
    decoder_layers=3,
    points=(4, 4, 4),
    position=(128,),
    queries=60,
    classes=8,
    max_detections=100,
    input_size=(160, 160),
)

TINY_R18 = TINY.replace(
    backbone=ResNetConfig((2, 2, 2, 2), (16, 32, 64, 128), False, (8, 16), frozen=False)
)

TINY_HGNET = HGNetConfig(
    (8, 16),
    (
        HGNetStage(8, 16, 1, 2, False, 3, downsample=False),
        HGNetStage(8, 32, 1, 2, False, 3),
        HGNetStage(16, 64, 2, 2, True, 5),
        HGNetStage(16, 64, 1, 2, True, 5),
    ),
    frozen=True,
)

CONFIGS: dict[str, RTDetrConfig] = {
    name: config.replace(name=name)
    for name, config in {
        **_published(),
        "tiny": TINY,
        "tiny-fine": TINY.replace(fine=FineConfig(heads=4, feedforward=256)),
        "tiny-r18": TINY_R18,
        "tiny-hgnetv2": TINY.replace(release="v2", backbone=TINY_HGNET),
    }.items()
}


def deepen(config: RTDetrConfig) -> RTDetrConfig:
    """The any-depth form of ``config``, see :meth:`StaticConfig.deepened`."""
    return config.deepened(CONFIGS)
