"""A served report is handed to this machine alone, and nothing beside it."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe_sae.reporting.serving import ReportServer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    report = tmp_path / "report"
    (report / "data").mkdir(parents=True)
    (report / "index.html").write_text("the page")
    (report / "data" / "index.js").write_text("the data")
    (report / "one.html").write_text("one page")
    (tmp_path / "secret.txt").write_text("secret")
    (report / "link.txt").symlink_to(tmp_path / "secret.txt")
    return report


@pytest.fixture
def server(folder: Path) -> Iterator[ReportServer]:
    yield from serving(folder / "index.html")


def serving(page: Path) -> Iterator[ReportServer]:
    with ReportServer(page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server: ReportServer, path: str, host: str = "localhost") -> tuple[int, str]:
    link = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    link.request("GET", path, headers={"Host": host})
    answer = link.getresponse()
    return answer.status, answer.read().decode()


@pytest.mark.parametrize("path", ["/", "/index.html", "/index.html?theme=dark"])
def test_the_page_is_served(server: ReportServer, path: str) -> None:
    assert ask(server, path) == (200, "the page")
    assert ask(server, "/data/index.js") == (200, "the data")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt", "/%2e%2e/secret.txt", "/data/..%2f..%2fsecret.txt", "//etc/hostname",
        "/link.txt", "/data", "/data/", "/nothing", "/%00", "/" + "x" * 5000,
    ],
)  # fmt: skip
def test_nothing_outside_and_no_listing_is_served(server: ReportServer, path: str) -> None:
    status, text = ask(server, path)

    assert status == 404
    assert "secret" not in text


def test_a_single_file_brings_nothing_beside_it(folder: Path) -> None:
    for server in serving(folder / "one.html"):
        assert ask(server, "/one.html") == ask(server, "/") == (200, "one page")
        assert ask(server, "/index.html")[0] == 404
        assert ask(server, "/data/index.js")[0] == 404


def test_it_listens_on_this_machine_and_answers_to_its_names_alone(server: ReportServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert ask(server, "/", f"127.0.0.1:{server.server_port}")[0] == 200
    assert ask(server, "/", "evil.example")[0] == 403


def test_show_serves_where_no_browser_opens_and_ends_well(folder: Path) -> None:
    environment = {**os.environ, "BROWSER": "/bin/false"}
    command = [sys.executable, "-m", "probe_sae", "show", str(folder), "--serve", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            text += running.stdout.readline()
        told = json.loads(text)
        port = int(told["served"].rsplit(":", 1)[1].split("/")[0])
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        link.request("GET", "/")
        answer = link.getresponse().read()
        running.send_signal(signal.SIGINT)
        try:
            code = running.wait(20)
        finally:
            running.kill()

    assert answer == b"the page"
    assert told["page"].endswith("/report/index.html")
    assert code == 0
