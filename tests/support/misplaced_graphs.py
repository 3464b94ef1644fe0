"""A small bundle in all layouts, and all the ways in which a graph can be another than the manifest
means: one table of them, for every language that opens bundles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from edited_bundles import edit_artifact
from handmade import MACS, manifest
from onnx import TensorProto, helper, numpy_helper

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.suppression import Suppression

SIDE, PLACES, QUERIES = 64, 5, 20
LADDER = ("TT-1", "FT-1", "FF-1", "FF-2")
ROWS = (*LADDER, "FT-2", "TF-2", "TF-1", "TT-2")
SOURCE = "a" * 64
RAW: dict[str, dict[str, list[str | int]]] = {
    "anydepth-detr": {
        "logits": ["N", QUERIES, 3],
        "boxes": ["N", QUERIES, 4],
        "queries": ["N", QUERIES],
    },
    "anydepth-yolo": {"predictions": ["N", 3 + 4, QUERIES]},
}
"""Raw outputs of three classes."""

ANOTHER: dict[str, list[str | int]] = {"logits": ["N", QUERIES, 3]}
"""Those of a family that nobody knows: its logits may mean anything."""

Value = onnx.ValueInfoProto
info = helper.make_tensor_value_info


def graph(
    family: str, metadata: dict[str, str], *, gated: bool, raw: bool = False
) -> onnx.ModelProto:
    """A graph with the inputs, outputs and entries of a real one, whose scores are its row."""
    images = info("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])
    depth = [info("depth", TensorProto.INT64, [])] if gated else []
    outputs = [
        info("labels", TensorProto.INT64, ["N", PLACES]),
        info("boxes", TensorProto.FLOAT, ["N", PLACES, 4]),
        info("scores", TensorProto.FLOAT, ["N", PLACES]),
    ]
    nodes = [
        helper.make_node("Shape", ["images"], ["batch"], end=1),
        helper.make_node("Cast", ["depth" if gated else "zero"], ["row"], to=TensorProto.FLOAT),
    ]
    constants = {"zero": np.int64(0), "one": np.ones(1, np.float32)}
    hidden = []
    for value in outputs:
        nodes += filled(value, constants)
    tensors = {}
    for name, shape in RAW.get(family, ANOTHER).items():
        tensors[name] = f"head/{name}"
        kind = TensorProto.INT64 if name == "queries" else TensorProto.FLOAT
        hidden.append(info(tensors[name], kind, shape))
        nodes += filled(hidden[-1], constants)
        if raw:
            outputs.append(info(f"raw_{name}", kind, shape))
            nodes.append(helper.make_node("Identity", [tensors[name]], [f"raw_{name}"]))
    made = helper.make_graph(
        nodes,
        "made",
        [images, *depth],
        outputs,
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
        value_info=hidden,
    )
    return finished(made, {**metadata, "anydepth.raw_outputs": json.dumps(tensors)})


def filled(value: Value, constants: dict[str, Any]) -> list[onnx.NodeProto]:
    """Nodes that make ``value``: the row everywhere."""
    name, kind = value.name, value.type.tensor_type
    sides = [dim.dim_value for dim in kind.shape.dim][1:]
    constants[f"{name}/sides"] = np.asarray(sides, np.int64)
    return [
        helper.make_node("Concat", ["batch", f"{name}/sides"], [f"{name}/shape"], axis=0),
        helper.make_node("Expand", ["row", f"{name}/shape"], [f"{name}/row"]),
        helper.make_node("Cast", [f"{name}/row"], [name], to=kind.elem_type),
    ]


def finished(made: onnx.GraphProto, metadata: dict[str, str]) -> onnx.ModelProto:
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {"anydepth.source": SOURCE, **metadata})
    return model


PIECES: dict[str, dict[str, Any]] = {
    "stem.full": {"order": 0, "when": [], "reads": {"images": "images"}, "writes": {"x": "x"}},
    "head.full": {
        "order": 1,
        "when": [{"gate": 0, "layer": 0, "runs": True}],
        "reads": {"x": "x"},
        "writes": {name: name for name in ("labels", "boxes", "scores")},
    },
    "head.skipped": {
        "order": 1,
        "when": [{"gate": 0, "layer": 0, "runs": False}],
        "reads": {"x": "x"},
        "writes": {name: name for name in ("labels", "boxes", "scores")},
    },
}


def pieces() -> dict[str, tuple[dict[str, Any], onnx.ModelProto]]:
    """A chain by the names of its pieces: what the manifest says of each, and its graph."""
    found = {}
    for name, given in PIECES.items():
        stage, _, variant = name.partition(".")
        spec = {**given, "total": len(PIECES), "stage": stage, "variant": variant}
        constants: dict[str, Any] = {}
        if stage == "stem":
            inputs = [info("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])]
            outputs = [info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])]
            nodes = [helper.make_node("Identity", ["images"], ["x"])]
        else:
            inputs = [info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])]
            outputs = [
                info("labels", TensorProto.INT64, ["N", PLACES]),
                info("boxes", TensorProto.FLOAT, ["N", PLACES, 4]),
                info("scores", TensorProto.FLOAT, ["N", PLACES]),
            ]
            constants["row"] = np.float32(variant == "full")
            nodes = [helper.make_node("Shape", ["x"], ["batch"], end=1)]
            for value in outputs:
                nodes += filled(value, constants)
        tensors = [
            numpy_helper.from_array(np.asarray(item), key) for key, item in constants.items()
        ]
        made = helper.make_graph(nodes, name, inputs, outputs, tensors)
        found[name] = spec, finished(made, {"anydepth.piece": json.dumps(spec)})
    return found


def make(folder: Path, family: str, *, raw: bool = False) -> Bundle:
    """A gated graph, a static one of every rung, and a chain of three pieces."""
    folder.mkdir(parents=True)
    table = json.dumps({"levels": len(LADDER), "rows": ROWS})
    artifacts: list[tuple[onnx.ModelProto, dict[str, Any]]] = [
        (graph(family, {"anydepth.depths": table}, gated=True, raw=raw), {"name": "gated"})
    ]
    for row, depth in enumerate(LADDER):
        model = graph(family, {"anydepth.depth": depth}, gated=False, raw=raw)
        static = {"layout": "set", "depth": depth, "row": row, "level": row}
        artifacts.append((model, {"name": f"static-{depth}", **static}))
    for name, (spec, model) in pieces().items():
        artifacts.append((model, {"name": name, "layout": "stages", "piece": spec, "raw": False}))
    described = []
    for model, about in artifacts:
        content = model.SerializeToString()
        path = folder / f"{about['name']}.onnx"
        path.write_bytes(content)
        described.append(
            {
                "file": path.name,
                "layout": "gated",
                "weights": "folded",
                "raw": raw,
                "opset": 18,
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "built_with": {},
                "build_seconds": 0.0,
                **about,
            }
        )
    found = manifest(
        family=family,
        ladder=list(LADDER),
        depths=depth_rows(ROWS, LADDER),
        raw_outputs={name: name for name in RAW.get(family, ANOTHER)},
        suppression=Suppression() if family == "anydepth-yolo" else None,
        max_detections=PLACES,
        artifacts=described,
    )
    (folder / MANIFEST).write_text(found.model_dump_json())
    return open_bundle(folder)


def depth_rows(rows: Sequence[str], ladder: Sequence[str]) -> list[dict[str, Any]]:
    """The depth table of a manifest."""
    return [
        {
            "index": index,
            "depth": depth,
            "level": ladder.index(depth) if depth in ladder else None,
            "macs": {"total": MACS[depth]},
        }
        for index, depth in enumerate(rows)
    ]


Edit = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """``edit``: what is done to a bundle; ``layout``: opened then, all of it; ``says``: a part of
    the message, which begins with the name of ``file``."""

    edit: Edit
    layout: str
    file: str
    says: str


def edit_manifest(folder: Path, change: Callable[[Any], object]) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content))


def rehash(folder: Path, name: str, content: bytes) -> None:
    """Give an artifact other bytes, which the manifest vouches for."""

    def change(found: Any) -> None:
        (item,) = (item for item in found["artifacts"] if item["name"] == name)
        (folder / item["file"]).write_bytes(content)
        item.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    edit_manifest(folder, change)


def exchange(one: str, other: str) -> Edit:
    """Two artifacts with each other's files."""

    def change(found: Any) -> None:
        items = {item["name"]: item for item in found["artifacts"]}
        for key in ("bytes", "file", "sha256"):
            items[one][key], items[other][key] = items[other][key], items[one][key]

    return lambda folder: edit_manifest(folder, change)


