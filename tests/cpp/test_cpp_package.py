"""The C++ library as a package: configured, installed, found and linked by another project."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from cpp_build import (
    BENCH,
    BUILDS,
    DETECT,
    PATIENT,
    ROOT,
    SOURCE,
    absent,
    build,
    building,
    call,
    configure,
    configure_arguments,
)
from handmade import manifest

from anydepth_deploy.bundle.files import MANIFEST

pytestmark = PATIENT


def dependencies() -> tuple[str, ...]:
    found = configure_arguments()
    if isinstance(found, str):
        absent(found)
    return found


@pytest.fixture(scope="module", params=["shared", "static"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix of an installation; shared as users build it, static with ONNX Runtime only."""
    if request.param == "shared":
        folder = build("optimised", BENCH, DETECT)
    else:
        folder = BUILDS / "cpp-static"
        options = ["-DBUILD_SHARED_LIBS=OFF", "-DANYDEPTH_BUILD_TOOLS=OFF"]
        options += ["-DANYDEPTH_BUILD_EXAMPLES=OFF", "-DANYDEPTH_OPENVINO=OFF"]
        options += ["-DCMAKE_BUILD_TYPE=None"]
        with building(folder.name):
            configure(SOURCE, folder, [*options, *dependencies()])
            call(["cmake", "--build", str(folder), "--parallel", "2"])
    prefix = tmp_path_factory.mktemp(str(request.param))
    told = call(["cmake", "--install", str(folder), "--prefix", str(prefix)])
    if request.param == "shared":
        assert "libanydepth loads libonnxruntime.so.1" in told
        lay_beside(prefix)
    return prefix


def named(option: str) -> Path | None:
    """The folder or file that the configuration was given in an option."""
    found = [word.partition("=")[2] for word in dependencies() if word.startswith(f"-D{option}=")]
    return Path(found[0]) if found else None


def lay_beside(prefix: Path) -> None:
    """Links to the libraries that an installation loads, where it looks for them."""
    (library,) = prefix.glob("lib*/libanydepth.so")
    onnxruntime, openvino = named("ANYDEPTH_ONNXRUNTIME_LIBRARY"), named("OpenVINO_DIR")
    if onnxruntime is not None:
        library.with_name("libonnxruntime.so.1").symlink_to(onnxruntime.resolve())
    for file in [] if openvino is None else (openvino.parent / "libs").glob("*.so*"):
        library.with_name(file.name).symlink_to(file)


def consuming(prefix: Path, folder: Path) -> list[str]:
    """How another project is configured that finds an installation there."""
    source = shutil.copytree(SOURCE / "tests" / "consume", folder / "source")
    return ["cmake", "-S", str(source), "-B", str(folder / "b"), f"-DCMAKE_PREFIX_PATH={prefix}"]


def is_shared(prefix: Path) -> bool:
    return bool([*prefix.glob("lib*/libanydepth.so")])


