"""Explain a code of the kernel log: an Xid of a GPU, an SXid of an NVSwitch, from the tables."""

from __future__ import annotations

import re
from collections.abc import Iterator

from verify import xids
from verify.report.advice import DO
from verify.report.screen import Line
from verify.report.telling import wrapped

_NAME = re.compile(r"(?:(s?xid)[-_: ]?)?(\d{1,6})", re.IGNORECASE)
FIRST_SXID = 10_000
"""NVSwitches count from here on, GPUs far below (NVIDIA's two catalogues)."""
JUDGED = {
    "hardware": "a fault of the machine",
    "application": "a fault of the program that ran: no finding",
    "information": "a note: no finding",
    "fatal": "traffic through the switch stops",
    "non-fatal": "traffic suffers: a finding, and no failure",
}


def code_of(name: str) -> tuple[str, int] | None:
    """xid-79, XID 79, 79 -> ("xid", 79); sxid-20034, 20034 -> ("sxid", 20034); else None."""
    found = _NAME.fullmatch(name.strip())
    if found is None:
        return None
    code = int(found[2])
    return (found[1] or ("sxid" if code >= FIRST_SXID else "xid")).lower(), code


def of_code(kind: str, code: int, width: int) -> Iterator[Line]:
    """A code for people; of an unknown one what that means, and which known ones are near."""
    switch = kind == "sxid"
    table = xids.switch_table() if switch else xids.table()
    check, title = ("gpu.sxid", "SXid") if switch else ("gpu.xid", "Xid")
    row = table.get(code)
    yield "bold", f"{title} {code}"
    if row is None:
        near = sorted(sorted(table, key=lambda known: abs(known - code))[:3])
        for text in (
            "one that our table does not know: it may be newer than the table, or unused. That is "
            f"no reason for calm: {check} calls it degraded and asks to drain the host until the "
            "vendor's page for your driver branch has been read.",
            f"nearest that are known: {', '.join(map(str, near))}",
            "vendor's page: https://docs.nvidia.com/deploy/xid-errors/",
        ):
            yield from wrapped("", text, width, "  ")
        return
    yield from wrapped("", row["meaning"], width, "  ")
    action = DO.get(row["action"], "leave it in use; watch whether it comes again")
    lines = [("class", f"{row['class']}: {JUDGED[row['class']]}"), ("action", action)]
    if code == xids.RECOVERY_CHANGED and not switch:
        said = "; ".join(f"0x{number:x} {text}" for number, (text, _) in xids.RECOVERY.items())
        lines.append(("says", f"in its text what the driver wants done: {said}"))
    lines += [("source", row["source"]), ("driver", f"branch {row['driver']}")]
    for label, text in lines:
        yield from wrapped("", f"{label:<7} {text}", width, "  ", 8)
    yield "", f"  looked for by: gpufleet verify INVENTORY --check {check}"