def swap_rungs(folder: Path) -> None:
    def change(found: Any) -> None:
        rows, ladder = list(ROWS), list(LADDER)
        rows[1], rows[2] = rows[2], rows[1]
        ladder[1], ladder[2] = ladder[2], ladder[1]
        found["ladder"], found["depths"] = ladder, depth_rows(rows, ladder)
        for item in found["artifacts"]:
            if item.get("depth"):
                item["row"] = item["level"] = rows.index(item["depth"])

    edit_manifest(folder, change)


def says_of_manifest(layout: str, file: str, says: str, **changes: Any) -> Case:
    return Case(lambda f: edit_manifest(f, lambda found: found.update(changes)), layout, file, says)


def of_graph(
    name: str, change: Callable[[onnx.ModelProto], object], says: str, layout: str = "gated"
) -> Case:
    return Case(
        lambda f: edit_artifact(f, name, lambda model: void(change(model))),
        layout,
        f"{name}.onnx",
        says,
    )


def void(_: object) -> None:
    """What an expression gives is of no use."""


def entry(key: str, value: str | bytes) -> Callable[[onnx.ModelProto], None]:
    """Write an entry of the metadata anew."""

    def change(model: onnx.ModelProto) -> None:
        (item,) = (item for item in model.metadata_props if item.key == key)
        item.value = value

    return change


