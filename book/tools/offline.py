"""Check a built site: no page asks another host for anything. `make book` calls this."""

from html.parser import HTMLParser
from pathlib import Path


class Requests(HTMLParser):
    """Collects the addresses that a browser asks for by itself: sources of elements, and links of the page's head."""

    def __init__(self, html: str):
        super().__init__()
        self.addresses: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        address = attributes.get("src") or (attributes.get("href") if tag == "link" else None)
        if address and attributes.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(address)


def foreign_requests(html: str) -> list[str]:
    """The addresses on other hosts that a page asks for when it is opened."""
    return [address for address in Requests(html).addresses if address.startswith(("http:", "https:", "//"))]


def problems(folder: Path) -> list[str]:
    """What is wrong with a built site: requests to other hosts, or no pages."""
    pages = sorted(folder.rglob("*.html"))
    found = [f"{page}: asks another host for {address}"
             for page in pages for address in foreign_requests(page.read_text(encoding="utf-8"))]  # fmt: skip
    return found if pages else [f"{folder}: expected pages, got none"]
