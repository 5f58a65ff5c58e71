"""Facts of one host as rows for a reader. Pure.

Rows hold what an operator decides by and leave out what differs between any two hosts (boot_id,
exact free space), so that equal hosts fold together. Everything is in the JSON.
"""

import re
from collections import Counter
from collections.abc import Iterator

from deploy.catalog import Catalogue
from deploy.facts import Environment, Modules, NodeFacts, PciDevice, Pin
from deploy.fold import Row
from deploy.setting_rows import setting_rows

ROOM = {"/": 10e9, "/boot": 0.3e9, "/tmp": 2e9}
"""Free bytes below which a place is named; other places need what / needs. A CUDA toolkit takes
5 to 8 GB and a torch environment 3 to 7 GB; /boot holds one more initramfs."""

PARTS = {
    "driver": r"nvidia-driver-cuda|libnvidia-ml1?|libnvidia-compute-?\d*(-server)?"
    r"|nvidia-kernel-.*dkms|kmod-nvidia-.*dkms|nvidia-dkms-.*",
    "fabric manager": r"nvidia-fabric-?manager(-\d+)?",
    "CUDA toolkit": r"cuda-toolkit-\d+-\d+",
    "cuDNN": r"libcudnn\d+-cuda-\d+|libcudnn\d+",
    "NCCL": r"libnccl2?",
    "DCGM": r"datacenter-gpu-manager(-4-core)?",
}
"""The packages whose version stands for a part of the stack."""


def fact_rows(facts: NodeFacts, catalogue: Catalogue) -> tuple[Row, ...]:
    """Every row of one host, in reading order; rows with nothing to say are left out."""
    makers = (
        _system, _gpus, setting_rows, _driver, _foreign, _in_use, _packages, _locks, _dpkg, _cuda,
        _environments, _services, _tools, _disks, _own, _unknown,
    )  # fmt: skip
    return tuple(row for make in makers for row in make(facts, catalogue))


def _system(facts: NodeFacts, catalogue: Catalogue) -> Iterator[Row]:
    if facts.os:
        container = f", in {facts.container}" if facts.container else ""
        secure = ", Secure Boot" if facts.secure_boot == "enabled" else ""
        yield Row("system", f"{facts.os.pretty_name} {facts.os.arch}{container}{secure}")
    kernel = facts.kernel
    if kernel:
        text = kernel.running
        if kernel.next != kernel.running:
            text += f", next boot {kernel.next}"
        missing = [
            release for release in {kernel.running, kernel.next} if release not in kernel.headers
        ]
        text += f", no headers for {', '.join(sorted(missing))}" if missing else ", headers there"
        yield Row("kernel", text, kernel.next != kernel.running)


def _gpus(facts: NodeFacts, catalogue: Catalogue) -> Iterator[Row]:
    if facts.pci is None:
        return
    counts = Counter(_named(device, catalogue) for device in facts.pci)
    text = ", ".join(f"{count}x {name}" for name, count in counts.items())
    yield Row("GPUs", text or "none on the PCI bus")
    lost = [device.slot for device in facts.pci if device.revision == "ff"]
    if lost:
        yield Row("lost", f"fell off the bus: {', '.join(lost)}", True)
    others = Counter(d.driver for d in facts.pci if d.driver not in {"", "nvidia"})
    others.pop("nvidia-nvswitch", None)
    if others:
        text = ", ".join(f"{count} by {driver}" for driver, count in others.items())
        yield Row("bound", text, True)
    if facts.mig:
        yield Row("MIG", ", ".join(facts.mig))


def _named(device: PciDevice, catalogue: Catalogue) -> str:
    if device.device in catalogue.gpu:
        return catalogue.gpu[device.device].name
    for switch in catalogue.nvswitches:
        if switch.device == device.device:
            return switch.name
    return f"unknown device 10de:{device.device}"


