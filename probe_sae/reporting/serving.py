"""Serve a report to this machine's browsers, where none can be opened from here."""

import urllib.parse
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOME = "127.0.0.1"
"""The only address that is listened on: other machines cannot connect."""


class ReportServer(ThreadingHTTPServer):
    """Hands out the files of one report, and nothing else."""

    daemon_threads = True

    def __init__(self, page: Path, port: int = 0) -> None:
        """Listen on `port` of this machine alone; 0 for any that is free.

        Args:
            page: the report's page to open. An `index.html` brings its whole folder, any other page
                nothing but itself: it may lie among private files.
            port: where to listen.
        """
        self.page = page.resolve()
        super().__init__((HOME, port), _Handler)

    @property
    def address(self) -> str:
        """Where a browser of this machine finds the page."""
        return f"http://{HOME}:{self.server_port}/{urllib.parse.quote(self.page.name)}"

    def file_of(self, path: str) -> Path | None:
        """Return the file that a request names, or None where the report has no such file."""
        name = urllib.parse.unquote(urllib.parse.urlsplit(path).path).lstrip("/")
        if "\x00" in name:
            return None
        folder = self.page.parent
        found = (folder / (name or self.page.name)).resolve()
        if self.page.name != "index.html" and found != self.page:
            return None
        try:
            return found if found.is_relative_to(folder) and found.is_file() else None
        except OSError:  # a name that no file can have
            return None


class _Handler(SimpleHTTPRequestHandler):
    server: ReportServer

    def send_head(self) -> Any:
        # A page elsewhere can point a name of its own at this machine; it cannot send our Host.
        if (self.headers.get("Host") or "").rsplit(":", 1)[0] not in (HOME, "localhost"):
            self.send_error(403)
            return None
        found = self.server.file_of(self.path)
        if found is None:
            self.send_error(404)
            return None
        self._found = found
        return super().send_head()

    def translate_path(self, path: str) -> str:
        return str(self._found)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: stdout and stderr are the command's."""
