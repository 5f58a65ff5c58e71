"""The Python environment: built beside the current one, checked, then switched by a symlink.

Every wheel is locked by hash, so it does not matter which of the given places serves it and no
index can slip in another project's file. An environment in use stays on disk until the last
process has ended; the one before the current stays for a rollback.
"""

from packaging.utils import canonicalize_name

from deploy.env_build import BUILD, PLACE, TIDY, network, preamble
from deploy.facts import Environment, NodeFacts
from deploy.fleet.places import places
from deploy.known import known
from deploy.record import PREVIOUS_ENVIRONMENT, recorder
from deploy.shell import assign, script
from deploy.stack import TorchEnvironment
from deploy.steps import Command, Step, Wanted

NAME = "torch-env"
BUILD_S = 5400

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
"""


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Built and whole, current, and nothing left that nobody uses."""
    environment = wanted.stack.environment
    if environment is None:
        return []
    there = known(facts, "environments", facts.environments)
    mine = next((one for one in there if one.id == environment.id), None)
    found = []
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


def _build(wanted: Wanted, environment: TorchEnvironment, mine: Environment | None) -> Step:
    spec = wanted.spec
    values = assign(
        prefix=spec.prefix,
        id=environment.id,
        python=environment.python,
        torch=environment.torch,
        uv_version=environment.uv,
        uv_requirement=" ".join(
            [f"uv=={environment.uv}", *(f"--hash={one}" for one in environment.uv_hashes)]
        ),
    )
    build = Command(
        shell=script(preamble(values), network(spec, environment), BUILD, PLACE),
        stdin="".join(f"{line}\n" for line in environment.requirements),
        timeout_s=BUILD_S,
    )
    kind = f"torch {environment.torch}, {environment.build}, Python {environment.python}"
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
    going = sorted(one.id for one in others if one.id != kept and not one.in_use)
    if not going:
        return []
    values = assign(prefix=wanted.spec.prefix, ids=" ".join(going))
    return [
        Step(
            layer=NAME,
            title=f"old environments are gone: {', '.join(going)}",
            why="no process uses them, and they are not the one to roll back to",
            commands=(Command(shell=script(preamble(values), TIDY, _REMOVE), timeout_s=900),),
        )
    ]
