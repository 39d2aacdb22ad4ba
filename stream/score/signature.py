"""Signature: proves who made a model folder. The manifest vouches for the other files, a signature for the manifest.

``manifest.sig`` beside ``manifest.json`` is the Ed25519 signature (RFC 8032) of the manifest's bytes. It is 64 bytes
and nothing else, so ``openssl pkeyutl -verify -rawin`` can read it. ``docs/security.md`` says how keys are made.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from stream.errors import ConfigError, ContractError

__all__ = ["Verify", "no_signature", "signature_file", "verifier"]

#: Takes the path and the bytes of a manifest, and raises ContractError unless they are signed as they must be.
Verify = Callable[[Path, bytes], None]
_SIGNATURE_BYTES: Final = 64
_KEY_BYTES_MAX: Final = 4096
_EXPECTED: Final = "expected an Ed25519 public key in PEM, as `openssl pkey -pubout` writes it"


def signature_file(manifest: Path) -> Path:
    """The path of a manifest's signature.

    >>> signature_file(Path("models/shop/manifest.json")).name
    'manifest.sig'
    """
    return manifest.with_suffix(".sig")


def no_signature(_manifest: Path, _data: bytes) -> None:
    """Accept any manifest, signed or not."""


def verifier(public_key: Path | None) -> Verify:
    """A check that accepts only manifests signed with the private key of this public key; without a key, all.

    Raises ConfigError if the key cannot be used.
    """
    if public_key is None:
        return no_signature
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise ConfigError(
            "signatures need cryptography, which is not installed; pip install 'valuestream[signed]'"
        ) from None
    try:
        with public_key.open("rb") as file:
            key = load_pem_public_key(file.read(_KEY_BYTES_MAX))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model public key {public_key} cannot be read ({error}); {_EXPECTED}; set --model-public-key"
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"model public key {public_key} is of another kind; {_EXPECTED}; set --model-public-key")

    def verify(manifest: Path, data: bytes) -> None:
        try:
            key.verify(_signature(manifest), data)
        except InvalidSignature:
            raise ContractError(
                f"{manifest} was not signed with the key that belongs to {public_key}; expected a valid"
                f" {signature_file(manifest).name}; find out where the folder comes from, or sign it with"
                " `valuestream-model sign`"
            ) from None

    return verify


def _signature(manifest: Path) -> bytes:
    path = signature_file(manifest)
    if not path.is_file():
        raise ContractError(
            f"{manifest} is not signed, expected {path.name} beside it, as --model-public-key is set; sign it with"
            " `valuestream-model sign`, or serve a folder that is signed"
        )
    with path.open("rb") as file:
        return file.read(_SIGNATURE_BYTES + 1)
