"""What each command of a layer does to a host, for the model of one (`machine`).

It knows commands by the fixed texts in them and reads the values that they carry, never the stack
or the plan: a step that forgets a package leaves the model without it. A command that it does not
know is an error, so a new layer has to say here what it does.
"""

from __future__ import annotations

import re

from deploy.facts import Environment, InstalledModule, NodeFacts, OwnFile, PythonBuild, Service
from deploy.layers import container_toolkit
from deploy.layers.files import digest
from tests.golden import transactions
from tests.golden.host import Effects, Machine, Refused
from tests.golden.scripts import Parts
from tests.settled import gpu


def machine(facts: NodeFacts) -> Machine:
    """A host of these facts that knows every command of the layers."""
    return Machine(facts, EFFECTS, WORDS)


def file_written(host: Machine, found: Parts, stdin: str) -> None:
    path = found.values["path"]
    modes = re.findall(r'^chmod (\d+) "\$path"$', found.text, re.M)
    mode = modes[-1] if modes else found.values["first"]
    if found.values["digest"] != digest(stdin):
        raise Refused(f"{path}: its new content did not arrive whole")
    if path.startswith(("/etc/", "/usr/share/keyrings/")) and "gpufleet" in path:
        file = OwnFile(sha256=digest(stdin), mode=mode)
        host.change(files={**(host.facts.files or {}), path: file})
    if "/modprobe.d/" in path and "blacklist nouveau" in stdin:
        modules = host.facts.modules
        assert modules is not None
        host.change(modules=modules.model_copy(update={"nouveau_blacklisted": True}))


def file_removed(host: Machine, found: Parts, stdin: str) -> None:
    files = dict(host.facts.files or {})
    files.pop(found.values["path"], None)
    host.change(files=files)


def built(host: Machine, found: Parts, stdin: str) -> None:
    modules, kernel = host.facts.modules, host.facts.kernel
    assert modules is not None
    assert kernel is not None
    there = {one.kernel: one for one in modules.installed}
    for release in found.values["kernels"].split():
        if release not in kernel.headers:
            raise Refused(f"no headers for kernel {release}")
        version, flavour = found.values["version"], found.values["flavour"]
        module = InstalledModule(kernel=release, version=version, flavour=flavour)  # type: ignore[arg-type]
        there[release] = module
    host.change(modules=modules.model_copy(update={"installed": tuple(there.values())}))


def loaded(host: Machine, found: Parts, stdin: str) -> None:
    modules, kernel = host.facts.modules, host.facts.kernel
    assert modules is not None
    assert kernel is not None
    here = [one for one in modules.installed if one.kernel == kernel.running]
    if not here or here[0].version != found.values["version"]:
        raise Refused(f"modprobe finds {here}")
    if here[0].flavour != found.values["flavour"]:
        raise Refused(f"modprobe finds {here}")
    values = {"loaded_version": here[0].version, "loaded_flavour": here[0].flavour}
    host.change(modules=modules.model_copy(update={**values, "nouveau_loaded": False}))
    # A driver starts with the settings that boards come with.
    slots = [one.slot for one in host.facts.pci or () if one.pci_class.startswith("03")]
    boards = tuple(gpu(index, slot) for index, slot in enumerate(slots))
    options = dict(word.split("=") for word in found.values["options"].split())
    host.change(gpu_settings=boards, module_params={"EnableMSI": "1", **options})
    state = dict(host.facts.state or {})
    state.pop("owed_start", None)
    host.change(state=state)


def power_limited(host: Machine, found: Parts, stdin: str) -> None:
    watts = float(found.values["watts"])
    boards = host.facts.gpu_settings or ()
    if host.facts.modules and host.facts.modules.loaded_version == found.values["version"]:
        host.change(
            gpu_settings=tuple(one.model_copy(update={"power_limit": watts}) for one in boards)
        )


def specified(host: Machine, found: Parts, stdin: str) -> None:
    modules = host.facts.modules
    assert modules is not None
    if modules.loaded_version == found.values["version"]:
        host.change(cdi={"/run/cdi/nvidia.yaml": modules.loaded_version})


def cdi_followed(host: Machine, found: Parts, stdin: str) -> None:
    units = (container_toolkit.PATH_UNIT, container_toolkit.SERVICE)
    up = Service(load="loaded", active="active", enabled="enabled")
    host.change(services={**(host.facts.services or {}), **dict.fromkeys(units, up)})


def units_enabled(host: Machine, found: Parts, stdin: str) -> None:
    """`systemctl enable` of a unit of ours."""
    services = dict(host.facts.services or {})
    for unit in re.findall(r"^systemctl enable (\S+)$", found.text, re.M):
        services[unit] = Service(load="loaded", active="active", enabled="enabled")
    host.change(services=services)


