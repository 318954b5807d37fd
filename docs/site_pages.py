"""Pages of the site that lie elsewhere in the repository: README, changes, results of benchmarks, the tutorial.

A hook of mkdocs (see mkdocs.yml). Each file is a page at its own path, the README is the first page, and links
between them are made to fit. A link to what is no page, such as a folder of recipes, becomes plain text.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "casam_cache/weights/MODEL_CARD.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "benchmarks" / "results").glob("*.md")),
)
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages whose source is not in docs/."""
    pages = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
    pages["README.md"] = (ROOT / "README.md").read_text(encoding="utf-8")
    known = {f"docs/{file.src_uri}" for file in files} | set(pages) | {"docs/tutorial.ipynb"}
    for page, text in pages.items():
        name = "index.md" if page == "README.md" else page
        files.append(File.generated(config, name, content=_relinked(text, page, name, known)))
    text = _notebook(ROOT / "docs" / "tutorial.ipynb")
    files.append(File.generated(config, "tutorial.md", content=text))
    config.extra["pages"] = known
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links from docs/ to pages that lie elsewhere."""
    if page.file.generated_by:
        return markdown
    return _relinked(markdown, f"docs/{page.file.src_uri}", page.file.src_uri, config.extra["pages"])


def _relinked(text: str, source: str, name: str, known: set[str]) -> str:
    """Links that are right in the repository, from the file `source`, as they are on the page `name`."""

    def link(found: re.Match[str]) -> str:
        picture, words, target, anchor = found.groups()
        path = os.path.normpath(os.path.join(os.path.dirname(source), target))
        if path not in known:
            return words
        place = "index.md" if path == "README.md" else path.removeprefix("docs/").replace(".ipynb", ".md")
        return f"{picture}[{words}]({os.path.relpath(place, os.path.dirname(name))}{anchor or ''})"

    return LINK.sub(link, text)


def _notebook(path: Path) -> str:
    """A notebook as a page: its text, and its code as code."""
    parts = ["*This page is a notebook, `docs/tutorial.ipynb`: run it cell by cell.*"]
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    parts[:2] = reversed(parts[:2])
    return "\n\n".join(parts) + "\n"
