"""The programs in the driver packages, on a simulated host made of files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

VERSION = "580.178.04"
LIB = "usr/lib/x86_64-linux-gnu"

PROBE = """
import json, pynvml as n
n.nvmlInit()
gpus = []
for index in range(n.nvmlDeviceGetCount()):
    try:
        h = n.nvmlDeviceGetHandleByIndex(index)
        fields = n.nvmlDeviceGetFieldValues(h, [230])
        ecc = n.nvmlDeviceGetTotalEccErrors(h, n.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                                            n.NVML_VOLATILE_ECC)
        gpus.append({
            "name": n.nvmlDeviceGetName(h), "uuid": n.nvmlDeviceGetUUID(h),
            "bus": n.nvmlDeviceGetPciInfo(h).busId, "id": n.nvmlDeviceGetPciInfo(h).pciDeviceId,
            "minor": n.nvmlDeviceGetMinorNumber(h),
            "total": n.nvmlDeviceGetMemoryInfo(h).total,
            "total2": n.nvmlDeviceGetMemoryInfo(h, n.nvmlMemory_v2).total,
            "cc": n.nvmlDeviceGetCudaComputeCapability(h), "ecc": ecc,
            "recovery": fields[0].value.uiVal if fields[0].nvmlReturn == 0 else None,
            "width": n.nvmlDeviceGetCurrPcieLinkWidth(h),
            "processes": [p.pid for p in n.nvmlDeviceGetComputeRunningProcesses(h)],
        })
        for key, ask in {
            "remap": lambda: n.nvmlDeviceGetRemappedRows(h),
            "retired": lambda: len(n.nvmlDeviceGetRetiredPages(h, 1)),
            "links": lambda: [n.nvmlDeviceGetNvLinkState(h, i) for i in range(18)],
            "mig": lambda: n.nvmlDeviceGetMigMode(h),
            "repair": lambda: n.nvmlDeviceGetRepairStatus(h),
        }.items():
            try:
                gpus[-1][key] = ask()
            except n.NVMLError_NotSupported:
                gpus[-1][key] = "not supported"
        fabric = n.c_nvmlGpuFabricInfo_v3_t()
        try:
            n.nvmlDeviceGetGpuFabricInfoV(h, n.byref(fabric))
            gpus[-1]["fabric"] = fabric.state
        except n.NVMLError_NotSupported:
            gpus[-1]["fabric"] = "not supported"
    except n.NVMLError as error:
        gpus.append({"error": error.value})
try:
    n.nvmlDeviceGetFanSpeed(n.nvmlDeviceGetHandleByIndex(len(gpus) - 1))
    unknown = "answered"
except n.NVMLError_FunctionNotFound:
    unknown = "not found"
except n.NVMLError as error:
    unknown = error.value
print(json.dumps({"driver": n.nvmlSystemGetDriverVersion(), "gpus": gpus, "unknown": unknown,
                  "cuda": n.nvmlSystemGetCudaDriverVersion(),
                  "nvml": n.nvmlSystemGetNVMLVersion()}))
