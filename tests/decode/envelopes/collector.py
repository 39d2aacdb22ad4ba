"""Collector: a local HTTP server that keeps what an SDK posts, as a shop's collector forwards it to Kafka."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["Collector", "collector"]


class Collector:
    """The bodies that were posted, in order, at ``url``."""

    def __init__(self, port: int) -> None:
        self.host, self.url = f"127.0.0.1:{port}", f"http://127.0.0.1:{port}"
        self.bodies: list[bytes] = []


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector on a free port of loopback, for as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collected.bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status": 1}')

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collected = Collector(server.server_port)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collected
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