def shape(values: str, name: str, axis: int, side: int) -> Callable[[onnx.ModelProto], None]:
    """Give an input, an output or a tensor another size."""

    def change(model: onnx.ModelProto) -> None:
        (item,) = (item for item in getattr(model.graph, values) if item.name == name)
        item.type.tensor_type.shape.dim[axis].dim_value = side

    return change


def kind(name: str, code: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        (item,) = (item for item in model.graph.input if item.name == name)
        item.type.tensor_type.elem_type = code

    return change


def without(values: str, name: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        found = getattr(model.graph, values)
        kept = [item for item in found if item.name != name]
        del found[:]
        found.extend(kept)

    return change


def of_piece(name: str, says: str, **changes: Any) -> Case:
    """A piece whose graph has another place in a chain."""

    def change(model: onnx.ModelProto) -> None:
        (item,) = (item for item in model.metadata_props if item.key == "anydepth.piece")
        item.value = json.dumps({**json.loads(item.value), **changes})

    return of_graph(name, change, says, "stages")


def outside(tensor: onnx.TensorProto, file: str = "weights.bin") -> None:
    """Move the numbers of a tensor to another file."""
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value=file)
    tensor.external_data.add(key="offset", value="0")


def outside_in_branch(model: onnx.ModelProto) -> None:
    """In a branch of an If, in a Constant: not where one would look first."""
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "deep")
    outside(tensor, "../other.bin")
    constant = helper.make_node("Constant", [], ["found"], value=tensor)
    branch = helper.make_graph([constant], "b", [], [info("found", TensorProto.FLOAT, [3])])
    padding = numpy_helper.from_array(np.zeros(4000, np.float32), "padding")
    branch.initializer.append(padding)  # too large to be searched in one go
    model.graph.node.append(
        helper.make_node("If", ["yes"], ["if"], then_branch=branch, else_branch=branch)
    )


def cut(name: str, layout: str, keep: Callable[[bytes], bytes], says: str) -> Case:
    def edit(folder: Path) -> None:
        rehash(folder, name, keep((folder / f"{name}.onnx").read_bytes()))

    return Case(edit, layout, f"{name}.onnx", says)


TABLE, DEPTH, PIECE = "anydepth.depths", "anydepth.depth", "anydepth.piece"
RAW_OUTPUTS, SOURCE_KEY = "anydepth.raw_outputs", "anydepth.source"
STATIC = "static-FF-2"
FIRST = "static-TT-1"

