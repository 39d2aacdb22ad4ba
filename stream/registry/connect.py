"""Connect: makes the schema registry of the settings, after a check that all that it needs is there."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit

from stream.clock import Clock
from stream.errors import ConfigError
from stream.registry.client import Registry
from stream.registry.schemas import Schemas
from stream.settings import Settings
from stream.tls import tls_context

__all__ = ["registry_of", "schemas_of"]

#: What the extra ``registry`` brings: package → module.
_PACKAGES: Final = {"fastavro": "fastavro", "grpcio-tools": "grpc_tools"}


def schemas_of(settings: Settings, clock: Clock) -> Schemas | None:
    """The schemas of the registry of the settings; None if there is no registry. Raises ConfigError."""
    registry = registry_of(settings)
    return None if registry is None else Schemas(registry, clock)


def registry_of(settings: Settings) -> Registry | None:
    """The schema registry of the settings, not asked yet; None if there is none. Raises ConfigError."""
    urls = [url.strip().rstrip("/") for url in settings.schema_registry_url.split(",") if url.strip()]
    if not urls:
        return None
    missing = [package for package, module in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"a schema registry is set, and {' and '.join(missing)} not installed; expected what reads its schemas;"
            " pip install 'valuestream[registry]'"
        )
    for url in urls:
        _check(url)
    user, password = settings.schema_registry_user, settings.schema_registry_password.get_secret_value()
    if bool(user) != bool(password):
        raise ConfigError(
            f"schema registry: found a {'user' if user else 'password'} alone, expected both or none;"
            " set --schema-registry-user and VALUESTREAM_SCHEMA_REGISTRY_PASSWORD"
        )
    tls = tls_context(settings, "schema_registry_") if any(url.startswith("https:") for url in urls) else None
    return Registry(urls, user=user, password=password, tls=tls)


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    else:
        if parts.username is not None or parts.password is not None:
            # The URL itself is not shown: it holds a secret.
            raise ConfigError(
                "the URL of the schema registry holds a user or a password, expected them apart, because URLs are"
                " logged; set --schema-registry-user and VALUESTREAM_SCHEMA_REGISTRY_PASSWORD"
            )
    if not named or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise ConfigError(
            f"schema registry {url!r} is no address, expected http://host:port or https://host:port;"
            " set --schema-registry-url"
        )
