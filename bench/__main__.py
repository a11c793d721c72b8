# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep report and the other COMMANDS: what was measured, drawn and judged. Run by pcache-sweep."""
import importlib
import sys

from measure.entry import run_main
from measure.errors import MeasureError
from measure.pcache_sweep import WRONG_USE

COMMANDS = {"report": "measure.report.command", "table": "measure.table", "compare": "measure.compare",
            "gate": "measure.gate", "history": "measure.report.history",
            "export": "measure.export"}


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f"usage: pcache-sweep {'|'.join(COMMANDS)} ...", file=sys.stderr)
        return WRONG_USE
    command = sys.argv[1]
    try:
        module = importlib.import_module(COMMANDS[command])
    except ModuleNotFoundError as missing:
        raise MeasureError(f"Python's {missing.name} is missing; scripts/setup installs it") from None
    try:
        return module.main(sys.argv[2:])
    except (MeasureError, OSError):
        raise
    except Exception as error:  # pylint: disable=broad-exception-caught
        # Not with exit status 1, which is a verdict.
        what = f"{type(error).__name__} {error}".replace("\n", " ")
        raise MeasureError(f"{command}: {what}; what it read is damaged, or this is a bug") from error


if __name__ == "__main__":
    run_main("pcache-sweep", main, wrong_status=WRONG_USE, says_signal=False)
