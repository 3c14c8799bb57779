"""`/docs`: the API to try out, by Swagger UI from its package. The page asks nothing of other servers."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

# Keys are typed into this page: no script but its own runs there, and it speaks to nobody else.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Skeldir gateway</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null});\n'
Content = Callable[[], bytes]
TYPES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}


def docs_routes() -> list[Route]:
    """The page and its files."""
    return [
        _route("/docs", "text/html", lambda: PAGE.encode()),
        _route("/docs/start.js", "text/javascript", lambda: START.encode()),
        *(_route(f"/docs/{name}", kind, _packaged(name)) for name, kind in TYPES.items()),
    ]


def _packaged(name: str) -> Content:
    """A file of the package: read when somebody asks for it, which few do."""
    return lambda: resources.files("fastapi_swagger").joinpath("resources", name).read_bytes()


def _route(path: str, kind: str, content: Content) -> Route:
    async def serve(_: Request) -> Response:
        return Response(content(), media_type=kind, headers=HEADERS)

    return Route(path, serve)
