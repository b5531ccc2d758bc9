"""Windows' habits, forced on Linux: `python -m pytest -p tests.windows -m "not posix and not slow"` runs the tests so.

Of all callers only the library, the data's scripts and the tests meet these habits:

- modules and functions of POSIX are missing, and processes are started by `spawn`;
- text is cp1252 and lines end in CR LF, unless a call says otherwise;
- a file that is open or mapped cannot be removed, renamed or replaced, nor can the folder that holds it;
- a folder cannot be opened, and a file that was opened for reading cannot be flushed to the disk;
- some characters are refused in names.

Not here: drive letters, backslashes, names that differ in case only, signals.
"""

import builtins
import errno
import fcntl
import io
import multiprocessing
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

OURS = re.compile(r"(dcal_lite|data_scripts|tests|__main__|__mp_main__|archives|test_\w+)(\.|$)")
BETWEEN = re.compile(r"(pathlib|shutil|contextlib|tests\.windows)(\.|$)")  # they call the system in our name
MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "termios"}
FUNCTIONS = ("fork", "sync", "posix_fallocate", "killpg", "fchmod", "mkfifo", "sched_getaffinity")
FORBIDDEN = re.compile(r'[<>:"|?*\\\0-\x1f]|[. ](/|$)')


def is_ours() -> bool:
    """Tell whether our code has called, by itself or through the standard library."""
    frame = sys._getframe(1)
    while frame and BETWEEN.match(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return bool(frame and OURS.match(frame.f_globals.get("__name__", "")))


def is_busy(path: str) -> bool:
    """Tell whether this process has the file, or one in the folder, open or mapped."""
    path = str(Path(path).resolve())
    files = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    files += re.findall(r"^(?:\S+ +){5}(/.*)$", Path("/proc/self/maps").read_text(encoding="utf-8"), re.MULTILINE)
    return any(file == path or file.startswith(f"{path}/") for file in files)


def watch(module: Any, name: str, check: Callable[..., None]) -> None:
    """Let `check` see the arguments of our calls of a function of the system first; it raises what Windows would."""
    original = getattr(module, name)

    def function(*arguments: Any, **keywords: Any) -> Any:
        if is_ours():
            check(*arguments, **keywords)
        return original(*arguments, **keywords)

    setattr(module, name, function)


def refuse_module(name: str, *_: Any, **__: Any) -> None:
    if name in MODULES:
        raise ModuleNotFoundError(f"no module {name} on Windows")


def refuse_busy(*paths: Any, **_: Any) -> None:
    for path in paths:
        if is_busy(path):
            raise PermissionError(errno.EACCES, "another process uses the file", str(path))


def refuse_existing(source: Any, target: Any, **_: Any) -> None:
    refuse_busy(source)
    if Path(target).exists() and not Path(target).samefile(source):
        raise FileExistsError(errno.EEXIST, "the file is there already", str(target))


def refuse_name(path: Any, *_: Any, **__: Any) -> None:
    if isinstance(path, str | os.PathLike) and FORBIDDEN.search(os.fspath(path)):
        raise OSError(errno.EINVAL, "no name on Windows", str(path))


def refuse_folder(path: Any, *_: Any, **__: Any) -> None:
    refuse_name(path)
    if Path(path).is_dir():
        raise PermissionError(errno.EACCES, "a folder cannot be opened", str(path))


def refuse_reader(handle: int) -> None:
    if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "the file was opened for reading")


def open_text(original: Callable[..., Any]) -> Callable[..., Any]:
    """The function `open`, with another encoding and end of lines for our calls."""

    def function(file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None,
                 errors: str | None = None, newline: str | None = None, **more: Any) -> Any:  # fmt: skip
        if is_ours():
            refuse_name(file)
            if "b" not in mode:
                encoding = "cp1252" if encoding in (None, "locale") else encoding
                newline = "\r\n" if newline is None and mode.strip("t") != "r" else newline
        return original(file, mode, buffering, encoding, errors, newline, **more)

    return function


def pytest_configure() -> None:
    """Take on these habits for the rest of the process."""
    for name in FUNCTIONS:
        delattr(os, name)
    watch(builtins, "__import__", refuse_module)
    for name in ("remove", "unlink", "replace"):
        watch(os, name, refuse_busy)
    watch(os, "rename", refuse_existing)
    watch(os, "mkdir", refuse_name)
    watch(os, "open", refuse_folder)
    watch(os, "fsync", refuse_reader)
    builtins.open = io.open = open_text(io.open)
    shutil._use_fd_functions = False  # as on Windows, where folders have no numbers
    multiprocessing.set_start_method("spawn", force=True)
