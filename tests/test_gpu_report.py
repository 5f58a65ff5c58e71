"""The report of GPUs: each value by itself, and nothing invented. NVML is a prepared one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pynvml
import pytest

from verify.payload import gpu_report, pci_bus

SCRIPT = Path(gpu_report.__file__)
MIB = 1 << 20
HEALTHY: dict[str, Any] = {
    "nvmlDeviceGetName": "NVIDIA H100 80GB HBM3",
    "nvmlDeviceGetUUID": "GPU-1",
    "nvmlDeviceGetSerial": "165",
    "nvmlDeviceGetVbiosVersion": "96.00",
    "nvmlDeviceGetGspFirmwareVersion": b"580.178.04",
    "nvmlDeviceGetInforomImageVersion": "G520",
    "nvmlDeviceGetInforomVersion": "7.16",
    "nvmlDeviceGetBoardPartNumber": "692-2G520-0200-000",
    "nvmlDeviceGetBoardId": 0x1A00,
    "nvmlDeviceGetPlatformInfo": None,
    "nvmlDeviceGetMaxClockInfo": 1980,
    "nvmlDeviceGetClockInfo": 345,
    "nvmlDeviceGetMemoryBusWidth": 5120,
    "nvmlDeviceGetNumGpuCores": 16896,
    "nvmlDeviceGetCudaComputeCapability": (9, 0),
    "nvmlDeviceGetMemoryInfo": types.SimpleNamespace(
        total=81559 * MIB, used=4 * MIB, reserved=560 * MIB
    ),
    "nvmlDeviceGetPersistenceMode": 1,
    "nvmlDeviceGetEccMode": [1, 1],
    "nvmlDeviceGetTotalEccErrors": 0,
    "nvmlDeviceGetRemappedRows": (1, 0, 0, 0),
    "nvmlDeviceGetRetiredPagesPendingStatus": pynvml.NVML_ERROR_NOT_SUPPORTED,
    "nvmlDeviceGetSramEccErrorStatus": None,
    "nvmlDeviceGetCurrPcieLinkGeneration": 5,
    "nvmlDeviceGetMaxPcieLinkGeneration": 5,
    "nvmlDeviceGetGpuMaxPcieLinkGeneration": 5,
    "nvmlDeviceGetCurrPcieLinkWidth": 16,
    "nvmlDeviceGetMaxPcieLinkWidth": 16,
    "nvmlDeviceGetPcieReplayCounter": 0,
    "nvmlDeviceGetMigMode": [0, 0],
    "nvmlDeviceGetComputeMode": 0,
    "nvmlDeviceGetGpuFabricInfo": None,
    "nvmlDeviceGetGpuFabricInfoV": None,
    "nvmlDeviceGetNvLinkRemoteDeviceType": 2,
    "nvmlDeviceGetNvLinkErrorCounter": 0,
    "nvmlDeviceGetTemperature": 32,
    "nvmlDeviceGetTemperatureThreshold": 87,
    "nvmlDeviceGetMarginTemperature": 55,
    "nvmlDeviceGetPowerUsage": 70123,
    "nvmlDeviceGetEnforcedPowerLimit": 700000,
    "nvmlDeviceGetPowerManagementDefaultLimit": 700000,
    "nvmlDeviceGetViolationStatus": types.SimpleNamespace(violationTime=0),
    "nvmlDeviceGetCurrentClocksEventReasons": 1,
    "nvmlDeviceGetSupportedClocksEventReasons": 511,
    "nvmlDeviceGetComputeRunningProcesses": [],
    "nvmlDeviceGetGraphicsRunningProcesses": [],
}
"""What each call gives for a healthy GPU; a number of an NVML error where `broken` says so."""


class Nvml:
    """pynvml, but for the calls, which give what was prepared: values, or NVMLError."""

    def __init__(self, *gpus: dict[str, Any], init: int = 0) -> None:
        self.gpus = gpus
        self.init = init

    def __getattr__(self, name: str) -> Any:
        if (
            not name.startswith("nvmlDevice")
            and not name.startswith("nvmlS")
            and "Init" not in name
        ):
            return getattr(pynvml, name)
        return lambda *arguments: self.call(name, *arguments)

    def call(self, name: str, *arguments: Any) -> Any:
        if name == "nvmlInit" and self.init:
            raise pynvml.NVMLError(self.init)
        system = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlSystemGetDriverVersion": "580.178.04",
            "nvmlSystemGetCudaDriverVersion": 13010,
            "nvmlDeviceGetCount": len(self.gpus),
        }
        if name in system:
            return system[name]
        index = arguments[0]
        gpu = {**HEALTHY, **self.gpus[int(index)]}
        if name == "nvmlDeviceGetHandleByIndex":
            return self.answer(gpu.get(name, Handle(index)))
        if name == "nvmlDeviceGetPciInfo":
            return self.answer(
                gpu.get(name, types.SimpleNamespace(busId=f"00000000:{0x19 + index:02X}:00.0"))
            )
        if name == "nvmlDeviceGetFieldValues":
            code, value = gpu.get(f"field {arguments[1][0]}", (0, 0))
            found = types.SimpleNamespace(nvmlReturn=code)
            found.value = types.SimpleNamespace(uiVal=value)
            return [found]
        if name == "nvmlDeviceGetNvLinkState":
            links = gpu.get("links", [1] * 18)
            if arguments[1] >= len(links):
                raise pynvml.NVMLError(gpu.get("after", pynvml.NVML_ERROR_INVALID_ARGUMENT))
            return links[arguments[1]]
        if name == "nvmlDeviceGetRetiredPages":
            return [0] * gpu["retired"][arguments[1]]
        return self.answer(gpu[name])

    @staticmethod
    def answer(value: Any) -> Any:
        if isinstance(value, Broken):
            raise pynvml.NVMLError(value.code)
        if isinstance(value, Exception):
            raise value
        return value


class Handle(int):
    """A device handle, which is true also for index 0 as a pointer is."""

    def __bool__(self) -> bool:
        return True


class Broken:
    """A call that fails with this NVML error."""

    def __init__(self, code: int) -> None:
        self.code = code


LOST = Broken(pynvml.NVML_ERROR_GPU_IS_LOST)
NONE = Broken(pynvml.NVML_ERROR_NOT_SUPPORTED)


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a report of prepared GPUs."""

    def make(*gpus: dict[str, Any], init: int = 0) -> dict[str, Any]:
        healthy = {"nvmlDeviceGetRetiredPagesPendingStatus": NONE}
        monkeypatch.setitem(
            sys.modules, "pynvml", Nvml(*({**healthy, **gpu} for gpu in gpus), init=init)
        )
        monkeypatch.setattr(gpu_report, "driver_slots", lambda: SLOTS[: len(gpus)])
        found: dict[str, Any] = gpu_report.report()
        return json.loads(json.dumps(found))

    return make


