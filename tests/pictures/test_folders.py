"""Which files of a folder are pictures, and what is said of the others."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anydepth_deploy.errors import ImageError
from anydepth_deploy.pictures.choice import choose_pictures
from anydepth_deploy.pictures.folders import (
    SUFFIXES,
    contents_of,
    find_images,
    is_picture,
    look_into,
)


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((6, 9, 3), np.uint8)).save(file, kind)
    return file.getvalue()


KINDS = ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM"]
PNG = encoded("PNG")


def put(folder: Path, *names: str, content: bytes = PNG) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_images(folder)]


def test_every_suffix_in_any_case(tmp_path: Path) -> None:
    wanted = [f"a{suffix}" for suffix in SUFFIXES] + [f"B{suffix.upper()}" for suffix in SUFFIXES]
    assert {".jfif", ".jpe"} < SUFFIXES
    put(tmp_path, *wanted)
    assert names(tmp_path) == sorted(wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_without_a_suffix_are_known_by_their_content(tmp_path: Path, kind: str) -> None:
    put(tmp_path, "picture", content=encoded(kind))
    assert find_images(tmp_path) == [tmp_path / "picture"]
    assert look_into(tmp_path).note is None


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"BM", b"BM25 is a ranking function, not a bitmap", b"RIFFxxxxWAVE", b"P6", b"II*",
     b"P6X", b"#!/bin/sh"],
)  # fmt: skip
def test_other_files_without_a_suffix_are_none(tmp_path: Path, content: bytes) -> None:
    put(tmp_path, "README", content=content)
    assert look_into(tmp_path).pictures == []
    assert look_into(tmp_path).note == (
        f"1 file is no picture by its name (without a suffix) in {tmp_path}: passed over"
    )


def test_a_path_by_itself_is_judged_as_in_its_folder(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b", ".c.png", ".d", "._e.png", "f.txt", "g.PNG", "h.png.gz")
    put(tmp_path, "i", "j.txt", content=b"x")
    put(tmp_path, "k.png/l.png", "m/n.png")
    (tmp_path / "o.png").symlink_to("nowhere")
    (tmp_path / "p.png").symlink_to("a.png")
    (tmp_path / "q.png").symlink_to("m")
    (tmp_path / "r").symlink_to("nowhere")
    (tmp_path / "s.png").symlink_to("s.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "t.png")
    found = {path for path in look_into(tmp_path).pictures if path.parent == tmp_path}
    assert {path.name for path in found} >= {"a.png", "b", ".c.png", "g.PNG", "o.png", "p.png"}
    assert {path for path in tmp_path.iterdir() if is_picture(path)} == found


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.heic", "c.HEIC", "d.txt", "sub/e.json", "sub/notes", content=b"x")
    found = contents_of(tmp_path)
    assert found.pictures == [tmp_path / "a.png"]
    assert found.note is not None
    assert found.note.startswith("5 files are no pictures by their names (")
    for suffix in (".heic", ".txt", ".json", "without a suffix"):
        assert suffix in found.note
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match="holds no picture: its 5 files have"):
        find_images(tmp_path)
    put(tmp_path, "b\n.x\ny", content=b"x")
    assert "\n" not in str(look_into(tmp_path).note)


def test_what_a_mac_leaves_is_ignored(tmp_path: Path) -> None:
    put(tmp_path, "a.png", ".hidden.png")
    put(tmp_path, "._a.png", "__MACOSX/._a.png", "._notes", ".DS_Store", content=b"\0\5\26\7")
    assert names(tmp_path) == [".hidden.png", "a.png"]
    assert look_into(tmp_path).note is None
    assert find_images(tmp_path / "._a.png") == [tmp_path / "._a.png"]  # which was named


def test_linked_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    put(tmp_path / "real", "a.png", "deep/b.png")
    links = tmp_path / "links"
    links.mkdir()
    (links / "s").symlink_to(tmp_path / "real")
    assert names(links) == ["s/a.png", "s/deep/b.png"]
    (tmp_path / "real" / "deep" / "up").symlink_to(links)
    (links / "self").symlink_to(links)
    (links / "lost").symlink_to(tmp_path / "nowhere")
    (links / "loop").symlink_to(links / "loop")
    assert names(links) == ["s/a.png", "s/deep/b.png"]
    assert [path.name for path in choose_pictures(links, 9).paths] == ["a.png", "b.png"]


def test_a_folder_on_two_ways_counts_once_by_its_own_name(tmp_path: Path) -> None:
    put(tmp_path, "z/a.png")
    (tmp_path / "b").symlink_to(tmp_path / "z")
    (tmp_path / "c").symlink_to("z")
    assert names(tmp_path) == ["z/a.png"]


def test_a_picture_that_leads_nowhere_is_not_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    assert names(tmp_path) == ["a.png", "b.png"]
    with pytest.raises(ImageError, match=r"b\.png does not exist"):
        choose_pictures(tmp_path, 9)


@pytest.mark.parametrize("partial", [False, True])
def test_folders_that_cannot_be_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, partial: bool
) -> None:
    put(tmp_path, "a.png", "closed/b.png")
    real = os.scandir

    def scandir(path: Path) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    told = f"folder {tmp_path / 'closed'} cannot be looked into: Permission denied"
    if partial:
        found = contents_of(tmp_path, partial=True)
        assert found.pictures == [tmp_path / "a.png"]
        assert found.closed == [(tmp_path / "closed", told)]
        (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match=told):
        contents_of(tmp_path, partial=partial)


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    for name in ("x" * 5000, "a\0b", "a/" * 3000):
        with pytest.raises(ImageError, match="neither a picture nor a folder"):
            find_images(tmp_path / name)


@pytest.mark.parametrize("seed", range(12))
def test_random_folders_with_random_links(tmp_path: Path, seed: int) -> None:
    """Every picture that some way leads to, each once, by a way that leads there."""
    draw = random.Random(seed)
    made = [tmp_path / "root"]
    made[0].mkdir()
    for index in range(draw.randint(1, 9)):
        parent = draw.choice([*made, tmp_path])
        path = parent / f"{draw.choice('abc')}{index}"
        path.mkdir()
        made.append(path)
    for index in range(draw.randint(0, 12)):
        suffix = draw.choice([".png", ".JPE", "", ".txt"])
        put(draw.choice(made), f"{draw.choice(['', '._'])}p{index}{suffix}")
    for index in range(draw.randint(0, 8)):
        link = draw.choice(made) / f"{draw.choice('abz')}-link{index}"
        link.symlink_to(draw.choice(made), target_is_directory=True)

    reached: set[Path] = set()
    waiting = [made[0].resolve()]
    while waiting:  # folders by what they are, not by their names
        folder = waiting.pop()
        if folder not in reached:
            reached.add(folder)
            waiting += [path.resolve() for path in folder.iterdir() if path.is_dir()]
    expected = [
        path
        for folder in reached
        for path in folder.iterdir()
        if path.is_file() and path.suffix != ".txt" and not path.name.startswith("._")
    ]
    found = look_into(made[0])
    assert sorted(path.resolve() for path in found.pictures) == sorted(expected)
    assert found.pictures == sorted(found.pictures)
    assert all(path.is_relative_to(made[0]) for path in found.pictures)
    unlinked = [path for path in made[0].rglob("*") if path in expected]  # rglob follows no link
    assert set(unlinked) <= set(found.pictures)
