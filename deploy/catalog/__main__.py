"""`python -m deploy.catalog`: the catalogue against what its vendors publish, and what it promises.

    refresh FILE...   captured vendor files against the catalogue; --write enters differences
    check-torch       the rows of torch against the wheels that the package index serves now
    matrix            every combination: solved, or blocked with its reason

Exit codes: 0 nothing differs, 1 something does, 2 bad input or a question without an answer.
"""

import argparse
import sys
from pathlib import Path

from deploy.catalog.captured import CaptureError, read
from deploy.catalog.difference import Difference
from deploy.catalog.load import FILES, CatalogueError, load
from deploy.catalog.models import Catalogue, Source
from deploy.catalog.refresh import compare
from deploy.catalog.rewrite import rewritten
from deploy.catalog.said import DriverManifest, Said, ToolkitManifest, WheelSaid
from deploy.catalog.wheels import AskError, check_torch
from deploy.fleet.runs import now, printable

HOME = Path(__file__).parent


def main(argv: list[str], home: Path = HOME) -> int:
    """Runs one subcommand; `home` holds the data files that --write changes."""
    if argv[:1] == ["matrix"]:
        from deploy.matrix import main as matrix  # it imports the whole solver

        return matrix(argv[1:])
    parser = argparse.ArgumentParser(prog="python -m deploy.catalog")
    commands = parser.add_subparsers(dest="command", required=True)
    refresh = commands.add_parser("refresh", help="differences between vendor files and catalogue")
    refresh.add_argument("file", nargs="+", type=Path)
    refresh.add_argument("--write", action="store_true", help="enter what can be entered")
    check = commands.add_parser("check-torch", help="rows of torch against a package index")
    check.add_argument("--index", default="", help="its address; default: the one uv is set up for")
    commands.add_parser("matrix", help="every combination: solved, or blocked with its reason")
    asked = parser.parse_args(argv)
    try:
        if asked.command == "refresh":
            return _refresh(asked.file, home, write=asked.write)
        return _check_torch(asked.index)
    except CaptureError as error:
        return _refused("these files are not what vendors publish; nothing was read", error.faults)
    except CatalogueError as error:
        return _refused("the catalogue would contradict itself; nothing was written", error.faults)
    except AskError as error:
        return _refused("the package index could not be asked", [str(error)])


def _refused(words: str, faults: list[str]) -> int:
    print(f"{words}:", *(f"  {printable(fault)}" for fault in faults), sep="\n", file=sys.stderr)
    return 2


def _check_torch(index: str) -> int:
    found = check_torch(load(), index)
    for line in found:
        print(printable(line))
    releases = len(load().torch)
    print(f"{releases} releases of torch asked for, {len(found)} differences")
    return 1 if found else 0


def _refresh(paths: list[Path], home: Path, *, write: bool) -> int:
    catalogue: Catalogue = load()
    found: list[tuple[Difference, str, Source]] = []
    for _, said in read(paths):
        key, source = _source(said)
        found += [(one, key, source) for one in compare(catalogue, said, now()[:7])]
    for one, _, _ in found:
        print(printable(one.words))
    edits = [(one.edit, key, source) for one, key, source in found if one.edit]
    if not found:
        print("the catalogue says the same")
        return 0
    if not write:
        print(f"{len(found)} differences, {len(edits)} of them can be entered with --write")
        return 1
    texts = {name: (home / f"{name}.toml").read_text() for name in FILES}
    changed = rewritten(texts, edits) if edits else {}
    for name, text in changed.items():
        (home / f"{name}.toml").write_text(text)
        print(f"{name}.toml is rewritten; read it before you commit it")
    return 1 if len(edits) < len(found) else 0


def _source(said: Said) -> tuple[str, Source]:
    """Key and source of the rows that a file changes, dated by the file or by today."""
    day = now()[:10]
    match said:
        case DriverManifest():
            title, day = f"redistrib_{said.version}.json of compute/nvidia-driver", said.date
        case ToolkitManifest():
            title, day = f"redistrib_{said.version}.json of compute/cuda", said.date
        case WheelSaid():
            local = f"+{said.build}" if said.build else ""
            title = f"METADATA of torch {said.version}{local}"
        case _:
            title = "releases.json of the data-centre drivers (docs.nvidia.com)"
    key = "".join(one if one.isalnum() else "_" for one in f"{title} {day}").lower()
    return key, Source(title=title, date=day)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
