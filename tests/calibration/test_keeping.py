"""What stays in float: by range, by error, by structure, by name."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from int8 import (
    Network,
    float_convolutions,
    made_up_table,
    networks,
    nodes,
    quantised_convolutions,
)
from trained_networks import FAMILIES

from anydepth_deploy.calibration.keeping import Keeper, KeepingRules, check_patterns, table_ranges
from anydepth_deploy.calibration.table import RangeTable
from anydepth_deploy.errors import CalibrationError, UsageError
from anydepth_deploy.graph.passes.quantise import SCHEMES, quantise

__all__ = ["networks"]  # a fixture

DEPTHS = ("T", "F")

JOIN = "layer1/map"

NAMES = {  # convolution: what it reads
    "stem.full/Conv_0": "images",
    "layer1.full/Conv_0": "stem.full/a",
    "layer1.full/Conv_1": "layer1.full/e",
    "layer1.skipped/Conv_0": "stem.full/a",
    "layer2.full/Conv_0": JOIN,
    "layer2.full/Conv_1": JOIN,
    "layer2.full/Conv_2": "layer2.full/b",
    "head.full/Conv_0": "layer2.full/d",
}


def gated() -> ir.Model:
    """Named as assembled graphs are: a stage in an If, and a stage that reads what leaves it."""
    made: dict[str, onnx.NodeProto] = {}

    def conv(name: str, output: str) -> onnx.NodeProto:
        made[name] = onnx.helper.make_node("Conv", [NAMES[name], f"{name}.w"], [output], name)
        return made[name]

    def graph(name: str, body: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
        kernels = [
            onnx.helper.make_tensor(node.input[1], onnx.TensorProto.FLOAT, [1, 1, 1, 1], [0.5])
            for node in body
            if node.op_type == "Conv"
        ]
        inputs = [info("images")] if name == "g" else []
        if inputs:
            run = onnx.helper.make_tensor_value_info("run", onnx.TensorProto.BOOL, [])
            inputs.append(run)
        return onnx.helper.make_graph(body, name, inputs, [info(output)], kernels)

    def info(name: str) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 1, 2, 2])

    full = [conv("layer1.full/Conv_0", "layer1.full/e"), conv("layer1.full/Conv_1", "f")]
    body = [
        conv("stem.full/Conv_0", "stem.full/a"),
        onnx.helper.make_node(
            "If",
            ["run"],
            [JOIN],
            "layer1/If",
            then_branch=graph("layer1.full", full, "f"),
            else_branch=graph("layer1.skipped", [conv("layer1.skipped/Conv_0", "s")], "s"),
        ),
        conv("layer2.full/Conv_0", "layer2.full/b"),
        conv("layer2.full/Conv_1", "layer2.full/c"),
        conv("layer2.full/Conv_2", "layer2.full/d"),
        conv("head.full/Conv_0", "logits"),
        onnx.helper.make_node("Sigmoid", ["logits"], ["scores"], "head.full/Sigmoid"),
        onnx.helper.make_node("Add", ["scores", "layer2.full/c"], ["boxes"], "head.full/Add"),
    ]
    made_model = onnx.helper.make_model(
        graph("g", body, "boxes"), opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8
    )
    onnx.checker.check_model(made_model)
    return ir.from_proto(made_model)


def table(**changes: dict[str, tuple[float, ...]]) -> RangeTable:
    """Ranges of 0..1 at both depths, but for the tensors named by the ends of their names."""
    tensors = dict.fromkeys([*NAMES.values(), "f", "s", "logits", "layer2.full/c"])
    return made_up_table(
        {
            name: changes.get(name.split("/")[-1], dict.fromkeys(DEPTHS, (0.0, 1.0)))  # type: ignore[misc]
            for name in tensors
        },
        DEPTHS,
    )


def kept(ranges: RangeTable, depth: str | None = None, **rules: object) -> dict[str, str]:
    """Convolutions that stay in float, by name, and why."""
    model = gated()
    keeper = Keeper(ranges, KeepingRules(**rules), depth)  # type: ignore[arg-type]
    placements = quantise(model, SCHEMES["onnxruntime"], table_ranges(ranges, depth), keeper)
    found = {node.name or "": why for item in placements for node, why in item.kept.items()}
    proto = ir.to_proto(model)
    assert float_convolutions(proto).keys() == found.keys()
    assert quantised_convolutions(proto).keys() == NAMES.keys() - found.keys()
    return found


HEAD = {"head.full/Conv_0": "head output"}
READERS = {"layer2.full/Conv_0", "layer2.full/Conv_1"}


# --- ranges and errors -----------------------------------------------------------------------


def test_only_the_head_is_kept_by_itself() -> None:
    assert kept(table()) == HEAD
    assert kept(table(), "T") == HEAD


@pytest.mark.parametrize("ratio", [3.9, 4.1, 10.0])
def test_joins_that_differ_between_depths(ratio: float) -> None:
    ranges = table(map={"T": (0.0, 1.0), "F": (-ratio / 2, ratio / 2)})
    found = kept(ranges)
    assert found.keys() - HEAD == (READERS if ratio > 4 else set())
    assert all(
        f"{ratio:.1f}x" in found[name] and JOIN in found[name] for name in found.keys() - HEAD
    )
    assert kept(ranges, max_ratio=ratio + 0.1) == HEAD
    for depth in DEPTHS:  # a static graph has the range of its depth
        assert kept(ranges, depth) == HEAD


def test_what_enters_a_branch_is_a_join() -> None:
    ranges = table(a={"T": (0.0, 1.0), "F": (0.0, 10.0)})
    assert kept(ranges).keys() - HEAD == {"layer1.full/Conv_0", "layer1.skipped/Conv_0"}
    ranges = table(images={"T": (0.0, 1.0), "F": (0.0, 10.0)})
    assert kept(ranges).keys() - HEAD == {"stem.full/Conv_0"}


def test_within_a_stage_ranges_may_differ() -> None:
    ranges = table(b={"T": (0.0, 1.0), "F": (0.0, 50.0)}, e={"T": (0.0, 1.0), "F": (0.0, 50.0)})
    assert kept(ranges) == HEAD


def test_depths_where_a_join_is_zero_do_not_count() -> None:
    assert kept(table(map={"T": (0.0, 0.0), "F": (0.0, 10.0)})) == HEAD


def test_errors_of_the_depth_or_of_the_merged_range() -> None:
    """The merged range is too coarse at one depth, each depth's own is not; and the reverse."""
    ranges = table(b={"T": (0.0, 1.0, 0.01, 0.11), "F": (0.0, 3.0, 0.09, 0.09)})
    found = kept(ranges)
    assert found.keys() - HEAD == {"layer2.full/Conv_2"}
    assert "0.11" in found["layer2.full/Conv_2"]
    assert "layer2.full/b" in found["layer2.full/Conv_2"]
    assert kept(ranges, "T") == kept(ranges, "F") == HEAD
    assert kept(ranges, max_error=0.12) == HEAD
    assert kept(ranges, "F", max_error=0.05).keys() - HEAD == {"layer2.full/Conv_2"}
    assert kept(ranges, "T", max_error=0.05) == HEAD
    own = table(b={"T": (0.0, 1.0, 0.3, 0.05), "F": (0.0, 1.0, 0.01, 0.05)})
    assert kept(own) == HEAD
    assert kept(own, "T").keys() - HEAD == {"layer2.full/Conv_2"}
    assert kept(own, "F") == HEAD


