"""What the probe of a host with given facts would print: the parser's inverse. For tests.

With it a test can script a whole host, and the parser takes part in what is tested. Facts that
have no lines here (a part that is unknown) are refused, not left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from deploy.facts import PROBE_VERSION, NodeFacts
from deploy.probing.probe_parts import READERS
from deploy.probing.rpm_facts import BEGIN, END, LOCKS

Lines = Iterator[str]


def probe_text(facts: NodeFacts, nonce: str) -> str:
    """The whole framed answer, root's."""
    lines = ["", f"{nonce} begin {PROBE_VERSION} 0 root"]
    for name in READERS:
        part = list(PARTS[name](facts))
        lines += [f"{nonce} part {name} 0", *(f"|{line}" for line in part)]
        lines.append(f"{nonce} done {name} {len(part)}")
    return "\n".join([*lines, f"{nonce} end {len(READERS)}", ""])


def system(facts: NodeFacts) -> Lines:
    os, kernel = facts.os, facts.kernel
    assert os is not None
    assert kernel is not None
    for key, value in (
        ("ID", os.id),
        ("VERSION_ID", os.version_id),
        ("VERSION_CODENAME", os.codename),
        ("PRETTY_NAME", os.pretty_name),
        ("ID_LIKE", " ".join(os.id_like)),
    ):
        yield f'os {key}="{value}"'
    yield f"arch {os.arch}"
    yield f"running {kernel.running}"
    for release in kernel.installed:
        yield f"modules {release}"
        yield f"image {release}"
    for release in kernel.headers:
        yield f"headers {release}"
    if kernel.next != kernel.running:
        yield f"grub-default {kernel.next}"
    yield f"boot {facts.boot_id}"
    yield f"uptime {facts.uptime_s}.00 1.00"
    yield f"container {facts.container or 'none'}"
    yield f"secure {dict(enabled='1', disabled='0').get(str(facts.secure_boot), 'no-efi')}"


def pci(facts: NodeFacts) -> Lines:
    for one in facts.pci or ():
        subsystem = ":".join(f"0x{word}" for word in one.subsystem.split(":"))
        yield (
            f"pci {one.slot} 0x{one.device} 0x{one.pci_class} {subsystem} 0x{one.revision} "
            f"{one.driver or '-'}"
        )


def modules(facts: NodeFacts) -> Lines:
    found = facts.modules
    assert found is not None
    if found.loaded_version:
        yield f"loaded {found.loaded_version}"
        yield f"refcount {'-' if found.refcount is None else found.refcount}"
        kind = "Open Kernel Module" if found.loaded_flavour == "open" else "Kernel Module"
        yield f"nvrm NVRM version: NVIDIA UNIX {kind} for x86_64  {found.loaded_version}"
    if found.nouveau_loaded:
        yield "nouveau loaded"
    for one in found.installed:
        yield f"installed {one.kernel} version {one.version}"
        yield f"installed {one.kernel} license {LICENCES[str(one.flavour)]}"
    if found.nouveau_blacklisted:
        yield "config /etc/modprobe.d/nouveau.conf"
        yield "rule blacklist nouveau"


LICENCES = {"open": "Dual MIT/GPL", "closed": "NVIDIA", "None": "odd"}


def packages(facts: NodeFacts) -> Lines:
    assert facts.packages is not None
    assert facts.dpkg is not None
    if is_rpm(facts):
        assert facts.packages, "a host without any package of interest is no rpm host to the parser"
        for name, one in facts.packages.items():
            assert one.state == "ii"
            bare, _, arch = name.partition(":")
            yield f"rpm\t{bare}\t{arch or 'noarch'}\t{one.version}"
        return
    for name, one in facts.packages.items():
        bare, _, arch = name.partition(":")
        state = f"h{one.state[1:]}" if one.held else one.state
        yield f"package\t{state:<3}\t{bare}\t{arch or 'all'}\t{one.version}"
    for name in facts.dpkg.broken:
        yield f"broken\t{name}"
    if facts.dpkg.interrupted:
        yield "journal\t0001"


