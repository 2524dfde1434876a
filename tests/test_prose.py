"""What the sources of pages must not have, because it would silently not be shown."""

import json
import re

import pytest

from lib import provenance

ROOT = provenance.ROOT
PAGES = sorted([*ROOT.glob("notebooks/*/*.ipynb"), *ROOT.glob("book/**/*.md")])
COMMENT = re.compile(r"^\s*%", re.MULTILINE)


def prose(path) -> list[str]:
    """The texts of a page, as its source has them."""
    if path.suffix == ".md":
        return [path.read_text(encoding="utf-8")]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_line_begins_with_a_percent_sign(path):
    found = [line for text in prose(path) for line in text.splitlines() if COMMENT.match(line)]
    assert found == [], "MyST takes these lines for comments and leaves them out"


def test_such_a_line_is_found():
    assert COMMENT.search("- knows 99.5\n  % of them")
    assert not COMMENT.search("knows 99.5 %\n- more")
