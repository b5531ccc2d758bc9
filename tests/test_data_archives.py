"""Unpacking: once, whole or not at all, and nothing outside of the target."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcal_lite.data import archives
from dcal_lite.data.archives import data_root, unpack

FILES = {"top/a/1.txt": b"one", "top/a/2.txt": b"two" * 1000, "top/b/3.txt": b"", "top/readme": b"hello"}


@pytest.fixture
def archive(tmp_path):
    """A good archive, with some litter beside the top folder."""
    return write(tmp_path / "good.zip", FILES | {"__MACOSX/top/._a": b"litter"})


@pytest.fixture
def target(tmp_path):
    return tmp_path / "root" / "top"


def write(path, files):
    """Write a zip; a name may be a ZipInfo."""
    with ZipFile(path, "w", ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def write_tar(path, files, prefix=""):
    """Write a tar file, compressed as its name says; a name may be a TarInfo."""
    with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as file:
        for name, content in files.items():
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(prefix + name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def tar_entry(name, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def entry(name, kind=0):
    info = ZipInfo(name)
    info.external_attr = (kind | 0o644) << 16
    return info


def tree(folder):
    """Every file below a folder, and its content."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nothing_but(tmp_path, *names):
    """Whether only these are in the folder, and at most a root that is empty."""
    return {path.name for path in tmp_path.iterdir()} - {"root"} == set(names) and not left(tmp_path / "root")


def left(root):
    """The names in a folder, but for the lock that a failure leaves."""
    return [path.name for path in root.iterdir() if path.name != ".top.lock"] if root.exists() else []


def test_unpacks_the_top_folder_only(archive, target):
    assert unpack(archive, target, holds=["a", "b"]) == target
    assert tree(target.parent) == FILES
    assert list(target.parent.iterdir()) == [target]


def test_a_second_run_does_nothing(archive, target):
    unpack(archive, target)
    (target / "a" / "1.txt").write_text("changed")
    archive.unlink()
    unpack(archive, target)
    assert (target / "a" / "1.txt").read_text() == "changed"


def test_folder_entries_are_fine(tmp_path, target):
    unpack(write(tmp_path / "x.zip", {entry("top/", 0o040000): b"", entry("top/a/", 0o040000): b""} | FILES), target)
    assert tree(target.parent) == FILES


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_a_tar_file_is_unpacked_like_a_zip(tmp_path, target, suffix, prefix):
    files = {tar_entry(prefix or "top", tarfile.DIRTYPE): b"", tar_entry(f"{prefix}top/a", tarfile.DIRTYPE): b""}
    litter = {f"{prefix}._top": b"litter", f"{prefix}attributes.txt": b"litter"}
    archive = write_tar(tmp_path / f"x.{suffix}", files | {prefix + name: FILES[name] for name in FILES} | litter)
    assert unpack(archive, target, holds=["a", "b"]) == target
    assert tree(target.parent) == FILES
    with pytest.raises(ValueError, match="holds no other/a"):
        unpack(archive, target.with_name("other"), holds=["a"])


