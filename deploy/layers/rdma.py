"""RDMA beside the driver: OFED, DOCA-OFED or EFA are somebody's own and never changed here.

nvidia-peermem is compiled against the OFED that is installed at that moment. OFED comes first, the
driver after it; where OFED has changed since, the driver's modules are built once more. A module
that is loaded stays: it fits the OFED modules that are loaded with it, and both change with a boot
or with openibd, which cannot restart while nvidia_peermem is there. So nothing is unloaded here,
and modules-load.d loads it at boot, as on Azure's images; what loading the driver anew took away
is put back (research: provisioning 2.9, RDMA order; gpu-operator issue 2868, doca-driver-build PR
481).
"""

from deploy.facts import NodeFacts
from deploy.known import known
from deploy.layers import module
from deploy.layers.files import file_step, in_place
from deploy.layers.kernels import wanted_kernels
from deploy.packages import difference
from deploy.probing.rdma_facts import SYMBOL, Peermem, Rdma
from deploy.shell import assign, script
from deploy.stack import Driver
from deploy.steps import Command, Step, Wanted

NAME = "rdma"
PATH = "/etc/modules-load.d/gpufleet-peermem.conf"
TEXT = """\
# GPU memory for RDMA. Before openibd restarts: rmmod nvidia_peermem. Written by gpufleet, which
# keeps this file as it is.
nvidia_peermem
"""

_BUILD = """\
for kernel in $kernels; do
    echo "building the modules for kernel $kernel against the installed OFED"
    build "$kernel"
    file=$(modinfo -k "$kernel" -n nvidia_peermem)
    if ! modprobe --dump-modversions "$file" | grep -q "[[:space:]]$symbol$"; then
        echo "nvidia-peermem for kernel $kernel was built without OFED: does" \\
            "/usr/src/ofa_kernel have this kernel's headers?" >&2
        exit 1
    fi
done
"""

_LATER = """\
modprobe nvidia_peermem || echo "the next boot loads it"
"""


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Modules that fit the installed OFED, and nvidia-peermem at every boot."""
    driver = wanted.stack.driver
    if driver is None:
        return []
    rdma = known(facts, "rdma", facts.rdma)
    rebuilt = _rebuilt(wanted, facts, driver, rdma)
    return rebuilt + _loaded(facts, driver, rdma)


def _stale(facts: NodeFacts, rdma: Rdma) -> list[Peermem]:
    kernels = wanted_kernels(facts)
    return [
        one
        for one in rdma.peermem
        if one.kernel in kernels
        and one.ofed_has
        and one.built_against is not None
        and one.built_against != one.ofed_has
    ]


def _rebuilt(wanted: Wanted, facts: NodeFacts, driver: Driver, rdma: Rdma) -> list[Step]:
    stale = _stale(facts, rdma)
    if not stale or driver.prebuilt:
        return []
    if difference(driver.packages, known(facts, "packages", facts.packages)):
        return []  # the driver's own step builds them, against the OFED that is there then
    kernels = " and ".join(one.kernel for one in stale)
    without = not any(one.built_against for one in stale)
    values = assign(
        kernels=" ".join(one.kernel for one in stale), version=driver.version, symbol=SYMBOL
    )
    return [
        Step(
            layer=NAME,
            title=f"nvidia-peermem for kernel {kernels} fits {rdma.ofed or 'the installed OFED'}",
            why="it was built without OFED" if without else "it was built against another OFED",
            commands=(
                Command(
                    shell=script(values, module.BUILD, _BUILD),
                    timeout_s=module.BUILD_S,
                    log=module.make_log(driver),
                ),
            ),
        )
    ]


def _loaded(facts: NodeFacts, driver: Driver, rdma: Rdma) -> list[Step]:
    files = known(facts, "files", facts.files)
    fits = any(one.ofed_has and one.built_against == one.ofed_has for one in rdma.peermem)
    will_fit = bool(_stale(facts, rdma)) and not driver.prebuilt
    serves = rdma.ofed and any(name.startswith("mlx") for name in rdma.devices)
    if not serves or not (fits or will_fit):
        return []
    theirs = "nvidia_peermem" in rdma.autoload and PATH not in files
    if not theirs and not in_place(facts, PATH, TEXT):
        title = "nvidia_peermem is loaded at every boot"
        return file_step(NAME, title, facts, PATH, TEXT, then=_LATER)
    runs = module.runs(known(facts, "modules", facts.modules), driver)
    if "nvidia_peermem" in rdma.loaded or rdma.restart or not fits or not runs:
        return []
    load = Command(shell=script("modprobe nvidia_peermem"), timeout_s=60)
    why = "it left with the driver that was loaded before, or was never loaded"
    return [Step(layer=NAME, title="nvidia_peermem is loaded", why=why, commands=(load,))]


def warnings(wanted: Wanted, facts: NodeFacts) -> list[str]:
    """What only the owner of the RDMA stack can mend."""
    driver = wanted.stack.driver
    if driver is None:
        return []
    rdma = known(facts, "rdma", facts.rdma)
    found = []
    old = [
        name
        for name in ("nvidia-peer-memory-dkms", "nvidia-peer-memory", "nvidia_peer_memory")
        if name in known(facts, "packages", facts.packages)
    ]
    if "nv_peer_mem" in rdma.loaded or old:
        found.append(
            f"the old nv_peer_mem is {'loaded' if 'nv_peer_mem' in rdma.loaded else 'installed'}"
            f"{' (' + ', '.join(old) + ')' if old else ''}: the driver's own nvidia_peermem "
            "replaces it, and only one of them can be loaded; remove the old one"
        )
    if driver.prebuilt and _stale(facts, rdma):
        found.append(
            f"{rdma.ofed or 'OFED'} is installed, and the distribution's signed nvidia-peermem "
            "was built without it: GPU memory is not offered to RDMA that way"
        )
    if rdma.restart:
        found.append(
            f"the loaded RDMA modules are not those of {rdma.ofed or 'the installed OFED'}: they "
            "change with a boot, or with rmmod nvidia_peermem and a restart of openibd"
        )
    unread = [one.kernel for one in rdma.peermem if one.built_against is None and one.ofed_has]
    if unread:
        found.append(
            f"whether nvidia-peermem for kernel {', '.join(unread)} fits {rdma.ofed or 'OFED'} "
            "cannot be read from its symbols; modprobe nvidia_peermem tells"
        )
    return found