"""


@pytest.fixture
def nvml(unpack):
    """A function that runs nvidia-ml-py over the packaged library on a host."""
    libraries = unpack("libnvidia-ml1") / LIB

    def probe(host, **more: object) -> subprocess.CompletedProcess[str]:
        environment = {"LD_LIBRARY_PATH": str(libraries)}
        return host.run(sys.executable, "-c", PROBE, env=environment, **more)

    return probe


def test_nvml_on_a_healthy_hgx_host(nvml, new_host) -> None:
    host = new_host("hgx-h100").load()
    done = nvml(host)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["driver"], found["cuda"], found["nvml"]) == (VERSION, 13000, "13.580.178.04")
    assert found["unknown"] == "not found"
    assert len(found["gpus"]) == 8
    assert len({gpu["uuid"] for gpu in found["gpus"]}) == 8
    first = found["gpus"][0]
    assert first["name"] == "NVIDIA H100 80GB HBM3"
    assert (first["bus"], first["id"]) == ("00000000:1A:00.0", 0x233010DE)
    assert first["total"] == first["total2"] == 81559 << 20
    assert first["cc"] == [9, 0]
    assert first["links"] == [1] * 18
    assert first["remap"] == [0, 0, 0, 0]
    assert (first["ecc"], first["recovery"], first["repair"]) == (0, 0, [0, 0])
    assert first["retired"] == "not supported"
    assert first["fabric"] == 2, "in progress until a fabric manager has run"


def test_nvml_on_volta(nvml, new_host) -> None:
    found = json.loads(nvml(new_host("v100").load()).stdout)
    assert len(found["gpus"]) == 4
    first = found["gpus"][0]
    assert first["links"] == "not supported", "the 7th link of a V100"
    assert first["remap"] == first["mig"] == first["fabric"] == "not supported"
    assert first["retired"] == 0


def test_nvml_reports_injected_faults_on_their_gpu_only(nvml, new_host) -> None:
    host = new_host("hgx-h100").load()
    for gpu, name, value in [
        *((1, "ecc_uncorrected", 3), (2, "remap_pending", 1), (3, "pcie_width", 8)),
        *((4, "nvlinks_down", 1), (5, "recovery_action", 2), (6, "lost", 1)),
        *((0, "fabric_state", 3), (0, "processes", "4711:512 4712:16")),
    ]:
        host.gpu(gpu, name, value)
    gpus = json.loads(nvml(host).stdout)["gpus"]
    assert [gpu.get("ecc") for gpu in gpus] == [0, 3, 0, 0, 0, 0, None, 0]
    assert [gpu.get("remap", [0, 0, 0])[2] for gpu in gpus] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert [gpu.get("width") for gpu in gpus] == [16, 16, 16, 8, 16, 16, None, 16]
    assert [sum(gpu.get("links", [])) for gpu in gpus] == [18, 18, 18, 18, 17, 18, 0, 18]
    assert [gpu.get("recovery") for gpu in gpus] == [0, 0, 0, 0, 0, 2, None, 0]
    assert gpus[6] == {"error": 15}
    assert [gpu.get("fabric") for gpu in gpus] == [3, 2, 2, 2, 2, 2, None, 2]
    assert gpus[0]["processes"] == [4711, 4712]


SWEEP = """
import json, pynvml as n
n.nvmlInit()
h, other = n.nvmlDeviceGetHandleByIndex(0), n.nvmlDeviceGetHandleByIndex(1)
sram = n.c_nvmlEccSramErrorStatus_v1_t()
sram.version = 0x1000068
v2 = n.c_nvmlGpuFabricInfo_v2_t()
v1 = n.c_nvmlGpuFabricInfo_t()
print(json.dumps({
    "count": n.nvmlDeviceGetCount(), "serial": n.nvmlDeviceGetSerial(h),
    "vbios": n.nvmlDeviceGetVbiosVersion(h), "gsp": n.nvmlDeviceGetGspFirmwareVersion(h),
    "arch": n.nvmlDeviceGetArchitecture(h), "index": n.nvmlDeviceGetIndex(other),
    "by uuid": n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUID(n.nvmlDeviceGetUUID(other))),
    "by bus": [n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByPciBusId(i)) for i in
               ("0000:2A:00.0", "00000000:2a:00.0")],
    "by serial": n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleBySerial(n.nvmlDeviceGetSerial(other))),
    "bar1": n.nvmlDeviceGetBAR1MemoryInfo(h).bar1Total > 0,
    "modes": [n.nvmlDeviceGetPersistenceMode(h), n.nvmlDeviceGetComputeMode(h),
              n.nvmlDeviceGetEccMode(h), n.nvmlDeviceGetMigMode(h)],
    "bus width": n.nvmlDeviceGetMemoryBusWidth(h),
    "counter": n.nvmlDeviceGetMemoryErrorCounter(h, 1, 0, 2),
    "sram": [n.nvmlDeviceGetSramEccErrorStatus(h, n.byref(sram)), sram.bThresholdExceeded],
    "histogram": n.nvmlDeviceGetRowRemapperHistogram(h).max,
    "reasons": [n.nvmlDeviceGetCurrentClocksEventReasons(h),
                n.nvmlDeviceGetCurrentClocksThrottleReasons(h)],
    "clocks": [n.nvmlDeviceGetClockInfo(h, 1), n.nvmlDeviceGetMaxClockInfo(h, 2)],
    "heat": [n.nvmlDeviceGetTemperature(h, 0), n.nvmlDeviceGetTemperatureV(h, 0),
             n.nvmlDeviceGetTemperatureThreshold(h, 1)],
    "power": [n.nvmlDeviceGetPowerUsage(h), n.nvmlDeviceGetEnforcedPowerLimit(h),
              n.nvmlDeviceGetPowerManagementLimit(h),
              n.nvmlDeviceGetPowerManagementDefaultLimit(h)],
    "use": n.nvmlDeviceGetUtilizationRates(h).gpu,
    "violation": n.nvmlDeviceGetViolationStatus(h, 0).violationTime,
    "board": [n.nvmlDeviceGetInforomImageVersion(h), n.nvmlDeviceGetInforomVersion(h, 1),
              n.nvmlDeviceGetBoardPartNumber(h), n.nvmlDeviceGetBoardId(other)],
    "cores": n.nvmlDeviceGetNumGpuCores(h),
    "supported": n.nvmlDeviceGetSupportedClocksEventReasons(h),
    "fields": [f.value.uiVal for f in n.nvmlDeviceGetFieldValues(h, [82, 90])],
    "made for": n.nvmlDeviceGetGpuMaxPcieLinkGeneration(h),
    "remote": [n.nvmlDeviceGetNvLinkRemoteDeviceType(h, 17),
               n.nvmlDeviceGetNvLinkCapability(h, 0, 0)],
    "reserved": n.nvmlDeviceGetMemoryInfo(h, n.nvmlMemory_v2).reserved >> 20,
    "margin": n.nvmlDeviceGetMarginTemperature(h),
    "pcie": [n.nvmlDeviceGetCurrPcieLinkGeneration(h), n.nvmlDeviceGetMaxPcieLinkGeneration(h),
             n.nvmlDeviceGetMaxPcieLinkWidth(h), n.nvmlDeviceGetPcieReplayCounter(h)],
    "link": [n.nvmlDeviceGetNvLinkVersion(h, 0), n.nvmlDeviceGetNvLinkErrorCounter(h, 0, 0)],
    "peers": [n.nvmlDeviceGetP2PStatus(h, other, 0),
              n.nvmlDeviceGetTopologyCommonAncestor(h, other)],
    "fabric": [n.nvmlDeviceGetGpuFabricInfo(h, n.byref(v1)), v1.state,
               n.nvmlDeviceGetGpuFabricInfoV(h, n.byref(v2)), v2.state, v2.healthMask],
    "graphics": n.nvmlDeviceGetGraphicsRunningProcesses(h),
    "text": str(n.nvmlErrorString(n.NVML_ERROR_GPU_IS_LOST)),
}, default=bytes.decode))
n.nvmlShutdown()
try:
    n.nvmlDeviceGetCount()
