"""Check a built site: no page asks another host for anything.

`python tests/offline.py _build/html` is a part of `make book`.
"""

import sys
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


def main(folder: str) -> None:
    pages = sorted(Path(folder).rglob("*.html"))
    found = [(page, address) for page in pages for address in foreign_requests(page.read_text(encoding="utf-8"))]
    for page, address in found:
        print(f"{page}: asks another host for {address}", file=sys.stderr)
    if found or not pages:
        sys.exit(
            f"{folder}: expected pages without requests to other hosts, got {len(pages)} pages, {len(found)} requests"
        )
    print(f"{folder}: {len(pages)} pages, none asks another host for anything")


if __name__ == "__main__":
    main(sys.argv[1])
