"""TLS: makes the TLS contexts of all clients from their settings. A bad file is one clear line."""

from __future__ import annotations

import ssl

from stream.errors import ConfigError
from stream.settings import Settings

__all__ = ["tls_context"]


def tls_context(settings: Settings, prefix: str = "") -> ssl.SSLContext:
    """Make the TLS context of the settings ``{prefix}ssl_cafile``, ``_certfile`` and ``_keyfile``.

    Without a CA file, those of the system are trusted. Raises ConfigError that names a bad file.
    """
    names = [f"{prefix}ssl_{file}" for file in ("cafile", "certfile", "keyfile")]
    cafile, certfile, keyfile = (getattr(settings, name) for name in names)
    for name, path in zip(names, (cafile, certfile, keyfile), strict=True):
        if path is not None and not path.is_file():
            raise ConfigError(f"{name} {path} not found; expected a PEM file; set {_flag(name)} ({_variable(name)})")
    try:
        context = ssl.create_default_context(cafile=cafile)
        if certfile is not None:
            context.load_cert_chain(certfile, keyfile)
    except (ssl.SSLError, OSError) as error:
        first, second, third = map(_flag, names)
        raise ConfigError(
            f"the TLS files cannot be used ({_cause(error)}); expected PEM certificates and the key that belongs"
            f" to them; check {first}, {second} and {third}"
        ) from error
    return context


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _variable(name: str) -> str:
    return f"VALUESTREAM_{name.upper()}"


def _cause(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
