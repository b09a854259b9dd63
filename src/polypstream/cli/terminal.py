"""Terminal output in any encoding, and signals that end the program."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TimeRemainingColumn

from polypstream.errors import DatasetError

_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
_CONTROL = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))},
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


def print_any_character() -> None:
    """Print characters that the terminal's encoding lacks as escapes, such as `\\u5927`, rather than fail on them."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def one_line(text: object) -> str:
    """Escape control characters, as in unusual file names, and Rich markup."""
    return escape(str(text).translate(_CONTROL))


def print_error(error: Exception | str) -> None:
    """Print an error to standard error, on one line unless it lists several problems."""
    lines = str(error).split("\n") if isinstance(error, DatasetError) else [str(error)]
    text = "\n".join(map(one_line, lines))
    Console(stderr=True).print(f"[red]error:[/red] {text}", highlight=False, soft_wrap=True)


@contextmanager
def frame_progress(task: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, if that is a terminal.

    Args:
        task: Label of the bar, such as "evaluating".

    Yields:
        A function to call with the number of items done and the total.
    """
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn(compact=True))
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        number = bar.add_task(task, total=None)
        yield lambda done, total: bar.update(number, completed=done, total=total)


@contextmanager
def interrupted_by_signals() -> Iterator[list[int]]:
    """Raise `KeyboardInterrupt` on SIGTERM and SIGHUP, as on Ctrl-C, so that files are closed properly.

    A signal ignored by the parent process, as with `nohup`, remains ignored.

    Yields:
        The signals received so far.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def interrupt(number: int, _: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _ENDING}
    changed = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, interrupt)
    try:
        yield received
    finally:
        for number in changed:
            signal.signal(number, before[number])
