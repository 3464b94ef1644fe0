"""What is a video, a camera or a stream by its name."""

from __future__ import annotations

import pytest

from anydepth_deploy.videos.names import (
    camera_number,
    is_live_address,
    is_video_name,
    without_login,
)


def test_cameras() -> None:
    assert [camera_number(text) for text in ("0", "12", "/dev/video3")] == [0, 12, 3]
    for text in ("", "-1", "1.0", "1234", "/dev/video", "/dev/videos1", "0.png", "²"):
        assert camera_number(text) is None


@pytest.mark.parametrize(
    ("url", "live"),
    [
        ("rtsp://h/a", True),
        ("udp://h:1", True),
        ("https://h/live/list.M3U8?key=1", True),
        ("http://h/video.mjpg", True),
        ("https://h/clip.mp4", False),
        ("https://h/a.jpg?x=.m3u8", False),
    ],
)
def test_addresses(url: str, live: bool) -> None:
    assert is_live_address(url.split(":")[0], url) == live


def test_videos_by_their_suffix() -> None:
    assert all(map(is_video_name, ("a.mp4", "A.MOV", "x/y.webm", "*.mkv")))
    assert not any(map(is_video_name, ("a.png", "mp4", ".mp4", "a.mp4.txt", "")))


def test_logins_are_nobodys_business() -> None:
    assert without_login("rtsp://me:pa@ss@host:554/a@b?c=1") == "rtsp://host:554/a@b?c=1"
    assert without_login("https://host/a.mp4") == "https://host/a.mp4"
    assert without_login("rtsp://host") == "rtsp://host"
