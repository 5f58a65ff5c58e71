"""A site's own check: the scratch folder that jobs write to.

Copied to checks/ beside an inventory, it is asked of every host at level quick.
"""

from verify.checks import Component, check

SCRATCH = "/scratch"


@check("site.scratch", component="disk", source="our wiki, storage page", action="drain")
def test_scratch(host, look):
    """Jobs can write to the scratch folder."""
    part = Component(kind="disk", name=SCRATCH)
    if not host.file(SCRATCH).exists:
        look.at(part, "scratch folder", found="none", expected="a folder that jobs can write to")
        return
    probe = host.run("test -d %s && test -w %s", SCRATCH, SCRATCH)
    look.at(
        part,
        "scratch folder",
        found="writable" if probe.rc == 0 else "not writable",
        expected="writable",
        evidence=[f"ls -ld {SCRATCH}: {host.run('ls -ld %s', SCRATCH).stdout.strip()}"],
    )
