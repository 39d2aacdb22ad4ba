"""Tests of the registry's settings: what is wrong with them is one line, and no secret is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stream.errors import ConfigError
from stream.registry import connect
from stream.registry.connect import registry_of
from stream.settings import Settings

URL = "http://registry:8081"


def test_without_a_url_there_is_no_registry() -> None:
    assert registry_of(Settings()) is None
    assert registry_of(Settings(schema_registry_url=" , ")) is None


def test_several_urls_are_one_registry() -> None:
    assert registry_of(Settings(schema_registry_url=f"{URL}/, https://other/registry")) is not None


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"schema_registry_url": "registry:8081"}, "'registry:8081' is no address"),
        ({"schema_registry_url": "ftp://registry"}, "is no address"),
        ({"schema_registry_url": "http://"}, "is no address"),
        ({"schema_registry_url": "http://registry:99999"}, "is no address"),
        ({"schema_registry_url": f"{URL}?a=b"}, "is no address"),
        ({"schema_registry_url": "http://me:hidden@registry"}, "set --schema-registry-user"),
        ({"schema_registry_url": URL, "schema_registry_user": "me"}, "found a user alone"),
        ({"schema_registry_url": URL, "schema_registry_password": "hidden"}, "found a password alone"),
        (
            {"schema_registry_url": "https://registry", "schema_registry_ssl_cafile": Path("gone.pem")},
            "set --schema-registry-ssl-cafile",
        ),
        (
            {"schema_registry_url": "https://registry", "schema_registry_ssl_certfile": Path(__file__)},
            "check --schema-registry-ssl-cafile, --schema-registry-ssl-certfile",
        ),
    ],
)
def test_a_wrong_setting_is_one_line_without_a_secret(given: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as raised:
        registry_of(Settings(**given))
    assert line in str(raised.value)
    assert "hidden" not in str(raised.value)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "find_spec", lambda module: None if module == "fastavro" else object())
    with pytest.raises(ConfigError, match=r"fastavro not installed.*pip install 'valuestream\[registry\]'"):
        registry_of(Settings(schema_registry_url=URL))
