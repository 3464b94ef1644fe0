"""Sensors on imaginary machines, with every number worked out by hand, and on this one."""

from __future__ import annotations

import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import INVALID, NOT_SUPPORTED, FakeGpu, FakeNvml

from anydepth_deploy.bench.sensors import (
    CpuSensor,
    JetsonSensor,
    NvidiaSensor,
    cpu,
    find_sensors,
    gpu_uuid,
)
from anydepth_deploy.bench.sensors.nvidia import HARMLESS, THROTTLING, throttle_reasons
from anydepth_deploy.bench.sensors.state import State
from anydepth_deploy.bench.sensors.sysfs import (
    UnreadableError,
    cpu_ranges,
    run_command,
)

CPU = "sys/devices/system/cpu"
CPU_FIELDS = [name for name in State.model_fields if name not in ("seconds", "power_w", "throttle")]


def plant(root: Path, files: dict[str, object]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def stat(user: int, nice: int, system: int, idle: int, iowait: int, irq: int, *more: int) -> str:
    fields = " ".join(map(str, (user, nice, system, idle, iowait, irq, *more)))
    return f"cpu  {fields} 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0"


def workstation(root: Path) -> Path:
    """Six Intel cores on bare metal, of which the last two are saving power."""
    files: dict[str, object] = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Intel(R)  Xeon(R) W\nflags\t: fpu vme sse",
        "proc/stat": stat(1000, 0, 500, 9000, 100, 10, 20, 0),
        "proc/self/status": "Name:\tpython\nCpus_allowed_list:\t0-3",
        "proc/self/cgroup": "0::/user.slice/session.scope",
        "sys/fs/cgroup/cgroup.controllers": "cpu io memory",
        f"{CPU}/online": "0-5",
        f"{CPU}/intel_pstate/no_turbo": 0,
        f"{CPU}/smt/active": 0,
        f"{CPU}/smt/control": "off",
        "sys/class/dmi/id/sys_vendor": "Dell Inc.",
        "sys/class/hwmon/hwmon0/name": "nvme",
        "sys/class/hwmon/hwmon0/temp1_input": 33000,
        "sys/class/hwmon/hwmon3/name": "coretemp",
        "sys/class/hwmon/hwmon3/temp1_input": 47500,
        "sys/class/hwmon/hwmon3/temp1_label": "Package id 0",
        "sys/class/hwmon/hwmon3/temp2_input": 45000,
        "sys/class/hwmon/hwmon3/temp2_label": "Core 0",
        "sys/class/hwmon/hwmon4/name": "coretemp",
        "sys/class/hwmon/hwmon4/temp2_input": 46000,
        "sys/class/hwmon/hwmon4/temp2_label": "Core 0",
        "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp",
        "sys/class/thermal/thermal_zone0/temp": 48000,
        "sys/class/thermal/thermal_zone1/type": "iwlwifi",
        "sys/class/thermal/thermal_zone1/temp": -256000,
        "sys/class/powercap/intel-rapl:0/name": "package-0",
        "sys/class/powercap/intel-rapl:0/energy_uj": 900_000_000,
        "sys/class/powercap/intel-rapl:0/max_energy_range_uj": 1_000_000_000,
        "sys/class/powercap/intel-rapl:0:0/name": "core",
        "sys/class/powercap/intel-rapl:0:0/energy_uj": 400_000_000,
        "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": 1_000_000_000,
        "sys/class/powercap/intel-rapl:1/name": "package-1",
        "sys/class/powercap/intel-rapl:1/energy_uj": 100_000_000,
        "sys/class/powercap/intel-rapl:1/max_energy_range_uj": 1_000_000_000,
        "sys/class/powercap/intel-rapl:2/name": "psys",
        "sys/class/powercap/intel-rapl:2/energy_uj": 5_000_000,
        "sys/class/powercap/intel-rapl:2/max_energy_range_uj": 1_000_000_000,
        "sys/class/powercap/intel-rapl-mmio:0/name": "package-0",
        "sys/class/powercap/intel-rapl-mmio:0/energy_uj": 900_000_000,
        "sys/class/powercap/intel-rapl-mmio:0/max_energy_range_uj": 1_000_000_000,
    }
    for number in range(6):
        folder = f"{CPU}/cpu{number}"
        files |= {
            f"{folder}/cpufreq/scaling_governor": "performance" if number < 4 else "powersave",
            f"{folder}/cpufreq/scaling_driver": "intel_pstate",
            f"{folder}/cpufreq/scaling_min_freq": 800000,
            f"{folder}/cpufreq/scaling_max_freq": 4600000,
            f"{folder}/cpufreq/scaling_cur_freq": 3000000 + number,
            f"{folder}/thermal_throttle/core_throttle_count": number,
            f"{folder}/thermal_throttle/package_throttle_count": 100,
        }
    return plant(root, files)


