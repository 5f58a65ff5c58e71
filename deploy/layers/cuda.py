"""The CUDA toolkit: releases side by side, /usr/local/cuda at the wanted one, on everybody's PATH.

Login shells read /etc/profile.d. Services read neither that nor /etc/environment (PAM does, for
sessions), and environment.d(5) is for user managers only; the one place for all system services
is DefaultEnvironment= of systemd's manager (systemd-system.conf(5)). It is set in a drop-in of our
own. Nothing is put on the loader's path unless the spec asks: a system cuDNN or NCCL before the
wheel's own breaks torch at the first convolution (design, part 7).
"""

from deploy.facts import NodeFacts
from deploy.known import known
from deploy.layers.files import file_step
from deploy.layers.library import packages_step
from deploy.shell import assign, script
from deploy.steps import Command, Step, Wanted

NAME = "cuda"
LINK = "/usr/local/cuda"
PROFILE = "/etc/profile.d/gpufleet-cuda.sh"
SERVICES = "/etc/systemd/system.conf.d/gpufleet-cuda.conf"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What systemd gives to services when nothing is set (systemd.exec(5), "Environment variables in
spawned processes"); our drop-in replaces it, so it is repeated there."""

_SWITCH = """\
if [ -e "$link" ] && ! [ -L "$link" ]; then
    echo "$link is a directory that no package owns as a link; move it away, then apply again" >&2
    exit 1
fi
if ! [ -d "$release" ]; then
    echo "$release does not exist although its packages are installed" >&2
    exit 1
fi
if update-alternatives --query cuda 2>/dev/null | grep -qxF "Alternative: $release"; then
    update-alternatives --set cuda "$release"
fi
if [ "$(readlink -f "$link" || :)" != "$release" ]; then
    new=$(mktemp -u "$link.gpufleet.XXXXXX")
    ln -s "$release" "$new"
    mv -fT "$new" "$link"
fi
"""


def profile_text(library_path: bool) -> str:
    """PATH for login shells; added once however often it is read."""
    text = (
        "# CUDA's tools for login shells. Written by gpufleet, which keeps this file as it is.\n"
        f'case ":$PATH:" in *:{LINK}/bin:*) ;; *) PATH={LINK}/bin:$PATH ;; esac\n'
        "export PATH\n"
    )
    if library_path:
        text += (
            f'case ":${{LD_LIBRARY_PATH:-}}:" in *:{LINK}/lib64:*) ;; '
            f"*) LD_LIBRARY_PATH={LINK}/lib64${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}} ;; esac\n"
            "export LD_LIBRARY_PATH\n"
        )
    return text


def services_text(library_path: bool) -> str:
    """The same for every system service that is started from now on."""
    values = [f'"PATH={LINK}/bin:{SYSTEM_PATH}"']
    if library_path:
        values.append(f'"LD_LIBRARY_PATH={LINK}/lib64"')
    return (
        "# CUDA's tools for services. Written by gpufleet, which keeps this file as it is.\n"
        f"[Manager]\nDefaultEnvironment={' '.join(values)}\n"
    )


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Packages, link, PATH. Other releases stay where they are."""
    cuda = wanted.stack.cuda
    if cuda is None:
        return []
    shared = wanted.spec.library_path
    return [
        *packages_step(NAME, "CUDA toolkit", wanted, cuda, facts, family=""),
        *_link(cuda.version, facts),
        *file_step(
            NAME, "CUDA is on the PATH of login shells", facts, PROFILE, profile_text(shared)
        ),
        *file_step(
            NAME,
            "CUDA is on the PATH of services",
            facts,
            SERVICES,
            services_text(shared),
            then="systemctl daemon-reload\n",
        ),
    ]


def release_folder(version: str) -> str:
    """Where the vendor's packages put a release: /usr/local/cuda-13.0."""
    return f"{LINK}-{'.'.join(version.split('.')[:2])}"


def _link(version: str, facts: NodeFacts) -> list[Step]:
    found, release = known(facts, "cuda", facts.cuda).link, release_folder(version)
    if found == release:
        return []
    return [
        Step(
            layer=NAME,
            title=f"{LINK} is {release}",
            why=f"it is {found}" if found else "it does not exist",
            commands=(
                Command(shell=script(assign(link=LINK, release=release), _SWITCH), timeout_s=60),
            ),
            # A program that was started with the other release may open more of it.
            disruptive=found != "",
        )
    ]
