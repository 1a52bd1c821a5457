"""Films for the viewer: read out of their owner's own session when they are asked for.

A film is never written to disk, and no shared table of films exists. Who may ask at all is the guard's
business (guard.py); the token in the address is a second lock.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cxr_assistant.study import Radiograph
from cxr_assistant.ui.session import Session
from cxr_assistant.ui.viewer.film import pack_pixels, thumbnail

__all__ = ["FindSession", "PictureOf", "example_routes", "film_routes", "film_url"]

FindSession = Callable[[str], Session | None]
PictureOf = Callable[[Radiograph, str], bytes | None]

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def film_url(session: Session, visitor: str, digest: str, kind: str) -> str:
    """Where the browser of this visitor finds a film: relative, and unguessable without the session's key."""
    return f"film/{visitor}/{session.film_token(digest)}/{kind}"


def film_routes(find_session: FindSession, as_seen_by: PictureOf = lambda film, name: None) -> list[Route]:
    """The one route of our own: `/film/{visitor}/{token}/{kind}`, answered from the visitor's session.

    `kind` is "pixels", "thumbnail" or "as-seen-by-" and a checkpoint, of which `as_seen_by` gives the PNG.
    """

    def film(request: Request) -> Response:
        radiograph = _owned(find_session, request.path_params)
        kind, _, name = request.path_params["kind"].partition("as-seen-by-")
        if radiograph is not None and name:
            picture = as_seen_by(radiograph, name)
            if picture is not None:
                return Response(picture, media_type="image/png", headers=_HEADERS)
        if radiograph is None or kind not in ("pixels", "thumbnail"):
            return Response(status_code=404, headers=_HEADERS)
        if kind == "thumbnail":
            return Response(thumbnail(radiograph), media_type="image/png", headers=_HEADERS)
        packed = {**_HEADERS, "Content-Encoding": "deflate"}
        return Response(pack_pixels(radiograph), media_type="application/octet-stream", headers=packed)

    return [Route("/film/{visitor}/{token}/{kind}", film, methods=["GET"])]


def example_routes(picture_of: Callable[[int], bytes | None]) -> list[Route]:
    """`/example/{number}`: the small pictures of the bundled examples, the same for everybody."""

    def example(request: Request) -> Response:
        picture = picture_of(request.path_params["number"])
        if picture is None:
            return Response(status_code=404, headers=_HEADERS)
        return Response(
            picture, media_type="image/png", headers={**_HEADERS, "Cache-Control": "max-age=3600"}
        )

    return [Route("/example/{number:int}", example, methods=["GET"])]


def _owned(find_session: FindSession, path: dict[str, str]) -> Radiograph | None:
    session = find_session(path["visitor"])
    return session.film_by_token(path["token"]) if session else None
