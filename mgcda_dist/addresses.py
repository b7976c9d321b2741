"""Secrets in addresses: a password, or a token as the user or among the parameters, is refused or never recorded."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

__all__ = ["has_secret", "without_secrets"]

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_LOGIN_NAMES = ("postgresql", "postgres", "mysql", "mssql", "oracle", "sftp", "ssh", "ftp", "hdfs", "smb")
"""Schemes whose user name is a name, and no secret. Elsewhere a token may stand in its place."""
_SECRET_KEY = re.compile(
    r"token|secret|passw|pwd|signature|^sig$|credential|auth(?!or)|jwt|^sas|(^|[_-]|api|access)key$|access[_-]?id", re.I
)
_TOKEN = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9_+/=.-]{20,}")


def has_secret(text: str) -> bool:
    """True if an address in the text has a password, or a token as its user or among its parameters."""
    return any(_is_secret(found[0]) for found in _ADDRESS.finditer(text))


def without_secrets(text: str) -> str:
    """The text with `…` for users, and parameters that may be secrets, in its addresses."""

    def cleaned(found: re.Match[str]) -> str:
        user = r"://[^/?#]*@" if _port_is_number(found[0]) else "://.*@"
        address = re.sub(user, "://…@", found[0])
        return re.sub(r"[?#].*", "?…", address) if _is_secret(address) else address

    return _ADDRESS.sub(cleaned, text)


def _is_secret(address: str) -> bool:
    if not _port_is_number(address):
        return "@" in address
    parts = urlsplit(address)
    user, at, _ = parts.netloc.rpartition("@")
    if at and user != "…":
        name, _, password = user.partition(":")
        scheme = parts.scheme.partition("+")[0]
        if password or scheme not in _LOGIN_NAMES or _TOKEN.fullmatch(name):
            return True
    pairs = [pair for part in (parts.query, parts.fragment) for pair in parse_qsl(part, keep_blank_values=False)]
    return any(_SECRET_KEY.search(key) or _TOKEN.fullmatch(value) for key, value in pairs)


def _port_is_number(address: str) -> bool:
    """False where a password with a slash or a hash has cut the address short, or it is no address at all."""
    try:
        urlsplit(address).port  # noqa: B018  # read for its error
    except ValueError:
        return False
    return True