def test_a_tensor_without_a_range_is_refused() -> None:
    bare = made_up_table({"images": {"T": (0.0, 1.0)}}, DEPTHS)
    with pytest.raises(CalibrationError, match=r"no tensor 'layer1/map'"):
        kept(bare)
    with pytest.raises(CalibrationError, match=r"no range of the tensor 'images' at depth F"):
        kept(bare, "F")


# --- patterns --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("layer2.full/Conv_2", {"layer2.full/Conv_2"}),
        ("layer1.full", {"layer1.full/Conv_0", "layer1.full/Conv_1"}),
        ("layer1", {"layer1.full/Conv_0", "layer1.full/Conv_1", "layer1.skipped/Conv_0"}),
        (JOIN, READERS),
        ("layer*/Conv_1", {"layer1.full/Conv_1", "layer2.full/Conv_1"}),
        ("layer?.skipped", {"layer1.skipped/Conv_0"}),
        ("*", set(NAMES)),
        ("Conv_0", set()),
        ("LAYER1", set()),
    ],
)
def test_patterns_keep(pattern: str, expected: set[str]) -> None:
    found = kept(table(), keep=(pattern,))
    assert {name for name, why in found.items() if why == f"--keep {pattern}"} == expected
    assert found.keys() - expected == HEAD.keys() - expected