SLOTS = [f"0000:{0x19 + index:02x}:00.0" for index in range(8)]


def test_a_healthy_gpu(report: Any) -> None:
    found = report({}, {})
    assert (found["state"], found["driver"], found["cuda"]) == ("ok", "580.178.04", "13.1")
    assert found["count"] == len(found["gpus"]) == 2
    one = found["gpus"][1]
    assert {key: one[key] for key in ("index", "slot", "name", "cc", "memory_mib", "lost")} == {
        "index": 1, "slot": "0000:1a:00.0", "name": "NVIDIA H100 80GB HBM3", "cc": [9, 0],
        "memory_mib": 81559, "lost": False,
    }  # fmt: skip
    assert one["remap"] == {"corrected": 1, "uncorrected": 0, "pending": False, "failed": False}
    assert one["nvlinks"] == {
        "count": 18,
        "up": 18,
        "down": [],
        "to": ["switch"],
        "errors": {"replay": {}, "recovery": {}, "crc_flit": {}, "crc_data": {}},
    }
    assert (one["persistence"], one["mig"], one["power"]["draw"]) == (True, False, 70.1)
    assert one["memory"] == {"used_mib": 4, "reserved_mib": 560, "total_mib": 81559}
    assert one["board"]["gsp"] == "580.178.04", "bytes in nvidia-ml-py"
    assert one["board"]["chassis_serial"] == ""
    assert {one["physics"][key] for key in ("nvlinks", "pcie_width", "power_limit_w")} == {
        *(18, 16, 700.0)
    }
    assert one["bus"] == {"aer": None, "gen_max": None, "port_gen_max": None}
    assert (one["errors"], one["unsupported"], one["retired"]) == ({}, ["retired"], None)


