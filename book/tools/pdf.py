"""Print the built book into one PDF that people can annotate: equations, figures and open solutions.

`python -m book.tools.pdf _build/html _build/book.pdf` is a part of `make pdf`; names of pages may follow.
"""

import shutil
import sys
from io import BytesIO
from pathlib import Path

from playwright.sync_api import sync_playwright
from pypdf import PdfWriter

from book.tools.notebooks import PAGES
from dcal_lite.checkpoint import atomic_path

# On paper a link to another page would lead to a file of this machine.
PLAIN = """document.querySelectorAll("a[href]").forEach((link) => {
  if (link.protocol === location.protocol && link.pathname !== location.pathname) link.removeAttribute("href");
})"""

MARGIN = dict.fromkeys(("top", "right", "bottom", "left"), "15mm")


def main(site: str, path: str, *pages: str) -> None:
    chromium = shutil.which("chromium") or sys.exit("expected Chromium: `make browser` installs Debian's")
    book = PdfWriter()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(reduced_motion="reduce")
        tab.set_default_timeout(120_000)
        for page in pages or PAGES:
            tab.goto(Path(site, f"{page}.html").resolve().as_uri())
            tab.evaluate("window.MathJax?.startup.promise")
            tab.evaluate(PLAIN)
            book.append(BytesIO(tab.pdf(format="A4", margin=MARGIN, tagged=True, outline=True)))
    book.compress_identical_objects()  # fonts, above all
    with atomic_path(path) as part:
        book.write(part)
    print(f"{path}: {len(book.pages)} sheets")


if __name__ == "__main__":
    main(*sys.argv[1:])
