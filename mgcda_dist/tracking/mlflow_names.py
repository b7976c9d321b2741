"""Names that MLflow takes: distinct, in any script, with a way back to ours; and requests of which each key is apart.

MLflow's keys hold letters and digits of every script, `_`, `-`, `.`, spaces and `/` between parts, at most 250
characters. The bytes of all else are written as `:` and two hexadecimal digits: `a=b` is `a:3Db`.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from mgcda_dist.tracking.mlflow_client import reason

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["clean_name", "log_each", "original_name"]

_LONGEST, _CUT = 250, "::"
_CODED = re.compile(r"(?::[0-9A-F]{2})+")


def clean_name(text: str) -> str:
    """A key that MLflow allows, another one for every text; too long ones end with `::` and a part of their SHA-256."""
    key = re.sub(r"[^\w\-. /]", _coded, text)
    if posixpath.normpath(key) != key or key.startswith(("/", "..")) or key == ".":
        key = re.sub(r"[/.]", _coded, key)  # MLflow takes no path that can be written in two ways
    if len(key) <= _LONGEST:
        return key
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return key[: _LONGEST - len(_CUT + digest)] + _CUT + digest


def original_name(key: str) -> str:
    """The text that `clean_name` made this key of; a key that was cut, or that others made, as it is."""
    if _CUT in key:
        return key
    try:
        return _CODED.sub(lambda found: bytes.fromhex(found[0].replace(":", "")).decode(errors="surrogatepass"), key)
    except UnicodeDecodeError:
        return key


def log_each(
    client: MlflowClient, run_id: str, kind: Literal["metrics", "params", "tags"], items: Sequence[Any]
) -> dict[str, str]:
    """Log metrics, parameters or tags in one request, or, where MLflow refuses some of them, in several.

    Returns:
        Key and reason of those that it refuses.

    Raises:
        MlflowException: it refuses all of several, so that it is not for their keys; or any other fault.
    """
    from mlflow.exceptions import MlflowException

    def send(items: Sequence[Any]) -> None:
        batch: dict[str, Any] = {kind: items}
        client.log_batch(run_id, **batch)

    def halved(items: Sequence[Any]) -> dict[str, str]:
        try:
            send(items)
            return {}
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            if len(items) == 1:
                return {items[0].key: reason(error)}
        return halved(items[: len(items) // 2]) | halved(items[len(items) // 2 :])

    refused = halved(items)
    if len(refused) == len({item.key for item in items}) > 1:
        send(items)
    return refused


def _coded(found: re.Match[str]) -> str:
    return "".join(f":{byte:02X}" for byte in found[0].encode(errors="surrogatepass"))
