"""Which type an engine computes in, from lines and documents as the libraries write them."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from anydepth_deploy.building.evidence import (
    Listing,
    asked_types,
    check_precision,
    from_inspector,
    from_log,
    type_of,
)
from anydepth_deploy.errors import PrecisionError

TITLE = "TensorRT-RTX 1.7.1"


def tensor(kind: str) -> str:
    """``Half``, or ``Half [-1,60,4]``: a type, and dimensions."""
    name, _, sides = kind.partition(" ")
    return (
        f"{{ Name: t_myl0, Dimensions: {sides or '[-1,3,8,8]'}, Strides: [192,64,8,1], "
        f"Datatype: {name}, Format: (NHWC) Channel major format }}"
    )


def line(name: str, kind: str, inputs: list[str], constants: list[str], output: str) -> str:
    """As TensorRT-RTX 1.7.1 lists a layer in its verbose log."""
    shown = [", ".join(map(tensor, kinds)) for kinds in (inputs, constants)]
    return (
        f"Name: {name}_myl0_3, LayerType: {kind}, Inputs: [ {shown[0]}], Constants: [ {shown[1]}], "
        f"Outputs: [ {tensor(output)}], TacticName: sm75_xmma, StreamId: 0, Metadata: "
    )


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (line("a/Conv_0", "correlation", ["Half", "Half"], ["Half", "Float"], "Half"), "fp16"),
        # A convolution in INT8 gives FP32 or FP16; its scales are FP32.
        (line("a/Conv_0", "correlation", ["Int8"], ["Int8", "Float", "Float"], "Float"), "int8"),
        (line("a/MatMul_1+a/MatMul_2", "gemm", ["Float"], ["Float"], "Float"), "fp32"),
        (line("a/MatMul_1", "gemm", ["BFloat16"], ["BFloat16"], "Float"), "bf16"),
        # In branches of an If sizes come along; here they come first.
        (line("__myl_FcAdd", "runtime_fusion", ["Int64", "Half"], ["Float"], "Half"), "fp16"),
        (line("__myl_CorrMulAddRelu", "runtime_fusion", ["Half"], ["Half"], "Half"), "fp16"),
        (line("_gemm_mha_v2", "kgen", ["Half", "Half", "Half"], [], "Half"), "fp16"),
        # What is added to a product may stand before its factors, which fit each other.
        (
            line(
                "__myl_FcCastAddAddSigm",
                "runtime_fusion",
                ["Float [1,60,4]", "Half [1,60,64]"],
                ["Float [1,1,4]", "Half [1,64,4]"],
                "Float",
            ),
            "fp16",
        ),
        (
            line(
                "__myl_FcCastAddAdd",
                "runtime_fusion",
                ["Half [-1,4]", "Float [-1,64]"],
                ["Half [1,4]", "Float [64,4]"],
                "Half",
            ),
            "fp32",
        ),
        # A number for each query and a bias of each class: added, not multiplied.
        (
            line(
                "__myl_FcCastAddAdd_myl0_230",
                "runtime_fusion",
                ["Float [-1,1]", "Half [-1,64]", "Int64 [1]"],
                ["Float [1,8]", "Half [64,8]"],
                "Float",
            ),
            "fp16",
        ),
        # Where both fit, the first.
        (
            line(
                "__myl_FcCastFc",
                "runtime_fusion",
                ["Float [-1,64]", "Half [-1,64]"],
                ["Half [64,4]", "Float [64,4]"],
                "Half",
            ),
            "fp32",
        ),
        (
            line(
                "$$myelin$$(Unnamed IfConditional* 4)^$$myelin$$then^a.full/Conv_8",
                "correlation",
                ["Int8"],
                ["Int8"],
                "Half",
            ),
            "int8",
        ),
        (line("a/MaxPool_3", "maxpool", ["Half"], [], "Half"), None),
        (line("__myl_ConcMulTran", "kgen", ["Float"], [], "Float"), None),
        (line("__myl_CastReplConc", "kgen", ["Float"], [], "Half"), None),
        ("Registering layer: a/Conv_0 for ONNX node: a/Conv_0", None),
    ],
)
def test_lines_of_the_log(listed: str, expected: str | None) -> None:
    found = from_log([f"Engine Layers:\n{listed}\n\nI/O Tensors:", "something else"])
    assert found == Listing(Counter({expected: 1} if expected else {}))


@pytest.mark.parametrize(
    ("layer", "expected", "opaque"),
    [
        # TensorRT 8.6: with a free batch only the weights tell.
        (
            {
                "LayerType": "CaskConvolution",
                "Inputs": [{"Name": "x", "Format/Datatype": "N/A due to dynamic shapes"}],
                "ParameterType": "Convolution",
                "Weights": {"Type": "Int8", "Count": 64},
            },
            "int8",
            0,
        ),
        (
            {
                "LayerType": "CaskConvolution",
                "Inputs": [{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
                "Weights": {"Type": "Half", "Count": 64},
            },
            "fp16",
            0,
        ),
        (
            {
                "LayerType": "CaskGemmConvolution",
                "Inputs": [
                    {"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}
                ],
            },
            "int8",
            0,
        ),
        ({"LayerType": "Myelin", "Name": "{ForeignNode[a...b]}", "Inputs": []}, None, 1),
        # 10: words for types; generated kernels.
        (
            {"LayerType": "gemm", "Inputs": [{"Format/Datatype": "Float"}]},
            "fp32",
            0,
        ),
        (
            {
                "LayerType": "kgen",
                "Name": "__myl_FcAdd_myl0_3",
                "Inputs": [{"Format/Datatype": "Int64"}, {"Format/Datatype": "Half"}],
            },
            "fp16",
            0,
        ),
        (
            {
                "LayerType": "kgen",
                "Name": "__myl_AddRelu_myl0_3",
                "Inputs": [{"Format/Datatype": "Half"}],
            },
            None,
            0,
        ),
        # 11: the type by itself.
        (
            {"LayerType": "correlation", "Inputs": [{"Datatype": "Half", "Format": "(NHWC) x"}]},
            "fp16",
            0,
        ),
        (
            {
                "LayerType": "kgen",
                "Name": "__myl_FcCastAdd_myl0_3",
                "Inputs": [
                    {"Dimensions": [1, 60, 4], "Format/Datatype": "Float"},
                    {"Dimensions": [1, 60, 64], "Format/Datatype": "Half"},
                ],
                "Constants": [{"Dimensions": [64, 4], "Format/Datatype": "Half"}],
            },
            "fp16",
            0,
        ),
        ({"LayerType": "MatrixMultiply", "Inputs": [{"Format/Datatype": "N/A"}]}, None, 1),
        ({"LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Row major FP32"}]}, None, 0),
        ("only the name of a layer", None, 1),
    ],
)
def test_layers_of_the_inspector(layer: Any, expected: str | None, opaque: int) -> None:
    found = from_inspector(json.dumps({"Layers": [layer], "Bindings": ["images"]}))
    assert found == Listing(Counter({expected: 1} if expected else {}), opaque)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Half", "fp16"), ("Row major linear FP32", "fp32"), ("BFloat16", "bf16"), ("Int64", None)],
)
def test_words_for_types(text: str, expected: str | None) -> None:
    assert type_of(text) == expected


def test_types_of_the_graph() -> None:
    layers = [("a", "HALF"), ("b", "int8"), ("c", "FLOAT"), ("d", "HALF")]
    assert asked_types(layers) == {"fp16": 2, "int8": 1, "fp32": 1}


def check(
    found: dict[str, int],
    asked: dict[str, int],
    precision: str,
    capabilities: tuple[str, ...] = ("sm89",),
    opaque: int = 0,
) -> list[str]:
    listing = Listing(Counter(found), opaque)
    return check_precision(listing, asked, precision, capabilities=capabilities, title=TITLE)


@pytest.mark.parametrize(
    ("found", "asked", "precision"),
    [
        ({"fp32": 5}, {"fp32": 8}, "fp32"),
        ({"fp32": 5, "fp16": 1}, {"fp32": 8, "fp16": 1}, "fp32"),
        ({"fp16": 5}, {"fp16": 8}, "fp16"),
        ({"fp16": 5, "fp32": 1}, {"fp16": 8, "fp32": 2}, "fp16"),
        ({"fp16": 5, "int8": 9}, {"fp16": 8, "int8": 9}, "int8"),
        ({"fp16": 5}, {"fp16": 8}, "int8"),  # a piece of which nothing was quantised
        ({}, {}, "int8"),
    ],
)
def test_what_was_asked_for_passes(
    found: dict[str, int], asked: dict[str, int], precision: str
) -> None:
    assert check(found, asked, precision) == []


@pytest.mark.parametrize(
    ("found", "asked", "precision", "message"),
    [
        ({"fp32": 8}, {"fp16": 8}, "fp16", "FP16 cannot be delivered for sm89 by TensorRT-RTX"),
        ({"fp16": 7, "fp32": 1}, {"fp16": 8}, "fp16", "7 in FP16, 1 in FP32.*has 0 in FP32"),
        ({"int8": 7, "fp32": 2}, {"int8": 7, "fp16": 2}, "int8", "2 in FP32, 7 in INT8.*has 0 in"),
        ({"fp32": 8}, {"fp32": 8}, "fp16", "the graph is not in FP16: all its 8"),
        ({"fp32": 8}, {"fp32": 8}, "int8", "the graph is not in INT8: .*: export it in int8"),
        ({"fp16": 8}, {"fp32": 8}, "fp32", "FP32 cannot be delivered.*build fp16"),
        ({"fp16": 8}, {"int8": 7}, "int8", r"none of 7 convolutions .* \(8 in FP16\): build fp16"),
    ],
)
def test_another_precision_is_refused(
    found: dict[str, int], asked: dict[str, int], precision: str, message: str
) -> None:
    with pytest.raises(PrecisionError, match=message):
        check(found, asked, precision)


def test_of_several_targets_the_weakest_is_named() -> None:
    with pytest.raises(PrecisionError, match=r"for sm120, sm89 by .*leave sm89 out"):
        check({"fp16": 8}, {"int8": 7}, "int8", ("sm120", "sm89"))


def test_what_cannot_be_seen_is_remarked() -> None:
    assert check({"fp16": 2}, {"fp16": 9}, "fp16", opaque=3) == [
        "3 layers do not show what they compute in"
    ]
    assert check({}, {"fp16": 9}, "fp16", opaque=1)[1:] == [
        "no convolution or matrix product shows what it computes in"
    ]
    assert check({"int8": 5}, {"int8": 7}, "int8") == ["5 of 7 quantised layers compute in INT8"]
