"""The words of every dnf transaction of ours (dnf 4).

As with apt, one transaction names the whole closure of a component at exact versions. What dnf
resolved is judged inside dnf itself, by a plugin of ours that is loaded for this one run: it sees
the packages as objects, before anything is fetched, and the run that is judged is the run that
acts. dnf's printed plan is wrapped at 80 columns and cannot be read reliably, and a program of our
own on dnf's API would have to repeat what its command does (signatures, history, test run).
"""

from collections.abc import Iterable

from deploy.interest import GPU_PACKAGES, RDMA_PACKAGES
from deploy.packages import locked
from deploy.shell import assign, script, words
from deploy.stack import Packages, Stack
from deploy.steps import Command

WAIT_S = 300
"""How long a transaction waits for another one (cloud-init, dnf-automatic) to end."""

SOURCE = "/etc/yum.repos.d/gpufleet.repo"
"""The vendor's repository as we configure it."""

_TOOLS = f"""\
work=$(mktemp -d /run/gpufleet-dnf.XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' HUP INT TERM
plugins=
dnf4() {{
    command dnf -y --setopt=exit_on_lock=1 --setopt='*.skip_if_unavailable=1' \\
        --setopt=installonly_limit=0 --setopt=install_weak_deps=0 ${{plugins:+"$plugins"}} \\
        --disableplugin=versionlock "$@" </dev/null
}}
patiently() {{
    patience={WAIT_S // 5}
    while :; do
        {{ code=0; "$@" || code=$?; echo "$code" >"$work/code"; }} 2>&1 | tee "$work/said"
        code=$(cat "$work/code")
        [ "$code" -ne 0 ] || return 0
        [ "$code" -eq 200 ] || grep -q "can't create transaction lock" "$work/said" ||
            return "$code"
        [ "$patience" -gt 0 ] || return "$code"
        patience=$((patience - 1))
        sleep 5
    done
}}
"""
"""dnf ends with 200 when another process holds one of its locks (dnf(8), "Exit Codes"), and rpm
says that it cannot have its own. Optional dependencies stay out, as they do with apt. A repository
of the host that cannot be read is none of our business: what it alone has is then not found."""

_GUARD = """\
import os
import re

import dnf


class Guard(dnf.Plugin):
    name = "gpufleet"

    def __init__(self, base, cli):
        super().__init__(base, cli)
        self.base = base

    def sack(self):
        for name in os.environ["LEAVE"].split():
            if self.base.sack.query().installed().filter(name=name).run():
                self.base.remove(name)

    def resolved(self):
        wanted = set(os.environ["WANTED"].split())
        names = {entry.partition("=")[0] for entry in wanted}
        may_go = set(os.environ["MAY_GO"].split())
        also = set(os.environ["ALSO"].split())
        coming = list(self.base.transaction.install_set)
        going = {package.name for package in self.base.transaction.remove_set}
        going -= {package.name for package in coming}
        said = ["it would remove " + name for name in sorted(going - may_go)]
        for package in coming:
            evr = package.evr[2:] if package.evr.startswith("0:") else package.evr
            if package.name + "=" + evr in wanted or package.name in also:
                continue
            if package.name in may_go and package.version == os.environ["MAY_BE"]:
                continue
            here = self.base.sack.query().installed().filter(name=package.name)
            if re.search(os.environ["THEIRS"], package.name) and here.run():
                said.append(
                    "it would change %s, which belongs to the RDMA stack" % package.name
                )
            if package.name in names or re.search(os.environ["GPU"], package.name):
                said.append(
                    "it would put %s at %s, which is not in the lock" % (package.name, evr)
                )
        if said:
            with open(os.environ["REFUSED"], "w") as file:
                file.write("".join(line + "\\n" for line in said))
            raise dnf.exceptions.Error("gpufleet refuses this transaction")
"""

_TRANSACTION = """\
mkdir "$work/plugins"
cat >"$work/plugins/gpufleet.py"
interpreter=$(sed -n '1s/^#! *//p' "$(command -v dnf)")
plugins="--setopt=pluginpath=$work/plugins,$($interpreter -c '
import dnf.const
print(dnf.const.PLUGINPATH)')"
REFUSED=$work/refused
export LEAVE WANTED MAY_GO MAY_BE ALSO GPU THEIRS REFUSED
refuse() {
    [ -s "$REFUSED" ] || return 0
    cat "$REFUSED" >&2
    echo "nothing was changed: dnf would do more than the plan says; see" \\
        "gpufleet lock for versions that agree" >&2
    exit 1
}
if ! patiently dnf4 --downloadonly "$@"; then
    refuse
    echo "reading the repositories afresh"
    if ! patiently dnf4 --refresh --downloadonly "$@"; then
        refuse
        echo "dnf cannot do this with the repositories of this host; if a version is gone from" \\
            "the repository, gpufleet lock picks one that is there; an exclude in dnf.conf or in" \\
            "a .repo file hides packages, too" >&2
        exit 1
    fi
fi
"""

