"""Signing: writes a detached signature of the manifest into a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from stream.contract.files import read_manifest_bytes
from stream.contract.manifest import MANIFEST_FILE
from stream.errors import ConfigError
from stream.score.sentiment import MANIFEST_FILE as SENTIMENT_MANIFEST_FILE
from stream.score.signature import signature_file

__all__ = ["read_sign_key", "sign_folder", "sign_manifest"]

_EXPECTED: Final = (
    "expected an Ed25519 key in PEM without a password, as `openssl genpkey -algorithm ed25519` writes it"
)


def read_sign_key(path: Path) -> Ed25519PrivateKey:
    """Read the private key from a PEM file. Raises ConfigError if the file holds no Ed25519 key."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"sign key {path} cannot be read ({error}); {_EXPECTED}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"sign key {path} is of another kind; {_EXPECTED}")
    return key


def sign_folder(folder: Path, key: Ed25519PrivateKey) -> Path:
    """Sign a model folder, or a sentiment model folder; returns the signature file."""
    for name in (MANIFEST_FILE, SENTIMENT_MANIFEST_FILE):
        if (folder / name).is_file():
            return sign_manifest(folder / name, key)
    raise ConfigError(f"{folder} has no {MANIFEST_FILE}; give a folder written by `valuestream-model export`")


def sign_manifest(manifest: Path, key: Ed25519PrivateKey) -> Path:
    """Write the signature of a manifest beside it; the same key gives the same bytes."""
    path = signature_file(manifest)
    path.write_bytes(key.sign(read_manifest_bytes(manifest)))
    return path
