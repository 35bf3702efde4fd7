"""A payment service or an identity provider, on another site: a page whose form is sent to the site that it is told."""

from html import escape

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route


async def page(request: Request) -> HTMLResponse:
    fields = dict(request.query_params)
    to = escape(fields.pop("to"))
    inputs = [f'<input type="hidden" name="{escape(name)}" value="{escape(fields[name])}">' for name in fields]
    return HTMLResponse(f'<form method="post" action="{to}">{"".join(inputs)}<button id="back">Back</button></form>')


app = Starlette(routes=[Route("/", page)])