except n.NVMLError_Uninitialized:
    print("shut down")
"""


def test_every_exported_query_answers_in_its_own_layout(new_host, unpack) -> None:
    host = new_host("hgx-h100").load()
    host.gpu(0, "memory_used_mib", 1000)
    environment = {"LD_LIBRARY_PATH": str(unpack("libnvidia-ml1") / LIB)}
    done = host.run(sys.executable, "-c", SWEEP, env=environment)
    assert done.returncode == 0, done.stderr
    answers, end = done.stdout.splitlines()
    assert end == "shut down"
    found = json.loads(answers)
    assert found == {
        **{"count": 8, "serial": host.read("run/sim/nvml/0/serial"), "vbios": "96.00.A5.00.01"},
        **{"gsp": VERSION, "arch": 9, "index": 1, "by uuid": 1, "by bus": [1, 1], "by serial": 1},
        **{"bar1": True, "modes": [0, 0, [1, 1], [0, 0]], "bus width": 5120, "counter": 0},
        **{"sram": [0, 0], "histogram": 640, "reasons": [1, 1], "clocks": [345, 2619]},
        **{"heat": [32, 32, 87], "power": [70000, 700000, 700000, 700000], "use": 0},
        **{"violation": 0, "pcie": [5, 5, 16, 0], "link": [4, 0], "peers": [0, 40]},
        **{"board": ["G520.0200.00.05", "7.16", "692-2G520-0200-000", 0x2A00], "cores": 16896},
        **{"supported": 0x1FF, "fields": [38, 26562], "made for": 5, "remote": [2, 1]},
        **{"reserved": 560, "margin": 55},
        **{"fabric": [0, 2, 0, 2, 0x1AA], "graphics": [], "text": "GPU is lost"},
    }


def test_nvml_does_not_list_a_gpu_of_another_driver(nvml, new_host) -> None:
    host = new_host("l40s").load()
    host.bind("0000:1a:00.0", "vfio-pci")
    (gpu,) = json.loads(nvml(host).stdout)["gpus"]
    assert (gpu["bus"], gpu["minor"]) == ("00000000:2A:00.0", 1)


@pytest.mark.parametrize(
    ("loaded", "error"),
    [(None, "NVMLError_DriverNotLoaded"), ("580.159.04", "NVMLError_LibRmVersionMismatch")],
)
def test_nvml_refuses_without_its_own_driver(nvml, new_host, loaded, error) -> None:
    host = new_host("l40s")
    if loaded:
        host.load(loaded)
    assert error in nvml(host).stderr


def test_a_wedged_nvml_outlasts_a_deadline(nvml, new_host) -> None:
    host = new_host("l40s").load()
    host.write("run/sim/nvml/hang_s", 30)
    with pytest.raises(subprocess.TimeoutExpired):
        nvml(host, timeout=0.5)


# ---- nvidia-smi


@pytest.fixture
def smi(unpack):
    """A function that runs the packaged nvidia-smi on a host."""
    root = unpack("nvidia-smi", "libnvidia-ml1")
    environment = {"LD_LIBRARY_PATH": str(root / LIB)}
    return lambda host, *words: host.run(root / "usr/bin/nvidia-smi", *words, env=environment)


def test_nvidia_smi_lists_queries_and_shows(smi, new_host) -> None:
    host = new_host("l40s").load()
    host.gpu(1, "processes", f"{os.getpid()}:100")
    listed = smi(host, "-L").stdout.splitlines()
    assert listed[0].startswith("GPU 0: NVIDIA L40S (UUID: GPU-")
    query = "--query-gpu=index,name,driver_version,memory.total,pcie.link.gen.max,persistence_mode"
    assert smi(host, query, "--format=csv,noheader,nounits").stdout.splitlines() == [
        f"{index}, NVIDIA L40S, {VERSION}, 46068, 4, Disabled" for index in (0, 1)
    ]
    headed = smi(host, "--query-gpu=memory.total,fabric.state", "--format=csv", "-i", "1").stdout
    assert headed.splitlines() == ["memory.total [MiB], fabric.state", "46068 MiB, [N/A]"]
    apps = smi(host, "--query-compute-apps=pid,used_memory", "--format=csv,noheader").stdout
    assert apps == f"{os.getpid()}, 100 MiB\n"
    assert f"Driver Version: {VERSION}   CUDA Version: 13.0" in smi(host).stdout
    assert "Attached GPUs : 2" in smi(host, "-q").stdout


def test_nvidia_smi_fails_as_the_real_one(smi, new_host, unpack) -> None:
    host = new_host("l40s")
    done = smi(host)
    assert done.returncode == 9
    assert "couldn't communicate with the NVIDIA driver" in done.stdout
    host.load("595.91.07")
    done = smi(host)
    assert done.returncode == 18
    assert done.stdout == (
        "Failed to initialize NVML: Driver/library version mismatch\n"
        f"NVML library version: {VERSION}\n"
    )
    host.load()
    assert smi(host, "--frobnicate").returncode == 2
    assert smi(host, "--query-gpu=name,colour", "--format=csv").returncode == 2
    host.gpu(1, "lost", 1)
    done = smi(host, "-L")
    assert done.returncode == 15
    assert "GPU is lost" in done.stdout
    done = host.run(unpack("nvidia-smi") / "usr/bin/nvidia-smi", env={"LD_LIBRARY_PATH": "/none"})
    assert done.returncode == 12


def test_nvidia_smi_sets_what_a_board_can_have(smi, new_host) -> None:
    host = new_host("hgx-h100").load()

    def asked(fields: str) -> str:
        return smi(host, "-i", "1", f"--query-gpu={fields}", "--format=csv,noheader").stdout.strip()

    refused = smi(host, "-i", "1", "-pl", "701")
    assert (refused.returncode, "between 200.00 W and 700.00 W" in refused.stdout) == (2, True)
    assert smi(host, "-i", "1", "-pl", "500").returncode == 0
    assert asked("power.limit,power.min_limit,power.max_limit") == "500.00 W, 200.00 W, 700.00 W"
    host.write("var/lib/sim/inforom/1-ecc", 1)
    assert smi(host, "-i", "1", "-e", "0").returncode == 0
    assert asked("ecc.mode.current,ecc.mode.pending") == "Enabled, Disabled"
    assert host.read("var/lib/sim/inforom/1-ecc") == "0"
    assert smi(new_host("l40s").load(), "-mig", "1").returncode == 3


def test_nvidia_smi_cuts_a_gpu_and_makes_it_whole(smi, new_host) -> None:
    host = new_host("hgx-h100").load()

    def mig(*words: str) -> tuple[int, str]:
        done = smi(host, "mig", "-i", "0", *words)
        return done.returncode, done.stdout

    assert mig("-lgi") == (6, "No MIG-enabled devices found.\n")
    assert smi(host, "-i", "0", "-mig", "1").returncode == 0
    assert mig("-lgi") == (6, "No GPU instances found: Not Found\n")
    assert mig("-cgi", "5g.40gb", "-C")[0] == 2
    assert mig("-cgi", "3g.40gb,3g.40gb", "-C")[0] == 0
    assert mig("-cgi", "1g.10gb", "-C")[0] == 19
    assert mig("-lgi")[1].count("MIG 3g.40gb ") == 2
    assert smi(host, "-L").stdout.count("  MIG 3g.40gb     Device") == 2
    assert mig("-dgi")[0] == 19
    assert (mig("-dci")[0], mig("-dgi")[0], mig("-dgi")[0]) == (0, 0, 6)
    assert mig("-frobnicate")[0] == 2
    assert smi(host, "-i", "0", "-mig", "0").returncode == 0
    assert "MIG" not in smi(host, "-L").stdout


# ---- the CUDA driver library


CUDA = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
version, count = ctypes.c_int(), ctypes.c_int()
cuda.cuDriverGetVersion(ctypes.byref(version))
print(cuda.cuInit(0), cuda.cuDeviceGetCount(ctypes.byref(count)) * 0 + count.value, version.value)
"""


