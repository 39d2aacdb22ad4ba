"""Limited worker: the ordinary command line in a process that may not write large files, as if the disk were full.

``CHAOS_FILE_BYTES_MAX`` is the largest size of a file. It needs no special rights to run. If root runs it, the modes of
files and directories count for the worker as well.
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
    """Set the limits, and become the command line with the same arguments."""
    bytes_max = os.environ.get("CHAOS_FILE_BYTES_MAX")
    if bytes_max is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(bytes_max), int(bytes_max)))
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)
    os.execv(sys.executable, [sys.executable, "-m", "stream.commands.cli", *sys.argv[1:]])


if __name__ == "__main__":
    main()
