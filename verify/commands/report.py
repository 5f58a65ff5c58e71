"""Show a verify run again, from its run directory: on the terminal, as JSON, as one HTML page.

Reads only. Without RUN it is the newest verify run below runs/. Exit codes: 0 the run was shown
(whatever it found), 2 wrong input.
"""

import argparse
import sys

from deploy.fleet import exits
from verify.report.document import write_file, write_json
from verify.report.html import page
from verify.report.read import find_verify, read_view
from verify.report.screen import write
from verify.report.signoff import lines
from verify.report.terminal import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="id or directory of a run")
    parser.add_argument("--html", metavar="FILE", help="write one static HTML page")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write it as JSON (- = stdout)"
    )


def run(arguments: argparse.Namespace) -> int:
    view = read_view(find_verify(arguments.run))
    if arguments.html:
        write_file(arguments.html, page(view), "--html")
    if arguments.json:
        write_json(view, arguments.json)
    stream = sys.stderr if arguments.json == "-" else sys.stdout
    show(view, stream)
    write(lambda width: lines(view, width), stream)
    if arguments.html:
        print(f"page:   {arguments.html}", file=sys.stderr)
    return exits.OK
