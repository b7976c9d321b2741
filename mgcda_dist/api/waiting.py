"""Work on Ray, done in a thread and waited for, with the caller's signal handlers in place."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["wait_for"]

_POLL_S = 0.25
_ABORT_S = 10.0
_SIGNALS: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)


def wait_for(
    work: Callable[[], None], look: Callable[[bool], None], ask_to_stop: Callable[[], None] | None = None
) -> None:
    """Do work that starts or joins a Ray, and wait for its end; a Ray that was not there before ends with it.

    In the main thread Ray would take over Ctrl-C, so the work has a thread of its own.

    Args:
        look: called several times a second, with True once the work was asked to stop.
        ask_to_stop: called by Ctrl-C and SIGTERM; the second one ends the work at once. None, or outside of the main
            thread: no handler is installed, and KeyboardInterrupt ends the work at once.

    Raises:
        KeyboardInterrupt: it was ended at once.
        BaseException: that of the work, or of `look`.
    """
    from mgcda_dist.cluster.connect import connection

    failure: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=guarded, name="ray", daemon=True)
    try:
        with connection(), _signals(ask_to_stop) as interrupts:
            thread.start()
            while thread.is_alive():
                thread.join(_POLL_S)
                if interrupts() > 1:
                    raise KeyboardInterrupt
                look(interrupts() > 0)
    finally:
        if thread.is_alive():
            thread.join(_ABORT_S)  # its Ray is gone
    if failure:
        raise failure[0]


@contextmanager
def _signals(ask_to_stop: Callable[[], None] | None) -> Iterator[Callable[[], int]]:
    """A counter of the interrupts. In the main thread the handlers that were there stay, though Ray replaces them.

    Args:
        ask_to_stop: what an interrupt does instead; None: what it did before.
    """
    count = 0

    def interrupt(signum: int, frame: Any) -> None:
        nonlocal count
        del signum, frame
        count += 1
        assert ask_to_stop is not None
        ask_to_stop()

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before: dict[signal.Signals, Any] = {each: signal.getsignal(each) for each in _SIGNALS}
    handlers: dict[signal.Signals, Any] = before if ask_to_stop is None else dict.fromkeys(_SIGNALS, interrupt)

    def install(chosen: Mapping[signal.Signals, Any]) -> None:
        for each, handler in chosen.items():
            if handler is not None:  # None: not installed from Python
                signal.signal(each, handler)

    def interrupts() -> int:
        # At its start Ray installs a SIGTERM handler in C that dumps a stack and aborts: replace it.
        install(handlers)
        return count

    try:
        install(handlers)
        yield interrupts
    finally:
        install(before)