def started(host: Machine, found: Parts, stdin: str) -> None:
    modules = host.facts.modules
    assert modules is not None
    runs = modules.loaded_version == found.values["version"]
    service = Service(load="loaded", active="active" if runs else "inactive", enabled="enabled")
    unit = f"{found.values['unit']}.service"
    host.change(services={**(host.facts.services or {}), unit: service})


def cuda_linked(host: Machine, found: Parts, stdin: str) -> None:
    cuda, release = host.facts.cuda, found.values["release"]
    assert cuda is not None
    if release.rpartition("-")[2] not in cuda.toolkits:
        raise Refused(f"{release} does not exist although its packages are installed")
    host.change(cuda=cuda.model_copy(update={"link": release}))


def environment_built(host: Machine, found: Parts, stdin: str) -> None:
    wheels = {}
    for line in stdin.splitlines():
        name, _, rest = line.partition("==")
        wheels[re.sub(r"[-_.]+", "-", name).lower()] = rest.split()[0]
    made = Environment(
        id=found.values["id"],
        current=False,
        complete=True,
        manifest="d" * 64,
        found="d" * 64,
        in_use=False,
        wheels=wheels,
        python=found.values["python_folder"].partition("/")[0],
    )
    have = {one.name for one in host.facts.pythons or ()}
    if made.python and made.python not in have:
        raise Refused(f"there is no Python {made.python}")
    if not made.python and not known(host).startswith(f"{found.values['python']}."):
        raise Refused(f"Python {found.values['python']} is wanted, the host has {known(host)}")
    others = [one for one in host.facts.environments or () if one.id != made.id]
    host.change(environments=(*others, made))


def known(host: Machine) -> str:
    """Version of the host's own Python."""
    assert host.facts.python is not None
    return host.facts.python.version


def python_installed(host: Machine, found: Parts, stdin: str) -> None:
    made = PythonBuild(name=found.values["folder"], manifest="e" * 64, found="e" * 64, in_use=False)
    others = [one for one in host.facts.pythons or () if one.name != made.name]
    host.change(pythons=(*others, made))


def environment_switched(host: Machine, found: Parts, stdin: str) -> None:
    mine = found.values["id"]
    there = host.facts.environments or ()
    before = next((one.id for one in there if one.current), "")
    if mine not in {one.id for one in there}:
        raise Refused(f"{mine} is not complete")
    if before and before != mine:
        host.change(state={**(host.facts.state or {}), "environment_previous": before})
    host.change(
        environments=tuple(one.model_copy(update={"current": one.id == mine}) for one in there)
    )


def environments_removed(host: Machine, found: Parts, stdin: str) -> None:
    going = found.values["ids"].split()
    left = tuple(one for one in host.facts.environments or () if one.id not in going)
    kept = tuple(
        one for one in host.facts.pythons or () if one.name not in found.values["pythons"].split()
    )
    host.change(environments=left, pythons=kept)


def signed_there(host: Machine, found: Parts, stdin: str) -> None:
    modules = host.facts.modules
    assert modules is not None
    for release in found.values["kernels"].split():
        here = [one for one in modules.installed if one.kernel == release]
        if not here or here[0].version != found.values["version"]:
            raise Refused(f"no signed modules for kernel {release}")


def nothing(host: Machine, found: Parts, stdin: str) -> None:
    """What no probe sees: lists of packages read afresh, copies of stacks."""


EFFECTS: Effects = {
    "files.write": file_written,
    "apt.transaction": transactions.apt_transaction,
    "os_base.present": transactions.prerequisites,
    "os_base.repair": transactions.repaired,
    "module.build": built,
    "module.load": nothing,
    "module.unload": loaded,
    "services.start": started,
    "cuda.switch": cuda_linked,
    "env_build.python": python_installed,
    "env_build.finish": environment_built,
    "torch_env.switch": environment_switched,
    "torch_env.remove": environments_removed,
    "expected.forget": nothing,
    "dnf.change": transactions.dnf_transaction,
    "os_base.rpm_present": transactions.prerequisites,
    "pins.lock": transactions.versions_locked,
    "module.there": signed_there,
    "boot_settings.limit_power": power_limited,
    "container_toolkit.follow": cdi_followed,
    "container_toolkit.refresh": specified,
    "apt.apt": nothing,
    "dnf.tools": nothing,
}
"""By the fixed text that does it; the last two are words that every command of that package
system begins with."""

WORDS: Effects = {
    'rm -f -- "$path"': file_removed,
    "systemctl enable ": units_enabled,
    'module enable "$stream"': transactions.stream_enabled,
    "record_state=": nothing,
}
"""By words of commands that hold no fixed text of their own; records are kept for all commands."""