class Time:
    """The clock on the wall, and the time this process has spent."""

    def __init__(self) -> None:
        self.wall, self.own = 50.0, 7.0

    def sensor(self, root: Path) -> CpuSensor:
        return CpuSensor(root, own=lambda: self.own, now=lambda: self.wall)


@pytest.fixture
def hundred_hertz(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_CLK_TCK": 100}[name])


def test_a_processor_that_tells_everything(tmp_path: Path) -> None:
    sensor = CpuSensor(workstation(tmp_path))
    device = sensor.describe()
    assert (device.kind, device.name) == ("cpu", "Intel(R) Xeon(R) W")
    assert device.settings == {
        "machine": "bare metal",
        "online cpus": "6",
        "allowed cpus": "0-3",
        "cpu quota": "none",
        "governor": "performance (cpu0-3), powersave (cpu4-5)",
        "scaling driver": "intel_pstate",
        "clock limits": "800-4600 MHz",
        "boost": "on",
        "smt": "off",
    }
    assert device.unknown == []
    state = sensor.read(-0.5)
    assert state.seconds == -0.5
    assert state.clocks_mhz == pytest.approx({f"cpu{n}": 3000 + n / 1000 for n in range(6)})
    assert state.temperatures_c == {
        "coretemp Package id 0": 47.5,
        "coretemp Core 0": 45.0,
        "coretemp Core 0 2": 46.0,
        "x86_pkg_temp": 48.0,
    }
    assert state.energy_j == pytest.approx(
        {"package-0": 900, "package-0 core": 400, "package-1": 100, "psys": 5, "total": 1000}
    )
    assert state.throttle_events == 0 + 1 + 2 + 3 + 4 + 5 + 600
    assert state.throttle is None
    assert (state.other_cpu, state.stolen_cpu) == (None, None)  # nothing to compare with


@pytest.mark.parametrize("present", [False, True])
def test_a_machine_that_tells_nothing(tmp_path: Path, present: bool) -> None:
    """An empty one, and one where every file is rubbish."""
    if present:
        for path in workstation(tmp_path).rglob("*"):
            if path.is_file():
                path.write_bytes(b"\xff nan \0")
    sensor = CpuSensor(tmp_path)
    device = sensor.describe()
    assert device.name
    told = {name: text for name, text in device.settings.items() if name not in ("governor", "smt")}
    assert told == {}
    for name in ("machine", "online cpus", "governor", "boost", "smt", "clocks", "temperatures"):
        assert any(text.startswith(f"{name} (") for text in device.unknown), (name, device.unknown)
    for name in ("energy", "throttle events", "use by others", "stolen time", "cpu quota"):
        assert any(text.startswith(f"{name} (") for text in device.unknown), (name, device.unknown)
    assert sensor.read(1.0) == State(seconds=1.0)
    assert sensor.read(2.0) == State(seconds=2.0)


@pytest.mark.parametrize(
    ("file", "field", "name"),
    [
        (f"{CPU}/cpu2/cpufreq/scaling_cur_freq", "clocks_mhz", "cpu2"),
        ("sys/class/thermal/thermal_zone0/temp", "temperatures_c", "x86_pkg_temp"),
        ("sys/class/powercap/intel-rapl:0:0/energy_uj", "energy_j", "package-0 core"),
        (f"{CPU}/cpu5/thermal_throttle/core_throttle_count", "throttle_events", None),
    ],
)
@pytest.mark.parametrize("damage", ["nan", "", "12 apples"])
def test_one_file_damaged_leaves_the_rest(
    tmp_path: Path, file: str, field: str, name: str | None, damage: str
) -> None:
    sensor = CpuSensor(workstation(tmp_path))
    before = sensor.read(0).model_dump()
    (tmp_path / file).write_text(damage)
    after = sensor.read(0).model_dump()
    if name is None:
        assert before.pop(field) is not None
        assert after.pop(field) is None
    else:
        assert name in before[field]
        del before[field][name]
    assert after == before


def test_some_processors_without_a_governor(tmp_path: Path) -> None:
    workstation(tmp_path)
    (tmp_path / f"{CPU}/cpu1/cpufreq/scaling_governor").unlink()
    (tmp_path / f"{CPU}/cpu3/cpufreq/scaling_governor").unlink()
    expected = "performance (cpu0,2), unknown (cpu1,3), powersave (cpu4-5)"
    assert CpuSensor(tmp_path).describe().settings["governor"] == expected


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        (f"{CPU}/intel_pstate/no_turbo", "1", "off"),
        (f"{CPU}/intel_pstate/no_turbo", "7", None),
        (f"{CPU}/cpufreq/boost", "1", "on"),
        (f"{CPU}/cpufreq/boost", "0", "off"),
    ],
)
def test_boost(tmp_path: Path, file: str, text: str, expected: str | None) -> None:
    device = CpuSensor(plant(tmp_path, {file: text})).describe()
    assert device.settings.get("boost") == expected
    assert any(line.startswith("boost (") for line in device.unknown) == (expected is None)


