"""Serves moto at the port that is given: `python moto_server.py PORT`.

moto's own server answers each request in a thread, over dictionaries that are not made for that: a request fails when another one
adds a secret meanwhile. Here one request is worked on at a time, once all of it has arrived. Nor does a request cost a connection
and a thread of its own, a line in the log, and a look at the disk for the names of moto's modules: for small ones all that takes
as long as the answer.
"""

import functools
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.core import responses
from moto.core.utils import method_names_from_class
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.sqs import models as queues
from werkzeug.serving import run_simple

__all__ = ["main"]


def main(port: int) -> None:
    """Serve until the process is told to end; a shell may have started it with SIGINT ignored."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: os._exit(0))

    for module in (responses, queues):  # what a name is in Python, dozens of times for each request
        setattr(module, "camelcase_to_underscores", functools.cache(module.camelcase_to_underscores))  # noqa: B010
    setattr(responses, "method_names_from_class", functools.cache(method_names_from_class))  # noqa: B010

    moto = Dispatcher(create_backend_app)
    working = threading.Lock()

    def one_at_a_time(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # A body that never arrives must keep nobody else waiting.
        length = environ.get("CONTENT_LENGTH")
        body = (
            environ["wsgi.input"].read(int(length)) if length else environ["wsgi.input"].read() if _is_chunked(environ) else b""
        )
        if length and len(body) < int(length):
            raise ConnectionResetError("the body ended early")
        environ["wsgi.input"] = io.BytesIO(body)
        with working:
            return list(moto(environ, start_response))

    run_simple("127.0.0.1", port, one_at_a_time, threaded=True, request_handler=RequestHandler)


class Dispatcher(DomainDispatcherApplication):
    """Finds the service of a host, which never changes, once."""

    get_backend_for_host = functools.lru_cache(maxsize=1024)(DomainDispatcherApplication.get_backend_for_host)


class RequestHandler(MotoRequestHandler):
    """Keeps the connection after an answer, as AWS does: `main` has read the whole request by then."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def run_wsgi(self) -> None:
        """Answer one request."""
        environ = self.make_environ()
        head: list[Any] = []

        def start_response(*given: Any) -> Callable[[bytes], object]:
            head[:] = given[:2]
            return self.wfile.write

        try:
            body = b"".join(self.server.app(environ, start_response))
        except OSError:
            self.close_connection = True
            return
        except Exception as error:
            self.server.log("error", f"{environ['REQUEST_METHOD']} {self.path}: {error!r}")
            head, body = ["500 Internal Server Error", []], b""

        status, headers = head
        code, reason = status.split(" ", 1)
        self.send_response(int(code), reason)
        for name, value in headers:
            self.send_header(name, value)
        if code not in ("204", "304") and not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if environ["REQUEST_METHOD"] != "HEAD":
            self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing of what went well."""


def _is_chunked(environ: dict[str, Any]) -> bool:
    return "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "")


if __name__ == "__main__":
    main(int(sys.argv[1]))
