"""What a run of ``bench`` found: a versioned JSON document with every sample in it.

Durations of single samples are integers of nanoseconds, all other figures carry their unit in their
name. Nothing that was measured is left out, so every figure can be computed again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from anydepth_deploy.bench.sensors.state import Device
from anydepth_deploy.documents import Document, refusing, write_new, write_or_refuse
from anydepth_deploy.errors import ResultError

__all__ = [
    "Accuracy",
    "Arrivals",
    "BenchResult",
    "DepthResult",
    "Estimate",
    "Host",
    "Inputs",
    "Latency",
    "Memory",
    "Mode",
    "Overall",
    "Samples",
    "Scenario",
    "Scope",
    "Settings",
    "Subject",
    "Verdict",
    "Word",
    "check_result",
    "plain",
    "read_result",
    "write_result",
]

VERSION = 1

ONE_LINE = 110
"""Characters of an entry that is written on one line."""

Scenario = Literal["single", "streams", "fixed-rate", "poisson", "offline"]
"""How requests come: one after the other; the same on several streams; at regular or random
moments; all at once."""

Mode = Literal["fixed", "interleaved", "mixed", "switching"]
"""How depths share the time: one after the other; in turn, in an order drawn anew each round; at
random, as requests of a service; so that every depth follows every other equally often."""

Scope = Literal["raw", "detections", "pictures"]
"""What is timed: the network up to its raw outputs; up to detections; from decoded pictures to
boxes in their pixels."""

Arrivals = ("fixed-rate", "poisson")
"""Scenarios whose requests come at moments of their own; latency counts from there."""

Word = Literal["valid", "unstable", "throttled", "unknown"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Model):
    """A figure with its 95 % confidence interval; None where samples are too few for one."""

    value: float
    low: float | None = None
    high: float | None = None


class Latency(_Model):
    """Of one depth, or of all requests, in milliseconds; see
    :mod:`anydepth_deploy.bench.statistics`."""

    count: int
    minimum_ms: float
    mean_ms: float
    deviation_ms: float | None
    """Standard deviation of the sample (n - 1); None for one sample."""
    variation: float | None
    """Deviation over mean."""
    median_ms: Estimate
    maximum_ms: float
    percentiles_ms: dict[str, float | None]
    """By percentile (``"99.9"``); None where there are too few samples to say."""


class Verdict(_Model):
    """Whether a figure can be relied on, and why not."""

    word: Word
    reasons: list[str] = Field(default_factory=list)


class Samples(_Model):
    """Every request of one depth, in the order they began; nanoseconds since measuring began."""

    started_ns: list[int]
    ended_ns: list[int]
    scheduled_ns: list[int] | None = None
    """When each was due, where requests arrive by themselves."""
    rounds: list[int] | None = None
    """Interleaved depths: the round each belongs to; requests of the same round are pairs."""
    after: list[int] | None = None
    """Switching: which of the result's depths ran just before; -1 for none."""

    @model_validator(mode="after")
    def _same_length(self) -> Samples:
        columns = (self.ended_ns, self.scheduled_ns, self.rounds, self.after)
        if any(column is not None and len(column) != len(self.started_ns) for column in columns):
            raise ValueError("the columns of the samples differ in length")
        return self

    @property
    def latency_ns(self) -> list[int]:
        """From the moment a request was due, or else began, to its end."""
        begins = self.started_ns if self.scheduled_ns is None else self.scheduled_ns
        return [end - begin for begin, end in zip(begins, self.ended_ns, strict=True)]


class Accuracy(_Model):
    """Average precision of the very artifact that was timed, at one depth."""

    ap: float
    data: str
    pictures: int
    data_sha256: str | None = None
    """Of annotations and pictures; None where the evaluation did not keep it."""


class DepthResult(_Model):
    """One depth."""

    depth: str
    level: int | None
    macs: int | None
    """Multiply-adds of one image."""
    samples: Samples
    latency: Latency
    images_per_second: float | None
    """Images over the wall time that belongs to this depth alone; None where depths were mixed."""
    speedup: Estimate | None
    """Of the median, against the largest depth measured (the most multiply-adds)."""
    switch_ms: Estimate | None = None
    """Switching: median right after another depth less median right after the same."""
    first_ms: float | None = None
    """The first call after loading."""
    accuracy: Accuracy | None = None
    energy_per_image_j: float | None = None
    verdict: Verdict


class Overall(_Model):
    """All requests together."""

    requests: int
    images: int
    wall_s: float
    images_per_second: float
    latency: Latency
    queue_ms: Latency | None = None
    """From the moment a request was due until it began; where requests arrive by themselves."""
    energy_per_image_j: float | None = None