def test_rapl_goes_on_after_a_wrap(tmp_path: Path) -> None:
    sensor = CpuSensor(workstation(tmp_path))
    counter = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
    totals = []
    for raw in (900_000_000, 999_000_000, 20_000_000, 500_000_000, 10_000_000):
        counter.write_text(str(raw))
        totals.append(sensor.read(0).energy_j["total"] - 100)
    assert totals == pytest.approx([900, 999, 1020, 1500, 2010])


def test_a_package_without_energy_has_no_total(tmp_path: Path) -> None:
    workstation(tmp_path)
    (tmp_path / "sys/class/powercap/intel-rapl:2/energy_uj").unlink()
    assert "total" in CpuSensor(tmp_path).read(0).energy_j  # of the platform, not of a package
    sensor = CpuSensor(tmp_path)
    (tmp_path / "sys/class/powercap/intel-rapl:1/energy_uj").unlink()
    for one in (sensor, CpuSensor(tmp_path)):
        assert "energy (no /sys/class/powercap/intel-rapl:1/energy_uj)" in one.describe().unknown
        assert set(one.read(0).energy_j) == {"package-0", "package-0 core"}


@pytest.mark.usefixtures("hundred_hertz")
def test_cores_that_others_take(tmp_path: Path) -> None:
    """In 2 s: 330 ticks busy, of which 1.5 s are this process's own, and 30 stolen."""
    workstation(tmp_path)
    clock = Time()
    sensor = clock.sensor(tmp_path)
    sensor.read(0)
    clock.wall += 2
    clock.own += 1.5
    plant(tmp_path, {"proc/stat": stat(1250, 10, 560, 9050, 110, 15, 25, 30)})
    state = sensor.read(2)
    assert state.other_cpu == pytest.approx((3.3 - 1.5) / 2)
    assert state.stolen_cpu == pytest.approx(0.3 / 2)
    # This process alone: more of its own than ticks were counted is none by others.
    clock.wall += 1
    clock.own += 1.02
    plant(tmp_path, {"proc/stat": stat(1350, 10, 560, 9550, 110, 15, 25, 30)})
    state = sensor.read(3)
    assert (state.other_cpu, state.stolen_cpu) == (0.0, 0.0)


@pytest.mark.usefixtures("hundred_hertz")
def test_readings_in_quick_succession_are_too_coarse(tmp_path: Path) -> None:
    workstation(tmp_path)
    clock = Time()
    sensor = clock.sensor(tmp_path)
    sensor.read(0)
    clock.wall += 0.09
    plant(tmp_path, {"proc/stat": stat(1010, 0, 500, 9000, 100, 10, 20, 0)})
    assert sensor.read(0.09).other_cpu is None
    clock.wall += 0.11
    plant(tmp_path, {"proc/stat": stat(1020, 0, 500, 9010, 100, 10, 20, 0)})
    assert sensor.read(0.2).other_cpu == pytest.approx(0.2 / 0.2)  # of both intervals


@pytest.mark.usefixtures("hundred_hertz")
def test_a_count_that_stands_still_is_unknown(tmp_path: Path) -> None:
    """A sandbox has the file, but does not count."""
    workstation(tmp_path)
    clock = Time()
    sensor = clock.sensor(tmp_path)
    sensor.read(0)
    clock.wall += 1
    assert sensor.read(1).other_cpu is None
    plant(tmp_path, {"proc/stat": stat(0, 0, 0, 0, 0, 0, 0, 0)})
    device = clock.sensor(tmp_path).describe()
    assert "use by others (/proc/stat counts nothing)" in device.unknown


