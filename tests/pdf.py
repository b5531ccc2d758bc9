"""Print the built book into PDFs that people can annotate, one a page: equations, figures and open solutions.

`python -m tests.pdf _build/html _build/pdf` is a part of `make pdf`; names of pages may follow.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.notebooks import PAGES

# On paper a link to another page would lead to a file of this machine.
PLAIN = """document.querySelectorAll("a[href]").forEach((link) => {
  if (link.protocol === location.protocol && link.pathname !== location.pathname) link.removeAttribute("href");
})"""

MARGIN = dict.fromkeys(("top", "right", "bottom", "left"), "15mm")


def main(site: str, folder: str, *pages: str) -> None:
    chromium = shutil.which("chromium") or sys.exit("expected Chromium: `make browser` installs Debian's")
    Path(folder).mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(reduced_motion="reduce")
        tab.set_default_timeout(120_000)
        for page in pages or PAGES:
            tab.goto(Path(site, f"{page}.html").resolve().as_uri())
            tab.evaluate("window.MathJax?.startup.promise")
            tab.evaluate(PLAIN)
            file = Path(folder, f"{PAGES.index(page):02}-{Path(page).name}.pdf")
            tab.pdf(path=file, format="A4", margin=MARGIN, outline=True)
    print(f"{folder}: {len(pages or PAGES)} pages printed")


if __name__ == "__main__":
    main(*sys.argv[1:])
