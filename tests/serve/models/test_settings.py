"""What a Python model reads in its configuration; needs no server."""

from __future__ import annotations

import json

import pytest

from anydepth_deploy.errors import BundleError
from anydepth_deploy.serve.models.settings import number, parameters


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
