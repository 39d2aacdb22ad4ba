"""One atheris target: ``python -m tests.fuzz.target NAME CORPUS [libFuzzer flags]``; see :mod:`tests.fuzz.run`."""

from __future__ import annotations

import contextlib
import io
import sys


def main(name: str) -> None:
    """Fuzz until a flag ends it; never returns.

    atheris measures the coverage of what is imported under it, so the code under test is imported here. msgspec is C
    and not measured; what our code does with what it gives is.
    """
    import atheris

    # What it instruments it names on stderr, module by module.
    with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["stream"]):
        from tests.fuzz.inputs import TARGETS
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv.pop(1))
