"""The two HTML pages: what stands in them without JavaScript, and what they allow to run.

Scripts are joined into two files a page: three dozen took it 20 ms of work and 50 ms of waiting.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from probe_sae.shipped import shipped
from probe_sae.shown import clean

POLICY = (
    "default-src 'none'; script-src 'self' file:{extra}; style-src 'self' 'unsafe-inline' file:; "
    "img-src 'self' data: blob: file:; base-uri 'none'; form-action 'none'"
)
"""Content security policy: only files of the report run, nothing is fetched from elsewhere."""
PAGES = {"index.html": "", "map.html": " 'unsafe-eval'"}
"""Each page, and what it allows beyond the policy: plotly's WebGL compiles its drawing code."""

_SCRIPTS = re.compile(r'(?:<script defer src="assets/js/[^"]+"></script>\n)+')


def write_pages(summary: Mapping[str, Any], folder: Path) -> None:
    """Write the pages and their style and scripts into `folder`."""
    (folder / "assets").mkdir(parents=True)
    index, map_page = map(scripts_of, PAGES)
    shared = [name for name in index if name in map_page]
    for page, extra in PAGES.items():
        template = Template(_source(page))
        text = template.substitute(
            policy=POLICY.format(extra=extra),
            title=_text(f"{summary.get('site') or 'features'} · probe_sae"),
            summary=_table(summary),
        )
        mine = [name for name in scripts_of(page) if name not in shared]
        files = {"assets/shared.js": shared, f"assets/{Path(page).stem}.js": mine}
        tags = "".join(f'<script defer src="{name}"></script>\n' for name in files)
        _write(folder / page, _SCRIPTS.sub(tags, text))
        for name, scripts in files.items():
            _write(folder / name, joined(scripts))
    for name in ("app.css", "icon.svg"):
        _write(folder / "assets" / name, _source(name))


def scripts_of(page: str) -> list[str]:
    """Return the names of a page's scripts, in their order."""
    return re.findall(r'src="assets/js/([^"]+)"', _source(page))


def joined(scripts: Iterable[str]) -> str:
    """Return several scripts as one, without what only a reader needs: a fifth of their size.

    No text of theirs goes over the end of a line.
    """
    parts: list[str] = []
    for name in scripts:
        lines = map(str.strip, _source(f"js/{name}").splitlines())
        parts += [f"// {name}", *(line for line in lines if line and not line.startswith("//"))]
    return "\n".join([*parts, ""])


def facts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the names and texts of the scalars in nested mappings, names joined by points."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from facts(item, f"{name}.{key}" if name else str(key))
    elif value is not None and not isinstance(value, list | tuple):
        yield name, f"{value:.6g}" if isinstance(value, float) else str(value)


def _source(name: str) -> str:
    return shipped(f"reports/{name}").read_text(encoding="utf-8")


def _table(summary: Mapping[str, Any]) -> str:
    names = ("host", "site", "dataset", "rows", "features", "dead", "sae", "metrics", "versions")
    rows = facts({name: summary.get(name) for name in names})
    lines = [f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows]
    return f"<table>{''.join(lines)}</table>"


def _text(value: str) -> str:
    kept = "".join(char for char in clean(value) if char.isprintable())
    return escape(kept)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