@pytest.mark.parametrize("field", [f for f in gpu_report.FIELDS if f != "processes"])
def test_a_value_that_cannot_be_read_is_nothing_and_has_a_reason(
    report: Any, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    def fails(*_: Any) -> Any:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)

    monkeypatch.setitem(gpu_report.FIELDS, field, fails)
    (one,) = report({})["gpus"]
    if field != "slot":  # the driver's list of GPUs gives it back
        assert one[field] is None
    assert one["errors"] == {field: "Unknown Error (NVML error 999)"}
    others = {f for f in gpu_report.FIELDS if f not in (field, "retired")}
    assert all(one[f] is not None for f in others)


@pytest.mark.parametrize("error", [ValueError("x"), TypeError("x"), AttributeError("x")])
def test_a_value_of_another_layout_is_unknown(report: Any, error: Exception) -> None:
    (one,) = report({"nvmlDeviceGetComputeMode": error})["gpus"]
    assert one["compute_mode"] is None
    assert one["errors"] == {"compute_mode": f"{type(error).__name__}: x"}


def test_a_part_of_a_value_that_cannot_be_read(report: Any) -> None:
    (one,) = report({"nvmlDeviceGetTotalEccErrors": Broken(pynvml.NVML_ERROR_UNKNOWN)})["gpus"]
    assert one["ecc"]["mode"] is True
    assert one["ecc"]["uncorrected"] is None
    assert set(one["errors"]) == {
        *("ecc.corrected", "ecc.uncorrected", "ecc.corrected_ever", "ecc.uncorrected_ever"),
    }


def test_what_a_gpu_does_not_have_is_no_error(report: Any) -> None:
    pages = {"nvmlDeviceGetRetiredPagesPendingStatus": 1, "retired": [3, 1]}
    volta = {"nvmlDeviceGetRemappedRows": NONE, "nvmlDeviceGetMigMode": NONE, **pages}
    (one,) = report({**volta, "links": [], "after": pynvml.NVML_ERROR_NOT_SUPPORTED})["gpus"]
    assert one["errors"] == {}
    assert one["unsupported"] == ["mig", "nvlinks", "remap"]
    assert one["retired"] == {"pending": True, "single_bit": 3, "double_bit": 1}
    assert (one["remap"], one["mig"], one["nvlinks"]) == (None, None, None)


def test_links_that_are_down(report: Any) -> None:
    (one,) = report({"links": [1] * 17 + [0]})["gpus"]
    assert (one["nvlinks"]["count"], one["nvlinks"]["up"]) == (18, 17)
    assert one["nvlinks"]["down"] == [17]
    assert one["physics"]["nvlinks"] == 17


def test_errors_of_links_are_told_by_link(report: Any) -> None:
    (one,) = report({"nvmlDeviceGetNvLinkErrorCounter": 3, "links": [1, 0, 1]})["gpus"]
    assert one["nvlinks"]["errors"]["recovery"] == {"0": 3, "2": 3}
    (one,) = report({"nvmlDeviceGetNvLinkErrorCounter": NONE})["gpus"]
    assert one["nvlinks"]["errors"] == dict.fromkeys(gpu_report.LINK_ERRORS)
    assert "nvlinks.replay" in one["unsupported"]
    assert one["errors"] == {}


@pytest.mark.parametrize(
    ("raw", "payload"), [(25781, 25.0), (26562, 25.0), (53125, 50.0), (25000, 25.0), (20000, 20.0)]
)
def test_the_speed_of_a_link_is_that_of_its_payload(raw: int, payload: float) -> None:
    assert gpu_report.link_gbs(raw) == payload


def test_the_health_of_the_fabric_as_far_as_the_driver_is_new_enough(report: Any) -> None:
    (one,) = report({})["gpus"]
    assert one["fabric"] == {"state": 0, "status": 0, "health": 0, "summary": 0}
    for code in (
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    ):
        (one,) = report({"nvmlDeviceGetGpuFabricInfoV": Broken(code)})["gpus"]
        assert one["fabric"] == {"state": 0, "status": 0, "health": None, "summary": None}
    neither = dict.fromkeys(("nvmlDeviceGetGpuFabricInfoV", "nvmlDeviceGetGpuFabricInfo"), LOST)
    (one,) = report(neither)["gpus"]
    assert "fabric" in one["errors"]
    assert one["lost"]


