"""Files of a model folder: read a file whole or not at all, and only if its hash is the one in the manifest.

The bytes that were checked are the bytes that are returned. So nothing happens if the file on disk changes after the
check.
"""

from __future__ import annotations

import hashlib
import re
import stat
from pathlib import Path
from typing import Final

from stream.errors import ConfigError, ContractError

__all__ = ["FILE_BYTES_MAX", "read_listed", "read_manifest_bytes"]

#: The largest model file: far more than a BERT-base in fp32 (440 MB), and less than protobuf can read (2 GiB).
FILE_BYTES_MAX: Final = 1024**3
#: The largest manifest; that of the shipped model has 26 kB.
_MANIFEST_BYTES_MAX: Final = 4 * 1024**2
_FILE_NAME: Final = re.compile(r"\w[\w.-]*")


def read_manifest_bytes(manifest: Path) -> bytes:
    """The bytes of the manifest on disk. Raises ContractError if it is too large or a link out of its folder."""
    return _read(manifest, _MANIFEST_BYTES_MAX)


def read_listed(manifest: Path, name: str, sha256: str) -> bytes:
    """The bytes of a file that ``manifest``, in the same folder, lists by this name and hash.

    Raises ConfigError if the file is missing. Raises ContractError if its hash is another, if it is no plain file or
    too large, or if its name or a link leads out of the folder.
    """
    if not _FILE_NAME.fullmatch(name):
        raise ContractError(f"{manifest} lists {name!r}, expected names of files inside the folder")
    path = manifest.parent / name
    if not path.is_file():
        raise ConfigError(f"model file {path} is missing; copy the whole folder again")
    data = _read(path, FILE_BYTES_MAX)
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise ContractError(
            f"model file {path} was altered: SHA-256 is {actual[:12]}…, the manifest says {sha256[:12]}…; "
            "copy the folder again or export the model anew"
        )
    return data


def _read(path: Path, bytes_max: int) -> bytes:
    # A link inside the folder is allowed: Kubernetes mounts volumes that way.
    if not path.resolve().is_relative_to(path.parent.resolve()):
        raise ContractError(f"model file {path} is a link out of its folder, expected a file; copy the folder again")
    with path.open("rb") as file:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ContractError(f"model file {path} is no plain file, expected one; copy the folder again")
        data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise ContractError(f"model file {path} is larger than {bytes_max:,} bytes, expected at most that many")
    return data