@pytest.fixture(scope="module")
def application(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of another project that found the installation."""
    folder = tmp_path_factory.mktemp("consume")
    # Who links a static library says where its backends are.
    backends = [] if is_shared(installed) else [word for word in dependencies() if "ONNX" in word]
    call([*consuming(installed, folder), *backends])
    call(["cmake", "--build", str(folder / "b")])
    return folder / "b" / "consume"


def run(program: Path, *words: object) -> tuple[int, str]:
    done = subprocess.run(
        [str(program), *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def test_another_project_uses_the_installation(application: Path, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(manifest().model_dump_json())
    status, text = run(application, tmp_path)
    assert status == 0, text
    assert text.splitlines()[1:3] == ["imaginary with 8 depths", "runtime onnxruntime"]


def test_errors_are_caught_across_the_border(application: Path, tmp_path: Path) -> None:
    """Their classes are visible outside of the library, though little else is."""
    status, text = run(application, tmp_path / "nowhere")
    assert (status, text.splitlines()[1].startswith("refused: bundle ")) == (2, True)


def test_the_public_headers_stand_alone(installed: Path, tmp_path: Path) -> None:
    """Each compiles by itself and needs no header of anybody else."""
    headers = sorted((installed / "include" / "anydepth").glob("*.hpp"))
    assert len(headers) > 8
    for header in headers:
        included = re.findall(r'#include [<"]([^>"]+)[>"]', header.read_text())
        assert [word for word in included if "/" in word and not word.startswith("anydepth/")] == []
    both = "".join(f"#include <anydepth/{header.name}>\n" for header in headers)
    for number, text in enumerate([both, *(line + "\n" for line in both.splitlines()[:3])]):
        source = tmp_path / f"{number}.cpp"
        source.write_text(text + "int main() {}\n")
        flags = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
        call(["c++", *flags, "-I", str(installed / "include"), str(source)])


def test_a_shared_library_shows_what_is_public(installed: Path) -> None:
    library = next(iter(installed.glob("lib*/libanydepth.so")), None)
    if library is None or shutil.which("nm") is None:
        pytest.skip("the library is static, or there is no nm to look with")
    shown = call(["nm", "--dynamic", "--defined-only", "--demangle", str(library)])
    ours = [line.split(" ", 2)[2] for line in shown.splitlines() if "anydepth::" in line]
    assert any(name.startswith("anydepth::read_manifest(") for name in ours)
    hidden = ("anydepth::Chain", "anydepth::suppress(", "anydepth::choose_artifacts", "Sha256")
    assert [name for name in ours if any(word in name for word in hidden)] == []


# --- moved elsewhere -------------------------------------------------------------------------


def files_of(prefix: Path) -> list[Path]:
    return [path for path in prefix.rglob("*") if path.is_file() and not path.is_symlink()]


def test_an_installation_names_no_folder_of_this_machine(installed: Path) -> None:
    """Those where it was built, where its backends were, and where it was installed itself."""
    found = [word.partition("=")[2] for word in dependencies() if word.startswith("-D")]
    folders = [str(ROOT), str(installed), *(str(Path(place).parent) for place in found)]
    assert len(folders) > 3
    for path in files_of(installed):
        content = path.read_bytes()
        assert [place for place in folders if place.encode() in content] == [], path


def test_programs_and_libraries_look_beside_themselves(installed: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("there is no readelf to look with")
    programs = [path for path in files_of(installed) if path.read_bytes()[:4] == b"\x7fELF"]
    assert is_shared(installed) == bool(programs)
    for path in programs:
        dynamic = call(["readelf", "-d", str(path)])
        (entries,) = re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", dynamic)
        expected = "$ORIGIN" if ".so" in path.name else "$ORIGIN/../lib"
        assert entries == expected, path


def test_an_installation_may_move(installed: Path, tmp_path: Path) -> None:
    if not is_shared(installed):
        pytest.skip("a static library brings no program")
    moved = tmp_path / "else where"
    shutil.copytree(installed, moved, symlinks=True)
    for name in ("anydepth-detect", "anydepth-bench"):
        status, text = run(moved / "bin" / name, tmp_path / "nowhere", "x.ppm")
        assert (status, text.startswith("error: ")) == (2, True), text


def test_backends_that_are_not_there_are_named(installed: Path, tmp_path: Path) -> None:
    """When a project is configured, not when its program starts."""
    elsewhere = tmp_path / "bare"
    shutil.copytree(
        installed, elsewhere, symlinks=True, ignore=shutil.ignore_patterns("lib[!a]*.so*")
    )
    command = [*consuming(elsewhere, tmp_path), "-DCMAKE_DISABLE_FIND_PACKAGE_OnnxRuntime=ON"]
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode
    told = " ".join(done.stderr.split())
    if not is_shared(installed):
        assert "links ONNX Runtime, too, which was not found: give -DONNXRUNTIME_ROOT=" in told
        return
    assert "libanydepth needs libonnxruntime.so.1" in told
    assert f"found neither beside it ({elsewhere}/lib) nor in LD_LIBRARY_PATH" in told
    call([*command, "-DANYDEPTH_CHECK_BACKENDS=OFF"])
    # Or where the environment says that programs find them.
    lay_beside(elsewhere)
    (tmp_path / "apart").mkdir()
    for file in (elsewhere / "lib").glob("lib[!a]*.so*"):
        file.rename(tmp_path / "apart" / file.name)
    environment["LD_LIBRARY_PATH"] = str(tmp_path / "apart")
    call([*command, "-DANYDEPTH_CHECK_BACKENDS=ON"], env=environment)


@pytest.mark.parametrize(
    "known", [[], ["-D_anydepth_ldconfig=/bin/false"]], ids=["asked", "looked"]
)
def test_libraries_of_the_system_are_found_without_sbin_in_path(
    tmp_path: Path, known: list[str]
) -> None:
    """As for ordinary users of Debian: the loader's cache is asked, or else its folders are."""
    (tmp_path / "anydepthTargets.cmake").touch()
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.22)\nproject(find LANGUAGES CXX)\n"
        "include(CMakePackageConfigHelpers)\nset(BUILD_SHARED_LIBS ON)\n"
        "set(CMAKE_INSTALL_LIBDIR lib)\nset(ANYDEPTH_BACKEND_FILES libc.so.6)\n"
        f"configure_package_config_file({SOURCE / 'cmake' / 'anydepthConfig.cmake.in'}\n"
        f"  {tmp_path / 'anydepthConfig.cmake'} INSTALL_DESTINATION lib/cmake/anydepth\n"
        "  PATH_VARS CMAKE_INSTALL_LIBDIR)\n"
        f"find_package(anydepth REQUIRED CONFIG PATHS {tmp_path} NO_DEFAULT_PATH)\n"
    )
    places = [Path(place) for place in os.environ["PATH"].split(os.pathsep)]
    without = [str(place) for place in places if not (place / "ldconfig").exists()]
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    environment["PATH"] = os.pathsep.join(without)
    if not all(shutil.which(tool, path=environment["PATH"]) for tool in ("cmake", "c++")):
        pytest.skip("the tools are beside ldconfig")
    command = ["cmake", "-S", str(tmp_path), "-B", str(tmp_path / "build"), *known]
    call(command, env=environment)


