"""What is released to an index: links that lead somewhere from there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT

from release.environments import FailedError
from release.source import absolute, staged, with_urls

FORGE = "https://forge.example/owner/name"


def test_links_become_absolute() -> None:
    text = "![A](docs/a.png) and [b](docs/b.md#c), [here](#d), [there](https://x.example/y)"
    assert absolute(text, FORGE + "/", "v1") == (
        f"![A]({FORGE}/raw/v1/docs/a.png) and [b]({FORGE}/blob/v1/docs/b.md#c), [here](#d), "
        "[there](https://x.example/y)"
    )


def test_every_link_of_the_readme_leads_to_a_file_and_a_heading() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(
        rf"\]\({FORGE}/(raw|blob)/v1/([^)#]+)#?([^)]*)\)", absolute(text, FORGE, "v1")
    )
    assert len(found) >= 15
    assert ("raw", "docs/demo.png", "") in found
    for _, name, anchor in found:
        assert (ROOT / name).is_file(), name
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (ROOT / name).read_text(encoding="utf-8"), re.M)
            assert anchor in {
                re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings
            }
    # None is left that leads nowhere on an index.
    left = re.findall(r"\]\(([^)]+)\)", absolute(text, FORGE, "v1"))
    assert all(one.startswith(("https://", "#")) for one in left)


def test_a_staged_tree_has_what_git_knows(tmp_path: Path) -> None:
    tree = staged(ROOT, tmp_path, FORGE, "v9")
    assert (tree / "anydepth_deploy" / "trained" / "anydepth-detr-tiny-shapes.pth").is_file()
    assert not (tree / ".git").exists()
    assert f"{FORGE}/blob/v9/docs/quickstart.md#a-checkpoint" in (tree / "README.md").read_text()
    assert (tree / "pyproject.toml").read_text().endswith(f'Issues = "{FORGE}/issues"\n')


def test_addresses_are_those_of_the_project() -> None:
    yaml = with_urls('[project]\nname = "x"\n', FORGE, "v1")
    assert yaml.startswith('[project]\nname = "x"\n\n[project.urls]\n')
    assert f'Changelog = "{FORGE}/blob/v1/CHANGELOG.md"' in yaml


@pytest.mark.parametrize(
    ("repository", "ref"),
    [("forge/owner", "v1"), ('https://f/o"n', "v1"), (FORGE, "-x"), (FORGE, "")],
)
def test_what_is_no_address_is_refused(tmp_path: Path, repository: str, ref: str) -> None:
    with pytest.raises(FailedError, match=r"is no (address|name)"):
        staged(ROOT, tmp_path, repository, ref)
    assert not any(tmp_path.iterdir())
