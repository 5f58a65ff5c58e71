"""Maintainer scripts in the shape that debhelper gives them, as functions of what they act on."""

from __future__ import annotations

HEAD = "#!/bin/sh\nset -e\n"


def dkms(module: str, version: str) -> dict[str, str]:
    """Scripts of a *-dkms package: build when configured, take the module away before removal."""
    return {
        "postinst": HEAD
        + f'if [ "$1" = configure ]; then /usr/lib/dkms/common.postinst {module} {version}; fi\n',
        "prerm": HEAD
        + 'case "$1" in remove|upgrade|deconfigure)\n'
        + f"\tif dkms status -m {module} -v {version} 2>/dev/null | grep -q .; then\n"
        + f"\t\tdkms remove -m {module} -v {version} --all\n"
        + "\tfi ;;\nesac\n",
    }


def service(unit: str, *, enabled: bool) -> dict[str, str]:
    """Scripts of a package with a systemd unit.

    An `enabled` unit is enabled on first installation and (re)started, and a failed start does not
    fail the package, as debhelper does; any other is only made known and stopped before removal.
    """
    if enabled:
        configure = (
            f"\tif deb-systemd-helper --quiet was-enabled {unit}; then\n"
            f"\t\tdeb-systemd-helper enable {unit} >/dev/null\n\tfi\n"
            "\tif [ -d /run/systemd/system ]; then\n"
            "\t\tsystemctl daemon-reload\n"
            '\t\taction=start; [ -z "$2" ] || action=restart\n'
            f"\t\tdeb-systemd-invoke $action {unit} || true\n\tfi\n"
        )
    else:
        configure = "\t[ ! -d /run/systemd/system ] || systemctl daemon-reload\n"
    return {
        "postinst": HEAD + f'if [ "$1" = configure ]; then\n{configure}fi\n',
        "prerm": HEAD
        + 'if [ "$1" = remove ] && [ -d /run/systemd/system ]; then\n'
        + f"\tdeb-systemd-invoke stop {unit} || true\nfi\n",
        "postrm": HEAD
        + 'if [ "$1" = purge ]; then\n'
        + f"\tdeb-systemd-helper purge {unit} >/dev/null\n"
        + f"\tdeb-systemd-helper unmask {unit} >/dev/null\nfi\n"
        + "[ ! -d /run/systemd/system ] || systemctl daemon-reload\n",
    }


def alternatives(*choices: tuple[str, str, str, int]) -> dict[str, str]:
    """Scripts that offer (link, name, path, priority) to update-alternatives and take it back."""
    install = "".join(
        f"\tupdate-alternatives --install {link} {name} {path} {priority}\n"
        for link, name, path, priority in choices
    )
    remove = "".join(
        f"\tupdate-alternatives --remove {name} {path}\n" for _, name, path, _ in choices
    )
    return {
        "postinst": HEAD + f'if [ "$1" = configure ]; then\n{install}fi\n',
        "prerm": HEAD + f'if [ "$1" = remove ]; then\n{remove}fi\n',
    }


def kernel_hooks(directory: str, release: str, *arguments: str) -> dict[str, str]:
    """Scripts of a kernel or headers package: run the hooks of /etc/kernel with the release."""
    given = "".join(f" --arg={argument}" for argument in (release, *arguments))
    return {
        "postinst": HEAD
        + f'if [ "$1" = configure ] && [ -d /etc/kernel/{directory} ]; then\n'
        + f"\trun-parts --report --exit-on-error{given} /etc/kernel/{directory}\nfi\n"
    }