def test_versions_agree(application: Path, tmp_path: Path) -> None:
    """Of the package, of the headers, and of the library that is linked."""
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert run(application, tmp_path)[1].splitlines()[0] == f"anydepth {version} {version}"


def test_pkg_config(installed: Path, application: Path, tmp_path: Path) -> None:
    """A compiler and ``pkg-config`` are enough, wherever the installation was moved to."""
    if shutil.which("pkg-config") is None:
        absent("there is no pkg-config here")
    moved = tmp_path / "moved"
    shutil.copytree(installed, moved, symlinks=True)
    (folder,) = moved.glob("lib*/pkgconfig")
    environment = {**os.environ, "PKG_CONFIG_PATH": str(folder)}

    def told(*words: str) -> str:
        return call(["pkg-config", *words, "anydepth"], env=environment)

    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert told("--modversion").strip() == version
    static = () if is_shared(installed) else ("--static",)
    flags = shlex.split(told("--cflags", "--libs", *static))
    assert ("-DANYDEPTH_STATIC" in flags) != is_shared(installed)
    library = named("ANYDEPTH_ONNXRUNTIME_LIBRARY")
    if not is_shared(installed) and library is not None:
        (tmp_path / "libonnxruntime.so").symlink_to(library.resolve())
        (tmp_path / "libonnxruntime.so.1").symlink_to(library.resolve())
        flags += [f"-L{tmp_path}", f"-Wl,-rpath,{tmp_path}"]
    flags += [f"-Wl,-rpath,{folder.parent}"]
    program = tmp_path / "program"
    source = SOURCE / "tests" / "consume" / "consume.cpp"
    call(["c++", "-std=c++17", str(source), *flags, "-o", str(program)])
    (tmp_path / MANIFEST).write_text(manifest().model_dump_json())
    assert run(program, tmp_path) == run(application, tmp_path)


