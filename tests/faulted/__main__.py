"""`python -m tests.faulted FILE`: docs/fault-table.md from the lines of a long run.

Exit 0 when every row was found and every healthy run was; 1 when not, and the page says which.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.faulted import ALONE, FLEET, MATRIX
from tests.faulted.table import HEALTHY, page, read
from verify.report.catalogue import catalogue

PAGE = Path(__file__).parent.parent.parent / "docs/fault-table.md"


def main(words: list[str]) -> int:
    """Write the page."""
    (file,) = words
    rows = [ALONE, FLEET, *MATRIX]
    ours = {(row.fault, row.level) for row in rows}
    every = read(Path(file).read_text().splitlines())
    lines = [one for one in every if one.fault == HEALTHY or (one.fault, one.level) in ours]
    PAGE.write_text(page(lines, rows, catalogue()))
    known = {(one.fault, one.level) for one in lines}
    missing = [row.fault for row in rows if (row.fault, row.level) not in known]
    bad = [one.fault for one in lines if not one.good]
    print(
        f"{PAGE}: {len(lines)} lines, {len(bad)} bad, {len(missing)} rows not run", file=sys.stderr
    )
    assert any(one.fault == HEALTHY for one in lines), "no healthy run was told"
    return 1 if bad or missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
