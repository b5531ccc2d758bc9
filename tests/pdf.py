"""Print the built book into PDFs that people can annotate, one a page: equations, figures and open solutions.

`python -m tests.pdf _build/html _build/pdf` is a part of `make pdf`.
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


def main(site: str, folder: str) -> None:
    chromium = shutil.which("chromium") or sys.exit("expected Chromium: `make browser` installs Debian's")
    Path(folder).mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        tab = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page(
            reduced_motion="reduce"
        )
        for number, page in enumerate(PAGES):
            tab.goto(Path(site, f"{page}.html").resolve().as_uri())
            tab.evaluate("window.MathJax?.startup.promise")
            tab.evaluate(PLAIN)
            file = Path(folder, f"{number:02}-{Path(page).name}.pdf")
            tab.pdf(
                path=file, format="A4", margin=dict.fromkeys(("top", "right", "bottom", "left"), "15mm"), outline=True
            )
    print(f"{folder}: {len(PAGES)} pages printed")


if __name__ == "__main__":
    main(*sys.argv[1:])