_CHANGE = """\
# A transaction that was cut off leaves a package installed in two versions. dnf has no word for
# one of them, rpm has. What stays is installed once more, since its scripts may not have run.
again=
for entry in $WANTED; do
    name=${entry%%=*}
    version=${entry#*=}
    count=$(rpm -q --qf '%{ARCH}\\n' "$name" 2>/dev/null | sort | uniq -d | wc -l)
    [ "$count" -gt 0 ] || continue
    keep=
    for one in $(rpm -q --qf '%{EVR}=%{ARCH}\\n' "$name"); do
        [ "${one%%=*}" != "$version" ] || keep=$version
    done
    [ -n "$keep" ] || keep=$(rpm -q --qf '%{INSTALLTIME} %{EVR}\\n' "$name" | sort -n |
        sed -n '$s/.* //p')
    for one in $(rpm -q --qf '%{EVR}=%{ARCH}\\n' "$name"); do
        [ "${one%%=*}" != "$keep" ] || continue
        echo "$name ${one%%=*} was left behind by a transaction that was cut off"
        rpm -e --nodeps "$name-${one%%=*}.${one#*=}" ||
            rpm -e --nodeps --noscripts "$name-${one%%=*}.${one#*=}"
    done
    [ "$keep" != "$version" ] || again="$again $name-$version"
done
if ! patiently dnf4 -C "$@"; then
    refuse
    exit 1
fi
[ -z "$again" ] || patiently dnf4 reinstall $again
for entry in $EXACTLY; do
    found=$(rpm -q --qf '%{EVR} ' "${entry%%=*}" 2>/dev/null) || found=
    case " $found" in *" ${entry#*=} "* | *" 0:${entry#*=} "*) continue ;; esac
    echo "${entry%%=*} is ${found:-not there} although dnf found nothing wrong, wanted" \\
        "${entry#*=}" >&2
    exit 1
done
ldconfig
"""


def tools() -> str:
    """Shell text that defines `dnf4` and `patiently`, and the folder `$work`.

    `dnf4` is dnf as we always call it, without its plugin of locks; `patiently` repeats a command
    while another process holds dnf's or rpm's lock.
    """
    return _TOOLS


def update(repository: str) -> str:
    """Shell text that reads one repository afresh; its failure is an error."""
    return (
        _TOOLS
        + assign(repository=repository)
        + 'patiently dnf4 --disablerepo="*" --enablerepo="$repository" '
        + '--setopt="$repository.skip_if_unavailable=0" --refresh makecache\n'
    )


def transaction(
    stack: Stack,
    pins: Packages,
    *,
    remove: Iterable[str] = (),
    may_go: Iterable[str] = (),
    may_be: str = "",
    also: Iterable[str] = (),
    before: str = "",
    timeout_s: int = 3600,
    log: str = "",
) -> Command:
    """One dnf transaction, as `deploy.transact.transaction` describes it.

    dnf goes back to an older version when one is named (tried with dnf 4.14). Only what may go is
    removed: `--allowerasing` is said only when something may, and the guard looks at the rest.
    """
    leaving, going = sorted(remove), sorted({*remove, *may_go})
    arguments = ["install", *(["--allowerasing"] if going else [])]
    arguments += [f"{name}-{pin.version}" for name, pin in sorted(pins.items())]
    arguments += sorted(also)
    values = assign(
        LEAVE=" ".join(leaving),
        WANTED=_entries(locked(stack) | pins),
        EXACTLY=_entries(pins),
        MAY_GO=" ".join(going),
        MAY_BE=may_be,
        ALSO=" ".join(sorted(also)),
        GPU=GPU_PACKAGES,
        THEIRS=RDMA_PACKAGES,
    )
    return Command(
        shell=script(values, _TOOLS, f"set -- {words(arguments)}\n", _TRANSACTION, before, _CHANGE),
        stdin=_GUARD,
        timeout_s=timeout_s,
        log=log,
    )


def _entries(pins: Packages) -> str:
    return " ".join(f"{name}={pin.version}" for name, pin in sorted(pins.items()))


def stream(name: str) -> Command:
    """Enable a module stream, whichever one of the module was enabled before."""
    module = name.partition(":")[0]
    return Command(
        shell=script(
            _TOOLS,
            assign(module=module, stream=name),
            'patiently dnf4 module reset "$module"',
            'patiently dnf4 module enable "$stream" ||',
            '    patiently dnf4 --refresh module enable "$stream"',
        ),
        timeout_s=900,
    )
