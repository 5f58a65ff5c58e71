"""The words of every apt transaction of ours.

One transaction names the whole closure of a component at exact versions, because the vendor's
metapackages depend with `>=` (research: provisioning 2.7 and dstackai/dstack PR 2355). It is
simulated first, and refused when it would touch a GPU package that nobody named or remove
anything that the plan does not expect to go.
"""

import re
import shlex
from collections.abc import Iterable

from deploy.interest import GPU_PACKAGES, RDMA_PACKAGES
from deploy.packages import Difference, locked
from deploy.record import HELD, recorder
from deploy.shell import assign, script, words
from deploy.stack import Packages, Stack
from deploy.steps import Command

WAIT_S = 300
"""How long a transaction waits for another one (cloud-init, unattended-upgrades) to end."""

SOURCE = "/etc/apt/sources.list.d/gpufleet.sources"
"""The vendor's repository as we configure it."""

_APT = f"""\
export DEBIAN_FRONTEND=noninteractive APT_LISTCHANGES_FRONTEND=none NEEDRESTART_SUSPEND=1
work=$(mktemp -d /run/gpufleet-apt.XXXXXX)
archives=/var/cache/apt/archives/gpufleet
trap 'code=$?; rm -rf "$work"; [ "$code" -ne 0 ] || rm -rf "$archives"' EXIT
trap 'exit 143' HUP INT TERM
mkdir -p "$archives"
apt() {{
    apt-get -y -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout={WAIT_S} -o Acquire::Retries=3 \\
        -o Dir::Cache::archives="$archives" \\
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::="--force-${{conffiles:-confold}}" "$@"
}}
patiently() {{
    patience={WAIT_S // 5}
    while :; do
        {{ code=0; "$@" || code=$?; echo "$code" >"$work/code"; }} 2>&1 | tee "$work/said"
        code=$(cat "$work/code")
        [ "$code" -ne 0 ] || return 0
        grep -q -e '^E: Could not get lock' -e '^dpkg: error: .*lock was locked' "$work/said" &&
            [ "$patience" -gt 0 ] || return "$code"
        patience=$((patience - 1))
        sleep 5
    done
}}
refresh() {{
    patiently apt update ||
        echo "some package sources of this host could not be read; going on with the others"
}}
"""

_TRANSACTION = """\
simulate() {
    apt -s "$@" >"$work/plan" 2>&1
}
if ! simulate "$@"; then
    echo "reading the package lists afresh"
    refresh
    if ! simulate "$@"; then
        cat "$work/plan" >&2
        echo "apt cannot do this with the package sources of this host; if a version is gone" \\
            "from the repository, gpufleet lock picks one that is there" >&2
        exit 1
    fi
fi
judge() {
    WANTED=" $wanted " ALSO=" $also " ALSO_LIKE="$also_like" MAY_GO=" $may_go " \\
        MAY_BE="$may_be" GPU="$gpu" THEIRS="$theirs" awk '
        function known(list, word) { return index(ENVIRON[list], " " word " ") > 0 }
        $1 == "Remv" || $1 == "Purg" {
            name = $2; sub(/:.*/, "", name)
            if (!known("MAY_GO", name)) { print "it would remove " name; bad = 1 }
        }
        $1 == "Inst" {
            name = $2; sub(/:.*/, "", name)
            field = substr($3, 1, 1) == "[" ? $4 : $3
            version = substr(field, 2); upstream = version
            sub(/^[0-9]+:/, "", upstream); sub(/-[^-]*$/, "", upstream)
            if (known("WANTED", name "=" version) || known("ALSO", name)) next
            if (ENVIRON["ALSO_LIKE"] != "" && name ~ ENVIRON["ALSO_LIKE"]) next
            if (known("MAY_GO", name) && upstream == ENVIRON["MAY_BE"]) next
            if (substr($3, 1, 1) == "[" && name ~ ENVIRON["THEIRS"]) {
                print "it would change " name ", which belongs to the RDMA stack"; bad = 1
            }
            if (index(ENVIRON["WANTED"], " " name "=") || name ~ ENVIRON["GPU"]) {
                print "it would put " name " at " version ", which is not in the lock"; bad = 1
            }
        }
        END { exit bad }
    ' "$work/plan" >&2
}
refuse() {
    echo "nothing was changed: apt would do more than the plan says; see" \\
        "gpufleet lock for versions that agree" >&2
    exit 1
}
judge || refuse
if ! patiently apt --download-only "$@"; then
    echo "reading the package lists afresh"
    refresh
    simulate "$@" && judge || refuse
    patiently apt --download-only "$@"
fi
# A package that dpkg was killed in may be noted at its new version and still need unpacking. apt
# does not do that before it configures what depends on it, and --reinstall for all ends in an
# internal error at packages that are merely unpacked (both seen with apt 2.6).
for torn in $(dpkg-query -W -f '${db:Status-Abbrev} ${Package}=${Version}\\n' |
    awk '$1 ~ /R$/ { print $2 }'); do
    case " $wanted " in *" $torn "*) ;; *) continue ;; esac
    mkdir "$work/torn"
    (cd "$work/torn" && apt download "$torn")
    patiently dpkg --unpack --force-depends --force-breaks "$work/torn"/*.deb
    rm -r "$work/torn"
done
"""


