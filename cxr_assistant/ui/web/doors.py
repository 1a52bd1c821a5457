"""The few pages and answers of our own: logging in and out, and whether the app is well.

Knows the users, the cookies and the health of the worker; knows no study.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from cxr_assistant.settings import Limits
from cxr_assistant.ui.web.audit import AuditLog
from cxr_assistant.ui.web.cookies import clear_cookie, read_cookie, write_cookie
from cxr_assistant.ui.web.limits import Buckets
from cxr_assistant.ui.web.login import Users, login_page
from cxr_assistant.ui.web.ownership import Browsers

__all__ = ["Readiness", "health_routes", "login_routes"]

Readiness = Callable[[], dict[str, bool]]
"""What must be true before anybody is sent here, by name."""


def health_routes(readiness: Readiness) -> list[Route]:
    """`/healthz`: this process answers. `/readyz`: the engine does, too, and there is room in the queue."""

    def healthz(_: Request) -> Response:
        return JSONResponse({"ok": True})

    def readyz(_: Request) -> Response:
        state = readiness()
        return JSONResponse(
            {"ok": all(state.values()), **state}, status_code=200 if all(state.values()) else 503
        )

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


def login_routes(
    users: Users | None, browsers: Browsers, limits: Limits, audit: AuditLog | None, *, is_framed: bool
) -> list[Route]:
    """`/login` and `/logout`, where there is a file of users."""
    if users is None:
        return []
    by_address, by_name = Buckets(limits.logins_per_minute), Buckets(limits.logins_per_minute)

    async def login(request: Request) -> Response:
        if request.method != "POST":
            return HTMLResponse(login_page())
        form = await request.form()
        name, password = (str(form.get(key, ""))[:200] for key in ("name", "password"))
        address = request.client.host if request.client else ""
        wait_s = by_address.take(address) or by_name.take(name)
        if wait_s:
            problem = f"Too many attempts. Try again in {int(wait_s) + 1} seconds."
            headers = {"Retry-After": str(int(wait_s) + 1)}
            return HTMLResponse(login_page(problem), status_code=429, headers=headers)
        is_known = await run_in_threadpool(users.check, name, password)
        if audit:  # a name that is no user's may be a password typed into the wrong field
            audit.note("log in", user=name if is_known else "", outcome="ok" if is_known else "refused")
        if not is_known:
            return HTMLResponse(login_page("The name or the password is wrong."), status_code=401)
        return _with_cookie(RedirectResponse("/", status_code=303), request, browsers.issue(name))

    def logout(request: Request) -> Response:
        is_https = request.url.scheme == "https"
        value = read_cookie(request.headers, is_https=is_https)
        known = browsers.find(value)
        if audit and known:
            audit.note("log out", user=known[1], visit=known[0])
        browsers.revoke(value)
        response = RedirectResponse("/login", status_code=303)
        response.headers.append("set-cookie", clear_cookie(is_https=is_https, is_framed=is_framed))
        return response

    def _with_cookie(response: Response, request: Request, value: str) -> Response:
        is_https = request.url.scheme == "https"
        response.headers.append("set-cookie", write_cookie(value, is_https=is_https, is_framed=is_framed))
        return response

    return [Route("/login", login, methods=["GET", "POST"]), Route("/logout", logout, methods=["POST"])]
