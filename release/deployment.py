"""Run where only the deployment half is installed: bundles of both families, every depth.

python deployment.py FOLDER    # with a folder for each bundle in it
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import anydepth_deploy as ad

PROGRAM = Path(sys.executable).with_name("anydepth-deploy")


def command(*words: object) -> None:
    subprocess.run([str(PROGRAM), *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def try_bundle(folder: Path) -> None:
    command("inspect", folder)
    command("verify", folder)  # against the golden outputs: there is no checkpoint
    picture = Path(f"{folder.name}.png")
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(noise).save(picture)
    command("predict", folder, picture, "--depth", "base", "--out", f"{folder.name}.pred.png")
    with ad.load(folder) as detector:
        for depth in detector.bundle.table.rows:
            (result,) = detector(noise, depth, threshold=0.0)
            assert len(result) > 0, depth
            assert np.isfinite(result.boxes).all(), depth
            assert result.boxes.max() <= 121, depth


def main() -> None:
    bundles = sorted(path.parent for path in Path(sys.argv[1]).glob("*/manifest.json"))
    assert len(bundles) == 2, bundles
    for folder in bundles:
        try_bundle(folder)
    assert "torch" not in sys.modules
    print(
        f"{sys.version.split()[0]}, numpy {np.__version__}: {len(bundles)} bundles at every depth"
    )


if __name__ == "__main__":
    main()
