"""Fabric manager, at the driver's exact version, on hosts with NVSwitches.

Without it CUDA fails with error 802 there; its package depends on no driver, so nothing but the
lock keeps the two together (research: provisioning 2.6, 2.8 and 4, rows 1 to 4). Switches of
NVLink 5 are managed through nvlsm, which the fabric manager's start script runs and which talks to
them by ib_umad: that module is loaded first, at every boot.
"""

from deploy.facts import NodeFacts
from deploy.known import known
from deploy.layers.files import file_step, in_place
from deploy.layers.library import service_step
from deploy.layers.services import running_step
from deploy.packages import difference
from deploy.shell import script
from deploy.stack import Component
from deploy.steps import Command, Step, Wanted

NAME = "fabric"
UNIT = "nvidia-fabricmanager"
FAMILY = r"(nvidia|cuda-drivers)-fabric-?manager(-dev(el)?)?(-\d+)?"
"""Every name that the package has had (the branch is part of some, as in nvidia-fabricmanager-570),
and its metapackages. They hold the same files, so another one leaves in the same transaction."""
MANAGER_OF_NVLINK5 = "nvlsm"
UMAD = "/etc/modules-load.d/gpufleet-fabric.conf"
UMAD_TEXT = """\
# nvlsm manages NVLink 5 switches through it. Written by gpufleet, which keeps this file as it is.
ib_umad
"""

_LOAD = "modprobe ib_umad\n"


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Module, package, then service."""
    fabric, driver = wanted.stack.fabric, wanted.stack.driver
    if fabric is None or driver is None:
        return []
    umad = _umad(fabric, facts)
    lacks = difference(fabric.packages, known(facts, "packages", facts.packages))
    if not lacks:
        return umad + running_step(NAME, UNIT, facts, driver)
    package = service_step(
        NAME, "fabric manager", UNIT, wanted, fabric, lacks, facts, family=FAMILY
    )
    return [*umad, package, *running_step(NAME, UNIT, facts, driver, will_stop=True)]


def needs_umad(fabric: Component | None) -> bool:
    """These switches are managed through nvlsm."""
    return fabric is not None and MANAGER_OF_NVLINK5 in fabric.packages


def _umad(fabric: Component, facts: NodeFacts) -> list[Step]:
    if not needs_umad(fabric):
        return []
    rdma, files = known(facts, "rdma", facts.rdma), known(facts, "files", facts.files)
    theirs = "ib_umad" in rdma.autoload and UMAD not in files
    if theirs or in_place(facts, UMAD, UMAD_TEXT):
        if "ib_umad" in rdma.loaded:
            return []
        load = Command(shell=script(_LOAD), timeout_s=60)
        return [Step(layer=NAME, title="ib_umad is loaded", why="it is not", commands=(load,))]
    title = "ib_umad is loaded at every boot"
    return file_step(NAME, title, facts, UMAD, UMAD_TEXT, then=_LOAD)
