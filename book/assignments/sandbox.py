"""A student's code in a process of its own, without files, network or other processes, and with limits.

bubblewrap takes everything away from `worker.py` but Python and its packages: no home, no course, no library.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from book.assignments.worker import pack, unpack

WORKER = Path(__file__).with_name("worker.py")
START_SECONDS = 120  # to import PyTorch, on a busy machine
LARGEST = 2**26  # bytes of an answer
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PATH": os.defpath, "HOME": "/tmp"}
READABLE = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache")
ISOLATED = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
MOUNTS = ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--size", str(2**24), "--tmpfs", "/tmp"]


class AnswerError(Exception):
    """What went wrong in a student's code, in one line."""


def isolation(*, trust: bool = False) -> list[str]:
    """Return the command that isolates the one which is appended to it, or none where the code is trusted.

    Raises:
        ValueError: bubblewrap is missing or may not work here.
    """
    if trust:
        return []
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        problem = "bubblewrap is not installed (Debian, Ubuntu: apt install bubblewrap)"
    else:
        folders = [*READABLE, sys.base_prefix, sys.prefix]
        reading = [word for folder in folders for word in ("--ro-bind-try", folder, folder)]
        command = [bwrap, *ISOLATED, *MOUNTS, *reading, "--remount-ro", "/", "--chdir", "/"]
        tried = subprocess.run([*command, sys.executable, "-I", "-c", ""], capture_output=True, text=True)
        if tried.returncode == 0:
            return command
        problem = f"bubblewrap does not work here ({tried.stderr.strip()})"
    raise ValueError(f"{problem}: --trust runs the submissions without protection, with your rights")


class Sandbox:
    """Runs the cells of one notebook and calls the functions that they define.

    A cell or call that takes too long or ends the process costs itself, not the notebook: the next one finds a new
    process, in which the other cells were run again.

    Args:
        isolated: what `isolation` returns.
        seconds: time for one cell or call.
        total: time for all of them.
    """

    def __init__(self, isolated: list[str], *, seconds: float, total: float = 600):
        self.command = [*isolated, sys.executable, "-I", "-c", WORKER.read_text(encoding="utf-8")]
        self.seconds, self.left = seconds, total
        self.process: subprocess.Popen[bytes] | None = None
        self.cells: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, source: str) -> None:
        """Run a cell, or raise AnswerError."""
        line = self._ask({"run": source})
        self.cells.append(source)  # after an exception, too: what came before it is defined
        _read(line)

    def call(self, name: str, *args: Any) -> Any:
        """Return what the notebook's function `name` returns for these arguments, or raise AnswerError."""
        return _read(self._ask({"call": name, "args": [pack(arg) for arg in args]}))

    def _ask(self, message: dict[str, Any]) -> bytes:
        if self.process is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.process = subprocess.Popen(self.command, env=ENVIRONMENT, start_new_session=True, **pipes)
            self._exchange(b"", START_SECONDS)
            for source in self.cells:
                self._exchange(_line({"run": source}), self.seconds)
        return self._exchange(_line(message), self.seconds)

    def _exchange(self, line: bytes, seconds: float) -> bytes:
        """Send a line and return the one that comes back in time."""
        allowed, start = max(0, min(seconds, self.left)), time.monotonic()
        timer = threading.Timer(allowed, self._kill)
        timer.start()
        reply = b""
        with suppress(OSError):  # the process is gone
            self.process.stdin.write(line)
            self.process.stdin.flush()
            reply = self.process.stdout.readline(LARGEST)
        timer.cancel()
        spent = time.monotonic() - start
        self.left -= spent
        if not reply.endswith(b"\n"):
            self._stop()
            slow = f"the code took longer than {allowed:.0f} s: does a loop end?"
            raise AnswerError(slow if spent >= allowed else "the code ended its process, or returned far too much")
        return reply

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _stop(self) -> None:
        if self.process is not None:
            self._kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                with suppress(OSError):
                    pipe.close()
            self.process = None


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _read(line: bytes) -> Any:
    """Return the value of an answer. It comes from a student's process and may be anything."""
    try:
        reply = json.loads(line)
        if "error" not in reply:
            return unpack(reply["value"])
        problem = str(reply["error"])[:500]
    except (ValueError, TypeError, KeyError, RecursionError, MemoryError):
        problem = "the code returned what is no number, text, list, dictionary, tensor or array"
    raise AnswerError(problem)
