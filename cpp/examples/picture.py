"""Draws the picture that ``make cpp-demo`` looks for objects in.

python cpp/examples/picture.py PICTURE.ppm
"""

from __future__ import annotations

import sys

from PIL import Image

from anydepth_deploy.pictures.shapes import render

HELD_OUT_SEED = 1000
"""No training run uses this seed for its pictures."""

INDEX, SIDE = 22, 160

if __name__ == "__main__":
    Image.fromarray(render(INDEX, HELD_OUT_SEED, "val", size=SIDE).image).save(sys.argv[1])
