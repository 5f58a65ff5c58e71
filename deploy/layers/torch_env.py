"""The Python environment: built beside the current one, checked, then switched by a symlink.

Where the host's own Python is not the one that is needed, uv installs one first, below
`<prefix>/python`; it stays as long as an environment or a process uses it.

Every wheel is locked by hash, so it does not matter which of the given places serves it and no
index can slip in another project's file. An environment in use stays on disk until the last
process has ended; the one before the current stays for a rollback.
"""

from packaging.utils import canonicalize_name

from deploy.facts import Environment, NodeFacts
from deploy.fleet.places import places
from deploy.known import known
from deploy.layers.env_build import (
    FINISH,
    INTERPRETER,
    PLACE,
    PYTHON,
    START,
    TIDY,
    TOOL,
    WITH_UV,
    WITH_VENV,
    network,
    preamble,
)
from deploy.managed_python import download_list, folder_of
from deploy.record import PREVIOUS_ENVIRONMENT, recorder
from deploy.shell import assign, script
from deploy.stack import ManagedPython, TorchEnvironment
from deploy.steps import Command, Step, Wanted

NAME = "torch-env"
BUILD_S = 5400
PYTHON_S = 1800

_SWITCH = f"""\
if ! [ -e "$prefix/envs/$id/.gpufleet-manifest" ]; then
    echo "$prefix/envs/$id is not complete; the current environment stays" >&2
    exit 1
fi
before=$(readlink "$prefix/env" || :)
before=${{before##*/}}
if [ -n "$before" ] && [ "$before" != "$id" ]; then record {PREVIOUS_ENVIRONMENT} "$before"; fi
new=$(mktemp -u "$prefix/.env.XXXXXX")
ln -s "envs/$id" "$new"
mv -fT "$new" "$prefix/env"
"""

_REMOVE = """\
for id in $ids; do
    folder=$prefix/envs/$id
    [ -d "$folder" ] || continue
    if [ "$(readlink -f "$prefix/env" || :)" = "$(readlink -f "$folder")" ]; then continue; fi
    if grep -lsF "$folder/" /proc/[0-9]*/maps | grep -q .; then
        echo "$folder came into use: it stays"
        continue
    fi
    rm -rf -- "$folder"
done
for name in $pythons; do
    folder=$prefix/python/$name
    [ -d "$folder" ] || continue
    if find "$envs" -mindepth 3 -maxdepth 3 -path '*/bin/python' -lname "$folder/*" | grep -q .
    then
        echo "$folder came into use: it stays"
        continue
    fi
    if grep -lsF "$folder/" /proc/[0-9]*/maps | grep -q .; then
        echo "$folder came into use: it stays"
        continue
    fi
    rm -rf -- "$folder"
done
"""


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Built and whole, current, and nothing left that nobody uses."""
    environment = wanted.stack.environment
    if environment is None:
        return []
    there = known(facts, "environments", facts.environments)
    mine = next((one for one in there if one.id == environment.id), None)
    found = []
    if environment.managed_python:
        found += _python(wanted, environment, environment.managed_python, facts)
    if mine is None or not whole(mine):
        found.append(_build(wanted, environment, mine))
    if mine is None or not mine.current:
        found.append(_switch(wanted, environment, there))
    return found + _remove(wanted, environment, there, facts)


def whole(environment: Environment) -> bool:
    """Its files are those that were there when it was built."""
    return environment.complete and environment.manifest == environment.found


def versions(environment: TorchEnvironment) -> dict[str, str]:
    """Normalised name -> version of every locked wheel."""
    found: dict[str, str] = {}
    for line in environment.requirements:
        name, _, rest = line.partition("==")
        found[canonicalize_name(name)] = rest.split(maxsplit=1)[0]
    return found


def _damage(environment: TorchEnvironment, mine: Environment) -> str:
    """What differs from the lock in an environment that is there, as far as it can be named."""
    if not mine.complete:
        return "it was left unfinished"
    locked = versions(environment)
    gone = sorted(name for name in locked if name not in mine.wheels)
    other = sorted(
        f"{name} {mine.wheels[name]}"
        for name in locked
        if name in mine.wheels and mine.wheels[name] != locked[name]
    )
    more = sorted(name for name in mine.wheels if name not in locked)
    said = [f"removed: {', '.join(gone[:5])}"] if gone else []
    said += [f"changed: {', '.join(other[:5])}"] if other else []
    said += [f"added: {', '.join(more[:5])}"] if more else []
    return "; ".join(said) or "files differ from those that were installed"


def _uv(environment: TorchEnvironment) -> dict[str, str]:
    hashes = (f"--hash={one}" for one in environment.uv_hashes)
    return {
        "uv_version": environment.uv,
        "uv_requirement": " ".join([f"uv=={environment.uv}", *hashes]),
    }


def _interpreter(python: ManagedPython | None) -> str:
    """Of a Python that uv brings, below `<prefix>/python`; "" for the host's own."""
    if python is None:
        return ""
    minor = python.version.rpartition(".")[0]
    return f"{folder_of(python)}/{python.key}/bin/python{minor}"


