"""Model folder: helpers for tests that tamper with a model folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream.contract.manifest import MANIFEST_FILE
from stream.errors import ValuestreamError

__all__ = ["SIGNATURE", "refused", "rewrite"]

SIGNATURE = "manifest.sig"


def rewrite(folder: Path, **changes: Any) -> None:
    """Write the hashes of the present files into the manifest, as anybody with write access to the folder can."""
    path = folder / MANIFEST_FILE
    manifest = json.loads(path.read_bytes()) | changes
    manifest["files"] = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in manifest["files"]}
    path.write_text(json.dumps(manifest), encoding="utf-8")


def refused(call: Callable[[], object], error: type[ValuestreamError], *says: str) -> None:
    """The call fails with one line that holds all of these texts."""
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    for part in says:
        assert part in str(caught.value)
