"""Bad options are refused by their text, before anything heavy is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest
from command_line import strict_json
from PIL import Image
from triton_bundle import graphs

from anydepth_deploy.cli import COMMANDS

WITHOUT = """
import contextlib, io, json, sys
from importlib.abc import MetaPathFinder

heavy = {"torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "openvino", "scipy", "tensorrt",
         "tensorrt_rtx", "faster_coco_eval", "matplotlib", "tritonclient"}
asked = []

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in heavy:
            asked.append(name)
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Refuse())
from anydepth_deploy.cli import main

for line in sys.stdin:
    sys.argv = ["anydepth-deploy", *json.loads(line)]
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as done:
            code = done.code
    print(json.dumps([code, out.getvalue(), err.getvalue(), asked]))
    asked.clear()
"""

NO_CHOICE = "is not one of"
NO_SIZE = "input size '640,384' is not HEIGHTxWIDTH, e.g. 640x640 or 384x640"
NO_BUNDLE = "bundle none does not exist"
NO_CHECKPOINT = "checkpoint none.pth does not exist; expected a PyTorch file"
NO_PICTURES = "none is neither a picture nor a folder of pictures"
NO_DEPTH = "unknown depth 'deep'"

REFUSED: dict[str, dict[str, str]] = {
    "inspect": {
        "c.pth --size 640,384": NO_SIZE,
        "none.pth": NO_CHECKPOINT,
        "folder": "is not a bundle",
    },
    "calibrate": {
        "c.pth": "'--images'",
        "c.pth --images folder --size 640,384": NO_SIZE,
        "c.pth --images folder --method magic": NO_CHOICE,
        "c.pth --images folder --resize crop": NO_CHOICE,
        "c.pth --images folder --percentile 10": "'--percentile'",
        "c.pth --images folder --count 0": "'--count'",
        "c.pth --images folder --plot ranges.gif": "a report cannot be drawn as 'ranges.gif'",
        "c.pth --images folder --ladder none.json": "ladder file none.json cannot be read",
        "c.pth --images none": NO_PICTURES,
        "none.pth --images folder": NO_CHECKPOINT,
        "folder --images folder": "checkpoint folder is a folder",
    },
    "export": {
        "c.pth": "'--out'",
        "c.pth --out b --size 640,384": NO_SIZE,
        "c.pth --out b --batch 1,0": "batch '1,0' is not one to three sizes",
        "c.pth --out b --batch 4,1": "batch '4,1' does not rise",
        "c.pth --out b --workspace much": "'much' is not an amount of memory",
        "c.pth --out b --layout heap": "unknown layout 'heap': expected gated or set or stages",
        "c.pth --out b --layout gated --depth base": "a gated graph holds every depth",
        "c.pth --out b --weights light": "unknown weights 'light': expected shared or folded",
        "c.pth --out b --precision int4": "unknown precision 'int4': expected fp32 or fp16 or int8",
        "c.pth --out b --precision int8 --target tpu": "unknown target 'tpu': expected onnxruntime",
        "c.pth --out b --target tensorrt": "--target has a meaning for --precision int8 only",
        "c.pth --out b --format engine": NO_CHOICE,
        "c.pth --out b --deformable loop": NO_CHOICE,
        "c.pth --out b --resize crop": NO_CHOICE,
        "c.pth --out b --nms never": NO_CHOICE,
        "c.pth --out b --nms none --nms-iou 0.5": "leave --nms-score and --nms-iou out",
        "c.pth --out b --nms-score 2": "'--nms-score'",
        "c.pth --out b --max-ratio inf": "max_ratio is inf: expected a finite number",
        "c.pth --out b --keep layer1": "have a meaning for --precision int8 only",
        "c.pth --out b --ranges r.json": "have a meaning for --precision int8 only",
        "c.pth --out b --precision int8": "INT8 needs a range table, and calib/c.json does not",
        "c.pth --out b --precision int8 --ranges r.json": "range table r.json does not exist",
        "c.pth --out b --classes none.txt": "class names none.txt cannot be read",
        "c.pth --out b --ladder none.json": "ladder file none.json cannot be read",
        "none.pth --out b": NO_CHECKPOINT,
    },
    "build": {
        "BUNDLE": "Missing option '--runtime'. Choose from: tensorrt, tensorrt-rtx, onnxruntime: ",
        "BUNDLE --runtime onnxruntime --precision fp16 --batch 1": "--batch is of engines, and",
        "BUNDLE --runtime onnxruntime --precision fp16 --target sm75": "--target is of engines",
        "BUNDLE --runtime onnx": NO_CHOICE,
        "BUNDLE --runtime tensorrt-rtx --target orin": "'orin' is a Jetson",
        "BUNDLE --runtime tensorrt --batch 1,2,3,4": "is not one to three sizes",
        "BUNDLE --runtime tensorrt --workspace 0": "'0' is not an amount of memory",
        "BUNDLE --runtime tensorrt --layout heap": "unknown layout 'heap'",
        "BUNDLE --runtime tensorrt --precision int4": "unknown precision 'int4'",
        "BUNDLE --runtime tensorrt --weights light": NO_CHOICE,
        "BUNDLE --runtime tensorrt --deformable loop": NO_CHOICE,
        "BUNDLE --runtime tensorrt --depth deep": NO_DEPTH,
        "none --runtime tensorrt": NO_BUNDLE,
    },
    "verify": {
        "BUNDLE": "has no golden outputs to compare with: export it again as it was exported",
        "BUNDLE --images folder": "leave the pictures out, or name the checkpoint",
        "BUNDLE --checkpoint none.pth": NO_CHECKPOINT,
        "BUNDLE --checkpoint c.pth --runtime tensorrt": "leave the checkpoint out",
        "BUNDLE --checkpoint c.pth --runtime caffe": "unknown runtime 'caffe'",
        "BUNDLE --checkpoint c.pth --precision int4": NO_CHOICE,
        "BUNDLE --checkpoint c.pth --layout heap": NO_CHOICE,
        "BUNDLE --checkpoint c.pth --depth deep": NO_DEPTH,
        "BUNDLE --checkpoint c.pth --images none": NO_PICTURES,
        "BUNDLE --checkpoint c.pth --threads 0": "'--threads'",
        "BUNDLE --runtime tensorrt --depth deep": NO_DEPTH,
        "none --checkpoint c.pth": NO_BUNDLE,
    },
    "eval": {
        "BUNDLE": "'--data'",
        "BUNDLE --data none.json": "annotations none.json do not exist",
        "BUNDLE --data none.json --precision int4": "unknown precision 'int4'",
        "BUNDLE --data none.json --precision ,": "no precision is given",
        "BUNDLE --data none.json --depth deep": NO_DEPTH,
        "BUNDLE --data none.json --depth super --ladder-out l.json": "add them to --depth",
        "BUNDLE --data none.json --runtime caffe": "unknown runtime 'caffe'",
        "BUNDLE --data none.json --batch 0": "'--batch'",
        "BUNDLE --data none.json --target tpu": NO_CHOICE,
        "none --data none.json": NO_BUNDLE,
    },
    "bench": {
        "": "Missing argument 'BUNDLE|CKPT': see",
        "BUNDLE --batch 0": "--batch '0' is not a list of whole numbers from 1",
        "BUNDLE --threads two": "--threads 'two' is not a list of whole numbers from 1",
        "BUNDLE --streams 1,1": "--streams names nothing, or something twice",
        "BUNDLE --streams 2": "choose --scenario streams",
        "BUNDLE --percentiles most": "percentiles 'most' are not numbers",
        "BUNDLE --percentiles 50,100": "percentiles 100: expected numbers between 0 and 100",
        "BUNDLE --mode mixed --mix base": "is not a list of weights",
        "BUNDLE --mode random": NO_CHOICE,
        "BUNDLE --scenario poisson": "needs --rate",
        "BUNDLE --scope all": NO_CHOICE,
        "BUNDLE --runtime torch": "'torch' runs checkpoints",
        "BUNDLE --runtime caffe": "unknown runtime 'caffe'",
        "BUNDLE --precision int4": "unknown precision 'int4'",
        "BUNDLE --size 64": "--size is for checkpoints",
        "BUNDLE --depth deep": NO_DEPTH,
        "BUNDLE --images none": NO_PICTURES,
        "c.pth --size 640,384": NO_SIZE,
        "c.pth --device tpu": NO_CHOICE,
        "c.pth --runtime openvino": "a checkpoint runs on torch",
        "c.pth --precision int8": "torch computes a checkpoint in fp32, fp16, bf16, not in 'int8'",
        "none.pth": NO_CHECKPOINT,
    },
    "sweep": {
        "none": NO_BUNDLE,
        "b --most-batch 0": "'--most-batch'",
        "b --cores 0": "'--cores'",
        "b --target magic": NO_CHOICE,
        "b --runtime magic": "unknown runtime 'magic'",
        "b --precision fp32,fp16": "--precision names 2 values: a sweep is of one",
        "b --plot x.gif": "a picture cannot be drawn as 'x.gif'",
        "BUNDLE --depth deep": NO_DEPTH,
        "b --images none": NO_PICTURES,
    },
    "report": {
        "none.json": "result none.json does not exist",
        "none.json --compare": "--compare takes two results",
        "none.json --allow batch": "--allow is for --compare",
        "none.json --json --format csv": "--json is a format of its own",
        "none.json --format pdf": NO_CHOICE,
    },
    "ladder": {
        "BUNDLE": "neither --data nor --images is given",
        "none --images folder": NO_BUNDLE,
        "BUNDLE --images none": NO_PICTURES,
        "BUNDLE --data none.json": "annotations none.json do not exist",
        "BUNDLE --images folder --count 0": "'--count'",
        "BUNDLE --images folder --calls 0": "'--calls'",
        "BUNDLE --images folder --batch 0": "'--batch'",
        "BUNDLE --images folder --precision fp32,fp16": "names 2 values: a ladder is of one",
        "BUNDLE --images folder --runtime caffe": "unknown runtime 'caffe'",
        "BUNDLE --images folder --layout heap": NO_CHOICE,
        "BUNDLE --images folder --plot l.gif": "a picture cannot be drawn as 'l.gif'",
        "BUNDLE --images folder --match-by-rank": "--match-by-rank is for --data",
        "BUNDLE --images folder --diagnose --beside": "--beside is for ladders that are written",
        "BUNDLE --images folder --diagnose --layout gated": "needs layout stages",
        "BUNDLE --images folder --diagnose": "has no artifact 'stages fp32'",
        "BUNDLE --images folder --tolerance 2": "--tolerance is for --diagnose",
    },
    "bundle": {
        "edit": "Missing argument 'BUNDLE'",
        "paint BUNDLE": NO_CHOICE,
        "edit BUNDLE": "nothing to change is named: give class names, a ladder or a name",
        "edit BUNDLE --classes a,a": "class names occur twice: a",
        "edit BUNDLE --classes a": "has 3 classes: name each",
        "edit BUNDLE --default-ladder deep": NO_DEPTH,
        "edit none --name x": NO_BUNDLE,
    },
    "predict": {
        "BUNDLE": "Missing argument",
        "BUNDLE none.png": "none.png is neither a picture nor a folder",
        "BUNDLE p.png --threshold 3": "'--threshold'",
        "BUNDLE p.png --depth deep": NO_DEPTH,
        "BUNDLE p.png --layout heap": NO_CHOICE,
        "BUNDLE p.png --precision int4": NO_CHOICE,
        "BUNDLE p.png --runtime caffe": "unknown runtime 'caffe'",
        "BUNDLE p.png --out p.txt": "has the suffix .txt",
        "none p.png": NO_BUNDLE,
    },
    "train": {
        "": "'--out'",
        "--out c.pth --steps 0": "'--steps'",
        "--out c.pth --family alexnet": NO_CHOICE,
        "--out c.pth --learning-rate -1": "learning_rate must be a number of at least 0",
        "--out c.pth --clip nan": "'--clip'",
        "--out c.pth --images p": "--images: pictures of --data, which is not there",
        "--out c.pth --val-images p": "--val-images: pictures of --val-data, which is not there",
        "--out c.pth --data a.yaml --images p": "a.yaml says itself where its pictures are",
        "--out c.pth --data a.json --pictures 9": "--pictures: of generated shapes",
        "--out c.pth --initial none.pth --model s": "--model: --initial says which network it is",
        "--out c.pth --semantic-weight 3": "--semantic-weight: of --teacher, which is not there",
        "--out c.pth --initial none.pth": NO_CHECKPOINT,
    },
    "norms": {
        "none.pth": "'--images'",
        "none.pth --images p": "'--out'",
        "none.pth --images p --out o.pth": NO_CHECKPOINT,
        "CHECKPOINT --images p --out o.pth --count 0": "'--count'",
        "CHECKPOINT --images p --out o.pth --size 5,5": "is not HEIGHTxWIDTH",
    },
    "shapes": {
        "": "'--out'",
        "--out s --size 1": "'--size'",
        "--out s --count 0": "'--count'",
    },
    "triton": {
        "BUNDLE": "--out is missing",
        "BUNDLE --out m --check": "--check takes no --out",
        "BUNDLE --out m --layout stages": "cannot be served",
        "BUNDLE --out m --precision bf16": "do not compute in bf16",
        "BUNDLE --out m --runtime openvino": NO_CHOICE,
        "BUNDLE --out m --target sm89": "--target is for engines",
        "BUNDLE --out m --runtime tensorrt --device cpu": "run on no CPU",
        "BUNDLE --out m --name a/b": "cannot be a model's",
        "BUNDLE --out m --max-batch 0": "'--max-batch'",
    },
    "page": {
        "none": NO_BUNDLE,
        "folder": "is not a bundle",
        "BUNDLE --port 80": "--port is for --serve",
        "BUNDLE --serve --json": "--serve takes no --json",
        "BUNDLE --precision bf16": NO_CHOICE,
        "BUNDLE --out p.png --cdn https://a/b/": "it is no folder",
        "BUNDLE --cdn https:b": "is no address of a folder",
        "BUNDLE --cdn https://a/b/ --runtime folder": "--cdn takes no --runtime",
        "BUNDLE --cdn https://a/b/ --samples none": "neither a picture nor a folder",
        "BUNDLE --runtime folder": "has no ort.wasm.min.mjs",
    },
    "doctor": {
        "none": NO_BUNDLE,
        "folder": "is not a bundle",
        "--seconds 0": "'--seconds'",
    },
    "demo": {
        "--family alexnet": NO_CHOICE,
        "--pictures 1": "'--pictures'",
        "--checkpoint none.pth": "checkpoint none.pth does not exist: trained tiny networks",
    },
}

CASES = [(name, words, told) for name, cases in REFUSED.items() for words, told in cases.items()]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str
    heavy: list[str]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Outcome]:
    """All cases, one after the other in a process that has nothing heavy to import."""
    folder = tmp_path_factory.mktemp("refusals")
    bundle = graphs(folder / "bundle").path
    (folder / "folder").mkdir()
    (folder / "c.pth").write_text("no checkpoint")
    Image.new("RGB", (8, 8)).save(folder / "p.png")
    Image.new("RGB", (8, 8)).save(folder / "folder" / "p.png")
    before = sorted(folder.rglob("*"))
    calls = [
        [name, *(str(bundle) if word == "BUNDLE" else word for word in words.split())]
        for name, words, _ in CASES
    ]
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        input="".join(f"{json.dumps(call)}\n" for call in calls),
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    assert sorted(folder.rglob("*")) == before
    lines = [Outcome(*json.loads(line)) for line in found.stdout.splitlines()]
    return {case[:2]: line for case, line in zip(CASES, lines, strict=True)}


def test_every_command_is_asked() -> None:
    assert list(REFUSED) == [row.name for row in COMMANDS]


@pytest.mark.parametrize(("name", "words", "told"), CASES)
def test_refused_by_the_text_alone(
    outcomes: dict[tuple[str, str], Outcome], name: str, words: str, told: str
) -> None:
    found = outcomes[name, words]
    assert (found.code, found.heavy) == (2, [])
    document = strict_json(found.out) if "--json" in words.split() else {}
    assert [*document] == (["schema_version", "error"] if "--json" in words.split() else [])
    assert bool(found.out) == bool(document)
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1
    assert told in found.err
