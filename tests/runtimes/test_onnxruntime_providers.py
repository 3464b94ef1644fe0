"""ONNX Runtime's providers for GPUs, with a stand-in where the installed package has none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as real
import pytest
from command_line import Run
from comparisons import assert_equal
from conftest import random_images
from PIL import Image

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.choose import choose_artifacts
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.documents import file_sha256
from anydepth_deploy.errors import BundleError, DeviceError, InputError, UsageError
from anydepth_deploy.evaluation import precisions_of
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.runtimes.engine import EngineOptions
from anydepth_deploy.runtimes.onnxruntime.engine import OnnxRuntimeEngine
from anydepth_deploy.runtimes.onnxruntime.rounding import KEEP_ROUNDING
from anydepth_deploy.runtimes.registry import (
    format_of,
    graph_targets,
    open_engine,
    runs_on,
    runtime_targets,
)
from anydepth_deploy.verifying.graphs import verify

TENSORRT, CUDA, CPU = (f"{name}ExecutionProvider" for name in ("Tensorrt", "CUDA", "CPU"))
GPU = {"onnxruntime-cuda": [CUDA, CPU], "onnxruntime-tensorrt": [TENSORRT, CUDA, CPU]}
"""The runtimes, and the providers they are."""


class FakeOnnxRuntime:
    """ONNX Runtime with providers for GPUs, which the CPU's does the work of.

    ``has``: compiled in; ``broken``: those that do not start. ``opened``: what sessions were opened
    with.
    """

    def __init__(self, has: list[str]) -> None:
        self.has, self.broken = has, [""]
        self.opened: list[dict[str, Any]] = []
        self.sessions: list[Any] = []
        fake = self

        class InferenceSession(real.InferenceSession):  # type: ignore[misc]
            def __init__(self, model: str | bytes, settings: Any, **given: Any) -> None:
                fake.opened.append({"model": model, "settings": settings, **given})
                fake.sessions.append(self)
                names = [item if isinstance(item, str) else item[0] for item in given["providers"]]
                self.active = [name for name in names if name not in fake.broken]
                self.falls_back = True  # in a run, whatever it was opened with
                skipped = given["disabled_optimizers"]
                super().__init__(model, settings, providers=[CPU], disabled_optimizers=skipped)

            def get_providers(self) -> list[str]:
                return self.active

            def disable_fallback(self) -> None:
                self.falls_back = False

        self.module = types.ModuleType("onnxruntime")
        self.module.__dict__.update(
            __version__="1.99.0",
            SessionOptions=real.SessionOptions,
            InferenceSession=InferenceSession,
            get_available_providers=lambda: self.has,
        )

    @property
    def providers(self) -> list[tuple[str, dict[str, str]]]:
        """Of the newest session, all with their options."""
        return [
            (item, {}) if isinstance(item, str) else item for item in self.opened[-1]["providers"]
        ]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeOnnxRuntime:
    """`onnxruntime-gpu` on a machine with a GPU, TensorRT included."""
    found = FakeOnnxRuntime([TENSORRT, CUDA, CPU])
    monkeypatch.setitem(sys.modules, "onnxruntime", found.module)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    for name in list(os.environ):
        if name.startswith("ORT_"):
            monkeypatch.delenv(name)
    return found


@pytest.fixture(params=list(GPU))
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def with_int8(folder: Path, target: str) -> Bundle:
    """The bundle with artifacts that its manifest calls INT8 for ``target`` and FP16."""
    content = json.loads((folder / MANIFEST).read_text())
    like = next(item for item in content["artifacts"] if item["name"] == "gated-fp32-folded")
    scheme = {
        "target": target,
        "calibration": {"file": "t", "sha256": "0" * 64, "method": "minmax", "pictures": 1},
        "max_ratio": 1.0,
        "max_error": 1.0,
    }
    for changes in ({"precision": "int8", "quantisation": scheme}, {"precision": "fp16"}):
        name = f"gated-{changes['precision']}-folded"
        shutil.copyfile(folder / like["file"], folder / f"{name}.onnx")
        changed = {**like, **changes, "name": name, "file": f"{name}.onnx"}
        changed["sha256"] = file_sha256(folder / changed["file"])
        content["artifacts"].append(changed)
    (folder / MANIFEST).write_text(json.dumps(content))
    return open_bundle(folder)


# --- what a session is opened with -----------------------------------------------------------


def test_answers_of_a_session(fake: FakeOnnxRuntime, bundle: Bundle, runtime: str) -> None:
    session = bundle.session(runtime=runtime, threads=2)
    images = random_images(2, *session.size)
    assert_equal(session.run(images, "base"), bundle.session().run(images, "base"))
    asked = fake.opened[0]
    assert [name for name, _ in _named(asked["providers"])] == GPU[runtime]
    assert asked["settings"].intra_op_num_threads == 2
    assert asked["enable_fallback"] == 0
    assert not fake.sessions[0].falls_back
    assert asked["disabled_optimizers"] == []


def _named(providers: list[Any]) -> list[tuple[str, dict[str, str]]]:
    return [(item, {}) if isinstance(item, str) else item for item in providers]


def test_an_engine_says_which_providers_are_active(
    fake: FakeOnnxRuntime, bundle: Bundle, runtime: str
) -> None:
    for name, expected in ((runtime, GPU[runtime]), ("onnxruntime", [CPU])):
        engine = open_engine(name, _graph(bundle), EngineOptions())
        assert isinstance(engine, OnnxRuntimeEngine)
        assert engine.providers == tuple(expected)


def test_the_cpu_is_opened_as_ever(fake: FakeOnnxRuntime, bundle: Bundle) -> None:
    bundle.session()
    asked = fake.opened[0]
    assert asked["providers"] == [CPU]
    assert "enable_fallback" not in asked
    fake.has.clear()  # nor is it asked what there is
    bundle.session()


def test_fp32_means_fp32(
    fake: FakeOnnxRuntime, bundle: Bundle, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    open_engine(runtime, _graph(bundle), EngineOptions())
    assert dict(fake.providers)[CUDA] == {"use_tf32": "0"}
    # TensorRT's provider has no such option.
    expected = "0" if runtime == "onnxruntime-tensorrt" else None
    assert os.environ.pop("NVIDIA_TF32_OVERRIDE", None) == expected
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    open_engine(runtime, _graph(bundle), EngineOptions())
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "1"  # who says so, gets it


@pytest.mark.parametrize(
    ("precision", "fp16", "int8"),
    [("fp32", "False", "False"), ("fp16", "True", "False"), ("int8", "True", "True")],
)
def test_tensorrt_computes_in_what_the_graph_is_made_of(
    fake: FakeOnnxRuntime, bundle_copy: Path, precision: str, fp16: str, int8: str
) -> None:
    opened = with_int8(bundle_copy, "tensorrt")
    before = {path.name: path.stat().st_mtime_ns for path in bundle_copy.iterdir()}
    opened.session(runtime="onnxruntime-tensorrt", precision=precision)
    assert dict(fake.providers)[TENSORRT] == {
        "trt_fp16_enable": fp16,
        "trt_int8_enable": int8,
        "trt_engine_cache_enable": "False",
        "trt_timing_cache_enable": "False",
    }
    assert {path.name: path.stat().st_mtime_ns for path in bundle_copy.iterdir()} == before
    skipped = fake.opened[-1]["disabled_optimizers"]
    assert skipped == (["WeightBiasQuantization"] if precision == "int8" else [])


def test_engines_are_kept_where_the_environment_says(
    fake: FakeOnnxRuntime, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ORT_TENSORRT_CACHE_PATH", str(tmp_path))
    open_engine("onnxruntime-tensorrt", _graph(bundle), EngineOptions())
    found = dict(fake.providers)[TENSORRT]
    assert (found["trt_engine_cache_enable"], found["trt_engine_cache_path"]) == (
        "True",
        str(tmp_path),
    )
    assert (found["trt_timing_cache_enable"], found["trt_timing_cache_path"]) == (
        "True",
        str(tmp_path),
    )


def test_rounding_is_for_the_cpu(
    fake: FakeOnnxRuntime, bundle: Bundle, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _graph(bundle)
    open_engine("onnxruntime", path, EngineOptions(rounded=True))
    assert fake.opened[-1]["disabled_optimizers"] == KEEP_ROUNDING
    monkeypatch.setitem(sys.modules, "onnx", None)  # nothing has to be rewritten
    open_engine(runtime, path, EngineOptions(rounded=True))
    assert fake.opened[-1]["model"] == str(path)
    assert fake.opened[-1]["disabled_optimizers"] == []


def test_raw_outputs(fake: FakeOnnxRuntime, bundle: Bundle, runtime: str) -> None:
    session = bundle.session(runtime=runtime, raw=True)
    raw = session.run_raw(random_images(1, *session.size), "base")
    assert set(raw) == {"logits", "boxes", "queries"}


def test_verify(fake: FakeOnnxRuntime, bundle: Bundle, checkpoint: Path, runtime: str) -> None:
    batches = verification_batches(bundle.manifest.preprocess, None)[:1]
    depths = [bundle.table.ladder[0]]
    report = verify(bundle, str(checkpoint), batches, depths=depths, runtime=runtime, record=False)
    assert report.passed
    assert (report.runtime, len(report.rows)) == (runtime, 3)
    assert all(_named(item["providers"])[0][0] == GPU[runtime][0] for item in fake.opened)


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [CUDA, TENSORRT])
def test_a_provider_that_does_not_start(fake: FakeOnnxRuntime, bundle: Bundle, broken: str) -> None:
    fake.broken = [broken]
    with pytest.raises(DeviceError) as caught:
        bundle.session(runtime="onnxruntime-tensorrt")
    others = [name for name in GPU["onnxruntime-tensorrt"] if name != broken]
    message = str(caught.value)
    assert message.startswith(
        f"ONNX Runtime 1.99.0 could not start {broken}, and would compute with {', '.join(others)} "
        "instead: check that nvidia-smi lists a GPU"
    )
    assert "\n" not in message


def test_without_a_gpu_at_all(fake: FakeOnnxRuntime, bundle: Bundle, runtime: str) -> None:
    fake.broken = [CUDA, TENSORRT]
    lacking = " and ".join(GPU[runtime][:-1])
    with pytest.raises(DeviceError, match=f"could not start {lacking}, and would compute with CPU"):
        bundle.session(runtime=runtime)


def test_a_package_without_tensorrt(fake: FakeOnnxRuntime, bundle: Bundle) -> None:
    fake.has.remove(TENSORRT)
    assert bundle.session(runtime="onnxruntime-cuda")
    with pytest.raises(DeviceError) as caught:
        bundle.session(runtime="onnxruntime-tensorrt")
    assert str(caught.value) == (
        f"ONNX Runtime 1.99.0 here has no {TENSORRT} (it has {CUDA}, {CPU}): install "
        "onnxruntime-gpu instead of onnxruntime, on a machine with an NVIDIA GPU"
    )


def test_without_any_onnxruntime(
    bundle: Bundle, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install onnxruntime-gpu, on a machine with an NVI"):
        bundle.session(runtime=runtime)


def test_a_run_that_fails(fake: FakeOnnxRuntime, bundle: Bundle, runtime: str) -> None:
    engine = open_engine(runtime, _graph(bundle), EngineOptions())
    with pytest.raises(InputError, match="gated"):
        engine.run({"images": np.zeros((1, 3, 1, 1), np.float32)}, engine.outputs)


@pytest.mark.skipif("CUDAExecutionProvider" in real.get_available_providers(), reason="has CUDA")
def test_the_package_installed_here(bundle: Bundle, runtime: str) -> None:
    with pytest.raises(DeviceError) as caught:
        bundle.session(runtime=runtime)
    message = str(caught.value)
    assert message.startswith(f"ONNX Runtime {real.__version__} here has no {GPU[runtime][0]} (it")
    assert CPU in message
    assert message.endswith("instead of onnxruntime, on a machine with an NVIDIA GPU")


@pytest.mark.skipif("CUDAExecutionProvider" in real.get_available_providers(), reason="has CUDA")
def test_predict_on_the_package_installed_here(
    run: Run,
    bundle: Bundle,
    runtime: str,
    tmp_path: Path,
) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (40, 40)).save(picture)
    found = run("predict", bundle.path, picture, "--runtime", runtime)
    assert (found.code, found.out) == (2, "")
    (line,) = found.err.splitlines()
    assert line.startswith(f"error: ONNX Runtime {real.__version__} here has no {GPU[runtime][0]}")


# --- INT8 ------------------------------------------------------------------------------------


def test_what_runtimes_take(bundle_copy: Path) -> None:
    assert {format_of(name) for name in GPU} == {"onnx"}
    assert runtime_targets("onnxruntime-cuda") == ("onnxruntime", "tensorrt")
    assert runtime_targets("onnxruntime-tensorrt") == ("tensorrt",)
    assert graph_targets("onnxruntime-cuda", None) == ("onnxruntime",)
    assert graph_targets("openvino", None) == ("openvino", "onnxruntime")
    assert graph_targets("openvino", "onnxruntime") == ("onnxruntime",)
    assert graph_targets("onnxruntime-cuda", "tensorrt") == ("tensorrt",)
    assert graph_targets("onnxruntime-tensorrt", None) == ("tensorrt",)
    assert graph_targets("openvino", "tensorrt") == ("tensorrt",)  # to be refused
    opened = with_int8(bundle_copy, "onnxruntime")
    (int8,) = opened.artifacts("gated", "int8")
    assert runs_on(int8, "onnxruntime-cuda")
    assert not runs_on(int8, "onnxruntime-tensorrt")


def test_int8_for_tensorrt_is_what_tensorrt_is_given(
    fake: FakeOnnxRuntime, bundle_copy: Path
) -> None:
    opened = with_int8(bundle_copy, "tensorrt")
    name = "onnxruntime-tensorrt"
    targets: tuple[str | None, ...] = (None, "tensorrt")
    for target in targets:
        (found,) = choose_artifacts(opened, None, "int8", None, target, name)
        assert found.name == "gated-int8-folded"
        assert precisions_of(opened, "gated", name, target) == ["fp32", "fp16", "int8"]
    assert precisions_of(opened, "gated", "onnxruntime") == ["fp32", "fp16"]
    for runtime in GPU:
        opened.session(runtime=runtime, precision="int8", target="tensorrt")


def test_int8_for_cpus_is_not_for_tensorrt(fake: FakeOnnxRuntime, bundle_copy: Path) -> None:
    opened = with_int8(bundle_copy, "onnxruntime")
    opened.session(runtime="onnxruntime-cuda", precision="int8")
    with pytest.raises(BundleError, match="no artifact 'int8 for tensorrt'"):
        opened.session(runtime="onnxruntime-tensorrt", precision="int8")
    assert precisions_of(opened, "gated", "onnxruntime-tensorrt") == ["fp32", "fp16"]


def _graph(bundle: Bundle) -> Path:
    return bundle.path / next(item for item in bundle.artifacts("gated")).file


def test_no_torch_and_nothing_heavy_before_it_is_used() -> None:
    code = (
        "import sys\n"
        "import anydepth_deploy.runtimes.onnxruntime.cuda\n"
        "import anydepth_deploy.runtimes.onnxruntime.tensorrt\n"
        "assert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
