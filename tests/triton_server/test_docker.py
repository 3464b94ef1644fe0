"""The files for Docker, as far as they can be checked without it."""

from __future__ import annotations

import fnmatch
import json
import re
from typing import Any

import pytest
import yaml
from conftest import ROOT

from anydepth_deploy.serve import health

FOLDER = ROOT / "triton_server"


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))["services"]
    return found


def instructions(word: str) -> list[str]:
    lines = (FOLDER / "Dockerfile").read_text("utf-8").splitlines()
    return [line.split(maxsplit=1)[1] for line in lines if line.startswith(f"{word} ")]


def test_the_cpu_is_the_default_and_the_gpu_a_profile() -> None:
    found = services()
    assert "profiles" not in found["triton"]
    assert found["triton-gpu"]["profiles"] == ["gpu"]
    for name, variant in (("triton", "cpu"), ("triton-gpu", "gpu")):
        assert found[name]["command"][0] == "tritonserver"
        assert f"--model-config-name={variant}" in found[name]["command"]
        assert "--model-repository=/models" in found[name]["command"]
        assert found[name]["volumes"][0].endswith(":/models:ro")
        assert found[name]["shm_size"]
    devices = found["triton-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]


def test_nothing_is_open_to_the_network() -> None:
    for service in services().values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_health_check_is_one_that_notices_dead_processes() -> None:
    """And its words are understood by what they name."""
    text = (FOLDER / "Dockerfile").read_text("utf-8")
    (image,) = re.findall(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", text, re.MULTILINE)
    for service in services().values():
        assert service["restart"] == "unless-stopped"
        check = service["healthcheck"]["test"]
        assert check[1:4] == json.loads(image) == ["python3", "-m", health.__name__]
        # The server is what the container runs, so it is process 1.
        assert check[4:] == ["--end", "1"]
        assert int(service["healthcheck"]["timeout"].removesuffix("s")) > 5  # its own


def test_the_image_is_built_from_the_clone() -> None:
    build = services()["triton"]["build"]
    assert (FOLDER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).resolve() == FOLDER / "Dockerfile"
    (default,) = re.findall(r"\$\{TRITON_IMAGE:-(.*)\}", build["args"]["TRITON_IMAGE"])
    assert instructions("ARG") == [f"TRITON_IMAGE={default}"]
    assert instructions("FROM") == ["${TRITON_IMAGE}"]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    lines = (FOLDER / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    copied = [name for line in instructions("COPY") for name in line.split()[:-1]]
    assert sorted(kept) == sorted(copied)
    for name in copied:
        assert (ROOT / name).exists()


@pytest.mark.parametrize("name", ["readme", "license-files"])
def test_what_the_package_is_built_of_is_copied(name: str) -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    (value,) = re.findall(rf'^{name} = \[?"(.*?)"', text, re.MULTILINE)
    copied = [name for line in instructions("COPY") for name in line.split()]
    assert fnmatch.filter(copied, value)
