"""The built book as tests see it: pages, links, outputs of the executed notebooks."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag

from lib import book
from lib.notebook import EXECUTED

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# what a page loads by itself, as opposed to what a reader may follow
LOADED = {
    "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src",
    "audio": "src", "embed": "src", "object": "data", "link": "href",
}  # fmt: skip


@dataclass
class Page:
    """One HTML file; `name` is its path in the site without the ending."""

    site: Site
    name: str
    html: str = field(repr=False)

    @property
    def path(self) -> Path:
        return self.site.folder / f"{self.name}.html"

    @cached_property
    def soup(self) -> BeautifulSoup:
        return BeautifulSoup(self.html, "html.parser")

    @cached_property
    def anchors(self) -> set[str]:
        return {str(tag["id"]) for tag in self.soup.find_all(id=True)} | {
            str(tag["name"]) for tag in self.soup.find_all("a", attrs={"name": True})
        }

    def figures(self) -> list[Tag]:
        return self.soup.select(".plotly-graph-div")

    def loads(self) -> list[str]:
        """Addresses that a browser fetches on opening the page."""
        return [
            str(tag[attribute])
            for name, attribute in LOADED.items()
            for tag in self.soup.find_all(name, attrs={attribute: True})
        ]

    def links(self) -> list[str]:
        """Addresses in ``<a>``."""
        return [str(tag["href"]) for tag in self.soup.find_all("a", href=True)]

    def local(self, address: str) -> Path:
        """The file that a relative address names (without query and anchor)."""
        path = unquote(urlsplit(address).path)
        return (self.path.parent / path).resolve() if path else self.path.resolve()


@dataclass
class Site:
    """A built book and the checkout that it was built from."""

    root: Path
    folder: Path
    read: dict[str, Page] = field(default_factory=dict, repr=False)

    def page(self, name: str) -> Page:
        """A page by its name; each is read and parsed once."""
        if name not in self.read:
            self.read[name] = Page(self, name, (self.folder / f"{name}.html").read_text())
        return self.read[name]

    def pages(self) -> list[Page]:
        """Every page of the table of contents."""
        return [self.page(name) for name in book.pages(self.root)]

    def notebooks(self) -> list[Page]:
        """Pages that are notebooks."""
        return [self.page(p.with_suffix("").as_posix()) for p in book.notebooks(self.root)]

    def outputs(self, page: Page) -> list[dict]:
        """Outputs of the executed notebook behind a page."""
        executed = json.loads((self.root / EXECUTED / f"{page.name}.ipynb").read_text())
        return [out for cell in executed["cells"] for out in cell.get("outputs", [])]


def external(address: str) -> bool:
    """Whether an address leaves the site."""
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme in ("http", "https", "ftp", "file")


def browser() -> str | None:
    """A headless browser, if there is one."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def drawn(page: Page, program: str, *flags: str, script: str = "") -> BeautifulSoup:
    """The page after its scripts have run, opened as a file, with a `script` of its own at the
    end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        path = page.path
        if script:  # a copy, which finds its files where the page does
            assert page.html.count("<head>") == page.html.count("</body>") == 1
            whole = page.html.replace("<head>", f'<head><base href="{path.as_uri()}">')
            path = Path(profile) / "page.html"
            path.write_text(whole.replace("</body>", f"<script>{script}</script></body>"))
        done = subprocess.run(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={profile}", "--window-size=1300,2000",
             "--virtual-time-budget=20000", *flags, "--dump-dom", path.as_uri()],
            capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return BeautifulSoup(done.stdout, "html.parser")