@pytest.mark.parametrize("name", ["release", "static", "sanitize", "jetson"])
def test_presets_are_configured(name: str, tmp_path: Path) -> None:
    """That for Jetsons needs TensorRT, which it asks for here."""
    listed = call(["cmake", "-S", str(SOURCE), "--list-presets"], cwd=SOURCE)
    assert f'"{name}"' in listed
    command = ["cmake", "-S", str(SOURCE), "--preset", name, "-B", str(tmp_path), *dependencies()]
    if name == "jetson":
        # What the preset says is not overridden by what this machine has.
        command = [word for word in command if "ONNX" not in word and "OpenVINO" not in word]
        with pytest.raises(AssertionError, match="TensorRT"):
            call(command, cwd=SOURCE)
        return
    told = call(command, cwd=SOURCE)
    kept = (tmp_path / "CMakeCache.txt").read_text()
    assert ("ANYDEPTH_SANITIZE:STRING=address;undefined" in kept) == (name == "sanitize")
    assert ("BUILD_SHARED_LIBS:BOOL=OFF" in kept) == (name != "release")
    assert "--   onnxruntime: built" in told
    assert ("--   openvino: built" in told) == (name != "sanitize")


def test_a_project_that_includes_it(tmp_path: Path) -> None:
    """FetchContent, as docs/cpp.md has it; the sources are those of this tree. The project's own
    choices stay, and nothing of the library is installed with it."""
    text = (ROOT / "docs" / "cpp.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```cmake\n(include\(FetchContent\).*?)```", text, re.DOTALL)
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(SOURCE / "tests" / "consume" / "consume.cpp", source / "detector.cpp")
    (source / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.22)\nproject(detector LANGUAGES CXX)\n"
        "add_executable(detector detector.cpp)\n" + block + "install(TARGETS detector)\n"
        "if(DEFINED CACHE{BUILD_SHARED_LIBS})\n  message(FATAL_ERROR decided)\nendif()\n"
    )
    folder = tmp_path / "build"
    options = ["-DANYDEPTH_OPENVINO=OFF", "-DANYDEPTH_UNITY=ON", "-DCMAKE_BUILD_TYPE=None"]
    options.append(f"-DFETCHCONTENT_SOURCE_DIR_ANYDEPTH={ROOT}")
    call(["cmake", "-S", str(source), "-B", str(folder), *options, *dependencies()])
    call(["cmake", "--build", str(folder), "--parallel", "2"])
    (tmp_path / MANIFEST).write_text(manifest().model_dump_json())
    status, told = run(folder / "detector", tmp_path)
    assert (status, told.splitlines()[1]) == (0, "imaginary with 8 depths"), told
    call(["cmake", "--install", str(folder), "--prefix", str(tmp_path / "prefix")])
    found = [path for path in (tmp_path / "prefix").rglob("*") if path.is_file()]
    assert [path.name for path in found] == ["detector"]


# --- what is missing -------------------------------------------------------------------------


@pytest.fixture
def nothing(tmp_path: Path) -> list[str]:
    """A configuration that finds no backend, wherever this machine may have one."""
    json = [word for word in dependencies() if "JSON" in word or word in ("-G", "Ninja")]
    packages = ("OnnxRuntime", "OpenVINO", "TensorRT", "CUDAToolkit")
    ignored = [f"-DCMAKE_DISABLE_FIND_PACKAGE_{name}=ON" for name in packages]
    return ["cmake", "-S", str(SOURCE), "-B", str(tmp_path / "build"), *json, *ignored]


def test_backends_that_are_not_found_are_left_out(nothing: list[str]) -> None:
    done = subprocess.run(nothing, capture_output=True, text=True, check=True)
    assert "onnxruntime: left out: not found (OnnxRuntime). Unpack a release" in done.stdout
    assert "openvino: left out: not found (OpenVINO). Give -DOpenVINO_DIR=" in done.stdout
    assert "tensorrt: left out: not found (TensorRT, CUDAToolkit)" in done.stdout
    assert "No backend was found" in done.stderr