def test_a_call_that_the_driver_is_too_old_for_is_no_error(report: Any) -> None:
    absent = Broken(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    (one,) = report({"nvmlDeviceGetSramEccErrorStatus": absent})["gpus"]
    assert (one["sram"], one["errors"]) == (None, {})
    assert "sram" in one["unsupported"]


def test_errors_and_generations_of_a_link_as_the_kernel_shows_them(tmp_path: Path) -> None:
    port = tmp_path / "0000:18:01.0"
    device = port / "0000:19:00.0"
    device.mkdir(parents=True)
    (tmp_path / "bus").mkdir()
    (tmp_path / "bus/0000:19:00.0").symlink_to(device)
    (port / "max_link_speed").write_text("16.0 GT/s PCIe\n")
    (device / "max_link_speed").write_text("32.0 GT/s PCIe\n")
    (device / "aer_dev_fatal").write_text("Undefined 0\nDLP 2\nTOTAL_ERR_FATAL 2\n")
    (device / "aer_dev_nonfatal").write_text("garbage\n")
    found = pci_bus.bus("0000:19:00.0", str(tmp_path / "bus"))
    assert found == {
        "aer": {"correctable": None, "nonfatal": None, "fatal": {"DLP": 2}},
        "gen_max": 5,
        "port_gen_max": 4,
    }
    nothing = {"aer": None, "gen_max": None, "port_gen_max": None}
    assert pci_bus.bus(None) == pci_bus.bus("0000:ff:00.0", str(tmp_path)) == nothing
    assert pci_bus.generation("Unknown") is None


@pytest.mark.parametrize(
    ("answer", "action"), [((0, 2), 2), ((3, 0), None), ((2, 0), None), ((999, 0), None)]
)
def test_what_the_driver_wants_done(report: Any, answer: Any, action: int | None) -> None:
    (one,) = report({"field 230": answer})["gpus"]
    assert one["recovery_action"] == action
    assert ("recovery_action" in one["unsupported"]) == (answer[0] in (2, 3))
    assert ("recovery_action" in one["errors"]) == (answer[0] == 999)


def test_a_lost_gpu_is_lost_at_its_slot_and_takes_no_other_along(report: Any) -> None:
    found = report({}, {"nvmlDeviceGetHandleByIndex": LOST}, {})
    assert found["state"] == "ok"
    assert [one["lost"] for one in found["gpus"]] == [False, True, False]
    assert [one["slot"] for one in found["gpus"]] == SLOTS[:3]
    assert found["gpus"][1]["uuid"] is None
    assert found["gpus"][1]["errors"] == {"handle": "GPU is lost (NVML error 15)"}


def test_a_gpu_lost_while_it_is_read(report: Any) -> None:
    found = report({"nvmlDeviceGetTemperature": LOST}, {})
    assert [one["lost"] for one in found["gpus"]] == [True, False]
    assert found["gpus"][0]["uuid"] == "GPU-1"


def test_a_slot_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [{"slot": None}, {"slot": SLOTS[1]}, {"slot": None}]
    gpu_report.place_lost(gpus, SLOTS[:2])
    assert gpus[0]["slot"] is None
    gpu_report.place_lost(gpus, SLOTS[:3])
    assert [one["slot"] for one in gpus] == SLOTS[:3]


@pytest.mark.parametrize(
    ("code", "state", "words"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "absent", "Shared Library Not Found"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "failed", "Driver Not Loaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "failed", "version mismatch"),
    ],
)
def test_nvml_that_does_not_start(report: Any, code: int, state: str, words: str) -> None:
    found = report({}, init=code)
    assert (found["state"], found["gpus"], found["count"]) == (state, [], None)
    assert words in found["error"]
    assert f"(NVML error {code})" in found["error"]


def test_slots_are_written_as_the_kernel_does() -> None:
    assert gpu_report.slot_of("00000000:C1:00.0") == "0000:c1:00.0"
    assert gpu_report.slot_of("0000:19:00.0") == "0000:19:00.0"
    assert gpu_report.slot_of("00010000:19:00.0") == "10000:19:00.0"


def test_the_last_stage_is_told_before_the_call(report: Any, capfd: Any) -> None:
    report({})
    stages = capfd.readouterr().err.splitlines()
    assert stages[:4] == [
        "stage: library",
        "stage: init",
        "stage: system",
        "stage: device 0: handle",
    ]
    assert stages[-1] == "stage: shutdown"


def test_as_a_program_it_prints_one_line() -> None:
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, env=environment)
    assert done.returncode == 0
    (line,) = done.stdout.decode().splitlines()
    found = json.loads(line.removeprefix("GPUFLEET "))
    assert found["schema"] == 1
    assert found["state"] in ("ok", "absent", "failed")
