"""``python -m benchmarks.gpu``: see the package's own words, and docs/benchmarking.md."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import NoReturn

from . import __doc__ as description
from .device import find_machine
from .needs import Needs
from .runner import Call, UnknownStepError, run_steps, select
from .sending import NothingError, send
from .steps import table


def main() -> int:
    """0 where nothing failed, 1 where a check failed, 2 for bad use, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        prog="gpu", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--step", default="", help="names or patterns, joined by commas")
    parser.add_argument("--force", action="store_true", help="repeat what has a result")
    parser.add_argument("--within", type=float, help="seconds for everything together")
    parser.add_argument("--out", type=Path, help="folder for a summary and an archive of results")
    parser.add_argument(
        "--pack", nargs="?", const="", metavar="FILE", help="run nothing: pack what was found here"
    )
    parser.add_argument("--list", action="store_true", help="list the steps and end")
    options = parser.parse_args()
    steps = table()
    names = [word.strip() for word in options.step.split(",") if word.strip()]
    try:
        chosen = select(steps, names)
        if options.list:
            for step in chosen:
                print(f"{step.name}: {step.what} (needs {', '.join(step.needs) or 'nothing else'})")
            return 0
        signal.signal(signal.SIGTERM, _interrupted)
        machine = find_machine()
        if options.pack is not None:
            print(send(Path(options.pack) if options.pack else None, machine))
            return 0
        call = Call(names, options.force, options.within, options.out and options.out.resolve())
        return run_steps(steps, machine, Needs(machine), call)
    except (NothingError, UnknownStepError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted; the next call goes on from here", file=sys.stderr)
        return 130


def _interrupted(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
