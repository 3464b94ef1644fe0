"""What of a source is a video, a camera or a stream, and how each is called."""

from __future__ import annotations

import re
import urllib.parse
from pathlib import PurePosixPath

__all__ = [
    "STREAMS",
    "VIDEOS",
    "camera_number",
    "is_live_address",
    "is_video_name",
    "without_login",
]

VIDEOS = frozenset({".avi", ".flv", ".m2ts", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg"})
VIDEOS |= {".3gp", ".asf", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"}
"""Suffixes of files that are taken for videos."""

PLAYLIST = ".m3u8"
"""HLS: a list of short videos that goes on while somebody adds to it."""

STREAMS = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "tcp", "srt"})
"""How addresses begin that give frames as they come."""

DEVICE = re.compile(r"/dev/video([0-9]{1,3})")


def is_video_name(name: str) -> bool:
    """Whether a file or the file of an address is called like a video."""
    return PurePosixPath(name).suffix.lower() in VIDEOS


def is_live_address(scheme: str, url: str) -> bool:
    """Whether an address gives frames as they come."""
    path = urllib.parse.urlsplit(url).path
    return scheme in STREAMS or PurePosixPath(path).suffix.lower() == PLAYLIST


def camera_number(text: str) -> int | None:
    """The number of the camera that ``0`` or ``/dev/video0`` means; None for anything else."""
    found = DEVICE.fullmatch(text)
    if found is not None:
        return int(found[1])
    return int(text) if re.fullmatch("[0-9]{1,3}", text) else None


def without_login(url: str) -> str:
    """An address without the name and password that may be in it: it is printed and written."""
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
