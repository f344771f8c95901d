"""Reads a report's page in tests: its tags, links and tables as text, and its appearance in a headless browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium") or shutil.which("google-chrome")
BROWSER = "no headless Chromium here; Debian's package chromium-headless-shell has one"


class Read(HTMLParser):
    """The tags, links, text and tables of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.styles: list[str] = []
        self.tables: list[list[list[str]]] = []
        self._inside: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        self.styles += [value or "" for name, value in attrs if name == "style"]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag == "img":
            self.pictures.append(dict(attrs))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self._inside:
            self.styles.append(data)
            return
        self.text += data
        if {"td", "th"} & set(self._inside):
            self.tables[-1][-1][-1] += data


def check_asks_nothing(read: Read) -> None:
    """Check that nothing in a page makes a browser load or run anything."""
    assert read.links
    assert not [link for link in read.links if not link.startswith(("data:image/svg+xml;base64,", "#"))]
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio"} & set(read.tags)
    assert not re.search(r"url\(|@import", "".join(read.styles))


def show(html: str, folder: Path, cell: str) -> dict[str, Any]:
    """A browser's facts about the page that it shows.

    These are the number of pictures `drawn` and of those `there`, the resources that it `loaded`, the text of the
    `cell` that a selector names, that cell's alignment (`side`), and how far the page is wider than the window
    (`wide`). They come from a script in a copy of the page, because the page itself forbids scripts. `requests` are
    those of the unchanged page, from the browser's network log.
    """
    assert CHROMIUM is not None
    page, copy, log, picture = (folder / name for name in ("page.html", "asked.html", "net.json", "page.png"))
    page.write_text(html, encoding="utf-8")
    question = (
        "<script>window.onload = () => { document.title = JSON.stringify({"
        "drawn: [...document.images].filter(i => i.complete && i.naturalWidth > 0).length, "
        "there: document.images.length, "
        "loaded: performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:')), "
        f"cell: document.querySelector({json.dumps(cell)}).innerText, "
        f"side: getComputedStyle(document.querySelector({json.dumps(cell)})).textAlign, "
        "wide: document.documentElement.scrollWidth - innerWidth}) }</script>"
    )
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    copy.write_text(bare.replace("</body>", f"{question}</body>"), encoding="utf-8")
    common = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
              f"--user-data-dir={folder / 'profile'}", "--disable-background-networking",
              "--host-resolver-rules=MAP * ~NOTFOUND"]  # fmt: skip
    shown = subprocess.run(
        [*common, "--window-size=1280,900", "--dump-dom", copy.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"<title>(.*?)</title>", shown.stdout, re.DOTALL)
    assert found
    answer = json.loads(found[1].replace("&amp;", "&"))
    assert isinstance(answer, dict)
    subprocess.run(
        [*common, f"--log-net-log={log}", f"--screenshot={picture}", "--window-size=1280,2000", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert picture.stat().st_size > 50_000
    requests = set(re.findall(r'"url":"((?:https?|ftp|wss?)://[^"]*)"', log.read_text(encoding="utf-8")))
    return answer | {"requests": requests}
