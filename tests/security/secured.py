"""Secured: a broker that checks identities and rights, with TLS and SASL listeners and KRaft's StandardAuthorizer.

Clients of its plaintext listener are the anonymous user of loopback, which is the super user here. The tests use it to
give rights and to take them away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourceType,
    UserScramCredentialUpsertion,
)

from stream.commands.broker.embedded import EmbeddedBroker
from stream.commands.broker.processes import HOST, free_port
from stream.kafka.clients import connect
from stream.kafka.rights import Right
from stream.settings import Settings
from tests.broker.harness import WorkerProcess

__all__ = ["PASSWORD", "Certificates", "Secured", "make_certificates"]

#: Every SCRAM user has this password. No log and no answer may show it.
PASSWORD = "correct-horse-4711"
MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-512")
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_IDENTITY = ("security_protocol", "sasl_mechanism", "sasl_username", "ssl_cafile", "ssl_certfile", "ssl_keyfile")
_AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: our CA, a CA that the broker does not know, and key with certificate of the broker and of a client."""

    ca: Path
    stranger_ca: Path
    broker: Path
    client: Path


def make_certificates(folder: Path) -> Certificates:
    """Make certificates. That of the broker is valid for 127.0.0.1, and for no other name of this machine."""
    ca, stranger = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    stranger.cert_pem.write_to_path(folder / "stranger.pem")
    _write(folder / "broker.pem", ca.issue_cert(HOST))
    _write(folder / "client.pem", ca.issue_cert("worker.example", common_name="worker"))
    return Certificates(*(folder / f"{name}.pem" for name in ("ca", "stranger", "broker", "client")))


def _write(path: Path, leaf: trustme.LeafCert) -> None:
    """Write key and chain into one file. The key is in PKCS 8, the only form that Kafka reads."""
    key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
    pkcs8 = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pkcs8 + b"".join(pem.bytes() for pem in leaf.cert_chain_pems))


class Secured:
    """The broker, its listeners by protocol, and the rights of its users."""

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        self.certificates = certificates
        #: MTLS is TLS that also asks for a certificate of the client.
        self.address = {name: f"{HOST}:{free_port()}" for name in ("SASL_PLAINTEXT", "SSL", "SASL_SSL", "MTLS")}
        self.broker = EmbeddedBroker(folder, properties=self._properties())

    def _properties(self) -> dict[str, str]:
        listeners = ",".join(f"{name}://{address}" for name, address in self.address.items())
        protocols = {name: "SSL" if name == "MTLS" else name for name in self.address}
        properties = {
            "listeners": listeners,
            "advertised.listeners": listeners,
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "authorizer.class.name": _AUTHORIZER,
            "super.users": "User:ANONYMOUS",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.certificates.broker),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.certificates.ca),
            "listener.name.mtls.ssl.client.auth": "required",
            "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]*).*$/$1/,DEFAULT",
        }
        for listener in ("sasl_plaintext", "sasl_ssl"):
            properties[f"listener.name.{listener}.sasl.enabled.mechanisms"] = ",".join(MECHANISMS)
            for mechanism in MECHANISMS:
                properties[f"listener.name.{listener}.{mechanism.lower()}.sasl.jaas.config"] = _SCRAM
        return properties

    def add_user(self, name: str) -> None:
        """Add a SCRAM user with :data:`PASSWORD` and without any right."""
        with closing(connect(self.as_super_user())) as admin:
            for mechanism in MECHANISMS:
                # Kafka accepts a user only once in a request.
                added = UserScramCredentialUpsertion(name, mechanism, PASSWORD)
                assert admin.alter_user_scram_credentials([added]) == {name: None}

    def allow(self, user: str, rights: Iterable[Right]) -> None:
        """Give the user these rights."""
        with closing(connect(self.as_super_user())) as admin:
            admin.create_acls([_acl(ACL, user, right) for right in rights])

    def forbid(self, user: str, rights: Iterable[Right]) -> None:
        """Take these rights away from the user."""
        with closing(connect(self.as_super_user())) as admin:
            admin.delete_acls([_acl(ACLFilter, user, right) for right in rights])

    def as_super_user(self, **names: Any) -> Settings:
        """Settings of the super user."""
        return Settings(bootstrap_servers=self.broker.bootstrap_servers, **names)

    def as_user(self, name: str, protocol: str = "SASL_SSL", **overrides: Any) -> Settings:
        """Settings of a SCRAM user, or of the owner of the client certificate (MTLS)."""
        values: dict[str, Any] = {
            "bootstrap_servers": self.address[protocol],
            "security_protocol": "SSL" if protocol == "MTLS" else protocol,
        }
        if "SSL" in values["security_protocol"]:
            values["ssl_cafile"] = self.certificates.ca
        if protocol == "MTLS":
            values |= {"ssl_certfile": self.certificates.client, "ssl_keyfile": self.certificates.client}
        if protocol.startswith("SASL"):
            values |= {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": name, "sasl_password": PASSWORD}
        return Settings(**{**values, **overrides})

    def env(self, settings: Settings) -> dict[str, str]:
        """Environment variables with the identity in these settings."""
        values = {f"VALUESTREAM_{name.upper()}": getattr(settings, name) for name in _IDENTITY}
        values["VALUESTREAM_SASL_PASSWORD"] = settings.sasl_password.get_secret_value()
        return {name: str(value) for name, value in values.items() if value}

    def worker(self, settings: Settings, log: Path, **env: str) -> WorkerProcess:
        """Start a worker as this user."""
        return WorkerProcess(settings, log, **self.env(settings), **env)


def _acl(kind: Any, user: str, right: Right) -> Any:
    pattern = ResourcePattern(ResourceType[right.resource.upper()], right.name)
    operation = ACLOperation[re.sub("(?<=[a-z])(?=[A-Z])", "_", right.operation).upper()]
    return kind(f"User:{user}", "*", operation, ACLPermissionType.ALLOW, pattern)
