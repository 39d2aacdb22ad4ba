"""Client: asks a schema registry over HTTP, for a schema by its id and for the id of a schema of ours.

It speaks the part of Confluent's interface that all registries have in common. A registry that does not answer as it
should is a RegistryError: wait, and ask again. Only an answer that says so in the registry's own words counts as
"there is no such schema", because a proxy in front of it answers 404 as well.
"""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from stream.errors import ConfigError, EventError, RegistryError
from stream.registry.wire_format import SchemaKey

__all__ = ["Reference", "Registry", "Schema"]

#: How long one request may take.
_TIMEOUT_S: Final = 5.0
#: A longer answer is no schema of events.
_ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
#: How many other schemas a schema may refer to, those that they refer to included.
_REFERENCES_MAX: Final = 100
#: Error codes of a registry for: no such subject, version or schema.
_NOT_FOUND: Final = frozenset({40401, 40402, 40403})
_MEDIA_TYPE: Final = "application/vnd.schemaregistry.v1+json"


class Reference(msgspec.Struct, frozen=True):
    """A schema that another one refers to, by the name under which it does so."""

    name: str
    subject: str
    version: int


class Schema(msgspec.Struct, frozen=True):
    """A schema as the registry has it. ``others`` are the schemas that it needs, by name, each after those it needs."""

    schema: str
    schemaType: str = "AVRO"  # noqa: N815 - the registry's name
    references: tuple[Reference, ...] = ()
    others: tuple[tuple[str, str], ...] = ()


class _Id(msgspec.Struct, frozen=True):
    id: int


class _Problem(msgspec.Struct, frozen=True):
    error_code: int = 0
    message: str = ""


_Answer = TypeVar("_Answer", Schema, _Id)


class _MissingError(Exception):
    """The registry says that it does not have this."""


class Registry:
    """A schema registry at one or several URLs, which are tried in turn. It keeps no connection open."""

    def __init__(
        self, urls: Sequence[str], *, user: str = "", password: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        self._urls, self._tls = list(urls), tls
        self._headers = {"Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE}
        if user:
            self._headers["Authorization"] = "Basic " + b64encode(f"{user}:{password}".encode()).decode()

    async def check(self) -> None:
        """Raise ConfigError with one line if no registry answers, or if it refuses us."""
        try:
            await self._ask("GET", "/schemas/types")
        except _MissingError as error:
            raise ConfigError(f"{error}; expected a schema registry; check --schema-registry-url") from None
        except RegistryError as error:
            raise ConfigError(
                f"{error}; expected a schema registry that answers; check --schema-registry-url, the user and the"
                " password, and its health"
            ) from None

    async def schema(self, key: SchemaKey) -> Schema:
        """The schema of this id or GUID, with all schemas that it refers to.

        Raises EventError ``schema_id`` if the registry does not have it, and RegistryError if it does not answer.
        """
        path = f"/schemas/ids/{key}" if isinstance(key, int) else f"/schemas/guids/{key}"
        try:
            schema = _parsed(await self._ask("GET", path), Schema)
            others: dict[str, str] = {}
            await self._resolve(schema.references, others, set())
        except _MissingError as error:
            raise EventError(
                "schema_id",
                f"schema {key} of the value cannot be had: {error}; expected an id of --schema-registry-url; check"
                " which registry the producer uses",
            ) from None
        return msgspec.structs.replace(schema, others=tuple(others.items()))

    async def _resolve(self, references: Sequence[Reference], others: dict[str, str], asked: set[str]) -> None:
        """Add the schemas of these references to ``others``, each after those that it refers to itself.

        ``asked`` are the names that were asked for already.
        """
        for one in references:
            if one.name in asked:
                continue
            asked.add(one.name)
            if len(asked) > _REFERENCES_MAX:
                raise _MissingError(f"it refers to more than {_REFERENCES_MAX} others")
            # A schema that was deleted softly is still that of older records.
            path = f"/subjects/{quote(one.subject, safe='')}/versions/{one.version}?deleted=true"
            found = _parsed(await self._ask("GET", path), Schema)
            await self._resolve(found.references, others, asked)
            others[one.name] = found.schema

    async def register(self, subject: str, schema: str) -> int:
        """The id of an Avro schema under this subject, which gets it as a new version if it lacks it.

        Raises ConfigError if the registry refuses or does not answer.
        """
        try:
            path = f"/subjects/{quote(subject, safe='')}/versions"
            answer = await self._ask("POST", path, {"schema": schema, "schemaType": "AVRO"})
        except (_MissingError, RegistryError) as error:
            raise ConfigError(
                f"our schema cannot be registered as {subject}: {error}; expected the id of a schema; check the"
                " registry's health, our rights, and the compatibility that is set for this subject"
            ) from None
        return _parsed(answer, _Id).id

    async def _ask(self, method: str, path: str, body: Mapping[str, str] | None = None) -> bytes:
        """The body of the first good answer of a registry. Raises _MissingError, and RegistryError if there is none."""
        problems = []
        for url in list(self._urls):
            try:
                status, answer = await self._request(method, url + path, body)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                problems.append(f"{url} does not answer ({_cause(error)})")
            else:
                if status == 200:
                    return answer
                problem = _problem(answer)
                said = f"{url} answers {status}" + (f" ({problem.message[:200]})" if problem.message else "")
                if problem.error_code in _NOT_FOUND:
                    raise _MissingError(said)
                problems.append(said)
            # The others come first from now on.
            self._urls.append(self._urls.pop(0))
        raise RegistryError(f"schema registry: {'; '.join(problems)}")

    async def _request(self, method: str, url: str, body: Mapping[str, str] | None) -> tuple[int, bytes]:
        async with (
            asyncio.timeout(_TIMEOUT_S),
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._tls or True)) as session,
            session.request(
                # Redirects are not followed: they could lead log-in and schemas to anybody.
                method,
                url,
                data=None if body is None else msgspec.json.encode(body),
                headers=self._headers,
                allow_redirects=False,
            ) as answer,
        ):
            content = await answer.content.read(_ANSWER_BYTES_MAX + 1)
            while chunk := await answer.content.read(_ANSWER_BYTES_MAX + 1 - len(content)):
                content += chunk
            if len(content) > _ANSWER_BYTES_MAX:
                raise aiohttp.ClientPayloadError(f"more than {_ANSWER_BYTES_MAX} bytes")
            return answer.status, content


def _parsed(answer: bytes, kind: type[_Answer]) -> _Answer:
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise RegistryError(f"schema registry: its answer is none of a schema registry ({error!s:.200})") from None


def _problem(answer: bytes) -> _Problem:
    try:
        return msgspec.json.decode(answer, type=_Problem)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return _Problem()


def _cause(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"silence for {_TIMEOUT_S:.0f} s"
    return " ".join(str(error).split())[:200] or type(error).__name__
