"""Hosts that are not ours to change, and repositories that are not theirs."""

from deploy.catalog.models import Catalogue, Gpu
from deploy.catalog.systems import Distribution
from deploy.facts import Foreign
from deploy.fleet.spec import NONE, NodeSpec
from deploy.solving.refusal import Refused

OWNERS = {
    "runfile": (
        "the driver was installed by NVIDIA's .run installer",
        "run `nvidia-uninstall` on the host",
    ),
    "dgx-os": ("DGX OS manages the driver", "update it with DGX OS's own tools"),
    "driver-container": (
        "a driver container (GPU Operator) manages the driver",
        "exclude the host from the operator's driver and remove the container",
    ),
    "vgpu": ("a vGPU guest needs the GRID driver of its hypervisor", "use the site's vGPU driver"),
    "other-packages": (
        "the driver comes from RPM Fusion, ELRepo or negativo17, whose packages the vendor's "
        "conflict with",
        "remove those packages with dnf, and switch their repository off",
    ),
    "vfio": (
        "GPUs are bound to vfio-pci for virtual machines",
        "give the GPUs back to the host (unbind vfio-pci)",
    ),
}


def refuse_foreign(foreign: tuple[Foreign, ...]) -> None:
    """Raises Refused when somebody else manages the driver."""
    if foreign:
        told = [f"{OWNERS[one.owner][0]} ({one.evidence})" for one in foreign]
        raise Refused(
            "foreign-" + foreign[0].owner,
            "; ".join(told),
            source="what somebody else manages is never overwritten",
            unblock=(
                *(OWNERS[one.owner][1] for one in foreign),
                'driver = "none": the driver is left alone, the rest is built on what is loaded',
            ),
        )


def asks_vendor(spec: NodeSpec, gpus: tuple[Gpu, ...]) -> bool:
    """Whether the answer for a host needs the vendor's repository."""
    parts = (spec.cuda, spec.cudnn, spec.nccl)
    wished = (*parts, spec.dcgm, spec.container_toolkit)
    if gpus and (spec.driver != NONE or any(part != NONE for part in parts)):
        return True
    return any(part not in (None, NONE) for part in wished)


def refuse_repository(
    spec: NodeSpec, gpus: tuple[Gpu, ...], row: Distribution, catalogue: Catalogue
) -> None:
    """Raises Refused where the vendor's repository could not be trusted, or is another system's."""
    if not asks_vendor(spec, gpus):
        return
    key = catalogue.key_of(row.name)
    if not key.fingerprint and not spec.vendor_key_fingerprint:
        raise Refused(
            "vendor-key",
            f"the fingerprint of the key {key.file} that signs the vendor's repository for "
            f"{row.title} is not in the catalogue: no source for it was found",
            source=catalogue.source("distributions", key.source),
            unblock=(
                f"read it where you trust it (gpg --show-keys {key.file}), then "
                'vendor_key_fingerprint = "..."',
            ),
        )
    path = (spec.vendor_repository or "").split("/")
    others = [other for other in catalogue.distributions if other.name in path]
    if others and row not in others:
        raise Refused(
            "vendor-repository",
            f"{spec.vendor_repository} is the vendor's repository for {others[0].title}, the host "
            f"is {row.title}: packages of one do not run on the other, and Debian 13 refuses the "
            "signatures of Debian 12's (SHA-1)",
            source=catalogue.source("distributions", row.source),
            unblock=(f"vendor_repository: the mirror of {row.name}",),
        )
