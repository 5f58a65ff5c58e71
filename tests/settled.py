"""What a driver says whose settings are all as a stack and a wish want them. For tests."""

from __future__ import annotations

from typing import Any

from deploy.facts import NodeFacts
from deploy.layers import boot_settings, container_toolkit, module_options
from deploy.lock import expected_state
from deploy.probing.rdma_facts import Rdma
from deploy.probing.setting_facts import GpuSettings
from deploy.steps import Wanted

PROFILES = ("1g.10gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")


def gpu(index: int = 0, slot: str = "0000:1a:00.0", **changes: Any) -> GpuSettings:
    """An H100 as it comes."""
    values: dict[str, Any] = {
        "index": index,
        "uuid": f"GPU-{index}",
        "slot": slot,
        "persistence": True,
        "mig": False,
        "mig_pending": False,
        "mig_instances": (),
        "mig_devices": (),
        "mig_profiles": (),
        "ecc": True,
        "ecc_pending": True,
        "power_limit": 700.0,
        "power_min": 200.0,
        "power_max": 700.0,
    }
    return GpuSettings(**{**values, **changes})


def gpus(wanted: Wanted, bare: NodeFacts) -> tuple[GpuSettings, ...]:
    """Every GPU of a host as `wanted` has it."""
    spec, changes = wanted.spec, dict[str, Any]()
    if spec.power_limit is not None:
        changes["power_limit"] = float(spec.power_limit)
    if spec.ecc is not None:
        changes |= {"ecc": spec.ecc, "ecc_pending": spec.ecc}
    if spec.mig:
        cut = tuple(sorted(spec.mig))
        changes |= {"mig": True, "mig_pending": True, "mig_profiles": PROFILES}
        changes |= {"mig_instances": cut, "mig_devices": cut}
    slots = [one.slot for one in bare.pci or () if one.pci_class.startswith("03")]
    return tuple(gpu(index, slot, **changes) for index, slot in enumerate(slots))


def units(wanted: Wanted) -> list[str]:
    """Units that run on a host which conforms."""
    state = expected_state(wanted.host, wanted.spec, wanted.stack, gpus=None, nvswitches=None)
    found = [f"{name}.service" for name in state["services"]]
    if boot_settings.boot_text(wanted):
        found.append(f"{boot_settings.UNIT}.service")
    if wanted.stack.container_toolkit is not None:
        found += [container_toolkit.PATH_UNIT, container_toolkit.SERVICE]
    return found


def settled(wanted: Wanted, bare: NodeFacts) -> dict[str, Any]:
    """The facts of settings, by field."""
    driver, stack = wanted.stack.driver, wanted.stack
    if driver is None:
        return {"gpu_settings": (), "module_params": {}, "cdi": {}, "rdma": Rdma()}
    made = {"/run/cdi/nvidia.yaml": driver.version} if stack.container_toolkit else {}
    return {
        "gpu_settings": gpus(wanted, bare),
        "module_params": {
            "EnableMSI": "1",
            **module_options.parameters(wanted.spec.module_options),
        },
        "cdi": made,
        "rdma": Rdma(),
    }