def _python(
    wanted: Wanted, environment: TorchEnvironment, python: ManagedPython, facts: NodeFacts
) -> list[Step]:
    there = known(facts, "pythons", facts.pythons)
    mine = next((one for one in there if one.name == folder_of(python)), None)
    if mine is not None and mine.manifest and mine.manifest == mine.found:
        return []
    values = assign(
        prefix=wanted.spec.prefix,
        folder=folder_of(python),
        key=python.key,
        version=python.version,
        minor=environment.python,
        url=python.url,
        sha256=python.sha256,
        **_uv(environment),
    )
    install = Command(
        shell=script(preamble(values), network(wanted.spec, environment), TOOL, PYTHON),
        stdin=download_list(python),
        timeout_s=PYTHON_S,
    )
    why = f"the host's own is {facts.python.version or 'none'}" if facts.python else "it is missing"
    return [
        Step(
            layer=NAME,
            title=f"Python {python.version} is installed below {wanted.spec.prefix}/python",
            why=why if mine is None else "files differ from those that were installed",
            commands=(install,),
            # Modules that a running process imports later would be of other files.
            disruptive=mine is not None and mine.in_use,
        )
    ]


def _build(wanted: Wanted, environment: TorchEnvironment, mine: Environment | None) -> Step:
    spec = wanted.spec
    values = assign(
        prefix=spec.prefix,
        id=environment.id,
        python=environment.python,
        python_folder=_interpreter(environment.managed_python),
        torch=environment.torch,
        **_uv(environment),
    )
    made = (TOOL, INTERPRETER, WITH_UV) if environment.kind == "uv" else (INTERPRETER, WITH_VENV)
    build = Command(
        shell=script(preamble(values), network(spec, environment), START, *made, FINISH, PLACE),
        stdin="".join(f"{line}\n" for line in environment.requirements),
        timeout_s=BUILD_S,
    )
    kind = f"torch {environment.torch}, {environment.build}, Python {environment.python}"
    kind += ", venv" if environment.kind == "venv" else ""
    why = "it does not exist" if mine is None else _damage(environment, mine)
    return Step(
        layer=NAME,
        title=f"environment {environment.id} ({kind}) is built",
        why=why,
        commands=(build,),
        # Replacing one that runs would mix two builds in a process that imports something later.
        disruptive=mine is not None and mine.current and mine.in_use,
        download=environment.size,
    )


def _switch(wanted: Wanted, environment: TorchEnvironment, there: tuple[Environment, ...]) -> Step:
    current = next((one for one in there if one.current), None)
    values = assign(prefix=wanted.spec.prefix, id=environment.id)
    return Step(
        layer=NAME,
        title=f"{wanted.spec.prefix}/env is environment {environment.id}",
        why=f"it is {current.id}" if current else "it does not exist",
        commands=(
            Command(shell=script(recorder(places(wanted.spec)), values, _SWITCH), timeout_s=60),
        ),
        # A process started through the link would find other modules at its next import.
        disruptive=current is not None and current.in_use,
    )


def _remove(
    wanted: Wanted,
    environment: TorchEnvironment,
    there: tuple[Environment, ...],
    facts: NodeFacts,
) -> list[Step]:
    current = next((one.id for one in there if one.current), "")
    others = [one for one in there if one.id not in {environment.id, current}]
    if current and current != environment.id:
        kept = current  # it becomes the previous one with this very plan
    else:
        kept = known(facts, "state", facts.state).get(PREVIOUS_ENVIRONMENT, "")
        if kept not in {one.id for one in others}:
            kept = next((one.id for one in others if whole(one)), "")
    gone = {one.id for one in others if one.id != kept and not one.in_use}
    wish = environment.managed_python
    needed = {one.python for one in there if one.id not in gone}
    needed |= {folder_of(wish)} if wish else set()
    pythons = sorted(
        one.name
        for one in known(facts, "pythons", facts.pythons)
        if one.name not in needed and not one.in_use
    )
    if not gone and not pythons:
        return []
    values = assign(
        prefix=wanted.spec.prefix, ids=" ".join(sorted(gone)), pythons=" ".join(pythons)
    )
    said = [f"old environments are gone: {', '.join(sorted(gone))}"] if gone else []
    said += [f"unused Pythons are gone: {', '.join(pythons)}"] if pythons else []
    return [
        Step(
            layer=NAME,
            title="; ".join(said),
            why="no process uses them, and they are not the one to roll back to",
            commands=(Command(shell=script(preamble(values), TIDY, _REMOVE), timeout_s=900),),
        )
    ]