class Subject(_Model):
    """What was measured."""

    kind: Literal["bundle", "checkpoint"]
    name: str
    source_sha256: str
    """Of the checkpoint."""
    family: str
    config: str
    input_size: tuple[int, int]
    """Height and width in pixels."""
    runtime: str
    device: Literal["cpu", "cuda"]
    precision: str
    layout: str | None = None
    weights: str | None = None
    artifacts: dict[str, str] = Field(default_factory=dict)
    """sha256 by name."""
    verified: str | None = None
    """When the artifacts last passed ``verify``; None: never."""
    cuda_graph: bool | None = None
    """Whether runs were launched as CUDA graphs; None where there is no such thing."""


class Settings(_Model):
    """Every option of a run. Two results can be compared where these agree."""

    scenario: Scenario
    mode: Mode
    depths: list[str]
    mix: dict[str, float] | None = None
    """Mixed: the share of requests at each depth."""
    batch: int
    streams: int
    threads: int | None
    rate: float | None
    """Requests a second, where they arrive by themselves."""
    duration_s: float
    """Measured for at least this long, for each depth."""
    count: int
    """And at least so many requests, of each depth."""
    repeats: int
    """Fixed: stretches that the time of a depth is cut into."""
    warmup_s: float
    warmup_count: int
    seed: int
    percentiles: list[float]
    scope: Scope
    transfers: bool | None
    """Whether copies to and from the device are timed; None on a CPU, where there are none."""
    locked_clocks: str | None = None
    """What clocks were held at; None where this run did not lock them."""


class Inputs(_Model):
    """The pictures that were run."""

    source: str
    """Name of the folder, or ``generated``."""
    count: int
    sha256: str
    seed: int


class Memory(_Model):
    """Resident memory of the process in bytes; None where the system does not tell."""

    before: int | None
    loaded: int | None
    """After every depth was loaded and had run."""
    peak: int | None
    device: dict[str, int] = Field(default_factory=dict)
    """On the device, by what it is for."""


class Host(_Model):
    """The machine and the versions."""

    processor: str
    cores: int | None
    memory_bytes: int | None
    system: str
    python: str
    packages: dict[str, str]


class BenchResult(_Model):
    """One run of ``bench``."""

    format: Literal["anydepth-deploy bench"] = "anydepth-deploy bench"
    version: Literal[1] = 1
    tool_version: str
    when: str
    host: Host
    subject: Subject
    settings: Settings
    boundaries: dict[str, str]
    """In words: what of a request is timed, step by step, and what is not."""
    inputs: Inputs
    devices: list[Device]
    memory: Memory
    load_ms: float
    """Opening everything that the depths need, without their first calls."""
    depths: list[DepthResult] = Field(min_length=1)
    overall: Overall
    verdict: Verdict
    """The worst of any depth."""


_DOCUMENT = Document(
    BenchResult,
    "result",
    ResultError,
    missing="result {path} does not exist: 'anydepth-deploy bench --out {path}' writes one",
    remedy="run bench again",
    other_version="run bench again",
    format="anydepth-deploy bench",
    version=VERSION,
    most=1 << 28,  # a sample takes some ten bytes, and a run takes some million samples
    most_values=50_000_000,
    title="result of 'anydepth-deploy bench'",
)


def read_result(path: str | Path) -> BenchResult:
    """Read and check a result file. Raises :class:`ResultError`."""
    return _DOCUMENT.read(Path(path))


def check_result(content: Any, path: str | Path) -> BenchResult:
    """Check what was parsed of the file ``path``. Raises :class:`ResultError`."""
    return _DOCUMENT.check(content, Path(path))


def write_result(path: str | Path, result: BenchResult, *, replace: bool = True) -> Path:
    """Write ``result`` to a file, whole or not at all; returns its path.

    Without ``replace``, for a name that nobody chose, a file that is there stays, and this one gets
    a number. Raises :class:`ResultError`.
    """
    file = Path(path)
    content = (_lines(plain(result)) + "\n").encode()
    if replace:
        write_or_refuse(file, lambda target: target.write(content), "result", ResultError)
        return file
    with refusing(file, "result", ResultError):
        return write_new(file, lambda target: target.write(content))


def plain(result: BenchResult) -> dict[str, Any]:
    """The document, with readings that hold what was read and nothing else."""
    content = result.model_dump(mode="json")
    for device, written in zip(result.devices, content["devices"], strict=True):
        written["states"] = [
            state.model_dump(mode="json", exclude_defaults=True) for state in device.states
        ]
    return content


def _lines(value: Any, indent: int = 0) -> str:
    """JSON that people can read: a line for each entry, but short ones and lists on one."""
    text = json.dumps(value)
    if len(text) <= ONE_LINE or not isinstance(value, Mapping | list):
        return text
    if isinstance(value, list) and not any(isinstance(item, Mapping) for item in value):
        return json.dumps(value, separators=(",", ":"))
    pad, end = " " * (indent + 1), "\n" + " " * indent
    if isinstance(value, Mapping):
        named = (f"{json.dumps(key)}: {_lines(item, indent + 1)}" for key, item in value.items())
        return "{\n" + ",\n".join(pad + entry for entry in named) + end + "}"
    entries = (pad + _lines(item, indent + 1) for item in value)
    return "[\n" + ",\n".join(entries) + end + "]"
