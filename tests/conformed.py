"""Facts of a host that is exactly as a stack wants it, made from the stack alone. For tests.

It knows the layers' files and services only through what they would write, so a layer whose steps
are not empty on these facts either forgets what it wrote or looks at the wrong fact.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

from deploy import plan
from deploy.facts import (
    Cuda,
    Environment,
    InstalledModule,
    Modules,
    NodeFacts,
    OwnFile,
    Package,
    PythonBuild,
    Service,
)
from deploy.layers.files import digest
from deploy.layers.pins import locks
from deploy.layers.torch_env import versions
from deploy.managed_python import folder_of
from deploy.packages import locked
from deploy.steps import Wanted
from tests.factory import facts
from tests.settled import settled, units


def written(wanted: Wanted, found: NodeFacts) -> dict[str, OwnFile]:
    """Files that the plan of `found` would write, with their final content and mode."""
    files = {}
    for layer in plan.LAYERS:
        for step in layer.steps(wanted, found):
            for command in step.commands:
                path = re.search(r"^path=(\S+)$", command.shell, re.MULTILINE)
                if path and command.stdin:
                    last = re.findall(
                        r"^first=(\d+)$|^chmod (\d+) \"\$path\"$", command.shell, re.M
                    )
                    mode = [one for pair in last for one in pair if one][-1]
                    (name,) = shlex.split(path[1])
                    files[name] = OwnFile(sha256=digest(command.stdin), mode=mode)
    return {name: file for name, file in files.items() if not name.startswith("/var/lib/")}


def conformed(wanted: Wanted, hardware: str, **changes: Any) -> NodeFacts:
    """A host of this hardware on which nothing is left to do for `wanted`."""
    return conform(wanted, facts(hardware), **changes)


def conform(wanted: Wanted, bare: NodeFacts, **changes: Any) -> NodeFacts:
    """`bare` when nothing is left to do on it for `wanted`."""
    stack = wanted.stack
    driver, environment = stack.driver, stack.environment
    python = environment.managed_python if environment else None
    dnf = stack.packaging == "dnf"
    packages = {
        name: Package(version=pin.version, state="ii", held=False)
        for name, pin in locked(stack).items()
    }
    packages["ca-certificates"] = Package(version="20230311-1", state="ii", held=False)
    assert bare.kernel is not None
    assert bare.python is not None
    assert bare.tools is not None
    kernel = bare.kernel.running
    state = {
        "stack": stack.id,
        "gpus": str(sum(one.pci_class.startswith("03") for one in bare.pci or ())),
        "nvswitches": str(sum(one.pci_class.startswith("0680") for one in bare.pci or ())),
    }
    values: dict[str, Any] = {
        "kernel": bare.kernel.model_copy(update={"headers": (kernel,)}),
        "modules": Modules(
            loaded_version=driver.version if driver else "",
            loaded_flavour=driver.flavour if driver else None,
            installed=(
                InstalledModule(kernel=kernel, version=driver.version, flavour=driver.flavour),
            )
            if driver
            else (),
            nouveau_loaded=False,
            nouveau_blacklisted=driver is not None,
            refcount=0,
        ),
        "packages": packages,
        "services": {
            unit: Service(load="loaded", active="active", enabled="enabled")
            for unit in units(wanted)
        },
        **settled(wanted, bare),
        "environments": (
            Environment(
                id=environment.id,
                current=True,
                complete=True,
                manifest="d" * 64,
                found="d" * 64,
                in_use=False,
                wheels=versions(environment),
                python=folder_of(python) if python else "",
            ),
        )
        if environment
        else (),
        "pythons": (
            PythonBuild(name=folder_of(python), manifest="e" * 64, found="e" * 64, in_use=False),
        )
        if python
        else (),
        "cuda": Cuda(
            link=f"/usr/local/cuda-{stack.cuda.version}" if stack.cuda else "",
            toolkits=(stack.cuda.version,) if stack.cuda else (),
        ),
        "python": bare.python.model_copy(update={"venv": True, "headers": True}),
        "compiler": bare.compiler or "12.2.0",
        "tools": tuple(sorted({*bare.tools, "dkms", *(["versionlock"] if dnf else [])})),
        "streams": dict([driver.stream.split(":")]) if driver and driver.stream else {},
        "own_versionlocks": locks(wanted) if dnf else (),
        "files": written(wanted, bare.model_copy(update={"state": state})),
        "state": state,
    }
    return bare.model_copy(update={**values, **changes})
