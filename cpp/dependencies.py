"""What building the C++ library needs, where ONNX Runtime was installed with pip.

    cmake -S cpp -B build/cpp $(python cpp/dependencies.py)

prints CMake's arguments. The libraries of ONNX Runtime and OpenVINO are those of the installed
packages, so that both languages run the same code. ONNX Runtime's package has no headers: they, and
those of nlohmann's JSON, come from the system, or, on Debian, from packages of a newer suite of the
distribution that are unpacked into a folder of their own (``--folder``): nothing is installed, and
no rights are needed. Headers work with newer libraries than they came with.

Not needed where libraries and headers are installed on the system, or named to CMake.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SUITE = "trixie"
"""The first suite that has ONNX Runtime's headers."""
ORIGIN = ("Debian", "Debian")
"""Origin and label of the mirrors that have it."""
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

PACKAGES = {
    "libonnxruntime-dev": "onnxruntime/onnxruntime_c_api.h",
    "nlohmann-json3-dev": "nlohmann/json.hpp",
}
"""Packages, and the header that is wanted of each, below a folder of headers."""

SYSTEM = (Path("/usr/include"), Path("/usr/local/include"))


class MissingError(Exception):
    """Something that is needed and cannot be had; the message says what to do."""


def find_onnxruntime() -> Path | None:
    """The library of the installed package; None where there is none."""
    folder = _package("onnxruntime")
    found = [] if folder is None else sorted((folder / "capi").glob("libonnxruntime.so.*"))
    return found[-1] if found else None


def find_openvino() -> Path | None:
    """The CMake files of the installed package; None where there are none."""
    folder = _package("openvino")
    found = None if folder is None else folder / "cmake"
    return found if found is not None and (found / "OpenVINOConfig.cmake").is_file() else None


def _package(name: str) -> Path | None:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def link_library(library: Path, folder: Path) -> Path:
    """The library under the names that linkers and loaders look for, as links in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        link = folder / name
        if not (link.is_symlink() and link.readlink() == library):
            link.unlink(missing_ok=True)
            link.symlink_to(library)
    return folder / "libonnxruntime.so"


def find_headers(packages: list[str], folder: Path) -> dict[str, Path]:
    """Per package the folder that its header is in; what is nowhere is fetched into ``folder``.

    Raises :class:`MissingError`.
    """
    places = (*SYSTEM, folder / "usr" / "include")
    found = {name: _search(places, PACKAGES[name]) for name in packages}
    absent = [name for name, place in found.items() if place is None]
    if absent:
        _unpack(absent, folder)
        found = {name: _search(places, PACKAGES[name]) for name in packages}
    for name, place in found.items():
        if place is None:
            raise MissingError(f"the package {name} has no header {PACKAGES[name]}")
    return {name: place for name, place in found.items() if place is not None}


def _search(places: tuple[Path, ...], header: str) -> Path | None:
    return next((place for place in places if (place / header).is_file()), None)


def _unpack(packages: list[str], folder: Path) -> None:
    """Download packages from the distribution's own mirror and unpack them, beside the system.

    Raises :class:`MissingError`.
    """
    wanted = ", ".join(PACKAGES[name] for name in packages)
    advice = (
        f"the headers {wanted} are needed: install {' and '.join(packages)}, or name their "
        "folders with -DANYDEPTH_ONNXRUNTIME_INCLUDE_DIR=... and -DANYDEPTH_JSON_INCLUDE_DIR=..."
    )
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise MissingError(f"{advice} (this system has no apt-get to fetch them with)")
    try:
        with tempfile.TemporaryDirectory() as state:
            files = _download(packages, Path(state))
            folder.mkdir(parents=True, exist_ok=True)
            for file in files:
                _call(["dpkg-deb", "--extract", str(file), str(folder)], folder)
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or str(error)
        lines = [line for line in output.splitlines() if line.strip()] or ["no reason given"]
        raise MissingError(f"{advice} (fetching them failed: {lines[-1].strip()})") from None


def _download(packages: list[str], state: Path) -> list[Path]:
    """The files of ``packages``; apt works in ``state`` and leaves the system's own alone."""
    form = "$(SITE) $(ORIGIN) $(LABEL)"
    lines = _call(["apt-get", "indextargets", "--format", form, "Created-By: Packages"], state)
    mirrors = [words[0] for words in map(str.split, lines.splitlines()) if words[1:] == [*ORIGIN]]
    if not mirrors:
        raise OSError(f"apt knows no mirror of {ORIGIN[0]}, whose suite {SUITE} has them")
    signed = f"[signed-by={KEYRING}] " if KEYRING.is_file() else ""
    for name in ("lists/partial", "cache/archives/partial", "downloads"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    (state / "sources.list").write_text(f"deb {signed}{mirrors[0]} {SUITE} main\n")
    options = {
        "Dir::State": state,
        "Dir::State::Lists": state / "lists",
        "Dir::State::Status": state / "status",
        "Dir::Cache": state / "cache",
        "Dir::Etc::SourceList": state / "sources.list",
        "Dir::Etc::SourceParts": state / "none",
        "Dir::Etc::Preferences": state / "none",
        "Dir::Etc::PreferencesParts": state / "none",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "",
    }
    apt = [
        "apt-get",
        "-qq",
        *(word for key, value in options.items() for word in ("-o", f"{key}={value}")),
    ]
    _call([*apt, "update"], state)
    _call([*apt, "download", *packages], state / "downloads")
    return sorted((state / "downloads").glob("*.deb"))


def _call(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True, timeout=300
    )
    return done.stdout


def arguments(folder: Path, *, onnxruntime: bool = True, openvino: bool = True) -> list[str]:
    """What CMake is told so that it builds with the packages of this environment.

    Raises :class:`MissingError`.
    """
    found = []
    library = find_onnxruntime() if onnxruntime else None
    packages = ["nlohmann-json3-dev"] + (["libonnxruntime-dev"] if library else [])
    headers = find_headers(packages, folder)
    found.append(f"-DANYDEPTH_JSON_INCLUDE_DIR={headers['nlohmann-json3-dev']}")
    if library is not None:
        include = headers["libonnxruntime-dev"] / "onnxruntime"
        linked = link_library(library, folder / "lib")
        found.append(f"-DANYDEPTH_ONNXRUNTIME_INCLUDE_DIR={include}")
        found.append(f"-DANYDEPTH_ONNXRUNTIME_LIBRARY={linked}")
    cmake = find_openvino() if openvino else None
    if cmake is not None:
        found.append(f"-DOpenVINO_DIR={cmake}")
    return found


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--folder",
        type=Path,
        default=root / "build" / "cpp-deps",
        help="where headers are unpacked",
    )
    parser.add_argument("--separator", default=" ", help="between the arguments")
    options = parser.parse_args()
    try:
        found = arguments(options.folder.resolve())
    except MissingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(options.separator.join(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