def is_rpm(facts: NodeFacts) -> bool:
    """The host's packages are rpm's."""
    assert facts.os is not None
    return facts.os.id not in {"debian", "ubuntu"}


def candidates(facts: NodeFacts) -> Lines:
    for name, one in (facts.candidates or {}).items():
        if is_rpm(facts):
            yield f"dnf\t{name}\tnoarch\t{one.candidate}\t{one.origins[0]}"
            continue
        yield f"policy {name}:"
        yield "policy   Installed: (none)"
        yield f"policy   Candidate: {one.candidate or '(none)'}"
        yield "policy   Version table:"
        if one.candidate:
            yield f"policy      {one.candidate} {one.pin}"
            for origin in one.origins:
                yield f"policy         {one.pin} {origin} ./ Packages"


def manager(facts: NodeFacts) -> Lines:
    yield from _dnf(facts) if is_rpm(facts) else _apt(facts)


def _apt(facts: NodeFacts) -> Lines:
    assert facts.auto_upgrades is not None
    yield "family apt"
    for pin in facts.pins or ():
        yield f"preferences {pin.path}"
        yield f"p Package: {pin.package}"
        yield f"p Pin: {pin.pin}"
        yield f"p Pin-Priority: {pin.priority}"
    for source in facts.sources or ():
        yield f"sources {source.path}"
        yield f"s {source.line}"
    enabled = "1" if facts.auto_upgrades.enabled else "0"
    yield f'config APT::Periodic::Unattended-Upgrade "{enabled}";'
    for pattern in facts.auto_upgrades.blacklist:
        yield f'config Unattended-Upgrade::Package-Blacklist:: "{pattern}";'


def _dnf(facts: NodeFacts) -> Lines:
    assert not facts.pins, "excludes have no lines here yet"
    yield "family dnf"
    for source in facts.sources or ():
        section, _, places = source.line.partition(" ")
        yield f"file {source.path}"
        yield f"c {section}"
        if places:
            yield f"c baseurl={places}"
    for module, stream in (facts.streams or {}).items():
        yield f"file /etc/dnf/modules.d/{module}.module"
        yield f"c [{module}]"
        yield f"c name={module}"
        yield f"c stream={stream}"
        yield "c state=enabled"
    if facts.own_versionlocks or facts.versionlocks:
        yield f"file {LOCKS}"
        yield from (f"c {lock}" for lock in facts.versionlocks or ())
        yield f"c {BEGIN}"
        yield from (f"c {lock}" for lock in facts.own_versionlocks or ())
        yield f"c {END}"


def services(facts: NodeFacts) -> Lines:
    # systemctl answers for every unit that it is asked about, so the part is never empty.
    units = {"slurmd.service": ("not-found", "inactive", "")}
    units |= {n: (one.load, one.active, one.enabled) for n, one in (facts.services or {}).items()}
    for number, (name, (load, active, enabled)) in enumerate(units.items()):
        if number:
            yield ""
        yield f"Id={name}"
        yield f"LoadState={load}"
        yield f"ActiveState={active}"
        yield f"UnitFileState={enabled}"


def environments(facts: NodeFacts) -> Lines:
    for one in facts.environments or ():
        if one.current:
            yield f"current envs/{one.id}"
    for one in facts.environments or ():
        yield f"env {one.id}"
        if one.complete:
            yield f"manifest {one.manifest}"
        yield f"found {one.found}"
        if one.python:
            yield f"python {one.python}"
        for name, version in one.wheels.items():
            yield f"dist {name}-{version}"
        if one.in_use:
            yield "in-use"
    for build in facts.pythons or ():
        yield f"build {build.name}"
        if build.manifest:
            yield f"manifest {build.manifest}"
        yield f"found {build.found}"
        if build.in_use:
            yield "in-use"


