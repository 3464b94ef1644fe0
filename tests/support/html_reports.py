"""What pages of reports are made of in tests: results, accuracy, pictures, and hostile names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench_results import fake_result, network_result
from PIL import Image

from anydepth_deploy.annotations.difference_files import Differences, DifferentPicture, DrawnBox
from anydepth_deploy.bench.report.html import write_html
from anydepth_deploy.bench.report.html.evaluated import Evaluation
from anydepth_deploy.bench.results import BenchResult, Verdict

__all__ = ["HOSTILE", "SHOWN", "differences", "evaluation", "hostile_page", "two_results"]

AP = {"TTTT-T-4": 48.1, "FFTT-F-4": 49.4, "FFTF-F-4": 50.0, "FFFF-F-4": 50.6, "FFFF-F-6": 50.9}
HOSTILE = (
    """</script></title></style>"><script>hit=1</script><img src=x onerror="hit=2">'{{7*7}}<!--"""
)
SHOWN = "<script>hit=1</script>"


def two_results() -> list[BenchResult]:
    drifted = Verdict(word="unstable", reasons=["latency drifted"])
    return [
        network_result("anydepth-detr", "r50", ap=AP, count=60),
        network_result(
            "anydepth-detr",
            "r50",
            ap={depth: ap - 0.4 for depth, ap in AP.items()},
            subject={"precision": "int8"},
            scale=0.55,
            count=60,
            verdicts={"FFTT-F-4": drifted},
        ),
    ]


def evaluation(name: str = "dog") -> Evaluation:
    row = {"precision": "fp32", "level": 0, "macs": 1, "ap50": 60.0, "ap75": 50.0}
    sizes = {"ap_small": 20.5, "ap_medium": 40.25, "ap_large": None}
    return Evaluation.model_validate(
        {
            "schema_version": 1,
            "data": f"/somewhere/{name.replace('/', '')}.json",
            "data_sha256": "d" * 64,
            "pictures": 100,
            "rows": [
                {
                    **row,
                    **sizes,
                    "depth": depth,
                    "ap": ap,
                    "classes": [
                        {"class": name, "ap": ap + 1, "objects": 7},
                        {"class": "cat", "ap": None, "objects": 0},
                    ],
                }
                for depth, ap in (("TTTT-T-4", 48.1), ("FFFF-F-6", 50.9))
            ],
            "lost": [
                {
                    "class": name,
                    "precision": "fp32",
                    "objects": 7,
                    "super": 51.9,
                    "base": 49.1,
                    "fall": 2.8,
                }
            ],
        }
    )


def differences(folder: Path, name: str = "dog", **changes: Any) -> Path:
    """A folder of one pair of pictures: a red one and a blue one, of 20 x 10."""
    folder.mkdir()
    for file, colour in (("01-FFFF-F-6.pred.png", "red"), ("01-TTTT-T-4.pred.png", "blue")):
        Image.new("RGB", (20, 10), colour).save(folder / file)
    box = {"class": name, "score": 0.9, "box": (1, 2, 3, 4)}
    alone, shared = (DrawnBox.model_validate({**box, "matched": x}) for x in (False, True))
    picture = DifferentPicture(
        picture=f"{name}.jpg",
        image_id=3,
        difference=1.25,
        boxes=([alone, shared], [shared]),
        files=("01-FFFF-F-6.pred.png", "01-TTTT-T-4.pred.png"),
    )
    document = Differences(
        data="val.json",
        precision="fp32",
        depths=("FFFF-F-6", "TTTT-T-4"),
        compared=50,
        differing=20,
        pictures=[picture],
    )
    content = {**document.model_dump(mode="json", by_alias=True), **changes}
    (folder / "differences.json").write_text(json.dumps(content))
    return folder


def hostile_page(folder: Path) -> Path:
    result = fake_result(
        {HOSTILE: [1.0] * 30, "TT": [2.0] * 30},
        ap={HOSTILE: 10.0, "TT": 20.0},
        subject={
            "name": HOSTILE,
            "family": HOSTILE,
            "config": HOSTILE,
            "runtime": HOSTILE,
            "precision": HOSTILE,
            "artifacts": {HOSTILE: HOSTILE},
        },
        host={"processor": HOSTILE, "packages": {HOSTILE: HOSTILE}, "system": "a\u202eb\x1b[31m"},
        inputs={"source": HOSTILE},
        verdicts={"TT": Verdict(word="unstable", reasons=[HOSTILE])},
        boundaries={HOSTILE: HOSTILE},
        when=HOSTILE,
    )
    other = fake_result({"TT": [2.0] * 30, "FF": [3.0] * 30})
    path = folder / "hostile.html"
    told = differences(folder / "d", HOSTILE)
    write_html([result, other], path, evaluation=evaluation(HOSTILE), differences=told)
    return path
