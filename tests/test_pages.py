"""The built site in a browser, without a network: `make book` first, else these tests are skipped."""

import gzip
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from pypdf import PdfReader

from book.tools.notebooks import PAGES
from tests.conftest import ROOT

SITE = ROOT / "_build" / "html"
PHONE, DESK = (390, "dark"), (1280, "light")

built = pytest.mark.skipif(not all((SITE / f"{page}.html").is_file() for page in PAGES),
                           reason="no built book: `make book` first")  # fmt: skip
pytestmark = [built, pytest.mark.browser]
pages = pytest.mark.parametrize("page", PAGES)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # with the default of 5, a browser's connections may be dropped, and wait long


@pytest.fixture(scope="module")
def site():
    """The address of the served site."""
    server = Server(("127.0.0.1", 0), partial(Quiet, directory=SITE))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def watch(tab, faults: list[str]) -> None:
    """Note a page's messages, errors and lost requests; not those that the browser gives up for the next page."""
    tab.on("console", lambda message: message.type in ("error", "warning") and faults.append(message.text))
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("requestfailed", lambda request: request.failure != "net::ERR_ABORTED" and faults.append(request.url))


@pytest.fixture
def visit(chromium, site):
    """Open a page in a width and a colour scheme, where no other host answers; fail on messages and lost requests."""
    contexts, faults = [], []

    def opened(page: str, width: int, scheme: str):
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        context.route(lambda url: not url.startswith((site, "data:")), lambda route: route.abort())
        contexts.append(context)
        tab = context.new_page()
        watch(tab, faults)
        tab.goto(f"{site}/{page}.html")
        tab.evaluate("Promise.all([document.fonts.ready, window.MathJax?.startup.promise]).then(() => true)")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


# Of code, whose thousands of spans take axe the longest, one span of each colour is enough.
ONE_OF_EACH_TOKEN = """() => {
    const seen = new Set()
    for (const span of document.querySelectorAll("pre span")) {
        const kind = [span, span.parentElement, span.closest("div").parentElement].map(each => each.className).join()
        seen.has(kind) ? span.replaceWith(...span.childNodes) : seen.add(kind)
    }
}"""


# Formulas that a reader would have to scroll, by more than a letter.
WIDE_FORMULAS = """
    [...document.querySelectorAll("mjx-container[display]")].filter(m => m.scrollWidth > m.clientWidth + 12).length
"""


def barriers(tab) -> set[tuple[str, str]]:
    """What axe finds serious or critical for people who see, hear or move otherwise: rule and element."""
    from axe_playwright_python.sync_playwright import Axe

    tab.evaluate(ONE_OF_EACH_TOKEN)
    found = Axe().run(tab, options={"preload": False, "resultTypes": ["violations"]}).response["violations"]
    serious = [entry for entry in found if entry["impact"] in ("serious", "critical")]
    return {(entry["id"], node["html"][:200]) for entry in serious for node in entry["nodes"]}


