"""Console of the commands: what it prints may hold names of others, so it takes text as text and makes it printable."""

from __future__ import annotations

from typing import Any

from rich.console import Console as RichConsole
from rich.status import Status

from mgcda_dist.text import printable

__all__ = ["Console"]


class Console(RichConsole):
    """Rich's console without markup and highlighting, for stdout or stderr."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does; of strings, printable characters and line ends."""
        super().print(*(printable(x, lines=True) if isinstance(x, str) else x for x in objects), **options)

    def status(self, status: Any, **options: Any) -> Status:
        """Show a line while the body runs."""
        return super().status(printable(status) if isinstance(status, str) else status, **options)