def test_cuinit_tells_why_cuda_cannot_start(unpack, new_host) -> None:
    environment = {"LD_LIBRARY_PATH": str(unpack("libcuda1") / LIB)}

    def cuda(host) -> str:
        return host.run(sys.executable, "-c", CUDA, env=environment).stdout.strip()

    assert cuda(new_host("none")) == "100 0 13000"
    hgx, l40s = new_host("hgx-h100"), new_host("l40s")
    assert cuda(l40s) == "999 0 13000"
    assert cuda(l40s.load("595.91.07")) == "803 0 13000"
    assert cuda(l40s.load()) == "0 2 13000"
    assert cuda(hgx.load()) == "802 0 13000", "the fabric is not up"
    hgx.gpu(0, "fabric_state", 3)
    assert cuda(hgx) == "0 8 13000"


# ---- daemons


@pytest.fixture
def daemon(unpack):
    """A function that starts a packaged daemon on a host; stops what is left afterwards."""
    started: list[int] = []

    def start(host, package: str, program: str, version: str = VERSION):
        package_version = "4.5.2-1" if program == "nv-hostengine" else f"{version}-1"
        root = unpack(package, version=package_version)
        for directory in ("run/nvidia-persistenced", "run/nvidia-fabricmanager"):
            (host.root / directory).mkdir(parents=True, exist_ok=True)
        done = host.run(root / "usr/bin" / program)
        if done.returncode == 0:
            (file,) = host.root.glob("run/**/*.pid")
            started.append(int(file.read_text()))
            return done, started[-1]
        return done, None

    yield start
    for pid in started:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def stop(pid: int) -> None:
    """Terminate a daemon and wait for its end."""
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 5
    while alive(pid):
        assert time.monotonic() < deadline, "it does not stop"
        time.sleep(0.01)


