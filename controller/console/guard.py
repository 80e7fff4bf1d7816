"""What keeps other sites out of the console: response headers and the Host check.

The page renders names that users chose, so the browser is told to run nothing but our own
files, and no string may become markup (Trusted Types).
"""

import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CONTENT_SECURITY_POLICY = "; ".join((
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "trusted-types 'none'",
    "require-trusted-types-for 'script'",
))  # fmt: skip

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


async def secure(_: web.Request, response: web.StreamResponse) -> None:
    """Put the headers on a response, an error's included."""
    response.headers.update(_HEADERS)


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address means this machine and no other."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@web.middleware
async def only_local_names(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn away a page elsewhere whose name was rebound to 127.0.0.1."""
    if not is_loopback(_host_name(request.host)):
        raise web.HTTPMisdirectedRequest(text="Host must name this machine: use localhost\n")
    return await handler(request)


def middlewares_for(host: str) -> tuple[Middleware, ...]:
    """Choose the checks for the address that is listened on; beyond loopback any name is fair."""
    return (only_local_names,) if is_loopback(host) else ()


def _host_name(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