@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ("ONNXRUNTIME", "-DONNXRUNTIME_ROOT=<folder>"),
        ("OPENVINO", "-DOpenVINO_DIR=<folder of OpenVINOConfig.cmake>"),
        ("TENSORRT", "-DTENSORRT_ROOT=<folder>"),
    ],
)
def test_backends_that_are_wanted_have_to_be_there(
    nothing: list[str], option: str, advice: str
) -> None:
    command = [*nothing, f"-DANYDEPTH_{option}=ON"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode
    text = " ".join(done.stderr.split())
    assert f"ANYDEPTH_{option}=ON, but {option.lower()} was not found" in text
    assert advice in text
    assert f"leave it out with -DANYDEPTH_{option}=OFF" in text


def test_releases_that_are_unpacked_somewhere_are_found(tmp_path: Path) -> None:
    """Stand-ins for what NVIDIA and ONNX Runtime publish; nothing is linked."""
    for name, header, library in (
        ("onnxruntime", "onnxruntime_cxx_api.h", "onnxruntime"),
        ("tensorrt", "NvInferRuntime.h", "nvinfer"),
    ):
        (tmp_path / name / "include").mkdir(parents=True)
        (tmp_path / name / "include" / header).touch()
        (tmp_path / name / "lib").mkdir()
        (tmp_path / name / "lib" / f"lib{library}.so").touch()
    api = tmp_path / "onnxruntime" / "include" / "onnxruntime_c_api.h"
    api.write_text("#define ORT_API_VERSION 21\n")
    version = tmp_path / "tensorrt" / "include" / "NvInferVersion.h"
    parts = {"MAJOR": 10, "MINOR": 3, "PATCH": 0}
    version.write_text("".join(f"#define NV_TENSORRT_{k} {v} //!< it\n" for k, v in parts.items()))
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.22)\nproject(find LANGUAGES CXX)\n"
        f'list(PREPEND CMAKE_MODULE_PATH "{SOURCE / "cmake"}")\n'
        "find_package(OnnxRuntime REQUIRED)\nfind_package(TensorRT REQUIRED)\n"
        "foreach(name OnnxRuntime::onnxruntime TensorRT::nvinfer)\n"
        "  get_target_property(place ${name} IMPORTED_LOCATION)\n"
        '  message(STATUS "${name} ${place}")\nendforeach()\n'
        'message(STATUS "API ${OnnxRuntime_API}, TensorRT ${TensorRT_VERSION}")\n'
    )
    found = call(
        [
            *("cmake", "-S", str(tmp_path), "-B", str(tmp_path / "build")),
            f"-DONNXRUNTIME_ROOT={tmp_path / 'onnxruntime'}",
            f"-DTENSORRT_ROOT={tmp_path / 'tensorrt'}",
        ]
    )
    assert f"OnnxRuntime::onnxruntime {tmp_path / 'onnxruntime/lib/libonnxruntime.so'}" in found
    assert f"TensorRT::nvinfer {tmp_path / 'tensorrt/lib/libnvinfer.so'}" in found
    assert "API 21, TensorRT 10.3.0" in found


# --- cpp/dependencies.py ---------------------------------------------------------------------


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dependencies", SOURCE / "dependencies.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_headers_of_the_system_are_taken_first(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    include = tmp_path / "usr include"
    for header in script.PACKAGES.values():
        (include / header).parent.mkdir(parents=True)
        (include / header).touch()
    monkeypatch.setattr(script, "SYSTEM", (include,))
    monkeypatch.setattr(script, "_unpack", lambda *_: pytest.fail("nothing is missing"))
    found = script.arguments(tmp_path / "deps")
    assert f"-DANYDEPTH_JSON_INCLUDE_DIR={include}" in found
    if script.find_onnxruntime() is not None:
        assert f"-DANYDEPTH_ONNXRUNTIME_INCLUDE_DIR={include / 'onnxruntime'}" in found
        assert (tmp_path / "deps" / "lib" / "libonnxruntime.so.1").is_file()


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ({}, "this system has no apt-get to fetch them with"),
        ({"apt-get": "exit 0"}, "apt knows no mirror of Debian, whose suite trixie has them"),
        (
            {"apt-get": "echo E: out of order >&2; exit 100"},
            "fetching them failed: E: out of order",
        ),
    ],
)
def test_headers_that_cannot_be_had(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tools: dict[str, str],
    reason: str,
) -> None:
    for name in ("apt-get", "dpkg-deb") if tools else ():
        tool = tmp_path / name
        tool.write_text(f"#!/bin/sh\n{tools.get(name, 'exit 0')}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(script, "SYSTEM", ())
    monkeypatch.setattr(sys, "argv", ["dependencies.py", "--folder", str(tmp_path / "deps")])
    assert script.main() == 2
    text = capsys.readouterr().err
    assert text.startswith("error: the headers nlohmann/json.hpp")
    assert "-DANYDEPTH_JSON_INCLUDE_DIR=..." in text
    assert reason in text
    assert text.count("\n") == 1