def held(pid: int, root: Path) -> set[str]:
    """The simulated device files that a process holds open."""
    links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    return {Path(link).name for link in links if link.startswith(f"{root}/dev/")}


def test_persistenced_holds_the_devices_and_sets_the_mode(daemon, new_host) -> None:
    host = new_host("l40s").load()
    done, pid = daemon(host, "nvidia-persistenced", "nvidia-persistenced")
    assert done.returncode == 0, done.stderr
    assert held(pid, host.root) == {"nvidiactl", "nvidia0", "nvidia1"}
    assert host.read("run/sim/nvml/1/persistence") == "1"
    stop(pid)
    assert host.read("run/sim/nvml/1/persistence") == "0"
    assert list(host.root.glob("run/**/*.pid")) == []


def test_persistenced_fails_without_its_driver(daemon, new_host) -> None:
    host = new_host("l40s")
    done, _ = daemon(host, "nvidia-persistenced", "nvidia-persistenced")
    assert done.returncode == 1
    assert "not loaded" in done.stderr
    done, _ = daemon(host.load("595.91.07"), "nvidia-persistenced", "nvidia-persistenced")
    assert done.returncode == 1
    (host.load().root / "dev/nvidia1").unlink()
    done, _ = daemon(host, "nvidia-persistenced", "nvidia-persistenced")
    assert done.returncode == 1
    assert "Please ensure that the NVIDIA device files" in done.stderr


