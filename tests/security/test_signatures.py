"""Tests of signed model folders: with a public key only folders that its private key has signed are served."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from model_export.cli import cli
from stream.contract.manifest import MANIFEST_FILE
from stream.errors import ConfigError, ContractError
from stream.score.scorer import DEMO_MODEL, Scorer
from stream.score.signature import verifier
from tests.broker.command import assert_one_line, valuestream
from tests.security.model_folder import SIGNATURE, refused, rewrite


def write_private(path: Path, key: Any) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def write_public(path: Path, key: Any) -> Path:
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Private and public key in PEM."""
    key = Ed25519PrivateKey.generate()
    return write_private(tmp_path / "model.key", key), write_public(tmp_path / "model.pub", key)


def sign(folder: Path, key: Path) -> None:
    done = CliRunner().invoke(cli, ["sign", str(folder), "--key", str(key)], catch_exceptions=False)
    assert done.output == f"wrote {folder / SIGNATURE}\n"


def test_signed_folder_is_served_and_without_a_key_signatures_do_not_matter(
    folder: Path, keys: tuple[Path, Path]
) -> None:
    sign(folder, keys[0])
    assert Scorer(folder, verify=verifier(keys[1])).sha256 == Scorer(DEMO_MODEL).sha256
    (folder / SIGNATURE).write_bytes(b"nonsense")
    assert Scorer(folder, verify=verifier(None)).sha256 == Scorer(DEMO_MODEL).sha256


def test_unsigned_folder_is_refused_if_a_key_is_set(folder: Path, keys: tuple[Path, Path]) -> None:
    refused(lambda: Scorer(folder, verify=verifier(keys[1])), ContractError, "is not signed", SIGNATURE)


def test_altered_folder_with_matching_hashes_is_refused_by_its_signature(folder: Path, keys: tuple[Path, Path]) -> None:
    sign(folder, keys[0])
    rewrite(folder, version="forged")
    Scorer(folder)
    refused(lambda: Scorer(folder, verify=verifier(keys[1])), ContractError, "was not signed with the key")


@pytest.mark.parametrize("spoil", [lambda s: s[:-1], lambda s: s + b"\n", lambda s: b"", lambda s: s[::-1]])
def test_spoiled_signature_is_refused(folder: Path, keys: tuple[Path, Path], spoil: Callable[[bytes], bytes]) -> None:
    sign(folder, keys[0])
    (folder / SIGNATURE).write_bytes(spoil((folder / SIGNATURE).read_bytes()))
    refused(lambda: Scorer(folder, verify=verifier(keys[1])), ContractError, "was not signed with the key")


def test_signature_of_another_key_is_refused(folder: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    sign(folder, write_private(tmp_path / "other.key", Ed25519PrivateKey.generate()))
    refused(lambda: Scorer(folder, verify=verifier(keys[1])), ContractError, "was not signed with the key")


def test_public_key_that_cannot_be_used_is_refused_at_start(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    other = write_public(tmp_path / "ec.pub", generate_private_key(SECP256R1()))
    refused(lambda: verifier(other), ConfigError, "is of another kind", "--model-public-key")
    for path in (tmp_path / "none.pub", keys[0]):
        refused(lambda path=path: verifier(path), ConfigError, str(path), "cannot be read", "--model-public-key")


def test_sign_refuses_an_unusable_key_in_one_line(folder: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    ec = write_private(tmp_path / "ec.key", generate_private_key(SECP256R1()))
    for path in (ec, keys[1], tmp_path / "none.key"):
        done = CliRunner().invoke(cli, ["sign", str(folder), "--key", str(path)])
        assert isinstance(done.exception, ConfigError)
        assert "expected an Ed25519 key in PEM" in str(done.exception)


def test_only_a_key_needs_cryptography_and_without_it_the_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, keys: tuple[Path, Path]
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    refused(lambda: verifier(keys[1]), ConfigError, "pip install 'valuestream[signed]'")
    verifier(None)


def test_worker_refuses_an_unsigned_model_before_it_connects_to_a_broker(folder: Path, keys: tuple[Path, Path]) -> None:
    ended = valuestream("worker", "--model-dir", folder, "--model-public-key", keys[1])
    assert_one_line(ended, f"valuestream: {folder / MANIFEST_FILE} is not signed")
