"""The ``aot`` command, which can be stopped from its first instant on; ``python -m comfyui_aot`` as well."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn


def main() -> int:
    """Run the command. Ctrl-C and SIGTERM end it without a traceback, with exit code 130 and 143.

    What is under way is undone first. During an import the process ends on the spot, as an import that is broken off
    leaves modules that fail in ways of their own.
    """
    signals: list[int] = []

    def leave(number: int) -> NoReturn:
        with suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
        os._exit(128 + number)

    def stop(number: int, frame: Any) -> None:
        if signals or _is_importing(frame):
            if not signals:
                os.write(2, f"{' '.join(('aot', *sys.argv[1:2]))}: stopped.\n".encode())
            leave(number)
        signals.append(number)
        raise KeyboardInterrupt

    def swallowed(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            leave(signals[0])
        sys.__unraisablehook__(unraisable)

    for each in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, stop)
    sys.unraisablehook = swallowed
    try:
        from .aot.cli.main import main as command

        code = command()
    except BaseException:
        if not signals:
            raise
    if signals:
        leave(signals[0])
    signals.append(signal.SIGINT)  # There is nothing left to undo.
    return code


def _is_importing(frame: Any) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    sys.exit(main())