KILLED = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("archives", sys.argv[1])
archives = importlib.util.module_from_spec(spec)
spec.loader.exec_module(archives)
copy, done = archives.shutil.copyfileobj, []
def copy_and_die(source, sink):
    copy(source, sink)
    done.append(sink)
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
archives.shutil.copyfileobj = copy_and_die
archives.unpack(sys.argv[2], sys.argv[3])
"""


@pytest.mark.posix
def test_a_killed_run_leaves_nothing_that_looks_finished_and_the_next_cleans_up(archive, target):
    process = subprocess.run([sys.executable, "-c", KILLED, archives.__file__, archive, target], capture_output=True)
    assert process.returncode == -signal.SIGKILL
    assert not target.exists()
    assert left(target.parent) == [".top.part"]
    (target.parent / ".top.part" / "stale").write_text("left by the killed run")
    unpack(archive, target)
    assert tree(target.parent) == FILES


def test_the_files_arrive_by_renaming(archive, target, monkeypatch):
    copy, written = archives.shutil.copyfileobj, set()

    def record(source, sink):
        assert not target.exists()
        written.add(os.fstat(sink.fileno()).st_ino)
        copy(source, sink)

    monkeypatch.setattr(archives.shutil, "copyfileobj", record)
    unpack(archive, target)
    assert {path.stat().st_ino for path in target.rglob("*") if path.is_file()} == written


def test_an_interrupt_leaves_nothing(archive, target, monkeypatch):
    def interrupt(source, sink):
        raise KeyboardInterrupt

    monkeypatch.setattr(archives.shutil, "copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, target)
    assert left(target.parent) == []


def test_two_at_a_time_unpack_once(archive, target, monkeypatch):
    extract, calls = archives._extract, []

    def slow(*arguments):
        calls.append(arguments)
        time.sleep(0.2)
        extract(*arguments)

    monkeypatch.setattr(archives, "_extract", slow)
    threads = [threading.Thread(target=unpack, args=(archive, target)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert tree(target.parent) == FILES


@pytest.mark.parametrize(
    "bad",
    [
        entry("../evil"),
        entry("top/../../evil"),
        entry("/tmp/evil"),
        entry("top//evil"),
        entry("top/./evil"),
        entry("..\\evil"),
        entry("C:/evil"),
        entry("top/link", 0o120000),
        entry("top/device", 0o020000),
        entry("top/pipe", 0o010000),
        entry("elsewhere/link", 0o120000),
    ],
    ids=lambda info: info.filename,
)
def test_a_hostile_entry_is_refused_before_anything_is_written(tmp_path, target, bad):
    archive = write(tmp_path / "x.zip", FILES | {bad: b"/etc/passwd"})
    with pytest.raises(ValueError, match="do not use this archive") as error:
        unpack(archive, target)
    assert repr(bad.filename) in str(error.value)
    assert nothing_but(tmp_path, "x.zip")


@pytest.mark.parametrize(
    "bad",
    [
        tar_entry("../evil"),
        tar_entry("./../evil"),
        tar_entry("/tmp/evil"),
        tar_entry(".//tmp/evil"),
        tar_entry("top/../../evil"),
        tar_entry("top/link", tarfile.SYMTYPE),
        tar_entry("top/hard", tarfile.LNKTYPE),
        tar_entry("top/device", tarfile.CHRTYPE),
        tar_entry("top/pipe", tarfile.FIFOTYPE),
        tar_entry("elsewhere/link", tarfile.SYMTYPE),
    ],
    ids=lambda info: info.name,
)
def test_a_hostile_entry_of_a_tar_file_is_refused(tmp_path, target, bad):
    archive = write_tar(tmp_path / "x.tar.gz", FILES | {bad: b""})
    with pytest.raises(ValueError, match="do not use this archive") as error:
        unpack(archive, target)
    assert bad.name.removeprefix("./") in str(error.value)
    assert nothing_but(tmp_path, "x.tar.gz")


def test_one_name_twice_in_a_tar_file_is_refused(tmp_path, target):
    archive = write_tar(tmp_path / "x.tar", FILES | {tar_entry("./top/readme"): b"other"})
    with pytest.raises(ValueError, match="two files of one name"):
        unpack(archive, target)
    archive = write_tar(tmp_path / "x.tar", FILES | {"top/readme/file": b"other"})
    with pytest.raises(ValueError, match="a file and a folder of one name"):
        unpack(archive, target)
    assert nothing_but(tmp_path, "x.tar")


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("keep", [0.3, 0.8])
def test_a_truncated_tar_file_is_named_in_one_line_and_leaves_nothing(tmp_path, target, rng, suffix, keep):
    archive = write_tar(tmp_path / f"x.{suffix}", {f"top/{i}": rng.bytes(20_000) for i in range(4)})
    archive.write_bytes(archive.read_bytes()[: int(keep * archive.stat().st_size)])
    with pytest.raises(ValueError, match=f"x.{suffix} is truncated or corrupt .*download it again") as error:
        unpack(archive, target)
    assert "\n" not in str(error.value)
    assert nothing_but(tmp_path, f"x.{suffix}")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A good archive of every kind, as bytes."""
    folder = tmp_path_factory.mktemp("originals")
    write(folder / "x.zip", FILES)
    for suffix in ("tar", "tar.gz", "tar.bz2", "tar.xz"):
        write_tar(folder / f"x.{suffix}", FILES)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_mutated_archive_is_unpacked_or_refused_in_one_line(originals, tmp_path_factory, data):
    content = bytearray(originals[data.draw(st.sampled_from(list(originals)))])
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    folder = tmp_path_factory.mktemp("mutated")
    (folder / "x").write_bytes(content)
    expected, message = ["top"], ""
    try:
        unpack(folder / "x", folder / "root" / "top", progress=False)
    except ValueError as error:
        expected, message = [], str(error)
    assert "\n" not in message
    assert {path.name for path in folder.iterdir()} <= {"x", "root"}
    assert left(folder / "root") == expected


