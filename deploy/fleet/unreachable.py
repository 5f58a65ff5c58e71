"""Why a login failed, in words that end with the next command."""

import base64
import hashlib
import os
from socket import gaierror
from typing import Any

from paramiko import AuthenticationException, BadHostKeyException, PKey
from paramiko.ssh_exception import NoValidConnectionsError

from deploy.fleet.inventory import Host


class Unreachable(Exception):  # noqa: N818 - reads as what it is at every raise
    """No connection to a host. The message names host, address, finding and next command."""

    def __init__(self, host: str, address: str, found: str, do: str) -> None:
        self.host = host
        self.found = found
        self.do = do
        at = "" if address == host else f" ({address})"
        super().__init__(f"{host}{at}: {found}" + (f"; {do}" if do else ""))


def fingerprint(key: PKey) -> str:
    """As OpenSSH prints it: `ssh-ed25519 SHA256:...`."""
    digest = hashlib.sha256(key.asbytes()).digest()
    return f"{key.get_name()} SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def explain(host: Host, made: Any, error: BaseException) -> Unreachable:
    """Turn what pyinfra or paramiko raised into a message for the operator."""
    for cause in _chain(error):
        if isinstance(cause, BadHostKeyException):
            return _changed_key(host, made, cause)
        if "No host key for" in str(cause):
            return _unknown_key(host, made)
        if isinstance(cause, gaierror):
            found = f"the name does not resolve ({cause.strerror})"
            return _said(host, found, "check the name, or set ssh_hostname")
        if isinstance(cause, AuthenticationException):
            user = _user(host, made)
            found = f"the login of {user} was refused ({_one_line(cause)})"
            return _said(host, found, f"try: {_ssh(host, user)} true")
        if isinstance(cause, NoValidConnectionsError):
            reasons: list[Any] = list(cause.errors.values())
            errors = sorted({os.strerror(why.errno) if why.errno else str(why) for why in reasons})
            return _said(host, f"no SSH server there ({', '.join(errors)})", "")
        if "protocol version" in str(cause) or "protocol banner" in str(cause):
            return _said(host, "what answers there is no SSH server", "check address and port")
    return _said(host, _one_line(_chain(error)[-1]) or type(error).__name__, "")


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what it was raised from, first cause last."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain


def _changed_key(host: Host, made: Any, error: BadHostKeyException) -> Unreachable:
    place = _known_name(host, made)
    own = f" -f {known}" if (known := host.data.get("ssh_known_hosts_file")) else ""
    accept = _ssh(host, _user(host, made))
    return _said(
        host,
        f"the host key has changed: known_hosts has {fingerprint(error.expected_key)}, "
        f"the host shows {fingerprint(error.key)}",
        "was it installed afresh? If its console shows the second fingerprint: "
        f"ssh-keygen{own} -R '{place}', then accept the new key with {accept}",
    )


def _unknown_key(host: Host, made: Any) -> Unreachable:
    transport = made.connector.client.get_transport()
    shown = fingerprint(transport.get_remote_server_key()) if transport else "no key"
    return _said(
        host,
        f"the host key is unknown ({shown})",
        f"compare it with the host's console, then accept it with {_ssh(host, _user(host, made))} "
        "(or, on a network that you trust, ssh_strict_host_key_checking = 'accept-new')",
    )


def _known_name(host: Host, made: Any) -> str:
    config = getattr(made.connector.client, "_ssh_config", {}) or {}
    port = int(config.get("port", 22))
    return host.address if port == 22 else f"[{host.address}]:{port}"


def _user(host: Host, made: Any) -> str:
    config = getattr(getattr(made.connector, "client", None), "_ssh_config", {}) or {}
    return str(host.data.get("ssh_user") or config.get("username") or "this user")


def _ssh(host: Host, user: str) -> str:
    words = ["ssh"]
    if known := host.data.get("ssh_known_hosts_file"):
        words += ["-o", f"UserKnownHostsFile={known}"]
    if config := host.data.get("ssh_config_file"):
        words += ["-F", str(config)]
    if port := host.data.get("ssh_port"):
        words += ["-p", str(port)]
    if user != "this user":
        words += ["-l", user]
    return " ".join([*words, host.address])


def _said(host: Host, found: str, do: str) -> Unreachable:
    return Unreachable(host.name, host.address, found, do)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