def test_fabric_manager_completes_the_fabric_while_it_runs(daemon, new_host) -> None:
    host = new_host("hgx-h100").load()
    done, pid = daemon(host, "nvidia-fabricmanager", "nv-fabricmanager")
    assert done.returncode == 0, done.stderr
    assert "nvidia-nvswitch3" in held(pid, host.root)
    assert {host.read(f"run/sim/nvml/{i}/fabric_state") for i in range(8)} == {"3"}
    stop(pid)
    assert {host.read(f"run/sim/nvml/{i}/fabric_state") for i in range(8)} == {"0"}


def test_fabric_manager_refuses(daemon, new_host) -> None:
    done, _ = daemon(new_host("l40s").load(), "nvidia-fabricmanager", "nv-fabricmanager")
    assert done.returncode == 1
    assert "NV_WARN_NOTHING_TO_DO" in done.stderr, "no switch"
    host = new_host("hgx-h100").load("580.159.04")
    done, _ = daemon(host, "nvidia-fabricmanager", "nv-fabricmanager")
    assert done.returncode == 1
    assert f"version {VERSION} don't match with driver version 580.159.04" in done.stderr
    assert not (host.root / "run/sim/nvml/0/fabric_state").exists()


def test_the_start_script_clears_the_fabric_after_a_crash(unpack, new_host) -> None:
    host = new_host("hgx-h100").load()
    host.gpu(0, "fabric_state", 3)
    script = unpack("nvidia-fabricmanager") / "usr/bin/nvidia-fabricmanager-start.sh"
    assert host.run(script, "--mode", "stopped").returncode == 0
    assert host.read("run/sim/nvml/0/fabric_state") == "0"
    assert host.run(script, "--mode", "dance").returncode == 2


def test_the_host_engine_needs_a_driver_of_any_version(daemon, new_host) -> None:
    host = new_host("l40s")
    package = "datacenter-gpu-manager-4-core"
    assert daemon(host, package, "nv-hostengine")[0].returncode == 1
    done, pid = daemon(host.load("595.91.07"), package, "nv-hostengine")
    assert done.returncode == 0, done.stderr
    stop(pid)
