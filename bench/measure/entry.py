# SPDX-License-Identifier: GPL-2.0-or-later
"""How a program of this package begins and ends: what stops it is said in one line."""
import importlib
import signal
import sys

from .errors import MeasureError
from .processes import Terminated, watch_signals

SAID_OF = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def run_main(program, main, *, wrong_status=1, says_signal=True):
    """Calls main() and exits with what it returns. What is wrong, or a signal, ends the program in one line."""
    watch_signals()
    try:
        sys.exit(main())
    except (KeyboardInterrupt, Terminated) as end:
        number = signal.SIGTERM if isinstance(end, Terminated) else signal.SIGINT
        if says_signal:
            print(f"{program}: {SAID_OF[number]}", file=sys.stderr)
        sys.exit(128 + number)
    except (MeasureError, OSError) as error:  # the library's has its line in `text`
        print(f"{program}: {getattr(error, 'text', None) or error}", file=sys.stderr)
        sys.exit(wrong_status)


def run_module(program, name):
    """The main() of a module of this package. It is imported here, since what it needs may be missing: the library."""
    run_main(program, lambda: importlib.import_module(name).main())
