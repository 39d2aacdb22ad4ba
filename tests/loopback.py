"""Loopback: an HTTP server for tests, which answers what is posted to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["answering"]

#: Takes the header ``Authorization`` (empty if there is none) and the body. Gives status and body of the answer.
Answer = Callable[[str, bytes], tuple[int, bytes]]


@contextmanager
def answering(answer: Answer) -> Iterator[int]:
    """Answer on a free port of loopback for as long as the block runs. Gives the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status, content = answer(self.headers.get("authorization", ""), body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