def software(facts: NodeFacts) -> Lines:
    assert facts.cuda is not None
    assert facts.python is not None
    if facts.cuda.link:
        yield f"cuda-link {facts.cuda.link}"
    for release in facts.cuda.toolkits:
        yield f"toolkit {release}"
    if facts.python.version:
        yield f"python {facts.python.version}"
    if facts.python.headers:
        yield "python-headers"
    if facts.python.venv:
        yield "python-venv"
    if facts.compiler:
        yield f"compiler {facts.compiler}"
    for tool in facts.tools or ():
        yield f"tool {tool}"


def disks(facts: NodeFacts) -> Lines:
    for path, one in (facts.disks or {}).items():
        yield f"disk {path} 1 {one.size} {one.available}"
        yield f"mount {'ro' if one.read_only else 'rw'}"


def users(facts: NodeFacts) -> Lines:
    assert facts.gpu_users == (), "a process that holds a GPU has more lines than its facts"
    yield "self"


def slurm(facts: NodeFacts) -> Lines:
    for job in facts.slurm_jobs or ():
        yield f"job\t{job.job}\t{job.user}\t{job.state}"


def foreign(facts: NodeFacts) -> Lines:
    for one in facts.foreign or ():
        assert one.owner == "runfile"
        for path in one.evidence.split(", "):
            yield f"path {path}"


def files(facts: NodeFacts) -> Lines:
    for path, one in (facts.files or {}).items():
        yield f"file\t{one.sha256}\t{one.mode}\t{path}"


def state(facts: NodeFacts) -> Lines:
    for key, value in (facts.state or {}).items():
        yield f"state {key}={value}"


def settings(facts: NodeFacts) -> Lines:
    def switch(value: bool | None) -> str:
        return {True: "Enabled", False: "Disabled", None: "[N/A]"}[value]

    def watts(value: float | None) -> str:
        return "[N/A]" if value is None else f"{value:.2f}"

    for one in facts.gpu_settings or ():
        values = (
            *(str(one.index), one.uuid, f"0000{one.slot.upper()}", switch(one.persistence)),
            *map(switch, (one.mig, one.mig_pending, one.ecc, one.ecc_pending)),
            *map(watts, (one.power_limit, one.power_min, one.power_max)),
        )
        yield f"gpu {', '.join(values)}"
        for tag, names in (("gi", one.mig_instances), ("gip", one.mig_profiles)):
            for name in names or ():
                yield f"{tag} |   {one.index}  MIG {name}   9   1   0:4     |"
        yield f"list GPU {one.index}: A GPU (UUID: {one.uuid})"
        for number, name in enumerate(one.mig_devices or ()):
            yield f"list   MIG {name}     Device  {number}: (UUID: MIG-{number})"


def params(facts: NodeFacts) -> Lines:
    for name, value in (facts.module_params or {}).items():
        yield f"param {name}: {value}"


def rdma(facts: NodeFacts) -> Lines:
    found = facts.rdma
    assert found is not None
    if found.ofed:
        yield f"ofed {found.ofed}:"
    if found.efa:
        yield f"efa # EFA installer version: {found.efa}"
    for tag, names in (
        *(("device", found.devices), ("loaded", found.loaded), ("autoload", found.autoload)),
    ):
        for name in names:
            yield f"{tag} {name}"
    for one in found.peermem:
        built = one.built_against
        yield f"peermem {one.kernel} {'unreadable' if built is None else built or 'none'}"
        if one.ofed_has:
            yield f"offers {one.kernel} {one.ofed_has}"
    if found.restart:
        yield "restart"
    yield f"imex {found.imex_nodes}"


def cdi(facts: NodeFacts) -> Lines:
    for path, version in (facts.cdi or {}).items():
        yield f"cdi {path} {version}"


PARTS: dict[str, Callable[[NodeFacts], Lines]] = {
    "system": system,
    "pci": pci,
    "modules": modules,
    "packages": packages,
    "candidates": candidates,
    "manager": manager,
    "services": services,
    "environments": environments,
    "software": software,
    "disks": disks,
    "users": users,
    "slurm": slurm,
    "foreign": foreign,
    "files": files,
    "state": state,
    "settings": settings,
    "params": params,
    "rdma": rdma,
    "cdi": cdi,
}
