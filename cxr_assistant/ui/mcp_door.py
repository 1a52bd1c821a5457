"""The door for MCP clients: the same six verbs as tools, films handed over in the message itself.

Knows the `mcp` package, which is an optional extra, and the verbs (programs.py). Nothing outlives a request:
each one is served by a transport of its own, and no tool takes an address or a path.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cxr_assistant.errors import SettingsError, UnreadableImage
from cxr_assistant.ui.programs import HealthReport, Programs, Reply, in_plain_words
from cxr_assistant.ui.web.guard import VISITOR

if TYPE_CHECKING:
    from mcp.server import MCPServer

__all__ = ["MCP_PATH", "mcp_routes"]

MCP_PATH = "/gradio_api/mcp"
MAX_MESSAGE_BYTES = 96 * 1024 * 1024  # a film of 64 MiB in base64, and some words
INSTRUCTIONS = (
    "Drafts about chest radiographs by open research models. Research preview: not a medical device, not for "
    "clinical use; say so whenever you pass an answer on. Films go along as base64."
)

# Whose message is answered, for the limits of an address: a tool is told its arguments and nothing else.
_visitor: ContextVar[str] = ContextVar("visitor", default="")

Film = Annotated[str, "The radiograph (DICOM, PNG or JPEG), its bytes as base64"]
Prior = Annotated[str, "The earlier radiograph, its bytes as base64"]
Model = Annotated[str, "A name that `health` lists; empty for the app's own choice"]
Indication = Annotated[str, "The reason for the exam, without patient data"]


def mcp_routes(programs: Programs) -> list[Route]:
    """The one address at which MCP clients are served.

    Raises SettingsError when the `mcp` package is not there.
    """
    try:
        from mcp.server import MCPServer
    except ImportError as error:
        raise SettingsError(
            "CXR_MCP is yes, and the package 'mcp' is not installed.",
            hint="Install it: pip install -r requirements-mcp.txt -c constraints.txt",
        ) from error
    server = MCPServer("CXR Assistant", instructions=INSTRUCTIONS, log_level="ERROR", subscriptions=False)
    Tools(programs).offer(server)
    return [Route(MCP_PATH, _Endpoint(server), methods=["GET", "POST", "DELETE"])]


class Tools:
    """The verbs as tools: the last reply of each, or one sentence on why there is none."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    def offer(self, server: MCPServer) -> None:
        for verb in (
            self.draft_findings,
            self.ask,
            self.classify_view,
            self.locate,
            self.compare_prior,
            self.health,
        ):
            server.add_tool(verb)

    def draft_findings(self, film: Film, indication: Indication = "", model: Model = "") -> Reply:
        """Draft the findings of one chest radiograph."""
        return self._last(
            lambda visitor: self._programs.draft_findings(
                _bytes(film), indication=indication, model=model, visitor=visitor
            )
        )

    def ask(
        self,
        film: Film,
        question: Annotated[str, "What you want to know, in English"],
        indication: Indication = "",
        model: Model = "",
    ) -> Reply:
        """Ask one question about one chest radiograph."""
        return self._last(
            lambda visitor: self._programs.ask(
                _bytes(film), question, indication=indication, model=model, visitor=visitor
            )
        )

    def classify_view(self, film: Film, model: Model = "") -> Reply:
        """Tell the view of one chest radiograph: PA, AP or lateral."""
        return self._last(
            lambda visitor: self._programs.classify_view(_bytes(film), model=model, visitor=visitor)
        )

    def locate(
        self, film: Film, phrase: Annotated[str, "Such as: left pleural effusion"], model: Model = ""
    ) -> Reply:
        """Find a phrase on one chest radiograph; the boxes are fractions of its width and height."""
        return self._last(
            lambda visitor: self._programs.locate(_bytes(film), phrase, model=model, visitor=visitor)
        )

    def compare_prior(
        self,
        film: Film,
        prior: Prior,
        finding: Annotated[str, "What to follow, such as: pleural effusion"],
        model: Model = "",
    ) -> Reply:
        """Tell how one finding changed from an earlier chest radiograph to this one."""
        return self._last(
            lambda visitor: self._programs.compare_prior(
                _bytes(film), _bytes(prior), finding, model=model, visitor=visitor
            )
        )

    def health(self) -> HealthReport:
        """Whether the engine answers, and which models there are, with the tasks of each."""
        return self._programs.health()

    def _last(self, ask: Callable[[str], Iterator[Reply]]) -> Reply:
        from mcp.server.mcpserver.exceptions import ToolError

        reply = Reply()
        try:
            for reply in ask(_visitor.get()):  # noqa: B007  # the last one is the whole
                pass
        except Exception as error:  # the outermost edge
            raise ToolError(in_plain_words(error)) from None
        return reply


class _Endpoint:
    """ASGI: one request, one transport that is gone when it was answered."""

    def __init__(self, server: Any) -> None:
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        manager = StreamableHTTPSessionManager(
            self._server._lowlevel_server,
            json_response=True,
            stateless=True,
            max_request_body_size=MAX_MESSAGE_BYTES,
        )
        _visitor.set(scope.get(VISITOR, ""))
        async with manager.run():
            await manager.handle_request(scope, receive, send)


def _bytes(film: str) -> bytes:
    try:
        return base64.b64decode(film, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnreadableImage(
            "The film is not base64.", hint="Send the bytes of the file in base64, without line breaks."
        ) from error