def _driver(facts: NodeFacts, catalogue: Catalogue) -> Iterator[Row]:
    modules = facts.modules
    if modules is None or not (facts.pci or modules.loaded_version or modules.installed):
        return
    running = facts.kernel.running if facts.kernel else ""
    here = [module for module in modules.installed if module.kernel == running]
    differs = (
        bool(here)
        and bool(modules.loaded_version)
        and (here[0].version != modules.loaded_version or here[0].flavour != modules.loaded_flavour)
    )
    yield Row("driver", _module_text(modules), differs)
    if modules.nouveau_loaded:
        yield Row("nouveau", "loaded", True)
    elif not modules.nouveau_blacklisted and facts.pci:
        yield Row("nouveau", "not loaded, but nothing keeps it out")


def _module_text(modules: Modules) -> str:
    loaded = "not loaded"
    if modules.loaded_version:
        loaded = f"{modules.loaded_version} {modules.loaded_flavour or 'of unknown flavour'} loaded"
    installed = [
        f"{module.version} {module.flavour or 'of unknown flavour'} for {module.kernel}"
        for module in modules.installed
    ]
    return f"{loaded}; installed: {', '.join(installed) or 'none'}"


def _foreign(facts: NodeFacts, catalogue: Catalogue) -> Iterator[Row]:
    for foreign in facts.foreign or ():
        yield Row("managed", f"by {foreign.owner}: {foreign.evidence}", True)


def _in_use(facts: NodeFacts, catalogue: Catalogue) -> Iterator[Row]:
    users = [f"pid {user.pid} of {user.user} ({user.command})" for user in facts.gpu_users or ()]
    jobs = [f"job {job.job} of {job.user} ({job.state})" for job in facts.slurm_jobs or ()]
    if users or jobs:
        yield Row("in use", ", ".join([*jobs, *users]), True)


def _packages(facts: NodeFacts, catalogue: Catalogue) -> Iterator[Row]:
    packages = facts.packages
    if packages is None:
        return
    found = []
    for part, pattern in PARTS.items():
        versions = {p.version for name, p in packages.items() if re.fullmatch(pattern, name)}
        if versions:
            found.append(f"{part} {', '.join(sorted(versions))}")
    if found:
        yield Row("packages", "; ".join(found))
    held = sorted(name for name, package in packages.items() if package.held)
    if held:
        yield Row("held", ", ".join(held), True)
    if facts.pins:
        yield Row("pins", "\n".join(_pins(facts.pins)))
    sources = [f"{source.path}: {source.line}" for source in facts.sources or ()]
    if sources:
        yield Row("sources", "\n".join(sources))


def _locks(facts: NodeFacts, catalogue: Catalogue) -> Iterator[Row]:
    """What only dnf has."""
    if facts.streams:
        text = ", ".join(f"{module}:{stream}" for module, stream in sorted(facts.streams.items()))
        yield Row("streams", text)
    if facts.versionlocks:
        yield Row("locked", "\n".join(facts.versionlocks), True)
    if facts.own_versionlocks:
        yield Row("locked by us", f"{len(facts.own_versionlocks)} packages")


def _pins(pins: tuple[Pin, ...]) -> Iterator[str]:
    """One line per file: what it pins when that is short, else how much."""
    by_file: dict[str, list[Pin]] = {}
    for pin in pins:
        by_file.setdefault(pin.path, []).append(pin)
    for path, found in by_file.items():
        names = [name for pin in found for name in pin.package.split()]
        if len(names) > 4 or len(found) > 1:
            yield f"{path}: {len(names)} package patterns"
        else:
            yield f"{path}: {' '.join(names)} {found[0].pin} at {found[0].priority}"


