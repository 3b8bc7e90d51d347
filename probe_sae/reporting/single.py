"""A whole report in one HTML file, to send by mail: scripts, style, data and pictures stand in it.

Its policy is stricter than the folder's: only the one script and the one style whose hashes it
names count, nothing is loaded and nothing is compiled. Hence no plotly (4.8 MB): the map is drawn
on a plain canvas and plots stay small. Data files are blocks that no browser runs, base64 or JSON
without `<`, pictures are base64. About 1 kB a feature, and 250 kB.
"""

import base64
import hashlib
import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from html import escape
from pathlib import Path

from probe_sae.errors import OutputExists, SettingsError
from probe_sae.outputs import write_whole
from probe_sae.reporting.pages import PAGES, joined, scripts_of

MOST_FEATURES = 2048
"""Beyond, a browser parses megabytes before it shows anything, and mail refuses the file."""
POLICY = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
_TAKEN = re.compile(r"probe\.take\((\"[^\"]*\"),(.*)\);\n", re.DOTALL)


def check_single(out: Path, features: int) -> None:
    """Refuse what a single file cannot be.

    Raises:
        SettingsError: the name has not the ending of a page, or there are too many features.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise SettingsError(
            f"a report in a single file needs a name that ends in .html, not {str(out)!r}: "
            "for example report.html."
        )
    if features > MOST_FEATURES:
        raise SettingsError(
            f"a single file holds up to {MOST_FEATURES:,} features, and this dictionary has "
            f"{features:,}: write a folder (leave out --single-file) and send it as a zip file."
        )


@contextmanager
def whole_file(out: Path, *, force: bool) -> Generator[Path]:
    """Yield a folder for the report's files; when the block ends, its `single.html` becomes `out`.

    Raises:
        OutputExists: `out` is there already, or is no page of ours that `force` could replace.
    """
    if out.exists() and not force:
        raise OutputExists(
            f"{out} exists already, and finished work is never overwritten. "
            "Choose another name, or add --force."
        )
    if out.exists() and not _is_ours(out):
        raise OutputExists(
            f"{out} is something else than a report; --force does not remove that. "
            "Choose another name, or remove it yourself."
        )
    with tempfile.TemporaryDirectory(prefix="probe_sae-") as place:
        yield Path(place)
        text = (Path(place) / "single.html").read_text(encoding="utf-8")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, text)
    except OSError as problem:
        raise OutputExists(f"cannot write {out}: {problem.strerror}.") from problem


def fold(folder: Path) -> None:
    """Write `single.html` into a folder with a report's pages and data files."""
    code = joined(_in_order(*map(scripts_of, PAGES)))
    style = _read(folder / "assets" / "app.css")
    for text, end in ((code, "</script"), (style, "</style")):
        if end in text.lower() or "<!--" in text:
            raise AssertionError(f"a script or style of ours holds {end} or <!--")
    policy = POLICY.format(script=_hash(code), style=_hash(style))
    page = _put(_read(folder / "index.html"), r"(?:<script[^>]*></script>\n)+", "")
    page = _put(page, r'(?<=Security-Policy" content=")[^"]*', policy)
    page = _put(page, r'<html lang="en"', '<html lang="en" data-single')
    page = _put(page, r"assets/icon\.svg", _data_uri(folder / "assets" / "icon.svg"))
    page = _put(page, r'<link rel="stylesheet"[^>]*>', f"<style>{style}</style>")
    blocks = "".join(_blocks(folder))
    page = _put(page, r"</body>", f"{blocks}<script>{code}</script>\n</body>")
    (folder / "single.html").write_text(page, encoding="utf-8", newline="\n")


def _in_order(index: list[str], map_page: list[str]) -> list[str]:
    """Return the scripts of both pages, each once; the one that starts the page is last."""
    return [*index[:-1], *(name for name in map_page if name not in index), index[-1]]


def _blocks(folder: Path) -> Generator[str]:
    for path in sorted(folder.glob("data/**/*.js")):
        found = _TAKEN.fullmatch(_read(path))
        if found is None:
            raise AssertionError(f"{path} is no data file")
        yield _block("application/json", path.relative_to(folder), found[2])
    for path in [folder / "assets" / "icon.svg", *sorted(folder.glob("img/**/*.webp"))]:
        yield _block("text/plain", path.relative_to(folder), _data_uri(path))


def _block(kind: str, path: Path, text: str) -> str:
    if "<" in text:
        raise AssertionError(f"{path} holds what could end its block")
    return f'<script type="{kind}" id="{escape(path.as_posix())}">{text}</script>\n'


def _data_uri(path: Path) -> str:
    kind = {".svg": "image/svg+xml", ".webp": "image/webp"}[path.suffix]
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _put(page: str, pattern: str, text: str) -> str:
    """Replace the first match, which there must be."""
    changed, count = re.subn(pattern, lambda _: text, page, count=1)
    if count != 1:
        raise AssertionError(f"the page lacks {pattern}")
    return changed


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"probe_sae" in file.read(1 << 20)
    except OSError:
        return False
