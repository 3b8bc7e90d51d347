"""A Hugging Face hub in this process: what the real client wants to create, commit and download."""

import base64
import hashlib
import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """Repositories, and what was asked."""

    endpoint: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    private: set[str] = field(default_factory=set[str])
    gated: set[str] = field(default_factory=set[str])
    messages: list[str] = field(default_factory=list[str])
    tokens: set[str] = field(default_factory=set[str])
    asked: list[str] = field(default_factory=list[str])
    listed_elsewhere: str = ""
    """A path that every listing holds, as a hostile hub's would."""
    declared: dict[str, int] = field(default_factory=dict[str, int])
    """Sizes that listings say, where they are not the real ones."""

    def downloads(self) -> list[str]:
        """Return the files that were asked for."""
        return sorted(path.partition("/resolve/")[2].partition("/")[2] for path in self.asked)


@contextmanager
def fake_hub() -> Generator[FakeHub]:
    """Yield a hub that listens on this machine until the block ends; the client may go online."""
    hub = FakeHub()
    offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        constants.HF_HUB_OFFLINE = offline
        server.shutdown()
        server.server_close()
        thread.join()


def reach(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log in, and do what HF_ENDPOINT does where it is set before the client is imported."""
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def answer(self, body: Any, status: int = 200, **headers: str) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def refuse(self, status: int, code: str) -> None:
            self.answer({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def handle_one(self) -> None:
            path = unquote(urlsplit(self.path).path).lstrip("/")
            hub.tokens.add(self.headers.get("Authorization") or "")
            body = self.body()
            if self.command in ("GET", "HEAD"):
                self.get(path)
            else:
                self.post(path, body)

        do_GET = do_HEAD = do_POST = do_PUT = handle_one  # noqa: N815

        def get(self, path: str) -> None:
            if "/resolve/" in path:
                self.resolve(path)
                return
            repository, rest = _split(path.removeprefix("api/models/").removeprefix("api/"))
            if self.is_refused(repository):
                pass
            elif rest[1:2] not in ([], ["main"], [COMMIT]):
                self.refuse(404, "RevisionNotFound")
            elif rest[:1] == ["tree"]:
                self.tree(repository, "/".join(rest[2:]))
            else:
                self.answer({"id": repository, "sha": COMMIT, "siblings": []})

        def is_refused(self, repository: str) -> bool:
            if repository in hub.gated:
                self.refuse(403, "GatedRepo")
            elif repository not in hub.repositories:
                self.refuse(401, "RepoNotFound")
            else:
                return False
            return True

        def tree(self, repository: str, folder: str) -> None:
            files = hub.repositories[repository]
            prefix = f"{folder}/" if folder else ""
            is_deep = "recursive=true" in self.path.lower()
            entries: dict[str, Any] = {}
            for name, data in files.items():
                if name.startswith(prefix):
                    inner, slash, _ = name.removeprefix(prefix).partition("/")
                    if slash and not is_deep:
                        entries[inner] = {"type": "directory", "path": prefix + inner, "oid": "0"}
                    else:
                        size = hub.declared.get(name, len(data))
                        entry = {"type": "file", "path": name, "oid": _oid(data), "size": size}
                        entries[name] = entry
            if not entries:
                self.refuse(404, "EntryNotFound")
                return
            if hub.listed_elsewhere:
                extra = {"type": "file", "path": hub.listed_elsewhere, "oid": "0", "size": 1}
                entries["elsewhere"] = extra
            self.answer(list(entries.values()))

        def resolve(self, path: str) -> None:
            repository, _, rest = path.partition("/resolve/")
            if self.is_refused(repository):
                return
            data = hub.repositories.get(repository, {}).get(rest.partition("/")[2])
            if data is None:
                self.refuse(404, "EntryNotFound")
                return
            if self.command == "GET":
                hub.asked.append(path)
            etag = f'"{_oid(data)}"'
            self.answer(data, X_Repo_Commit=COMMIT, ETag=etag, Content_Type="application/data")

        def post(self, path: str, body: bytes) -> None:
            if path == "api/repos/create":
                self.create(json.loads(body))
            elif "/preupload/" in path:
                files = [
                    {
                        "path": f["path"],
                        "uploadMode": "regular",
                        "shouldIgnore": False,
                    }
                    for f in json.loads(body)["files"]
                ]
                self.answer({"files": files})
            elif "/commit/" in path:
                self.commit(path.removeprefix("api/models/").partition("/commit/")[0], body)
            else:  # checks of the card's front matter
                self.answer({"errors": [], "warnings": []})

        def create(self, wanted: dict[str, Any]) -> None:
            if not self.headers.get("Authorization"):
                self.answer({"error": "Invalid username or password."}, 401)
                return
            if wanted["organization"] not in ("me", "jo"):
                self.answer({"error": "You don't have the rights."}, 403)
                return
            name = f"{wanted['organization']}/{wanted['name']}"
            if name in hub.repositories:
                self.answer({"url": f"{hub.endpoint}/{name}"}, 409)
                return
            hub.repositories[name] = {".gitattributes": b""}
            if wanted.get("private") or wanted.get("visibility") == "private":
                hub.private.add(name)
            self.answer({"url": f"{hub.endpoint}/{name}"})

        def commit(self, repository: str, body: bytes) -> None:
            for line in body.splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "header":
                    hub.messages.append(value["summary"])
                else:
                    data = base64.b64decode(value["content"])
                    hub.repositories[repository][value["path"]] = data
            url = f"{hub.endpoint}/{repository}/commit/{COMMIT}"
            self.answer({"commitUrl": url, "commitOid": COMMIT})

    return Handler


def _split(path: str) -> tuple[str, list[str]]:
    """Return a repository, `datasets/user/name` of datasets, and the parts behind it."""
    parts = path.split("/")
    count = 3 if parts[0] == "datasets" else 2
    return "/".join(parts[:count]), parts[count:]


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