def weight(tab, site: str) -> int:
    """Bytes of a page with all that it loads, compressed as servers do."""
    loaded = {tab.url, *tab.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")}
    files = {SITE / urlsplit(address).path.lstrip("/") for address in loaded if address.startswith(site)}
    assert len(files) > 5
    return sum(len(gzip.compress(file.read_bytes())) for file in files)


def dead_links(tab, site: str) -> list[str]:
    """Links into the book that lead nowhere."""
    dead = []
    for target in set(tab.eval_on_selector_all("a[href]", "links => links.map(link => link.href)")):
        address, anchor = urldefrag(target)
        if address.startswith(site):
            file = SITE / unquote(address.removeprefix(site)).lstrip("/")
            text = file.read_text(encoding="utf-8") if file.suffix == ".html" and file.is_file() else ""
            if not file.is_file() or (anchor and text and f'="{unquote(anchor)}"' not in text):
                dead.append(target)
    return dead


@pages
@pytest.mark.parametrize(("width", "scheme"), [PHONE, pytest.param(*DESK, marks=pytest.mark.slow)])
def test_a_page_is_in_order(visit, site, page, width, scheme):
    tab = visit(page, width, scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(WIDE_FORMULAS) == 0
    assert tab.evaluate("document.documentElement.dataset.theme") == scheme
    assert tab.evaluate("[...document.images].filter(image => !image.naturalWidth).length") == 0
    assert tab.locator(".output.stderr").all_inner_texts() == []
    assert weight(tab, site) < 3_000_000
    assert dead_links(tab, site) == []
    assert barriers(tab) == set()


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_the_front_page_says_in_one_screen_what_the_book_is_for(visit, width, height):
    tab = visit("book/index", width, "light")
    tab.set_viewport_size({"width": width, "height": height})
    for part in (tab.locator(".explorer .says"), tab.locator(".bd-article ul").first):
        box = part.bounding_box()
        assert box["y"] + box["height"] <= height


def test_search_finds_a_term(visit):
    tab = visit("search", *DESK)
    tab.goto(f"{tab.url}?q=rollout")
    tab.wait_for_selector("#search-results li a")
    assert "rollout" in tab.locator("#search-results").inner_text().lower()


def test_the_book_works_from_a_folder_without_a_server(chromium):
    context, faults = chromium.new_context(offline=True), []
    tab = context.new_page()
    watch(tab, faults)
    tab.goto((SITE / "index.html").as_uri())
    tab.wait_for_url("**/book/index.html")
    tab.locator(".explorer svg").first.wait_for()
    tab.get_by_role("link", name="Attention rollout").first.click()
    tab.locator("mjx-container").first.wait_for()
    tab.locator(".explorer svg").first.wait_for()
    assert faults == []
    tab.goto((SITE / "search.html").as_uri() + "?q=rollout")
    tab.wait_for_selector("#search-results li a")
    assert "rollout" in tab.locator("#search-results").inner_text().lower()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_chapter_prints_black_without_controls_and_with_its_solutions(visit, scheme):
    tab = visit("book/1-seeing/attention-rollout", 1280, scheme)
    solutions = tab.locator(".solution > :not(.admonition-title)")
    assert solutions.count() and not any(part.is_visible() for part in solutions.all())
    tab.emulate_media(media="print")
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert all(part.is_visible() for part in solutions.all())
    assert tab.locator(".explorer svg").first.is_visible()
    controls = ".explorer .controls, button, nav, details.hide, .headerlink, .bd-sidebar-primary, .bd-sidebar-secondary"
    assert not any(part.is_visible() for part in tab.locator(controls).all())
    colours = "all => all.map(x => getComputedStyle(x).color)"
    assert set(tab.locator(".bd-article section > p").evaluate_all(colours)) == {"rgb(0, 0, 0)"}
    if scheme == "dark":  # whose code would be pale
        assert set(tab.locator(".highlight span").evaluate_all(colours)) == {"rgb(0, 0, 0)"}
    wide = "all => all.filter(x => x.scrollWidth > x.clientWidth + 1).length"
    tab.set_viewport_size({"width": 680, "height": 960})  # A4 without its margins
    assert tab.locator("pre").evaluate_all(wide) == 0


def test_a_pdf_has_chapters_and_no_link_to_this_machine(tmp_path):
    pages, file = ["book/notation", "book/troubleshooting"], tmp_path / "book.pdf"
    subprocess.run(
        [sys.executable, "-m", "book.tools.pdf", SITE, file, *pages], cwd=ROOT, check=True, capture_output=True
    )
    reader = PdfReader(file)
    chapters = [entry for entry in reader.outline if not isinstance(entry, list)]
    assert [entry.title for entry in chapters] == ["Notation", "Troubleshooting"]
    for entry in chapters:
        assert entry.title in reader.pages[reader.get_destination_page_number(entry)].extract_text()
    notes = (note.get_object() for sheet in reader.pages for note in sheet.get("/Annots", ()))
    links = [note["/A"]["/URI"] for note in notes if "/URI" in note.get("/A", ())]
    assert any(link.startswith("https://github.com/") for link in links)
    assert not any(link.startswith("file:") for link in links)
