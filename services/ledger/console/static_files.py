"""The console's page: files of this package, read once, compressed once, under a strict content-security policy."""

from __future__ import annotations

import gzip
import hashlib
from importlib import resources
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
# Nothing but our own files, no script or style in the page itself, no text that becomes markup by way of a script.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    # Asked for anew each time, and answered with 304: a new release is never half an old one.
    "Cache-Control": "no-cache",
}


def static_routes() -> list[Route]:
    """`/console`, and the files beside it."""
    folder = resources.files(__package__).joinpath("static")
    files = [file for file in folder.iterdir() if file.name.rpartition(".")[2] in TYPES]
    routes = [_route(f"/console/static/{file.name}", file) for file in files if file.name != "index.html"]
    return [_route("/console", folder.joinpath("index.html")), *routes]


def _route(path: str, file: Any) -> Route:
    content = file.read_bytes()
    compressed = gzip.compress(content, 9, mtime=0)
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "ETag": tag, "Vary": "Accept-Encoding"}

    async def serve(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        kind = TYPES[file.name.rpartition(".")[2]]
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(compressed, media_type=kind, headers={**headers, "Content-Encoding": "gzip"})
        return Response(content, media_type=kind, headers=headers)

    return Route(path, serve)
