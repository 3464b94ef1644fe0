"""Names that Windows or a Mac wrote find the files of this machine."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path

import pytest

from anydepth_deploy.pictures.names import Names

COMPOSED, DECOMPOSED = "caf\u00e9.png", "cafe\u0301.png"


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


@pytest.mark.parametrize(
    ("there", "asked"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED), (COMPOSED, COMPOSED)]
)
def test_composed_and_decomposed_letters(tmp_path: Path, there: str, asked: str) -> None:
    put(tmp_path, there, "other.png")
    assert Names(tmp_path).find(asked) == tmp_path / there
    put(tmp_path, f"{there}.d/{there}")
    assert Names(tmp_path).find(f"{asked}.d/{asked}") == tmp_path / f"{there}.d" / there
    assert Names(tmp_path).find(f"{asked}.d\\{asked}") == tmp_path / f"{there}.d" / there


def test_the_very_name_comes_first(tmp_path: Path) -> None:
    put(tmp_path, COMPOSED, DECOMPOSED, "a/b.png", "a\\b.png", "a/c.png")
    names = Names(tmp_path)
    for name in (COMPOSED, DECOMPOSED, "a/b.png", "a\\b.png"):
        assert names.find(name) == tmp_path / name
    assert names.find("a\\c.png") == tmp_path / "a" / "c.png"


def test_a_folder_in_two_forms(tmp_path: Path) -> None:
    put(tmp_path, "\u00e9/one.png", "e\u0301/two.png")
    names = Names(tmp_path)
    for folder in ("\u00e9", "e\u0301"):
        assert names.find(f"{folder}/one.png") == tmp_path / "\u00e9" / "one.png"
        assert names.find(f"{folder}/two.png") == tmp_path / "e\u0301" / "two.png"


def test_absolute_names(tmp_path: Path) -> None:
    put(tmp_path, DECOMPOSED)
    assert Names(tmp_path / "nowhere").find(str(tmp_path / COMPOSED)) == tmp_path / DECOMPOSED


@pytest.mark.parametrize(
    "name",
    ["", ".", "/", "\\", "..", "a/", "none.png", "x" * 5000, "../" * 3000 + "x", "a\0b", "\ud800",
     "caf\u00e8.png", "C:\\data\\caf\u00e9.png"],
)  # fmt: skip
def test_what_no_file_is_called(tmp_path: Path, name: str) -> None:
    put(tmp_path, "a/b.png", COMPOSED)
    assert Names(tmp_path).find(name) is None


@pytest.mark.parametrize("seed", range(20))
def test_random_names_in_random_forms(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    letters = "ab\u00e9\u00fc\u00f1\u1e69\u00c5\ud55c\u304c "

    def word() -> str:
        return "x" + "".join(draw.choices(letters, k=draw.randint(1, 6))) + "x"

    def form(text: str) -> str:
        return unicodedata.normalize(draw.choice(["NFC", "NFD"]), text)

    paths = {"/".join(word() for _ in range(draw.randint(1, 3))) + ".png" for _ in range(8)}
    files = {path: tmp_path / form(path) for path in paths}
    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    names = Names(tmp_path)
    for path, file in files.items():
        asked = form(path).replace("/", draw.choice(["/", "\\"]))
        found = names.find(asked)
        assert found is not None
        assert unicodedata.normalize("NFC", str(found)) == unicodedata.normalize("NFC", str(file))
        assert found.is_file()
        assert names.find(asked.replace(".png", "!.png")) is None
