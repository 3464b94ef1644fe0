"""What no key tells of a network, in the entry ``network`` of a checkpoint: there and back."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from static_detr_cases import shapes_of
from static_detrs import static_detr

from anydepth_deploy.checkpoints.checkpoint import Checkpoint, load_model, read_checkpoint
from anydepth_deploy.describe import describe_checkpoint, show
from anydepth_deploy.errors import CheckpointError
from anydepth_deploy.families.registry import find_family
from anydepth_deploy.families.shared.settling import Beside, Said

CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"decoder_activation": "silu"},
    {"queries": 31, "max_detections": 17, "input_size": (96, 160)},
    {"sampling": "discrete", "feedforward_activation": "silu"},
    {"points": (2, 4, 6), "classes": 3},
)

TINY = [
    (family, size)
    for family in ("rt-detr", "d-fine")
    for size in find_family(family).sizes
    if size.startswith("tiny")
]

PUBLISHED = [
    ("rt-detr", "r18"),
    ("rt-detr", "r50-fine"),
    ("rt-detr", "v2-r18-sp2"),
    ("rt-detr", "deim-r34"),
    ("rt-detr", "v2-hgnetv2-x"),
    ("d-fine", "n"),
    ("d-fine", "x"),
    ("d-fine", "deim-s"),
    ("d-fine", "v4-l"),
]


def written(config: Any, family: str) -> dict[str, Any]:
    """The entry of a checkpoint of ``config``."""
    remember = find_family(family).remember
    assert remember is not None
    entry = remember(config)
    # Plain: what a reader that executes nothing takes.
    assert all(isinstance(v, str | int | list | type(None)) for v in entry.values())
    return entry


def saved(path: Path, model: Any, entry: Any) -> Path:
    torch.save({"ema": {"module": model.state_dict()}, "network": entry}, path)
    return path


def both_forms(family: str, config: Any) -> list[Any]:
    sizes = find_family(family).sizes
    return [config.renamed(sizes), config.deepened(sizes)]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize(("family", "size"), TINY)
def test_there_and_back(family: str, size: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """A file: static and any-depth. Nothing is assumed."""
    found = find_family(family)
    for config in both_forms(family, found.sizes[size].replace(**changes)):
        path = saved(tmp_path / "c.pth", found.build(config), written(config, family))
        checkpoint = read_checkpoint(path)
        assert checkpoint.config == config
        assert (checkpoint.family.name, checkpoint.assumed) == (family, {})
        assert not [note for note in checkpoint.notes if "assumed" in note]
        assert load_model(checkpoint).config == config


@pytest.mark.parametrize(("family", "size"), PUBLISHED)
def test_published_sizes(family: str, size: str) -> None:
    """Without memory, but for the numbers that are read."""
    found = find_family(family)
    assert found.settle is not None
    for config in both_forms(family, found.sizes[size].replace(queries=77)):
        with torch.device("meta"):
            state = dict(found.build(config).state_dict())
        if family == "d-fine":
            state["decoder.reg_scale"] = torch.tensor([config.reach])
            state["decoder.up"] = torch.tensor([config.bound])
        recognised = found.recognise(shapes_of(state))
        beside = Beside("c.pth", network=written(config, family))
        settled = found.settle(recognised, state, beside)
        assert settled.config == config
        assert settled.assumed == {}


def test_fine_is_remembered(tmp_path: Path) -> None:
    found = find_family("rt-detr")
    plain = found.sizes["tiny-fine"]
    fine = dataclasses.replace(plain.fine, position=False, upsampling="nearest")
    for config in both_forms("rt-detr", plain.replace(fine=fine)):
        path = saved(tmp_path / "c.pth", found.build(config), written(config, "rt-detr"))
        checkpoint = read_checkpoint(path)
        assert checkpoint.config == config
        assert checkpoint.assumed == {}


@functools.cache
def tiny(family: str) -> Any:
    """Read only."""
    return static_detr(family)


def read(tmp_path: Path, family: str, entry: Any, said: Said | None = None) -> Checkpoint:
    return read_checkpoint(saved(tmp_path / "c.pth", tiny(family), entry), said)


def test_a_persons_word_wins(tmp_path: Path) -> None:
    config = find_family("d-fine").sizes["deim-s"]
    entry = written(config, "d-fine") | {"queries": 60}
    entry = {key: value for key, value in entry.items() if key != "input_size"}
    kept = read(tmp_path, "d-fine", entry)
    assert (kept.config.decoder_activation, kept.config.release) == ("silu", "deim")
    assert kept.chosen["decoder_activation"] == "silu"
    other = read(tmp_path, "d-fine", entry, Said(decoder_activation="relu", sampling="discrete"))
    assert (other.config.decoder_activation, other.config.sampling) == ("relu", "discrete")
    assert (other.config.queries, other.assumed) == (60, {})
    inner = entry | {"feedforward_activation": "relu"}
    assert read(tmp_path, "d-fine", inner).config.feedforward_activation == "relu"
    said = read(tmp_path, "d-fine", inner, Said(decoder_activation="relu"))
    assert said.config.feedforward_activation is None


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("rt-detr", {"family": "d-fine"}, "family = 'd-fine', expected one of rt-detr"),
        ("rt-detr", {"queries": "many"}, "queries = 'many', expected 1 to 10000"),
        ("rt-detr", {"queries": True}, "queries = True"),
        ("rt-detr", {"queries": 0}, "queries = 0"),
        ("rt-detr", {"max_detections": 10**6}, "max_detections = 1000000"),
        ("rt-detr", {"points": [4, 8]}, "points = [4, 8], expected 4, 4, 4"),
        ("rt-detr", {"points": [4, 4, 5]}, "points = [4, 4, 5], expected 4, 4, 4"),
        ("rt-detr", {"points": []}, "points = [], expected points of attention by level"),
        ("rt-detr", {"release": "deim"}, "release = 'deim', expected one of v1, v2"),
        ("d-fine", {"release": "v1"}, "release = 'v1', expected one of d-fine, deim, v4"),
        ("d-fine", {"sampling": "cubic"}, "sampling = 'cubic', expected one of bilinear, discrete"),
        ("d-fine", {"decoder_activation": None}, "decoder_activation = None, expected one of relu"),
        ("d-fine", {"feedforward_activation": ["relu"]}, "feedforward_activation = ['relu']"),
        ("rt-detr", {"fine_position": "on"}, "fine_position = 'on', expected nothing of FINE"),
        ("rt-detr", {"input_size": [100, 96]}, "input_size = [100, 96], expected a height"),
        ("rt-detr", {"input_size": [96]}, "input_size = [96], expected a height"),
        ("rt-detr", {"sampling": "\x1b[2J"}, "sampling = "),
    ],
)
def test_contradictions_are_refused_in_one_line(
    family: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    entry = written(tiny(family).config, family) | changes
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, family, entry)
    message = str(caught.value)
    assert words in message, message
    assert "its entry 'network' has" in message
    assert message.isprintable()


@pytest.mark.parametrize(
    "entry",
    [
        {"queries": 7},  # of somebody else: no family
        {},
        {"weights": torch.rand(2)},
        "rt-detr",
        [1, 2],
    ],
    ids=["no family", "empty", "tensors", "text", "list"],
)
def test_what_others_call_network_is_left_alone(entry: Any, tmp_path: Path) -> None:
    found = read(tmp_path, "d-fine", entry)
    assert found.config.name == "tiny"
    assert found.config.queries == 60
    assert found.assumed == {"decoder_activation": "relu"}


def test_entries_of_later_versions_are_left_out(tmp_path: Path) -> None:
    entry = written(static_detr("rt-detr").config, "rt-detr") | {"gates_of_2031": [1]}
    assert read(tmp_path, "rt-detr", entry).config == static_detr("rt-detr").config


def test_an_input_too_large_to_be_decided_by_a_file(tmp_path: Path) -> None:
    entry = written(static_detr("rt-detr").config, "rt-detr") | {"input_size": [4096, 4096]}
    assert read(tmp_path, "rt-detr", entry).config.input_size == (160, 160)


def test_scales_of_points_in_a_file_are_held_against_it(tmp_path: Path) -> None:
    model = static_detr("rt-detr")
    state = dict(model.state_dict())
    scales = torch.tensor([1 / 4] * 12)
    for layer in range(3):
        state[f"decoder.decoder.layers.{layer}.cross_attn.num_points_scale"] = scales
    entry = written(model.config, "rt-detr") | {"points": [2, 4, 6], "release": "v2"}
    torch.save({"ema": {"module": state}, "network": entry}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"points = \[2, 4, 6\], expected 4, 4, 4"):
        read_checkpoint(tmp_path / "c.pth")


def test_inspect_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = find_family("d-fine")
    config = found.sizes["tiny"].replace(csp_blocks=2, decoder_activation="silu", release="deim")
    config = config.deepened(found.sizes)
    path = saved(tmp_path / "c.pth", found.build(config), written(config, "d-fine"))
    told = describe_checkpoint(path, (96, 160))
    assert told["config"] == "custom any-depth"
    assert told["assumed"] == {}
    assert [gate["name"] for gate in told["gates"]] == ["backbone.layer3", "encoder", "decoder"]
    assert [row["depth"] for row in told["depths"][:3]] == ["T-T-3", "T-F-3", "F-F-3"]
    show(told, every=False, as_json=False)
    shown = capsys.readouterr().out
    assert "ASSUMED" not in shown
    assert "decoder_activation: silu" in shown
    assert "d-fine custom any-depth" in shown
