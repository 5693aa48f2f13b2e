"""Serves the page to this machine's own browser, and to nobody else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

from fastsched.explore.answers import build
from fastsched.explore.state import State

ADDRESS = "127.0.0.1"
FRAMES = "http://127.0.0.1:* http://localhost:*"  # where a notebook's own page is


class Guard:
    """Refuses requests whose Host or Origin is another than the page's own.

    The Host, since another site's name may resolve to this machine (DNS rebinding); the Origin, since any site may
    send requests here. It stands before everything, an Upgrade to a websocket too, of which the page has none.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]], port: int, policy: str) -> None:
        self._app = app
        self._hosts = {f"{ADDRESS}:{port}", f"localhost:{port}"}
        self._headers = [
            ("Content-Security-Policy", policy),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ]

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """One request."""
        host, origin = environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")
        if host not in self._hosts or (origin is not None and origin.removeprefix("http://") not in self._hosts):
            return _refuse(start_response, "403 Forbidden", "this page is for this machine's own browser")
        if environ.get("HTTP_UPGRADE"):
            return _refuse(start_response, "400 Bad Request", "there are no websockets here")

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, [*headers, *self._headers], *more)

        return self._app(environ, start)


def _refuse(start_response: Callable[..., Any], status: str, why: str) -> Iterable[bytes]:
    body = f"fastsched explore: {why}\n".encode()
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]


class _Quiet(WSGIRequestHandler):
    """Keeps connections open, and no log."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing."""


class Server:
    """A page on 127.0.0.1. ``url``: where it is, with the state that it starts with.

    In a notebook its repr is the page itself. ``port`` 0 takes a free one. Errors: ``OSError`` for one that is taken.
    """

    def __init__(self, state: State | None = None, port: int = 0, height: int = 900) -> None:
        self._height = height
        app = build(state or State())
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((ADDRESS, port))
            listening.listen(128)
            self.port: int = listening.getsockname()[1]
            guard = Guard(app.server, self.port, _policy(app.csp_hashes()))
            self._server = make_server(
                ADDRESS, self.port, guard, threaded=True, request_handler=_Quiet, fd=listening.fileno()
            )
        finally:
            listening.close()
        self.url = f"http://{ADDRESS}:{self.port}/"
        self._thread: threading.Thread | None = None

    def start(self) -> Server:
        """Serves from a thread of its own, until `stop` or the end of the process."""
        self._thread = threading.Thread(target=self._server.serve_forever, name="fastsched-explore", daemon=True)
        self._thread.start()
        return self

    def run(self) -> None:
        """Serves until interrupted."""
        try:
            self._server.serve_forever()
        finally:
            self._server.server_close()

    def stop(self) -> None:
        """Ends a server that `start` has started."""
        self._server.shutdown()
        self._server.server_close()
        if self._thread is not None:
            self._thread.join()

    def _repr_html_(self) -> str:
        return (
            f'<iframe src="{self.url}" title="fastsched explore" width="100%" height="{self._height}" '
            'style="border:0" allow="clipboard-write"></iframe>'
        )


def _policy(hashes: Iterable[str]) -> str:
    """What the page may load: its own files only."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src 'self' {' '.join(hashes)}",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            f"frame-ancestors 'self' {FRAMES}",
        ]
    )
