"""Serves moto at the port that is given: `python moto_server.py PORT`.

moto's own server answers each request in a thread, over dictionaries that are not made for that: a request fails when another one
adds a secret meanwhile. Here one request is worked on at a time, once all of it has arrived.
"""

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

__all__ = ["main"]


def main(port: int) -> None:
    """Serve until the process is told to end; a shell may have started it with SIGINT ignored."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: os._exit(0))

    moto = DomainDispatcherApplication(create_backend_app)
    working = threading.Lock()

    def one_at_a_time(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # A body that never arrives must keep nobody else waiting.
        length = environ.get("CONTENT_LENGTH")
        body = (
            environ["wsgi.input"].read(int(length)) if length else environ["wsgi.input"].read() if _is_chunked(environ) else b""
        )
        environ["wsgi.input"] = io.BytesIO(body)
        with working:
            return list(moto(environ, start_response))

    run_simple("127.0.0.1", port, one_at_a_time, threaded=True, request_handler=MotoRequestHandler)


def _is_chunked(environ: dict[str, Any]) -> bool:
    return "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "")


if __name__ == "__main__":
    main(int(sys.argv[1]))
