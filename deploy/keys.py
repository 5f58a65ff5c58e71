"""The one key that a package repository may be signed with."""

import os

from deploy.stack import Repository

# With RUST_BACKTRACE set, every error inside Sequoia walks the C stack. In a greenlet that stack
# is not whole, and the walk ends in a segmentation fault (seen under pyinfra's own command).
os.environ["RUST_LIB_BACKTRACE"] = "0"

from pysequoia import Cert


class WrongKey(Exception):  # noqa: N818 - an answer, not a fault
    """What came as the repository's key is not the one key that is trusted."""


def one_key(key: bytes, fingerprint: str) -> str:
    """The key alone, armoured, when the file holds this certificate and nothing else.

    apt trusts every certificate in a keyring, so a second one is refused, and what is handed on is
    the public part of what was read, written anew. Raises WrongKey.
    """
    blocks = key.count(b"-----BEGIN PGP")
    try:
        certificates = Cert.split_bytes(key)
    except Exception:
        raise WrongKey("what is served as the key is no OpenPGP certificate") from None
    if len(certificates) != 1 or blocks > 1:
        raise WrongKey("the key file holds more than one certificate; apt would trust them all")
    found = str(certificates[0].fingerprint).upper()
    if found != fingerprint:
        raise WrongKey(f"the key is {found}, wanted {fingerprint}")
    return str(certificates[0])


def check_key(repository: Repository) -> None:
    """The key that a lock holds must be the one that it names. Raises WrongKey."""
    one_key(repository.key.encode(), repository.key_fingerprint)