def test_an_encrypted_entry_is_refused(tmp_path, target):
    archive = write(tmp_path / "x.zip", FILES)
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1  # the flag in the central directory
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="encrypted"):
        unpack(archive, target)


def test_one_name_twice_is_refused(tmp_path, target):
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive = write(tmp_path / "x.zip", FILES | {entry("top/readme"): b"other"})
    with pytest.raises(ValueError, match="two files of one name"):
        unpack(archive, target)
    archive = write(tmp_path / "x.zip", FILES | {"top/readme/file": b"other"})
    with pytest.raises(ValueError, match="a file and a folder of one name"):
        unpack(archive, target)
    archive = write(tmp_path / "x.zip", {"top/readme/file": b"other"} | FILES)
    with pytest.raises(ValueError, match="a file and a folder of one name"):
        unpack(archive, target)
    assert nothing_but(tmp_path, "x.zip")


@pytest.mark.parametrize(
    ("limit", "reached"), [("_MAX_FILES", "5 files and 3,014"), ("_MAX_BYTES", "2 files and 3,003")]
)
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_limits(archive, tmp_path, target, monkeypatch, limit, reached, kind):
    if kind == "tar.gz":
        archive = write_tar(tmp_path / "x.tar.gz", FILES | {"attributes.txt": b"litter"})
    monkeypatch.setattr(archives, limit, 4)
    with pytest.raises(ValueError, match=f"would unpack to {reached} bytes or more, beyond"):
        unpack(archive, target)
    assert not target.parent.exists()


def test_a_file_cannot_be_larger_than_it_says(tmp_path, target):
    archive = tmp_path / "x.zip"
    with ZipFile(archive, "w", ZIP_DEFLATED) as file:
        file.writestr("top/bomb", bytes(1_000_000))
        file.filelist[0].file_size = 10
    with pytest.raises(ValueError, match="corrupt"):
        unpack(archive, target)
    assert nothing_but(tmp_path, "x.zip")


def damaged(content, how):
    if how == "truncated":
        return content[: len(content) // 2]
    if how == "flipped":  # inside of a file: only its checksum tells
        return content.replace(b"hello", b"hullo")
    return {"empty": b"", "text": b"<html>404 not found</html>"}[how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "is truncated or corrupt"),
        ("flipped", "is truncated or corrupt"),
        ("empty", "is not a zip or tar archive"),
        ("text", "is not a zip or tar archive"),
    ],
)
def test_a_damaged_archive_is_named_in_one_line_and_leaves_nothing(tmp_path, target, how, message):
    archive = tmp_path / "x.zip"
    with ZipFile(archive, "w") as file:
        for name, content in FILES.items():
            file.writestr(name, content)
    archive.write_bytes(damaged(archive.read_bytes(), how))
    with pytest.raises(ValueError, match=f"x.zip {message}.*download it again") as error:
        unpack(archive, target)
    assert "\n" not in str(error.value)
    assert nothing_but(tmp_path, "x.zip")


def test_the_wrong_archive(archive, target):
    with pytest.raises(ValueError, match="holds no top/query but __MACOSX, top: this is not the archive of top"):
        unpack(archive, target, holds=["a", "query"])
    with pytest.raises(ValueError, match="holds no other/a"):
        unpack(archive, target.with_name("other"), holds=["a"])
    with pytest.raises(ValueError, match=r"holds no top/a/3\.txt"):
        unpack(archive, target, holds=["a", "a/1.txt", "readme", "a/3.txt"])
    with pytest.raises(ValueError, match="holds no other but __MACOSX, top: this is not the archive of other"):
        unpack(archive, target.with_name("other"))
    with pytest.raises(ValueError, match="there is no archive"):
        unpack(archive.with_name("none.zip"), target)
    with pytest.raises(ValueError, match="is not a folder"):
        unpack(archive, archive / "top")
    assert not target.parent.exists()


def test_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DCAL_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert data_root("elsewhere") == Path("elsewhere")
    assert data_root("~/data") == Path(os.path.expanduser("~")) / "data"  # noqa: PTH111  a second way
    monkeypatch.setenv("DCAL_DATA", "")
    assert data_root() == Path("data")
