"""Videos that are written: what a player would see of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import frame_pixels, moments

from anydepth_deploy.errors import ImageError
from anydepth_deploy.videos.writer import VideoWriter


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(24), Fraction(1)])
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_steady_rate_is_kept(tmp_path: Path, rate: Fraction, suffix: str) -> None:
    """Also where times were rounded to milliseconds, as Matroska does."""
    path = tmp_path / f"a{suffix}"
    writer = VideoWriter(path, rate)
    for number in range(20):
        writer.add(frame_pixels(number, (48, 64)), round(1000 * number / rate) / 1000)
    assert not path.exists()
    assert writer.finish() == path
    writer.close()
    times, size, found, codec = moments(path)
    assert (len(times), size, found, codec) == (20, (48, 64), rate, "h264")
    assert times == pytest.approx([float(number / rate) for number in range(20)], abs=1e-4)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_times_without_a_rate_are_kept(tmp_path: Path) -> None:
    wanted = [0.0, 0.1, 0.13, 0.5, 0.5, 0.4, 2.0]
    writer = VideoWriter(tmp_path / "a.mp4")
    for number, moment in enumerate(wanted):
        writer.add(frame_pixels(number, (48, 64)), moment)
    writer.finish()
    times = moments(tmp_path / "a.mp4")[0]
    assert len(times) == len(wanted)
    assert all(np.diff(times) > 0)
    assert [times[place] for place in (0, 1, 2, 3, 6)] == pytest.approx(
        [wanted[place] for place in (0, 1, 2, 3, 6)], abs=1e-3
    )


def test_odd_sides_get_a_row_and_a_column(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", Fraction(10))
    writer.add(frame_pixels(0, (49, 65)), 0.0)
    writer.finish()
    assert moments(tmp_path / "a.mp4")[1] == (50, 66)


def test_names_and_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.pred.mp4"
    for replace, name in ((False, "a.pred.mp4"), (False, "a-2.pred.mp4"), (True, "a.pred.mp4")):
        writer = VideoWriter(path, Fraction(10))
        writer.add(frame_pixels(0, (48, 64)), 0.0)
        assert writer.finish(replace=replace).name == name
        writer.close()
    assert sorted(item.name for item in path.parent.iterdir()) == ["a-2.pred.mp4", "a.pred.mp4"]


def test_nothing_is_left_of_what_is_not_finished(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", Fraction(10))
    writer.add(frame_pixels(0, (48, 64)), 0.0)
    writer.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ImageError, match="has no frame"):
        VideoWriter(tmp_path / "a.mp4").finish()
    (tmp_path / "file").touch()
    writer = VideoWriter(tmp_path / "file" / "a.mp4")
    with pytest.raises(ImageError, match=r"video .*a\.mp4 cannot be written: (Not a dir|File ex)"):
        writer.add(frame_pixels(0, (48, 64)), 0.0)
