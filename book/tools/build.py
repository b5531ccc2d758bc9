"""Run the book's notebooks side by side, build every page that can be built, and name what failed at the end.

Jupyter Book takes a notebook's outputs from its cache and runs what it does not find there, one after the other. So
the notebooks are run before, and put into that cache. A notebook with a failing cell is put there, too: its page shows
the error. The next build runs it again, and no other.

`make book` runs `python -m book.tools.build`.
"""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import nbformat
import psutil
import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal

from book.tools import offline, warm_kernels
from book.tools.notebooks import PAGES, ROOT, code_cells

BUILD = ROOT / "_build"
MEMORY = 2**31  # bytes that a kernel may take


class Failure(NamedTuple):
    """A cell that failed."""

    page: str
    cell: int  # among the code cells, from 1
    error: str  # its name and its message's first line

    def __str__(self) -> str:
        return f"{self.page}.ipynb, code cell {self.cell}: {self.error}"


def main() -> int:
    """Build the book; return 1 if a cell failed, Sphinx complained or a page asks another host for something."""
    cache = get_cache(BUILD / ".jupyter_cache")
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # or PyTorch's profiler writes into our lines
    failures = asyncio.run(run_all(cache, due(cache)))
    book = [Path(sys.executable).parent / "jupyter-book", "build", ROOT, "-W", "-n", "--keep-going"]
    complaints = subprocess.run(book, check=False).returncode
    requests = offline.problems(BUILD / "html")
    said = [*requests, *failures, *(["Sphinx complained, see above"] if complaints else [])]
    if failures:
        said.append(f"{len(failures)} notebooks failed: their pages show the error, and the next build runs them again")
    if said:
        print(*said, sep="\n", file=sys.stderr)
    return int(bool(said))


def due(cache: JupyterCacheAbstract) -> list[str]:
    """The pages whose notebooks are not in the cache, or failed when they were run last; long ones come first."""
    pages = []
    for page in reversed(PAGES):  # the longest stand at the end of the book
        if not (path := ROOT / f"{page}.ipynb").is_file():
            continue
        try:
            record = cache.match_cache_notebook(nbformat.read(path, as_version=4))
        except KeyError:
            pages.append(page)
            continue
        if failure(page, cache.get_cache_bundle(record.pk).nb):
            cache.remove_cache(record.pk)
            (BUILD / ".doctrees" / f"{page}.doctree").unlink(missing_ok=True)  # or Sphinx would keep the page
            pages.append(page)
    return pages


def kernels_at_a_time() -> int:
    """How many kernels fit: one for each processor that we may use, if they have memory for it."""
    processors = len(psutil.Process().cpu_affinity()) if psutil.LINUX else os.cpu_count() or 1
    return max(1, min(processors, psutil.virtual_memory().available // MEMORY))


async def run_all(cache: JupyterCacheAbstract, pages: list[str]) -> list[Failure]:
    """Run notebooks side by side, fill the cache, and return what failed, in the book's order."""
    notebooks = {page: nbformat.read(ROOT / f"{page}.ipynb", as_version=4) for page in pages}
    sizes = {page: len(code_cells(notebook)) for page, notebook in notebooks.items()}
    room, failures, done, start = asyncio.Semaphore(kernels_at_a_time()), [], 0, time.monotonic()
    timeout = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["execute"]["timeout"]
    # Tasks start in this order.
    runs = [asyncio.create_task(run(page, notebook, room, timeout)) for page, notebook in notebooks.items()]
    for number, finished in enumerate(asyncio.as_completed(runs), start=1):
        page, seconds = await finished
        bundle = CacheBundleIn(notebooks[page], str(ROOT / f"{page}.ipynb"), data={"execution_seconds": seconds})
        cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
        found = failure(page, notebooks[page])
        failures += [found] if found else []
        done += sizes[page]
        left = (time.monotonic() - start) * (sum(sizes.values()) / done - 1)
        print(f"notebook {number:2} of {len(runs)}, {seconds:3.0f} s: {page}{': FAILED' if found else ''}; "
              f"the rest takes about {left:.0f} s", flush=True)  # fmt: skip
    return sorted(failures, key=lambda failure: PAGES.index(failure.page))


async def run(page: str, notebook: nbformat.NotebookNode, room: asyncio.Semaphore, timeout: int) -> tuple[str, float]:
    """Run a notebook to its end, or to the first cell that fails, which then holds the error; its page and seconds.

    Args:
        page: of the notebook, whose folder the kernel runs in.
        notebook: is filled with outputs.
        room: lets so many kernels run at a time.
        timeout: seconds for a cell.
    """
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    kernels = {"kernel_manager_class": warm_kernels.WarmKernelManager} if warm_kernels.AVAILABLE else {}
    place = {"metadata": {"path": str((ROOT / page).parent)}}
    client = NotebookClient(notebook, timeout=timeout, record_timing=False, resources=place, **kernels)
    async with room:
        start = time.monotonic()
        try:
            await client.async_execute()
        except (CellControlSignal, RuntimeError, OSError, EOFError) as error:  # the last three are of kernels
            if not failure(page, notebook):  # a cell that takes too long, or whose kernel dies, leaves no output
                cells = [cell for cell in code_cells(notebook) if cell.source.strip()]
                last = cells[max(client.code_cells_executed - 1, 0)]
                name, words = type(error).__name__, str(error)
                last.outputs.append(nbformat.v4.new_output("error", ename=name, evalue=words, traceback=[words]))
        return page, time.monotonic() - start


def failure(page: str, notebook: nbformat.NotebookNode) -> Failure | None:
    """What went wrong in a notebook that was run; None where nothing did, or where a cell is meant to fail."""
    for number, cell in enumerate(code_cells(notebook), start=1):
        for output in cell.outputs:
            if output.output_type == "error" and "raises-exception" not in cell.metadata.get("tags", []):
                return Failure(page, number, f"{output.ename}: {output.evalue}".splitlines()[0])
    return None


if __name__ == "__main__":
    sys.exit(main())
