"""The page's server, of the standard library: on 127.0.0.1 alone, under a token, for its own page alone.

Every address begins with /TOKEN/, which is drawn anew each time. A request under another address, of another host
name (what a rebound name of a stranger's would be) or that a browser says comes from another page is answered with 404
or 403 and nothing else. Images are named by numbers, so no address is ever taken as a path.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from casam_cache.errors import CasamError, ImageError, OptionError
from casam_cache.fingerprint import finite_json
from casam_cache.view.session import Asked, Session, failure, place_of

ADDRESS = "127.0.0.1"
NAMES = (ADDRESS, "localhost")
LARGEST = 64 * 1024  # bytes of what a page sends
HTML, JSON, PNG = "text/html; charset=utf-8", "application/json", "image/png"
STATIC = {
    "": ("casam_cache.view", "page/view.html", HTML),
    "icon.svg": ("casam_cache.view", "page/icon.svg", "image/svg+xml"),
    "view.css": ("casam_cache.view", "page/view.css", "text/css; charset=utf-8"),
    "view.js": ("casam_cache.view", "page/view.js", "text/javascript; charset=utf-8"),
    "report.css": ("casam_cache.report.html", "templates/report.css", "text/css; charset=utf-8"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class ViewServer(ThreadingHTTPServer):
    """Listens on 127.0.0.1 from when it is made; `serve_forever` answers.

    Args:
        session: what answers.
        port: 0: a free one.
        say: takes a line where a request failed for a reason of ours.

    Raises:
        OptionError: the port cannot be had.
    """

    daemon_threads = False  # a thread that is left when the interpreter ends can bring the process down
    block_on_close = True

    def __init__(
        self, session: Session, port: int = 0, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.session, self.say = session, say
        self._open = set[Any]()
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise OptionError(f"port {port}: {reason}", "choose another --port, or none") from None

    @property
    def address(self) -> str:
        """What a browser opens."""
        return f"http://{ADDRESS}:{self.server_address[1]}/{self.token}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers in a thread of its own, and knows the connection until it is shut down."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Ends a connection."""
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Stops listening, ends what browsers keep open, and waits for answers that are being computed."""
        for request in list(self._open):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RD)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves in the middle of an answer is no error."""


class _Refused(Exception):
    """A request that is answered with a status alone."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "casam", ""
    timeout = 60
    wbufsize, disable_nagle_algorithm = (
        -1,
        True,
    )  # head and body at once: apart, a click waits 40 ms for an ACK

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: object) -> None:
        """Addresses hold the token, and are written nowhere."""

    def _answer(self, work: Callable[[str], tuple[str, bytes]]) -> None:
        status = HTTPStatus.OK
        try:
            kind, content = work(self._name())
        except _Refused as refused:
            self.close_connection = True  # what it sent was perhaps not read
            status, kind, content = refused.status, "text/plain", refused.status.phrase.encode()
        except CasamError as error:
            status, kind = HTTPStatus.UNPROCESSABLE_ENTITY, JSON
            if isinstance(error, ImageError):
                status = HTTPStatus.NOT_FOUND
            content = _json(failure(error))
        except Exception as error:
            self.server.say(f"a request failed: {type(error).__name__}: {error}")
            status, kind = HTTPStatus.INTERNAL_SERVER_ERROR, JSON
            content = _json({"error": f"this failed: {type(error).__name__}: {error}"})
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def _name(self) -> str:
        """What is asked for, below the token.

        Raises:
            _Refused: the request is not of this server's own page.
        """
        host = self.headers.get("Host", "")
        if host.rpartition(":")[0] not in NAMES:
            raise _Refused(HTTPStatus.FORBIDDEN)
        if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise _Refused(HTTPStatus.FORBIDDEN)
        if self.headers.get("Origin", f"http://{host}") != f"http://{host}":
            raise _Refused(HTTPStatus.FORBIDDEN)
        token, slash, name = self.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(errors="replace"), self.server.token.encode()) or not slash:
            raise _Refused(HTTPStatus.NOT_FOUND)
        return name

    def _get(self, name: str) -> tuple[str, bytes]:
        if name in STATIC:
            package, file, kind = STATIC[name]
            return kind, resources.files(package).joinpath(file).read_bytes()
        if name == "items":
            return JSON, _json(self.server.session.listing())
        kind, *numbers = name.split("/")
        plain = all(number.isascii() and number.isdigit() and len(number) < 10 for number in numbers)
        if kind != "image" or len(numbers) != 2 or not plain:
            raise _Refused(HTTPStatus.NOT_FOUND)
        return PNG, self.server.session.image(int(numbers[0]), int(numbers[1]))

    def _post(self, name: str) -> tuple[str, bytes]:
        session, body = self.server.session, self._body()
        if name == "open":
            return JSON, _json(session.open(*place_of(body)))
        if name == "predict":
            return JSON, _json(session.predict(Asked.of(body)))
        if name == "keep":
            whose, named = str(body.get("whose")), str(body.get("name", ""))
            return JSON, _json(session.keep(Asked.of(body), whose, named))
        if name == "drop":
            return JSON, _json(session.drop(*place_of(body)))
        raise _Refused(HTTPStatus.NOT_FOUND)

    def _body(self) -> dict[str, Any]:
        """A JSON object; as no other page can send it unasked, JSON is all that is taken."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get_content_type() != JSON or "Transfer-Encoding" in self.headers:
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        if not (length.isascii() and length.isdigit()):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED)
        if len(length) > 9 or int(length) > LARGEST:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise _Refused(HTTPStatus.BAD_REQUEST) from None
        if not isinstance(body, dict):
            raise _Refused(HTTPStatus.BAD_REQUEST)
        return body


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(finite_json(value)).encode()
