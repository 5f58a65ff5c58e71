"""Which simulated modules are installed, and which of them modprobe.d bars."""

import glob
import os
import re
import subprocess
from pathlib import Path

RELEASE = os.uname().release


def module_file(name):
    """Return (version, license) of an installed module by the real modinfo, None without one."""
    for spelling in (name, name.replace("_", "-")):
        asked = ["/sbin/modinfo", "-k", RELEASE, "-0", "-F"]
        version = subprocess.run([*asked, "version", spelling], capture_output=True, text=True)
        if version.returncode == 0:
            licence = subprocess.run([*asked, "license", spelling], capture_output=True, text=True)
            return version.stdout.strip("\0\n"), licence.stdout.strip("\0\n")
    return None


def settings(directories):
    """Return the lines of modprobe.d directories; a file hides its namesake in a later one."""
    files = {}
    for directory in reversed(directories):
        files |= {os.path.basename(f): f for f in glob.glob(f"{directory}/*.conf")}
    lines = [
        line.strip() for f in sorted(files) for line in Path(files[f]).read_text().splitlines()
    ]
    return [line for line in lines if line and not line.startswith("#")]


def barred(name, directories=("/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d")):
    """Tell whether a module is blacklisted or its install is replaced by a no-op."""
    wanted = re.compile(
        rf"blacklist\s+{_either(name)}\s*$|install\s+{_either(name)}\s+\S*(false|true)\b"
    )
    return any(wanted.match(line) for line in settings(directories))


def options(
    name, prefix, directories=("/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d")
):
    """Return the options of a module by name without prefix; of two the later one counts."""
    found = {}
    for line in settings(directories):
        words = line.split()
        if words[:2] == ["options", name]:
            found |= dict(word.removeprefix(prefix).partition("=")[::2] for word in words[2:])
    return found


def autoloaded():
    """Return the modules that modules-load.d names."""
    lines = settings(("/etc/modules-load.d", "/usr/lib/modules-load.d"))
    return [line.replace("-", "_") for line in lines]


def _either(name):
    return name.replace("_", "[-_]")
