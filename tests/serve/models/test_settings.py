"""What a Python model reads in its configuration; needs no server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anydepth_deploy.errors import BundleError
from anydepth_deploy.serve.models.settings import budget, max_images, number, parameters
from anydepth_deploy.serve.names import Names
from anydepth_deploy.serve.protocol import messages, to_text


def test_numbers_and_what_holds_where_there_is_none() -> None:
    config = {"parameters": {"max_images": {"string_value": "3"}, "name": {"string_value": "x"}}}
    given = parameters({"model_config": json.dumps(config)})
    assert number(given, "max_images", 8) == 3
    assert number(given, "max_pixels", 8) == 8  # of a repository from before there was one
    assert parameters({"model_config": "{}"}) == {}


@pytest.mark.parametrize("text", ["0", "-1", "many", "1e3", "08", " 8", "8\n", "9" * 19])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(
        BundleError, match=r"parameter 'max_images' is .*: expected a number"
    ) as told:
        number({"max_images": text}, "max_images", 8)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("written", "taken"), [(16, 16), (4, 8), (0, 8)])
def test_both_ends_of_an_old_repository_take_the_same(
    tmp_path: Path, written: int, taken: int
) -> None:
    """Preprocessing has no number of its own there, and must not refuse what the router takes."""
    pytest.importorskip("tritonclient")
    names = Names("best")
    router = messages().ModelConfig(name=names.router)
    router.parameters["levels"].string_value = '{"0": "max_batch"}'
    router.parameters["max_batch"].string_value = str(written)
    given = {key: item.string_value for key, item in router.parameters.items()}
    (tmp_path / names.router).mkdir()
    (tmp_path / names.router / "config.pbtxt").write_text(to_text(router), "utf-8")
    at = {name: {"model_repository": str(tmp_path / name)} for name in vars(names).values()}
    assert max_images(at[names.router], given) == taken
    assert max_images(at[names.preprocess], {}) == taken
    assert max_images(at[names.preprocess], {"max_images": "3"}) == 3
    (tmp_path / names.router / "config.pbtxt").write_bytes(b"\xff")
    assert max_images(at[names.preprocess], {}) == 8
    (tmp_path / names.router / "config.pbtxt").unlink()
    assert max_images(at[names.preprocess], {}) == 8


def test_a_budget_or_none() -> None:
    assert budget({"budget_ms": "12.5"}) == 12.5
    assert budget({"budget_ms": ""}) is None
    assert budget({}) is None  # of a repository from before there was one
    for text in ("0", "-3", "soon", "nan"):
        with pytest.raises(BundleError, match=rf"parameter 'budget_ms' is '{text}': expected"):
            budget({"budget_ms": text})
