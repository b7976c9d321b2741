"""Progress of long work on stderr: a bar on a terminal, else a line every half minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from mgcda_dist.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["PLAIN_LINE_EVERY_S", "Show", "advancing", "bars", "shown_progress"]

PLAIN_LINE_EVERY_S = 30.0


class Show(Protocol):
    """Shows how far the work is."""

    def __call__(self, done: int, total: int | None = None, title: str | None = None) -> None:
        """`done` of `total` are done; a total or a title that is None stays what it was."""
        ...


def bars(console: Console) -> Progress:
    """Bars with counts and the time left, on a terminal only; they vanish at the end."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


@contextmanager
def shown_progress(title: str, total: int | None = None) -> Iterator[Show]:
    """Show a bar, or lines, while the body runs; the function in it says how far it is.

    Args:
        total: how many there will be; None while that is not known.
    """
    from mgcda_dist.cli.console import Console

    console = Console(stderr=True)
    with bars(console) as progress:
        task = progress.add_task(printable(title), total=total)
        told = monotonic()

        def show(done: int, total: int | None = None, title: str | None = None) -> None:
            nonlocal told
            title = None if title is None else printable(title)
            progress.update(task, description=title, completed=done, total=total)
            if console.is_terminal or monotonic() - told < PLAIN_LINE_EVERY_S:
                return
            told = monotonic()
            now = progress.tasks[0]
            of = "" if now.total is None else f"/{now.total:.0f}"
            console.print(f"{now.description}  {done}{of}", soft_wrap=True)

        yield show


@contextmanager
def advancing(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """As `shown_progress`, for work that tells how many more are done: the function in the body takes that number."""
    with shown_progress(title, total) as show:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            show(done)

        yield advance