def _dpkg(facts: NodeFacts, catalogue: Catalogue) -> Iterator[Row]:
    if facts.dpkg:
        wrong = []
        if facts.dpkg.interrupted:
            wrong.append("was interrupted")
        if facts.dpkg.broken:
            how = "not configured" if facts.packaging == "apt" else "installed in two versions"
            wrong.append(f"{how}: {', '.join(facts.dpkg.broken)}")
        if facts.dpkg.lock_holder:
            wrong.append(f"locked by {facts.dpkg.lock_holder}")
        if wrong:
            yield Row("dpkg" if facts.packaging == "apt" else "rpm", "; ".join(wrong), True)
    if facts.auto_upgrades and facts.auto_upgrades.enabled:
        locked = facts.own_versionlocks or facts.versionlocks  # dnf-automatic honours them
        kept = ", ".join(facts.auto_upgrades.blacklist) or ("what is locked" if locked else "")
        yield Row("upgrades", f"automatic, {f'but not {kept}' if kept else 'of everything'}")


def _cuda(facts: NodeFacts, catalogue: Catalogue) -> Iterator[Row]:
    if facts.cuda and (facts.cuda.link or facts.cuda.toolkits):
        link = f"/usr/local/cuda is {facts.cuda.link}" if facts.cuda.link else "no /usr/local/cuda"
        toolkits = ", ".join(facts.cuda.toolkits) or "none"
        yield Row("CUDA", f"{toolkits}; {link}", not facts.cuda.link)


def _environments(facts: NodeFacts, catalogue: Catalogue) -> Iterator[Row]:
    if facts.environments:
        texts = [_environment_text(environment) for environment in facts.environments]
        notable = any(
            env.current and (not env.complete or env.found != env.manifest)
            for env in facts.environments
        )
        yield Row("torch", "\n".join(texts), notable)


def _environment_text(environment: Environment) -> str:
    torch = environment.wheels.get("torch", "none")
    words = [f"{torch} in {environment.id}, {len(environment.wheels)} wheels"]
    if environment.current:
        words.append("current")
    if not environment.complete:
        words.append("not finished")
    elif environment.manifest != environment.found:
        words.append("files changed since it was built")
    if environment.in_use:
        words.append("in use")
    return ", ".join(words)


def _services(facts: NodeFacts, catalogue: Catalogue) -> Iterator[Row]:
    there = {
        name.removesuffix(".service"): service
        for name, service in (facts.services or {}).items()
        if name.startswith(("nvidia", "slurmd")) and service.load == "loaded"
    }
    if there:
        text = ", ".join(f"{name} {service.active}" for name, service in there.items())
        yield Row("services", text, any(s.active == "failed" for s in there.values()))


def _tools(facts: NodeFacts, catalogue: Catalogue) -> Iterator[Row]:
    words = []
    if facts.python:
        lacks = [
            name
            for name, there in (("venv", facts.python.venv), ("headers", facts.python.headers))
            if not there
        ]
        lacking = f" without {' and '.join(lacks)}" if lacks else ""
        words.append(f"Python {facts.python.version}{lacking}" if facts.python.version else "none")
    if facts.compiler is not None:
        words.append(f"c++ {facts.compiler}" if facts.compiler else "no C++ compiler")
    if words:
        yield Row("tools", ", ".join(words))


def _disks(facts: NodeFacts, catalogue: Catalogue) -> Iterator[Row]:
    if facts.disks is None:
        return
    wrong = []
    for path, disk in facts.disks.items():
        if disk.read_only:
            wrong.append(f"{path} is read-only")
        elif disk.available < ROOM.get(path, ROOM["/"]):
            wrong.append(f"{path} has {disk.available / 1e9:.1f} of {disk.size / 1e9:.0f} GB free")
    yield Row("disk", "; ".join(wrong) or "room everywhere", bool(wrong))


def _own(facts: NodeFacts, catalogue: Catalogue) -> Iterator[Row]:
    if facts.state:
        text = ", ".join(f"{key} {value}" for key, value in sorted(facts.state.items()))
        yield Row("gpufleet", text)


def _unknown(facts: NodeFacts, catalogue: Catalogue) -> Iterator[Row]:
    reasons: dict[str, list[str]] = {}
    for part, why in facts.unknown.items():
        reasons.setdefault(why, []).append(part)
    if reasons:
        lines = [f"{', '.join(parts)}: {why}" for why, parts in reasons.items()]
        yield Row("unknown", "\n".join(lines), True)