def test_patterns_quantise_whatever_the_table_says() -> None:
    ranges = table(
        map={"T": (0.0, 1.0), "F": (0.0, 10.0)}, b={"T": (0.0, 1.0, 0.5, 0.5)}, d={"T": (0.0, 1.0)}
    )
    assert kept(ranges).keys() == READERS | {"layer2.full/Conv_2"} | HEAD.keys()
    assert kept(ranges, quantise=(JOIN,)).keys() == {"layer2.full/Conv_2"} | HEAD.keys()
    assert kept(ranges, quantise=("layer2",)).keys() == HEAD.keys()
    assert kept(ranges, quantise=("layer2", "head.full/Conv_0")) == {}


def test_keep_wins() -> None:
    found = kept(table(), keep=("layer2.full/Conv_0", "head"), quantise=("layer2", "*"))
    assert found == {
        "layer2.full/Conv_0": "--keep layer2.full/Conv_0",
        "head.full/Conv_0": "--keep head",
    }


def test_patterns_that_match_nothing_are_refused() -> None:
    names = list(NAMES)
    good = KeepingRules(keep=("layer1", "stem.full/a"), quantise=("head*",))
    check_patterns(good, names, NAMES.values())
    for rules in (KeepingRules(keep=("layer1", "layr2")), KeepingRules(quantise=("layr2",))):
        with pytest.raises(UsageError, match="'layr2'") as caught:
            check_patterns(rules, names, NAMES.values())
        assert "'layer1'" not in str(caught.value)
        assert "stem.full/Conv_0" in str(caught.value)
        assert "\n" not in str(caught.value)
    check_patterns(KeepingRules(), names, NAMES.values())


# --- trained networks ------------------------------------------------------------------------


@pytest.fixture(params=FAMILIES)
def trained_network(request: pytest.FixtureRequest, networks: dict[str, Network]) -> Network:
    return networks[request.param]


def widened(ranges: RangeTable, tensor: str, depth: str, times: float) -> RangeTable:
    """The table with one range made that much wider than all others of the tensor."""
    entries = dict(ranges.tensors[tensor])
    low, high = ranges.merged(tensor)
    entry = entries[depth]
    entries[depth] = entry.model_copy(update={"low": low * times, "high": high * times})
    return ranges.model_copy(update={"tensors": {**ranges.tensors, tensor: entries}})


def test_one_join_with_ten_times_the_range(trained_network: Network) -> None:
    """Exactly the convolutions that read it stay in float, and none in the static graphs."""
    net = trained_network
    rules = KeepingRules(max_ratio=8.0, max_error=1e9)
    _, exact = net.lower("folded", precision="fp32")
    joins = [name for _, node in nodes(exact, "If") for name in node.output]
    join = next(
        name
        for name in joins
        if any(node.input[0] == name for _, node in nodes(exact, "Conv"))
        and name in net.ranges.tensors
    )
    readers = {node.name for _, node in nodes(exact, "Conv") if node.input[0] == join}
    assert readers
    before, _ = net.lower("folded", rules=rules)
    ranges = widened(net.ranges, join, net.ranges.depths[0], 10.0)
    lowered, model = net.lower("folded", rules=rules, ranges=ranges)
    found = {item.node: item.reason for item in lowered.kept if item.op == "Conv"}
    new = found.keys() - {item.node for item in before.kept}
    assert new == readers
    assert all(join in found[name] for name in new)
    assert readers <= float_convolutions(model).keys()
    assert lowered.quantised == before.quantised - len(readers)
    for depth in net.rungs:
        static, _ = net.lower(depth=depth, rules=rules, ranges=ranges)
        kept_there = {item.reason for item in static.kept if item.op == "Conv"}
        assert kept_there <= {"head output"}


def test_heads_of_a_yolo_are_quantised_on_request(networks: dict[str, Network]) -> None:
    net = networks["anydepth-yolo"]
    rules = KeepingRules(max_ratio=1e9, max_error=1e9, quantise=("head",))
    plain, asked = net.lower("folded")[0], net.lower("folded", rules=rules)[0]
    assert {item.reason for item in plain.kept} == {"head output"}
    assert asked.kept == []
    assert asked.quantised == plain.quantised + 6
