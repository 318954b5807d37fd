"""Reads a page strictly: every element is closed where it was opened, and nothing in it can run."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """A parsed page.

    Attributes:
        text: all of it.
        elements: name and attributes of every element.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.elements, self._open = "", list[tuple[str, dict[str, str | None]]](), list[str]()
        self.feed(path.read_text())
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in <{tag}>"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1] == tag, f"</{tag}> inside <{self._open[-1]}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]

    def files(self) -> set[str]:
        """What it loads or links to, without places on pages."""
        found = [attributes.get(key) for _, attributes in self.elements for key in ("src", "href")]
        return {file.partition("#")[0] for file in found if file} - {""}


def check_safe(path: Path) -> Page:
    """No script, style or handler stands in the page, nothing is from elsewhere, and every link leads to a file."""
    page = Page(path)
    [policy] = [
        each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (
            tag,
            attributes,
        )
        assert tag not in ("style", "iframe", "object", "embed", "base", "svg")
        assert tag != "form" or not attributes.get("action")
    assert all(each.get("src") for each in page.all("script"))
    for file in page.files():
        assert "://" not in file
        assert not file.startswith(("/", "javascript:", "data:"))
        assert (path.parent / file).is_file(), file
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    return page
