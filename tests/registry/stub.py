"""A stub of a schema registry's HTTP interface, on a loop and a thread of its own."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import uuid
from base64 import b64encode
from typing import Any

from aiohttp import web

__all__ = ["StubRegistry"]


class StubRegistry:
    """Keeps schemas as Confluent's registry does, and answers as it does.

    ``fault`` is an answer that is given instead, status and body, to each path that begins with ``fault_from``.
    ``hang`` lets requests wait.
    """

    def __init__(self, *, user: str = "", password: str = "", tls: ssl.SSLContext | None = None) -> None:
        self._auth = "Basic " + b64encode(f"{user}:{password}".encode()).decode() if user else None
        self._tls, self._port = tls, 0
        self.schemas: list[dict[str, Any]] = []
        self.subjects: dict[str, list[int]] = {}
        self.requests: list[str] = []
        self.fault: tuple[int, str] | None = None
        self.fault_from = "/"
        self.hang = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runner: web.AppRunner | None = None

    def __enter__(self) -> StubRegistry:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def up(self) -> None:
        """Listen, at the same port as before."""
        self._run(self._up())

    def down(self) -> None:
        """Stop listening. What is registered stays."""
        if self._runner is not None:
            self._run(self._runner.cleanup())
            self._runner = None

    def add(self, subject: str, schema: str, kind: str = "AVRO", references: list[dict[str, Any]] | None = None) -> int:
        """Register a schema, and return its id."""
        entry = {"schema": schema, "schemaType": kind, "references": references or []}
        if entry not in self.schemas:
            self.schemas.append(entry)
        number = self.schemas.index(entry) + 1
        versions = self.subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number

    def _run(self, job: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(job, self._loop).result(20)

    async def _up(self) -> None:
        app = web.Application(middlewares=[self._before])
        app.router.add_get("/schemas/types", self._types)
        app.router.add_get("/schemas/ids/{id}", self._by_id)
        app.router.add_get("/schemas/guids/{guid}", self._by_guid)
        app.router.add_get("/subjects/{subject}/versions/{version}", self._by_version)
        app.router.add_post("/subjects/{subject}/versions", self._register)
        app.router.add_post("/subjects/{subject}", self._register)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]

    @web.middleware
    async def _before(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        if self.hang:
            await asyncio.sleep(30)
        if self.fault is not None and request.path.startswith(self.fault_from):
            status, text = self.fault
            return web.Response(status=status, text=text, headers={"Location": "/elsewhere"})
        if self._auth is not None and request.headers.get("Authorization") != self._auth:
            return _problem(401, 401, "Unauthorized")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _types(self, _request: web.Request) -> web.Response:
        return web.json_response(["JSON", "PROTOBUF", "AVRO"])

    async def _by_id(self, request: web.Request) -> web.Response:
        return self._answer(int(request.match_info["id"]))

    async def _by_guid(self, request: web.Request) -> web.Response:
        known = {_guid(number): number for number in range(1, len(self.schemas) + 1)}
        return self._answer(known.get(request.match_info["guid"], 0))

    def _answer(self, number: int) -> web.Response:
        if not 0 < number <= len(self.schemas):
            return _problem(404, 40403, f"Schema {number} not found")
        entry = self.schemas[number - 1]
        if entry["schemaType"] == "AVRO":
            # Confluent's registry leaves the type of Avro out.
            entry = {key: value for key, value in entry.items() if key != "schemaType"}
        return web.json_response(entry)

    async def _by_version(self, request: web.Request) -> web.Response:
        subject, version = request.match_info["subject"], int(request.match_info["version"])
        if subject not in self.subjects:
            return _problem(404, 40401, f"Subject '{subject}' not found.")
        if not 0 < version <= len(self.subjects[subject]):
            return _problem(404, 40402, f"Version {version} not found.")
        number = self.subjects[subject][version - 1]
        return web.json_response({"subject": subject, "version": version, **self._registered(number)})

    async def _register(self, request: web.Request) -> web.Response:
        body = json.loads(await request.text())
        subject = request.match_info["subject"]
        number = self.add(subject, body["schema"], body.get("schemaType", "AVRO"), body.get("references"))
        version = self.subjects[subject].index(number) + 1
        return web.json_response({"subject": subject, "version": version, **self._registered(number)})

    def _registered(self, number: int) -> dict[str, Any]:
        return {"id": number, "guid": _guid(number), **self.schemas[number - 1]}


def _guid(number: int) -> str:
    return str(uuid.UUID(int=number))


def _problem(status: int, code: int, message: str) -> web.Response:
    return web.json_response({"error_code": code, "message": message}, status=status)