def tools() -> str:
    """Shell text that defines `apt`, `patiently` and `refresh`, and the folder `$work`.

    `apt` is apt-get as we always call it, `patiently` repeats a command while another process
    holds apt's lists or archives (DPkg::Lock::Timeout waits for dpkg's lock only; tried with apt
    2.6), `refresh` reads all package lists. `$conffiles` names dpkg's rule for edited files.
    """
    return _APT


def update(source: str = "") -> str:
    """Shell text that reads the package lists of one source file afresh, or of all.

    One source's failure is an error; a failure among all of the host's sources is only told,
    since most of them are none of our business.
    """
    if not source:
        return _APT + "refresh\n"
    return (
        _APT
        + assign(source=source)
        + 'patiently apt update -o Dir::Etc::sourcelist="$source" -o Dir::Etc::sourceparts=- '
        + "-o APT::Get::List-Cleanup=false -o APT::Update::Error-Mode=any\n"
    )


def transaction(
    stack: Stack,
    pins: Packages,
    lacks: Difference,
    *,
    remove: Iterable[str] = (),
    may_go: Iterable[str] = (),
    may_be: str = "",
    also: Iterable[str] = (),
    held: Iterable[str] = (),
    conffiles: str = "confold",
    before: str = "",
    timeout_s: int = 3600,
    log: str = "",
) -> Command:
    """One apt transaction that puts `pins` at their exact versions.

    `remove` leaves in the same transaction, with its configuration files. `may_go` are packages
    outside the lock that apt may remove, or bring to upstream version `may_be`. `also` come along
    at the version that apt finds; the parts that signed modules of a kernel are made of do, too.
    `held` are holds on those that may go. `before` runs when everything is downloaded, right
    before the change.
    Safe to run again after any interruption: apt finishes what dpkg had begun.
    """
    arguments = ["install", "--no-install-recommends", "--fix-broken"]
    if lacks.downgrade:
        arguments.append("--allow-downgrades")
    if lacks.held or list(held):
        arguments.append("--allow-change-held-packages")
    leaving, coming = sorted(remove), sorted(also)
    if leaving:
        arguments.append("--purge")
    arguments += [f"{name}={pin.version}" for name, pin in sorted(pins.items())]
    arguments += coming
    arguments += [f"{name}-" for name in leaving]
    everything = locked(stack) | pins
    parts = [
        assign(
            conffiles=conffiles,
            wanted=" ".join(f"{name}={pin.version}" for name, pin in sorted(everything.items())),
            may_go=" ".join(sorted({*leaving, *may_go})),
            may_be=may_be,
            also=" ".join(coming),
            also_like=_parts_of_signed_modules(coming),
            gpu=GPU_PACKAGES,
            theirs=RDMA_PACKAGES,
        ),
        _APT,
        f"set -- {words(arguments)}\n",
        _TRANSACTION,
        before,
    ]
    if lacks.held:
        parts += [recorder(), owe_holds(lacks.held)]
    parts.append('patiently apt "$@"')
    if lacks.held:
        parts.append(set_holds(lacks.held))
    return Command(shell=script(*parts), timeout_s=timeout_s, log=log)


def _parts_of_signed_modules(names: Iterable[str]) -> str:
    """Pattern of the packages that Ubuntu puts signed modules together from on the host: objects
    and signatures for the kernel that a package of modules is named after (package descriptions of
    linux-modules-nvidia-*, 2026-11)."""
    kernels = {found[1] for name in names if (found := _SIGNED.fullmatch(name))}
    if not kernels:
        return ""
    any_kernel = "|".join(sorted(re.escape(kernel).replace("\\-", "-") for kernel in kernels))
    return rf"^linux-(objects|signatures)-nvidia-.*({any_kernel})$"


_SIGNED = re.compile(r"linux-modules-nvidia-\d+[a-z-]*-(\d.*)")


def owe_holds(names: Iterable[str]) -> str:
    """Shell text that notes holds which the next lines take off (needs `recorder`)."""
    owed = f"$(recorded {HELD}) {words(names)}"
    return f"record {HELD} \"$(printf '%s\\n' {owed} | sort -u | xargs)\"\n"


def set_holds(names: Iterable[str]) -> str:
    """Shell text that holds packages and settles that debt (needs `recorder`)."""
    settled = "".join(f" -e {shlex.quote(name)}" for name in names)
    return (
        f"apt-mark hold -- {words(names)}\n"
        f"record {HELD} \"$(recorded {HELD} | tr ' ' '\\n' | grep -vxF{settled} | xargs)\"\n"
    )
