"""Sphinx extension: pages that need no network.

Jupyter Book 1.x takes MathJax and thebe from CDNs, and shows plotly's figures only where plotly.js
is. Here MathJax and plotly.js are copied from the installed packages into ``_static``; plotly.js
(4.8 MB) is asked for by pages with a figure only; thebe, which this book does not use, is dropped.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

FIGURE = "plotly-graph-div"
MATHJAX = "mathjax/tex-chtml.js"
# the combined script, its fonts, and what it loads when a formula first needs it
MATHJAX_PARTS = (
    "tex-chtml.js", "output/chtml/fonts", "input/tex/extensions", "a11y/assistive-mml.js",
)  # fmt: skip


def package_folder(name: str) -> Path:
    """Folder of an installed package, which is not imported.

    Raises:
        ExtensionError: it is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ExtensionError(f"the book needs the package {name}: pip install -r requirements.txt")
    return Path(next(iter(spec.submodule_search_locations)))


def use_local_mathjax(app: Sphinx, config: Config) -> None:
    """Point Sphinx at the copy of MathJax in ``_static``."""
    config.mathjax_path = MATHJAX


def copy_assets(app: Sphinx, error: Exception | None) -> None:
    """Put MathJax and plotly.js beside the built pages."""
    if error is not None or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    source = package_folder("sphinx-mathjax-offline") / "static" / "mathjax"
    for part in MATHJAX_PARTS:
        target = static / "mathjax" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source / part, target)
    shutil.copy2(package_folder("plotly") / "package_data" / "plotly.min.js", static)


def has_figure(document: nodes.document | None) -> bool:
    """Whether a page shows a plotly figure."""
    if document is None:
        return False
    return any(FIGURE in node.astext() for node in document.findall(nodes.raw))


def choose_scripts(
    app: Sphinx, page: str, template: str, context: dict[str, Any], document: nodes.document | None
) -> None:
    """plotly.js before the figures' own scripts, so neither deferred nor asynchronous."""
    if has_figure(document):
        app.add_js_file("plotly.min.js", priority=200, loading_method=None)
        app.add_js_file("plotly-theme.js", priority=201, loading_method="defer")


def drop_thebe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], document: nodes.document | None
) -> None:
    """Remove thebe's scripts, which Jupyter Book adds even where thebe is off."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in f"{script} {getattr(script, 'attributes', '')}".lower()
    ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("config-inited", use_local_mathjax)
    app.connect("html-page-context", choose_scripts)
    app.connect("html-page-context", drop_thebe, priority=900)  # after thebe has added them
    app.connect("build-finished", copy_assets)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