@pytest.mark.usefixtures("hundred_hertz")
@pytest.mark.parametrize(("virtual", "stolen"), [(False, 0.0), (True, None)])
def test_stolen_time_that_a_hypervisor_may_not_tell(
    tmp_path: Path, virtual: bool, stolen: float | None
) -> None:
    workstation(tmp_path)
    if virtual:
        plant(tmp_path, {"proc/cpuinfo": "flags : fpu hypervisor"})
    clock = Time()
    sensor = clock.sensor(tmp_path)
    sensor.read(0)
    clock.wall += 1
    plant(tmp_path, {"proc/stat": stat(1050, 0, 500, 9050, 100, 10, 20, 0)})
    state = sensor.read(1)
    assert state.other_cpu == pytest.approx(0.5)
    assert state.stolen_cpu == stolen
    told = any(text.startswith("stolen time (") for text in sensor.describe().unknown)
    assert told == virtual


@pytest.mark.parametrize(
    ("flags", "files", "expected"),
    [
        ("fpu hypervisor", {}, "virtual machine"),
        ("fpu hypervisor", {"sys/class/dmi/id/product_name": "KVM"}, "virtual machine: KVM"),
        ("fpu hypervisor", {"sys/hypervisor/type": "xen"}, "virtual machine: Xen"),
        (
            "fpu hypervisor",
            {"sys/devices/system/clocksource/clocksource0/available_clocksource": "tsc kvm-clock"},
            "virtual machine: KVM",
        ),
        (
            "fpu hypervisor",
            {
                "sys/class/dmi/id/sys_vendor": "Microsoft Corporation",
                "sys/class/dmi/id/product_name": "Virtual Machine",
            },
            "virtual machine: Hyper-V",
        ),
        ("fpu", {"sys/class/dmi/id/sys_vendor": "Amazon EC2"}, "bare metal"),
        (None, {"sys/class/dmi/id/sys_vendor": "Amazon EC2"}, "virtual machine: Amazon EC2"),
        (
            None,
            {
                "sys/class/dmi/id/sys_vendor": "Amazon EC2",
                "sys/class/dmi/id/product_name": "c7g.metal",
            },
            None,
        ),
        (None, {}, None),
    ],
)
def test_the_kind_of_machine(
    tmp_path: Path, flags: str | None, files: dict[str, object], expected: str | None
) -> None:
    line = "Features : fp asimd" if flags is None else f"flags : {flags}"
    device = CpuSensor(plant(tmp_path, {"proc/cpuinfo": line, **files})).describe()
    assert device.settings.get("machine") == expected


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        (  # of a container that sees itself as the root
            "0::/",
            {"cpu.max": "150000 100000", "cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 4"},
            ("1.5 cores", 4),
        ),
        (  # the parent's is the tighter one, both make it wait
            "0::/pod/app",
            {
                "pod/app/cpu.max": "400000 100000",
                "pod/app/cpu.stat": "nr_throttled 3",
                "pod/cpu.max": "200000 100000",
                "pod/cpu.stat": "nr_throttled 10",
            },
            ("2 cores", 13),
        ),
        (
            "0::/app",
            {"app/cpu.max": "max 100000", "app/cpu.stat": "nr_throttled 0"},
            ("none", None),
        ),
        (
            "4:cpu,cpuacct:/docker/0123\n1:name=systemd:/x",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "50000",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/cpu.stat": "nr_periods 9\nnr_throttled 7\nthrottled_time 1",
            },
            ("0.5 cores", 7),
        ),
        (
            "1:cpu:/\n0::/",
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "cpu/cpu.stat": "nr_throttled 0",
            },
            ("none", None),
        ),
        (
            "0::/../../other",
            {
                "cpu.max": "100000 100000",
                "cpu.stat": "nr_throttled 1",
                "../../other/cpu.max": "1000 100000",  # not a group of this one
                "../../other/cpu.stat": "nr_throttled 50",
            },
            ("1 core", 1),
        ),
        ("0::/app", {"app/cpu.max": "lots", "app/cpu.stat": "nr_throttled 1"}, (None, None)),
    ],
)
def test_the_quota_of_a_container(
    tmp_path: Path, cgroup: str, files: dict[str, object], expected: tuple[str | None, int | None]
) -> None:
    plant(tmp_path, {"proc/self/cgroup": cgroup})
    plant(tmp_path, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    plant(tmp_path, {f"{CPU}/cpu0/thermal_throttle/core_throttle_count": 1000})
    sensor = CpuSensor(tmp_path)
    cores, count = expected
    assert sensor.describe().settings.get("cpu quota") == cores
    assert sensor.read(0).throttle_events == 1000 + (count or 0)


def test_waits_for_the_quota_show_without_a_counter_of_heat(tmp_path: Path) -> None:
    """Seen, they are throttling; not seen, that is no proof that there was no throttling."""
    quota = {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "100000 100000"}
    plant(tmp_path, {**quota, "sys/fs/cgroup/cpu.stat": "nr_throttled 4"})
    sensor = CpuSensor(tmp_path)
    states = []
    for count in (4, 6, 6):
        plant(tmp_path, {"sys/fs/cgroup/cpu.stat": f"nr_throttled {count}"})
        states.append(sensor.read(0))
    assert [state.throttle for state in states] == [None, [cpu.QUOTA], None]
    assert [state.throttle_events for state in states] == [None, None, None]


def test_clocks_that_take_long_are_not_read(tmp_path: Path) -> None:
    workstation(tmp_path)
    walls = iter([0.0, 0.3, 1.0, 2.0, 3.0])
    sensor = CpuSensor(tmp_path, now=lambda: next(walls))
    assert "clocks (reading 6 of them takes 300 ms)" in sensor.describe().unknown
    assert sensor.read(0).clocks_mhz == {}


def test_ranges_of_processors() -> None:
    assert cpu_ranges([7, 0, 1, 2, 5, 4]) == "cpu0-2,4-5,7"


def test_this_machine() -> None:
    sensor = CpuSensor()
    device = sensor.describe()
    assert device.kind == "cpu"
    assert device.name
    if sys.platform == "linux":
        assert int(device.settings["online cpus"]) >= 1
    took = []
    for _ in range(15):
        begin = time.perf_counter()
        sensor.read(begin)
        took.append(time.perf_counter() - begin)
    assert statistics.median(took) < 0.02
    time.sleep(0.15)
    other = sensor.read(0).other_cpu
    if sys.platform == "linux":
        assert other is not None
        assert 0 <= other <= 1.1 * int(device.settings["online cpus"])


def test_a_gpu_that_tells_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(FakeGpu(compute=[os.getpid(), 4, 5], graphics=[5, 6])).install(monkeypatch)
    sensor = NvidiaSensor()
    device = sensor.describe()
    assert (device.kind, device.name) == ("nvidia", "Tesla T4")
    assert device.settings == {
        "driver": "570.86.10",
        "cuda driver": "12.8",
        "index": "0",
        "uuid": "GPU-11111111-aaaa",
        "pci bus": "00000000:3B:00.0",
        "persistence mode": "on",
        "compute mode": "exclusive process",
        "power limit": "70 W",
        "max sm clock": "1590 MHz",
        "applications clock": "585 MHz",
        "ecc": "on, off after a reset",
        "mig": "off",
        "other processes": "3",
    }
    assert device.unknown == ["locked clocks (NVML does not tell what was locked)"]
    assert sensor.read(3.5) == State(
        seconds=3.5,
        clocks_mhz={"sm": 1590, "memory": 5001},
        temperatures_c={"gpu": 61},
        power_w={"total": 68.5},
        energy_j={"total": 123456.789},
        throttle=[],
    )


@pytest.mark.parametrize(
    ("function", "field", "what"),
    [
        ("nvmlDeviceGetPowerUsage", "power_w", "power"),
        ("nvmlDeviceGetTotalEnergyConsumption", "energy_j", "energy"),
        ("nvmlDeviceGetClockInfo", "clocks_mhz", "sm clock"),
    ],
)
def test_one_call_that_fails_leaves_the_rest(
    monkeypatch: pytest.MonkeyPatch, function: str, field: str, what: str
) -> None:
    nvml = FakeNvml().install(monkeypatch)
    sensor = NvidiaSensor()
    expected = sensor.read(0).model_dump() | {field: {}}
    nvml.failing[function] = NOT_SUPPORTED
    assert sensor.read(0).model_dump() == expected
    assert f"{what} (status 3)" in sensor.describe().unknown


@pytest.mark.parametrize(
    ("function", "setting", "value"),
    [
        ("nvmlSystemGetDriverVersion", "driver", None),
        ("nvmlDeviceGetApplicationsClock", "applications clock", None),
        ("nvmlDeviceGetPciInfo", "pci bus", None),
        ("nvmlDeviceGetMigMode", "mig", "not supported"),
        ("nvmlDeviceGetEccMode", "ecc", "not supported"),
    ],
)
def test_one_setting_that_fails_leaves_the_rest(
    monkeypatch: pytest.MonkeyPatch, function: str, setting: str, value: str | None
) -> None:
    nvml = FakeNvml().install(monkeypatch)
    expected = NvidiaSensor().describe().settings
    nvml.failing[function] = NOT_SUPPORTED
    device = NvidiaSensor().describe()
    assert device.settings.get(setting) == value
    expected.pop(setting)
    assert {name: text for name, text in device.settings.items() if name != setting} == expected
    assert (f"{setting} (status 3)" in device.unknown) == (value is None)


def test_throttling_that_cannot_be_read_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"
    FakeNvml(failing=dict.fromkeys(calls, NOT_SUPPORTED)).install(monkeypatch)
    sensor = NvidiaSensor()
    assert sensor.read(0).throttle is None
    assert "throttling (status 3)" in sensor.describe().unknown


def test_a_gpu_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml().install(monkeypatch)
    sensor = NvidiaSensor()
    nvml.failing = dict.fromkeys(nvml._functions(), 15)
    assert sensor.read(2) == State(seconds=2)
    device = sensor.describe()
    assert device.settings == {"index": "0"}
    assert "name (status 15)" in device.unknown


def test_an_older_driver_and_an_older_pynvml(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(
        FakeGpu(name=b"Tesla T4", reasons=0x40, compute=[4]),
        failing={"nvmlDeviceGetComputeRunningProcesses": 13, "nvmlDeviceGetTemperature": 13},
    )
    nvml.install(monkeypatch, without=("nvmlDeviceGetCurrentClocksEventReasons",))
    device = NvidiaSensor().describe()
    assert device.name == "Tesla T4"
    assert device.settings["other processes"] == "1"
    state = NvidiaSensor().read(0)
    assert state.throttle == ["hardware thermal slowdown"]
    assert state.temperatures_c == {"gpu": 61}


def test_reasons_are_those_of_nvml() -> None:
    real: Any = importlib.import_module("pynvml")
    names = {
        "SwPowerCap": "software power cap",
        "HwSlowdown": "hardware slowdown",
        "SwThermalSlowdown": "software thermal slowdown",
        "HwThermalSlowdown": "hardware thermal slowdown",
        "HwPowerBrakeSlowdown": "hardware power brake",
    }
    assert {
        getattr(real, f"nvmlClocksEventReason{name}"): text for name, text in names.items()
    } == (THROTTLING)
    for name in ("GpuIdle", "ApplicationsClocksSetting", "SyncBoost", "DisplayClockSetting"):
        bit = getattr(real, f"nvmlClocksEventReason{name}")
        assert bit in HARMLESS
        assert throttle_reasons(bit) == []
    assert sum(THROTTLING) + sum(HARMLESS) == real.nvmlClocksEventReasonAll


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (0x000, []),
        (0x113, []),
        (0x004, ["software power cap"]),
        (0x048, ["hardware slowdown", "hardware thermal slowdown"]),
        (0x1A1, ["software thermal slowdown", "hardware power brake"]),
        (0x601, ["event reason 0x200", "event reason 0x400"]),
    ],
)
def test_which_reasons_count(
    monkeypatch: pytest.MonkeyPatch, bits: int, expected: list[str]
) -> None:
    FakeNvml(FakeGpu(reasons=bits)).install(monkeypatch)
    assert NvidiaSensor().read(0).throttle == expected


