"""The labelling page: a small server for one person on this machine, and for nobody else.

What a page of another site, or another program's page, could try, and what stops it:

    guess the address           a random token, compared in constant time; it works once, then a cookie takes its place
    send a request from a tab   Origin must be this server's, and Sec-Fetch-Site, where the browser sends it, ours
    rebind its own name to us   Host must be 127.0.0.1 and the port, as printed
    ask for another file        the files are a table in memory; no path is ever looked up on the disk
    put HTML in a response      texts travel as JSON and are shown as text; the policy forbids every other script
    fill the memory             bodies are limited before they are read
"""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable
from importlib import resources
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, QueryParams
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rmjax.errors import UserError
from rmjax.oracles.session import SAID, Session, Stale

HOST = "127.0.0.1"
LARGEST = 1024  # bytes of a request's body
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """Lets through what this machine's one browser asks for, and answers everything else itself."""

    def __init__(self, app: ASGIApp, *, port: int, token: str):
        self.app, self.host, self.origin = app, f"{HOST}:{port}", f"http://{HOST}:{port}"
        self.cookie = f"rmjax-{port}"  # browsers share cookies among the ports of a host
        self._token: str | None = token
        self._session = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
            await send(message)

        answer = self._refusal(scope)
        await (answer or self.app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that may not pass; None for one that may."""
        headers, request = Headers(scope=scope), Request(scope)
        if headers.getlist("host") != [self.host]:
            return PlainTextResponse(f"This server is {self.origin} and answers to no other name.", 421)
        origins = headers.getlist("origin")
        if origins != [self.origin] and (origins or scope["method"] not in ("GET", "HEAD")):
            return PlainTextResponse("Requests from other origins are refused.", 403)
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return PlainTextResponse("Another site led here: copy the address into the address bar instead.", 403)
        known = _same(request.cookies.get(self.cookie, ""), self._session)
        given = QueryParams(scope["query_string"]).get("token")
        if given is not None and scope["path"] == "/" and scope["method"] == "GET":
            return RedirectResponse("/", 303) if known else self._entry(given)
        return None if known else PlainTextResponse("Open the address that the command printed when it started.", 401)

    def _entry(self, given: str) -> Response:
        """Takes a token for a cookie, once."""
        if self._token is None or not _same(given, self._token):
            return PlainTextResponse("The address is wrong or was used before. Run the command again.", 403)
        self._token = None
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self.cookie, self._session, httponly=True, samesite="strict", path="/")
        return answer


def _same(given: str, known: str) -> bool:
    return secrets.compare_digest(given.encode(), known.encode())


def application(session: Session, *, port: int, token: str, finish: Callable[[], None] = lambda: None) -> Starlette:
    """The page and its four calls.

    Args:
      session: what is labelled; a vote is on disk before its request is answered.
      port: that the server listens at: part of the only Host and Origin that are answered.
      token: of the address.
      finish: called when the person ends the session.
    """
    folder = resources.files("rmjax.oracles")
    bodies = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in FILES.items()}

    async def file(request: Request) -> Response:
        body, kind = bodies[request.url.path]
        return Response(body, media_type=kind)

    async def state(request: Request) -> Response:
        return JSONResponse(state_of(session))

    async def vote(request: Request) -> Response:
        return await _changed(session, request, _vote)

    async def undo(request: Request) -> Response:
        return await _changed(session, request, _undo)

    async def end(request: Request) -> Response:
        finish()
        return JSONResponse(state_of(session))

    routes = [Route(path, file, methods=["GET"]) for path in FILES]
    routes += [Route("/state", state, methods=["GET"])]
    routes += [Route(path, call, methods=["POST"]) for path, call in (("/vote", vote), ("/undo", undo), ("/end", end))]
    guard = Middleware(Guard, port=port, token=token)
    limit = Middleware(RequestBodyLimitMiddleware, max_body_size=LARGEST)
    return Starlette(routes=routes, middleware=[guard, limit])


def state_of(session: Session) -> dict[str, Any]:
    """All that the page shows."""
    view = session.current
    pair = view and {
        "number": view.number,
        "prompt": [{"role": m.role, "content": m.content} for m in view.prompt],
        "answers": view.answers,
    }
    return {"by": session.by, "done": session.done, "total": session.total, "last": session.last, "pair": pair}


async def _changed(session: Session, request: Request, change: Callable[[Session, dict[str, Any]], None]) -> Response:
    """Reads and checks a body, makes the change, answers with the state after it."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return PlainTextResponse("A JSON body is expected.", 415)
    try:
        body = json.loads(await request.body())
        if not isinstance(body, dict) or type(body.get("number")) is not int:
            raise ValueError("an object with the number of a pair is expected")
        change(session, body)
    except Stale:  # the page shows the new state and says why
        return JSONResponse(state_of(session), 409)
    except UserError as error:  # a full disk: nothing was taken down
        return PlainTextResponse(str(error), 507)
    except (ValueError, OverflowError, RecursionError) as error:  # UnicodeError is a ValueError
        return PlainTextResponse(f"Not a request of this page: {error}", 400)
    except ClientDisconnect:  # gone in the middle of its body: nobody hears the answer
        return Response(status_code=400)
    return JSONResponse(state_of(session))


def _vote(session: Session, body: dict[str, Any]) -> None:
    said, seconds = body.get("said"), body.get("seconds")
    if said not in SAID or type(seconds) not in (int, float):
        raise ValueError("a choice and the seconds that it took are expected")
    session.vote(body["number"], said, seconds=seconds)


def _undo(session: Session, body: dict[str, Any]) -> None:
    session.undo(body["number"])


class Server:
    """Serves a session on 127.0.0.1 until the person ends it, or Ctrl-C.

    Attributes:
      address: to open, once; it holds the token.
    """

    def __init__(self, session: Session, *, port: int = 0):
        """Takes the port (0: a free one). Raises UserError where it is taken."""
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((HOST, port))
            self._socket.listen()  # a browser that is quicker than the server waits
        except OSError as error:
            self._socket.close()
            raise UserError(
                f"--port {port}: cannot be used ({error.strerror}); give another, or 0 for a free one"
            ) from None
        port, token = self._socket.getsockname()[1], secrets.token_urlsafe(32)
        self.address = f"http://{HOST}:{port}/?token={token}"
        app = application(session, port=port, token=token, finish=self._finish)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # it would hold the token
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)

    def run(self) -> None:
        """Serves; returns when the session is ended. Raises KeyboardInterrupt on Ctrl-C, when all is closed."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def _finish(self) -> None:
        self._server.should_exit = True