CASES: dict[str, Case] = {
    "rungs-swapped": Case(
        swap_rungs,
        "gated",
        "gated.onnx",
        "row 1 of the depth table is FT-1 in the graph, FF-1 in the manifest: export it again",
    ),
    "fewer-depths": of_graph(
        "gated",
        entry(TABLE, json.dumps({"levels": 4, "rows": ROWS[:-1]})),
        "the number of depths is 7 in the graph, 8 in the manifest",
    ),
    "another-checkpoint": of_graph(
        "gated",
        entry(SOURCE_KEY, "b" * 64),
        "the checkpoint is bbbbbbbbbbbb in the graph, aaaaaaaaaaaa in the manifest",
    ),
    "static-at-another-row": Case(
        exchange(FIRST, STATIC),
        "set",
        f"{STATIC}.onnx",
        "the depth is FF-2 in the graph, TT-1 in the manifest",
    ),
    "static-as-gated": Case(
        exchange("gated", FIRST),
        "gated",
        f"{FIRST}.onnx",
        "the list of inputs is images in the graph, depth, images in the manifest",
    ),
    "gated-as-static": Case(
        exchange("gated", FIRST),
        "set",
        "gated.onnx",
        "the list of inputs is depth, images in the graph, images in the manifest",
    ),
    "piece-at-another-place": Case(
        exchange("head.full", "head.skipped"),
        "stages",
        "head.skipped.onnx",
        "the piece's variant is skipped in the graph, full in the manifest",
    ),
    "piece-of-another-order": of_piece(
        "head.full", "the piece's order is 3 in the graph, 1 in the manifest", order=3
    ),
    "piece-of-a-longer-chain": of_piece(
        "stem.full", "the piece's total is 9 in the graph, 3 in the manifest", total=9
    ),
    "piece-of-another-stage": of_piece(
        "stem.full", "the piece's stage is entry in the graph, stem in the manifest", stage="entry"
    ),
    "piece-with-another-condition": of_piece(
        "head.full",
        "the piece's condition 0 is gate 1 layer 0 runs in the graph, gate 0 layer 0 runs in the "
        "manifest",
        when=[{"gate": 1, "layer": 0, "runs": True}],
    ),
    "piece-without-condition": of_piece(
        "head.skipped",
        "the piece's condition 0 is none in the graph, gate 0 layer 0 is skipped in the manifest",
        when=[],
    ),
    "piece-that-reads-another": of_piece(
        "head.full", "the piece's input 0 is x of y in the graph, x of x", reads={"x": "y"}
    ),
    "piece-that-writes-another": of_piece(
        "stem.full", "the piece's output 0 is x of y in the graph, x of x", writes={"x": "y"}
    ),
    "another-size": says_of_manifest(
        "gated",
        "gated.onnx",
        "the input images is float32 [N, 3, 64, 64] in the graph, float32 [N, 3, 96, 64] in the "
        "manifest",
        preprocess={"size": [96, 64]},
    ),
    "another-size-of-pieces": says_of_manifest(
        "stages",
        "stem.full.onnx",
        "the input images is float32 [N, 3, 64, 64] in the graph, float32 [N, 3, 64, 96] in the "
        "manifest",
        preprocess={"size": [64, 96]},
    ),
    "images-in-half": of_graph(
        "gated",
        kind("images", TensorProto.FLOAT16),
        "the input images is float16 [N, 3, 64, 64] in the graph, float32 [N, 3, 64, 64]",
    ),
    "depth-as-text": of_graph(
        "gated",
        kind("depth", TensorProto.STRING),
        "the input depth is type 8 [] in the graph, int64 [] in the manifest",
    ),
    "more-classes": says_of_manifest(
        "gated",
        "gated.onnx",
        "the number of classes is 3 in the graph, 4 in the manifest",
        classes=["circle", "square", "star", "cross"],
    ),
    "fewer-classes": says_of_manifest(
        "set",
        f"{FIRST}.onnx",
        "the number of classes is 3 in the graph, 2 in the manifest",
        classes=["circle", "square"],
    ),
    "more-detections": says_of_manifest(
        "gated",
        "gated.onnx",
        "the number of detections in a picture is 5 in the graph, 7 in the manifest",
        max_detections=7,
    ),
    "more-detections-of-pieces": of_graph(
        "head.full",
        shape("output", "scores", 1, 9),
        "the number of detections in a picture is 9 in the graph, 5 in the manifest",
        "stages",
    ),
    "without-scores": of_graph(
        "gated",
        without("output", "scores"),
        "the list of outputs is labels, boxes in the graph, labels, boxes, scores in the manifest",
    ),
    "many-raw-outputs": of_graph(
        "gated",
        entry(RAW_OUTPUTS, json.dumps({str(number): "x" for number in range(64)})),
        f"its entry {RAW_OUTPUTS} has more than 64 names): export it again",
    ),
    "table-no-json": of_graph("gated", entry(TABLE, "rows"), f"its entry {TABLE} is not"),
    "table-no-object": of_graph("gated", entry(TABLE, "[]"), f"its entry {TABLE} is not"),
    "table-without-rows": of_graph("gated", entry(TABLE, "{}"), f"its entry {TABLE} is not"),
    "table-of-numbers": of_graph(
        "gated", entry(TABLE, '{"rows": [1, 2]}'), f"its entry {TABLE} is not"
    ),
    "table-too-deep": of_graph("gated", entry(TABLE, "[" * 100_000), f"its entry {TABLE} is not"),
    "table-no-text": cut(
        "gated",
        "gated",
        lambda content: content.replace(b'"levels"', b'"l\xffvels"'),
        f"its entry {TABLE} is no text): export it again",
    ),
    "table-twice": of_graph(
        "gated",
        lambda model: model.metadata_props.add(key=TABLE, value="{}"),
        f"it has two entries {TABLE}): export it again",
    ),
    "row-of-control-characters": of_graph(
        "gated",
        entry(TABLE, json.dumps({"rows": ["\x1b[2J\n" + "x" * 100, *ROWS[1:]]})),
        "row 0 of the depth table is \\x1b[2J\\n" + "x" * 100 + " in the graph, TT-1",
    ),
    "piece-without-stage": of_graph(
        "stem.full",
        entry(PIECE, '{"order": 0, "total": 3}'),
        f"its entry {PIECE} is not",
        "stages",
    ),
    "piece-of-text": of_piece("stem.full", f"its entry {PIECE} is not", order="0"),
    "raw-outputs-no-object": of_graph(
        "gated", entry(RAW_OUTPUTS, '["logits"]'), f"its entry {RAW_OUTPUTS} is not"
    ),
    "raw-outputs-of-numbers": of_graph(
        "gated", entry(RAW_OUTPUTS, '{"logits": 3}'), f"its entry {RAW_OUTPUTS} is not"
    ),
    "weights-outside": of_graph(
        "gated",
        lambda model: outside(model.graph.initializer[0]),
        "has the numbers of 'zero' in another file, 'weights.bin', which no manifest vouches for",
    ),
    "weights-outside-in-a-branch": of_graph(
        FIRST,
        outside_in_branch,
        "has the numbers of 'deep' in another file, '../other.bin', which no manifest vouches for",
        "set",
    ),
    "weights-outside-in-a-piece": of_graph(
        "head.full",
        lambda model: outside(model.graph.initializer[1]),
        "has the numbers of 'labels/sides' in another file, 'weights.bin'",
        "stages",
    ),
    "empty": cut("gated", "gated", lambda _: b"", "graph (byte 0: it holds no graph): export it"),
    "cut-short": cut(
        "gated", "gated", lambda content: content[:-9], ": a field is cut off): export it again"
    ),
    "text": cut(
        FIRST, "set", lambda _: b"<html>Not found</html>", "is not a whole ONNX graph (byte 0: "
    ),
    "zeros": cut("gated", "gated", lambda content: bytes(len(content)), "a field has no number"),
    "a-tensor": cut(
        "gated",
        "gated",
        lambda _: numpy_helper.from_array(np.zeros((2, 3), np.float32), "t").SerializeToString(),
        "it holds no graph",
    ),
    "two-graphs": cut("gated", "gated", lambda content: content * 2, "it "),
    "no-outputs": of_graph(
        "gated", lambda model: model.graph.ClearField("output"), "its graph has no outputs"
    ),
    "name-no-text": cut(
        "gated",
        "gated",
        lambda content: content.replace(b"\x0a\x05depth", b"\x0a\x05\xffepth"),
        ": a name is no text): export it again",
    ),
    "size-cut-off": cut("gated", "gated", lambda _: b"\x08\x08\x3a\x84", "(byte 3: a number is"),
    "no-size": cut("gated", "gated", lambda _: b"\x08\x08\x3a", "(byte 3: a number is cut off"),
    "endless-number": cut("gated", "gated", lambda _: b"\x3a" + b"\xff" * 12, "a number is cut"),
}