@pytest.mark.parametrize(
    ("number", "visible", "expected"),
    [
        (None, None, "GPU-11111111-aaaa"),
        (None, "", "GPU-11111111-aaaa"),
        (None, "1,0", "GPU-22222222-bbbb"),
        (None, "GPU-2222", "GPU-22222222-bbbb"),
        (None, "GPU-9", None),
        (None, "2", None),
        (None, "MIG-5", "MIG-5"),
        (0, "1", "GPU-11111111-aaaa"),
        (0, "GPU-2222", "GPU-11111111-aaaa"),
        (1, None, "GPU-22222222-bbbb"),
        (2, None, None),
        (-1, None, None),
    ],
)
def test_the_choice_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, number: int | None, visible: str | None, expected: str | None
) -> None:
    FakeNvml(FakeGpu(), FakeGpu(uuid="GPU-22222222-bbbb", sm=900)).install(monkeypatch)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_uuid(number) == expected
    state = NvidiaSensor(number).read(0)
    if expected is None:
        assert state == State(seconds=0)
        assert "no GPU" in NvidiaSensor(number).describe().unknown[0]
    else:
        assert state.clocks_mhz["sm"] == (1590 if "1111" in expected else 900)


def test_without_nvidia_ml_py(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    sensors = find_sensors("cuda", root=tmp_path)
    devices = [sensor.describe() for sensor in sensors]
    assert [device.kind for device in devices] == ["nvidia", "cpu"]
    assert len(devices[0].unknown) == 1
    assert devices[0].unknown[0].startswith("everything (")
    assert "pip install 'anydepth-deploy[nvidia]'" in devices[0].unknown[0]
    assert sensors[0].read(1) == State(seconds=1)
    assert gpu_uuid(None) is None


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    FakeNvml(failing={"nvmlInit": 9}).install(monkeypatch)
    device = find_sensors("cuda", root=tmp_path)[0].describe()
    assert device.unknown == ["everything (no NVIDIA driver: status 9)"]
    assert gpu_uuid(0) is None


def test_a_gpu_without_a_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(failing={"nvmlDeviceGetUUID": INVALID}).install(monkeypatch)
    assert gpu_uuid(0) is None
    assert NvidiaSensor(0).read(0).clocks_mhz["sm"] == 1590


def test_the_real_library_here() -> None:
    """With or without a driver."""
    for sensor in find_sensors("cuda"):
        device = sensor.describe()
        assert device.unknown or device.settings
        if device.name == "unknown NVIDIA GPU":
            assert "no NVIDIA driver" in device.unknown[0]
            assert sensor.read(0) == State(seconds=0)


def orin(root: Path) -> Path:
    """An Orin Nano on JetPack 6, its clocks not locked."""
    gpu = "sys/class/devfreq/17000000.gpu"
    files: dict[str, object] = {
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic",
        "sys/class/devfreq/17000000.gpu/cur_freq": 612000000,
        f"{gpu}/min_freq": 306000000,
        f"{gpu}/max_freq": 624750000,
        "sys/class/devfreq/15340000.vic/cur_freq": 115200000,
        "sys/kernel/debug/bpmp/debug/clk/emc/rate": 2133000000,
        f"{CPU}/cpu0/cpufreq/scaling_cur_freq": 1510400,
        f"{CPU}/cpu10/cpufreq/scaling_cur_freq": 729600,
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": 48562,
        "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
        "sys/class/thermal/thermal_zone1/temp": 47031,
        "sys/class/thermal/thermal_zone2/type": "cv0-thermal",
        "sys/class/thermal/thermal_zone8/type": "tj-thermal",
        "sys/class/thermal/thermal_zone8/temp": 48562,
        "sys/class/hwmon/hwmon1/name": "ina3221",
        "sys/class/hwmon/hwmon1/in1_label": "VDD_IN",
        "sys/class/hwmon/hwmon1/in1_input": 5016,
        "sys/class/hwmon/hwmon1/curr1_input": 1500,
        "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV",
        "sys/class/hwmon/hwmon1/in2_input": 5000,
        "sys/class/hwmon/hwmon1/curr2_input": 400,
        "sys/class/hwmon/hwmon1/in3_label": "NC",
        "sys/class/hwmon/hwmon1/in3_input": 5000,
        "sys/class/hwmon/hwmon1/curr3_input": 100,
        "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages",
        "sys/class/hwmon/hwmon1/in7_input": 12,
        "sys/class/hwmon/hwmon2/name": "pwmfan",
        "sys/class/hwmon/hwmon2/pwm1": 128,
        "sys/class/hwmon/hwmon3/name": "soctherm_oc",
        "sys/class/hwmon/hwmon3/oc1_event_cnt": 1,
        "sys/class/hwmon/hwmon3/oc2_event_cnt": 0,
        "sys/class/hwmon/hwmon3/oc3_event_cnt": 27,
        "sys/class/hwmon/hwmon3/oc1_throt_en": 1,
    }
    cooling = {
        "cpufreq-cpu0": 0,
        "devfreq-17000000.gpu": 0,
        "gpu-throttle-alert": 0,
        "cpu-throttle-alert": 0,
        "hot-surface-alert": 1,
        "pwm-fan": 3,
    }
    for number, (name, state) in enumerate(cooling.items()):
        files[f"sys/class/thermal/cooling_device{number}/type"] = name
        files[f"sys/class/thermal/cooling_device{number}/cur_state"] = state
    return plant(root, files)


def nvpmodel(command: Sequence[str], seconds: float) -> str:
    assert list(command) == ["nvpmodel", "-q"]
    return "NV Power Mode: 15W\n0\n"


def test_a_jetson_that_tells_everything(tmp_path: Path) -> None:
    sensor = JetsonSensor(orin(tmp_path), run=nvpmodel)
    device = sensor.describe()
    assert device.kind == "jetson"
    assert device.name == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit"
    assert device.settings == {
        "l4t": "36.4.3",
        "power mode": "15W (0)",
        "gpu clock": "306-624.75 MHz, not locked",
        "fan": "pwm 128 of 255",
    }
    assert device.unknown == []
    state = sensor.read(1)
    assert state.clocks_mhz == pytest.approx(
        {"gpu": 612, "emc": 2133, "cpu0": 1510.4, "cpu10": 729.6}
    )
    assert state.temperatures_c == pytest.approx(
        {"cpu-thermal": 48.562, "gpu-thermal": 47.031, "tj-thermal": 48.562}
    )
    assert state.power_w == pytest.approx({"VDD_IN": 7.524, "total": 7.524, "VDD_CPU_GPU_CV": 2.0})
    assert state.throttle == []  # the fan and the warm case hold no clock down
    assert state.throttle_events == 28
    assert (state.energy_j, state.other_cpu, state.stolen_cpu) == ({}, None, None)


def test_a_jetson_that_throttles(tmp_path: Path) -> None:
    sensor = JetsonSensor(orin(tmp_path), run=nvpmodel)
    for number in (1, 2):
        plant(tmp_path, {f"sys/class/thermal/cooling_device{number}/cur_state": 2})
    assert sensor.read(0).throttle == ["devfreq-17000000.gpu", "gpu-throttle-alert"]
    (tmp_path / "sys/class/thermal/cooling_device0/cur_state").unlink()
    assert sensor.read(0).throttle == ["devfreq-17000000.gpu", "gpu-throttle-alert"]
    for number in (1, 2):
        plant(tmp_path, {f"sys/class/thermal/cooling_device{number}/cur_state": 0})
    assert sensor.read(0).throttle is None  # one cannot be read: unknown


def test_locked_clocks_of_a_jetson(tmp_path: Path) -> None:
    plant(orin(tmp_path), {"sys/class/devfreq/17000000.gpu/min_freq": 624750000})
    settings = JetsonSensor(tmp_path, run=nvpmodel).describe().settings
    assert settings["gpu clock"] == "locked at 624.75 MHz"


def test_a_jetson_that_tells_nothing(tmp_path: Path) -> None:
    def broken(command: Sequence[str], seconds: float) -> str:
        raise UnreadableError("no nvpmodel")

    sensor = JetsonSensor(tmp_path, run=broken)
    assert sensor.read(1) == State(seconds=1)
    device = sensor.describe()
    assert device.settings == {}
    assert "power mode (no nvpmodel)" in device.unknown
    for name in ("gpu clock", "emc clock", "temperatures", "total power", "throttling", "fan"):
        assert any(text.startswith(f"{name} (") for text in device.unknown), name
    assert any(text.startswith("throttle events (") for text in device.unknown)


@pytest.mark.parametrize("output", ["", "NVPM ERROR: cannot open", "NV Power Mode:\n"])
def test_a_power_mode_that_is_not_told(tmp_path: Path, output: str) -> None:
    device = JetsonSensor(orin(tmp_path), run=lambda command, seconds: output).describe()
    assert "power mode" not in device.settings
    assert any(text.startswith("power mode (") for text in device.unknown)


def test_the_older_place_of_the_gpu_clock(tmp_path: Path) -> None:
    folder = "sys/devices/gpu.0/devfreq/57000000.gpu"
    plant(tmp_path, {f"{folder}/{name}_freq": 921600000 for name in ("min", "max", "cur")})
    sensor = JetsonSensor(tmp_path, run=nvpmodel)
    assert sensor.read(0).clocks_mhz == pytest.approx({"gpu": 921.6})
    assert sensor.describe().settings["gpu clock"] == "locked at 921.6 MHz"


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"etc/nv_tegra_release": "# R35 (release), REVISION: 4.1"}, "jetson"),
        ({"proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0"}, "jetson"),
        ({"proc/device-tree/model": "NVIDIA Orin Nano Developer Kit\0"}, "jetson"),
        ({"proc/device-tree/model": "Raspberry Pi 5\0"}, "nvidia"),
        ({}, "nvidia"),
    ],
)
def test_which_sensors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, object], kind: str
) -> None:
    FakeNvml().install(monkeypatch)
    plant(tmp_path, files)
    found = [sensor.describe().kind for sensor in find_sensors("cuda", root=tmp_path)]
    assert found == [kind, "cpu"]
    assert [sensor.describe().kind for sensor in find_sensors("cpu", root=tmp_path)] == ["cpu"]


def test_commands() -> None:
    python = sys.executable
    assert run_command([python, "-c", "print('x')"], 30) == "x\n"
    for command, seconds, words in (
        (["no-such-command-here"], 1.0, "no no-such-command-here"),
        ([python, "-c", "import sys; sys.exit('broken\\nin two')"], 30.0, "1: broken in two"),
        ([python, "-c", "import time; time.sleep(60)"], 0.2, "took over 0.2 s"),
    ):
        with pytest.raises(UnreadableError, match=words):
            run_command(command, seconds)


def test_sensors_import_nothing_heavy() -> None:
    code = (
        "import sys, anydepth_deploy.bench.sensors, anydepth_deploy.bench.sensors.locking;"
        "print(sorted({'pynvml', 'torch', 'onnx', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
