"""The limited worker: the ordinary command line, in a process that may write less than this machine's disk takes.

``CHAOS_FILE_BYTES_MAX`` is the most that a file may grow to: a disk that is full, for whoever runs the tests. Modes of
files and directories bind it as well if it is run by root.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from typing import Final

__all__ = ["main"]

#: From linux/prctl.h and linux/capability.h.
_PR_CAPBSET_DROP: Final = 24
_CAP_DAC_OVERRIDE: Final = 1


def main() -> None:
    """Become the command line with what was given, under limits."""
    most = os.environ.get("CHAOS_FILE_BYTES_MAX")
    if most is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)
    os.execv(sys.executable, [sys.executable, "-m", "stream.commands.cli", *sys.argv[1:]])


if __name__ == "__main__":
    main()
