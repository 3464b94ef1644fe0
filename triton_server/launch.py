"""Become a program that ends when its parent does: ``launch.py PARENT PROGRAM ARGUMENT...``.

Linux sends the signal when the parent dies for whatever reason, and keeps the request over exec. A
process of its own asks for it, because code that runs between fork and exec of a parent with
threads may hang.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # gone before the request was made
        sys.exit(1)
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
