"""``depai-fleet serve``: the same console in a browser, through textual-serve, with what that leaves open closed.

textual-serve lets any page of the web open its socket and takes its font from another site. Here only the console's own
page may, under the name it was started with; nothing is loaded from elsewhere; and the number of sessions is bounded.
"""

import contextlib
import ipaddress
import re
import shlex
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from textual_serve import server as textual_server

from depai_robot.values.error import ConfigError

SESSIONS_MAX = 16
_FOREIGN = re.compile(r"<link[^>]*https?://(?!\{)[^>]*>", re.DOTALL)
_WORDS_FOREIGN = re.compile(r"""https?://(?!www\.w3\.org)[^"'\s]+""")


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can come."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def own_templates(folder: Path) -> Path:
    """textual-serve's page without what it would load from other sites.

    Raises:
        ConfigError: another version's page has foreign parts that are not known here.
    """
    source = Path(textual_server.__file__).parent / "templates" / "app_index.html"
    text = _FOREIGN.sub("", source.read_text(encoding="utf-8"))
    left = [url for url in _WORDS_FOREIGN.findall(text) if "textual" not in url.lower()]
    if left:
        raise ConfigError(f"the page of textual-serve loads from other sites: {', '.join(left[:3])}")
    (folder / "app_index.html").write_text(text, encoding="utf-8")
    return folder


class ConsoleServer(textual_server.Server):
    """One process of the console for each browser window."""

    def __init__(
        self, command: list[str], host: str, port: int, public_url: str | None, templates: Path
    ) -> None:
        super().__init__(
            shlex.join(command),
            host=host,
            port=port,
            title="depai-fleet",
            public_url=public_url,
            templates_path=templates,
        )
        self.sessions = 0

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Lets in only the console's own page: a socket is not covered by the browser's same-origin rule."""
        origin, own = request.headers.get("Origin", ""), urlsplit(self.public_url)
        if origin != f"{own.scheme}://{own.netloc}" or request.headers.get("Host", "") != own.netloc:
            raise web.HTTPForbidden(text=f"this console is at {self.public_url}")
        if self.sessions >= SESSIONS_MAX:
            raise web.HTTPServiceUnavailable(text=f"{SESSIONS_MAX} consoles are open; close one")
        self.sessions += 1
        try:
            return await super().handle_websocket(request)
        finally:
            self.sessions -= 1

    async def on_startup(self, app: web.Application) -> None:
        """One line instead of a banner."""
        del app
        print(f"depai-fleet is at {self.public_url} (Ctrl-C ends it)", flush=True)


def serve(command: list[str], host: str, port: int, public_url: str | None) -> None:
    """Serves until SIGINT or SIGTERM. Blocks.

    Args:
        command: of one console.
        host: address to listen at.
        port: TCP.
        public_url: what browsers call it, where a proxy stands before it.
    """
    with tempfile.TemporaryDirectory(prefix="depai-fleet-") as name:
        ConsoleServer(command, host, port, public_url, own_templates(Path(name))).serve()
