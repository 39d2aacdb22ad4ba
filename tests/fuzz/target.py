"""Target: runs one atheris target. See :mod:`tests.fuzz.run`.

Usage: ``python -m tests.fuzz.target NAME CORPUS [libFuzzer flags]``.
"""

from __future__ import annotations

import contextlib
import io
import sys


def main(name: str) -> None:
    """Fuzz until a flag ends it. It never returns.

    atheris measures the coverage of modules that are imported under it, so the code under test is imported here.
    msgspec is C code and is not measured, but our code that uses its results is.
    """
    import atheris

    # atheris names each module that it instruments on stderr.
    with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["stream"]):
        from tests.fuzz.inputs import TARGETS
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv.pop(1))
