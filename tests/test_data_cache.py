"""The cache of decoded images: always the pixels that decoding gives, and decoding only when it must."""

import os
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

import dcal_lite as dl
from data_scripts.market1501 import miniature
from dcal_lite.data import Record, Split, records
from dcal_lite.data.records import Files

SIZE, COUNT = (24, 16), 6
DELETES_OPEN = hasattr(os, "fork")  # Windows deletes no file that is open


@pytest.fixture
def root(tmp_path, rng, monkeypatch):
    """A folder of six photographs, of different sizes."""
    monkeypatch.delenv("DCAL_CACHE", raising=False)
    (tmp_path / "photos").mkdir()
    for i in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (20 + i, 16, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{i}.jpg")
    return tmp_path / "photos"


@pytest.fixture
def reads(monkeypatch):
    """The files that were decoded, as they are."""
    done, original = [], records.read_image
    monkeypatch.setattr(records, "read_image", lambda path: done.append(path.name) or original(path))
    return done


def split_of(root, numbers=range(COUNT)):
    return Split(tuple(Record(f"{i}.jpg", i) for i in numbers), Files(root))


def files(folder):
    """What is in a folder, but for the locks that failures leave."""
    return sorted(path for path in folder.iterdir() if path.suffix != ".lock") if folder.exists() else []


def test_the_second_call_decodes_nothing(root, tmp_path, reads):
    split = split_of(root)
    plain = split.images(SIZE)
    reads.clear()
    kept = [split.images(SIZE, cache=tmp_path / "cache") for _ in range(2)]
    assert sorted(reads) == [f"{i}.jpg" for i in range(COUNT)]
    assert torch.equal(kept[0], plain) and torch.equal(kept[1], plain)
    (file,) = files(tmp_path / "cache")
    assert file.name.startswith("photos-24x16-") and file.stat().st_mode & 0o444 == 0o444  # all may read it
    np.testing.assert_array_equal(np.load(file), plain.numpy())  # for NumPy, it is a plain array


def repaint(root, monkeypatch):
    Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(root / "3.jpg")
    return split_of(root), SIZE


def touch(root, monkeypatch):
    os.utime(root / "3.jpg", ns=(0, 0))
    return split_of(root), SIZE


def move(root, monkeypatch):
    (root.parent / "copy").mkdir()
    return split_of(root.rename(root.parent / "copy" / root.name)), SIZE


def update(root, monkeypatch):
    monkeypatch.setattr(PIL, "__version__", "0.1")
    return split_of(root), SIZE


CHANGES = {
    "picture": repaint,
    "date": touch,
    "folder": move,
    "decoder": update,
    "banner": lambda root, _: (replace(split_of(root), read=Files(root, banner=5)), SIZE),
    "size": lambda root, _: (split_of(root), (16, 24)),
    "dropped": lambda root, _: (split_of(root, range(COUNT - 1)), SIZE),
    "reordered": lambda root, _: (split_of(root, [1, 0, *range(2, COUNT)]), SIZE),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_noticed(what, root, tmp_path, reads, monkeypatch):
    cache = tmp_path / "cache"
    before = split_of(root).images(SIZE, cache=cache)
    old = files(cache)
    split, size = CHANGES[what](root, monkeypatch)
    plain = split.images(size)
    reads.clear()
    after = [split.images(size, cache=cache) for _ in range(2)]
    assert len(reads) == len(split)
    assert torch.equal(after[0], plain) and torch.equal(after[1], plain)
    of_the_same_images = what in ("picture", "date", "decoder", "banner")
    superseded = of_the_same_images and DELETES_OPEN  # the old file goes
    assert len(files(cache)) == (1 if superseded else 2) and (old[0] in files(cache)) != superseded
    assert before.shape == (COUNT, 3, *SIZE) and before.float().std() > 0  # who has the old file open keeps it


def test_a_file_that_cannot_be_deleted_is_left_to_a_later_run(root, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    split_of(root).images(SIZE, cache=cache)
    (old,) = files(cache)
    split, _ = touch(root, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("dcal_lite.data.cache.Path.unlink", refuse)
        assert torch.equal(split.images(SIZE, cache=cache), split.images(SIZE))
    assert old in files(cache) and len(files(cache)) == 2
    os.utime(root / "3.jpg", ns=(1, 1))
    split.images(SIZE, cache=cache)
    assert old not in files(cache) and len(files(cache)) == 1


def refuse(path, missing_ok=False):
    """Windows, where another run has the cache's files open."""
    if path.suffix == ".npy":
        raise PermissionError(path)


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "longer": lambda content: content + b"\0",
    "magic": lambda content: flipped(content, 0),
    "shape": lambda content: content.replace(b"(6, 3, 24, 16)", b"(6, 3, 16, 24)"),
    "pixel": lambda content: flipped(content, 1000),
    "last pixel": lambda content: flipped(content, -5 % len(content)),
    "checksum": lambda content: flipped(content, -1 % len(content)),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_file_is_replaced(what, root, tmp_path, reads):
    split, cache = split_of(root), tmp_path / "cache"
    plain = split.images(SIZE, cache=cache).clone()
    (file,) = files(cache)
    content = file.read_bytes()
    assert DAMAGES[what](content) != content
    file.write_bytes(DAMAGES[what](content))
    reads.clear()
    with pytest.warns(UserWarning, match=rf"{file.name} is damaged: the images are decoded again"):
        assert torch.equal(split.images(SIZE, cache=cache), plain)
    assert len(reads) == COUNT
    assert files(cache) == [file] and file.read_bytes() == content


def test_writing_into_the_images_does_not_change_the_file(root, tmp_path):
    images = split_of(root).images(SIZE, cache=tmp_path)
    (file,) = tmp_path.glob("*.npy")
    content = file.read_bytes()
    images.zero_()
    assert file.read_bytes() == content
    assert split_of(root).images(SIZE, cache=tmp_path).float().std() > 0


def test_drawn_images_are_not_kept(tmp_path):
    split = dl.load_dataset("plumage", train=4, test=4)["train"]
    assert torch.equal(split.images(SIZE, cache=tmp_path / "cache"), split.images(SIZE))
    assert files(tmp_path / "cache") == []


def test_no_images(root, tmp_path):
    for _ in range(2):
        assert split_of(root, []).images(SIZE, cache=tmp_path).shape == (0, 3, *SIZE)


def test_a_broken_image_leaves_no_file(root, tmp_path):
    (root / "4.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"4\.jpg \(it is empty\)"):
        split_of(root).images(SIZE, cache=tmp_path / "cache")
    (root / "4.jpg").unlink()
    with pytest.raises(ValueError, match=r"4\.jpg \(there is no such file\)"):
        split_of(root).images(SIZE, cache=tmp_path / "cache")
    assert files(tmp_path / "cache") == []


def test_a_folder_that_cannot_be_used_is_named(root, tmp_path):
    (tmp_path / "cache").touch()
    with pytest.warns(UserWarning, match=r"cannot use the cache .*cache \(.+\): images stay in memory"):
        images = split_of(root).images(SIZE, cache=tmp_path / "cache")
    assert torch.equal(images, split_of(root).images(SIZE))


def test_a_faulty_disk_is_named(root, tmp_path, monkeypatch):
    monkeypatch.setattr("dcal_lite.data.cache._write", lambda path, shape, images: path.touch())
    with pytest.warns(UserWarning, match="cache") as warnings:
        images = split_of(root).images(SIZE, cache=tmp_path / "cache")
    assert torch.equal(images, split_of(root).images(SIZE))
    assert "does not hold what was written to it): images stay in memory" in str(warnings[-1].message)


# A process that runs the line it is sent, reads the photographs slowly, and says what came of it.
PROCESS = """
import os, sys, time, warnings
from hashlib import sha256
from pathlib import Path
from dcal_lite.data.records import Files, Record, Split

class Slow(Files):
    def __call__(self, record):
        print("read", flush=True)
        time.sleep(float(sys.argv[3]))
        return super().__call__(record)

warnings.showwarning = lambda message, *_: print("warning", message, flush=True)
split = Split(tuple(Record(f"{i}.jpg", 0) for i in range(6)), Slow(Path(sys.argv[1])), threads=1)
print("ready", flush=True)
exec(sys.stdin.readline())
print(sha256(split.images((24, 16), cache=sys.argv[2]).numpy()).hexdigest())
"""


def start(root, cache, *, pause=0.0):
    command = [sys.executable, "-c", PROCESS, str(root), str(cache), str(pause)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(processes, first_line=""):
    """Let all start at once; what each of them printed."""
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write(f"{first_line}\n")
        process.stdin.flush()
    lines = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return lines


def test_of_two_processes_one_decodes(root, tmp_path):
    said = ask([start(root, tmp_path / "cache", pause=0.05) for _ in range(2)])
    assert sorted(len(lines) for lines in said) == [1, 1 + COUNT]
    assert said[0][-1] == said[1][-1] == sha256(split_of(root).images(SIZE).numpy()).hexdigest()
    assert len(files(tmp_path / "cache")) == 1


def test_a_killed_process_leaves_nothing_that_counts(root, tmp_path, reads):
    process = start(root, tmp_path / "cache", pause=60)
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "read\n"
    process.kill()
    process.communicate()
    (leftover,) = files(tmp_path / "cache")
    assert leftover.name.startswith(".") and leftover.suffix == ".tmp"
    images = split_of(root).images(SIZE, cache=tmp_path / "cache")
    assert len(reads) == COUNT
    assert torch.equal(images, split_of(root).images(SIZE))
    assert leftover not in files(tmp_path / "cache") and len(files(tmp_path / "cache")) == 1


@pytest.mark.posix
@pytest.mark.parametrize("line", ["", "del os.posix_fallocate; "])
def test_a_full_disk_is_named_and_no_half_file_stays(line, root, tmp_path):
    line += "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))"  # bytes: less than the images
    (said,) = ask([start(root, tmp_path / "cache")], line)
    (warning,) = (line for line in said if line.startswith("warning"))
    assert warning == f"warning cannot use the cache {tmp_path / 'cache'} (File too large): images stay in memory"
    assert said[-1] == sha256(split_of(root).images(SIZE).numpy()).hexdigest()
    assert files(tmp_path / "cache") == []


def test_training_with_a_cache_gives_the_same_weights(tmp_path, monkeypatch):
    cache, archive = tmp_path / "cache", miniature(tmp_path)
    dl.load_dataset("market1501", tmp_path, archive=archive, check_counts=False)
    recipe = dl.load_recipe("dcal-reid", preset="smoke", dataset="market1501", dataset_args={"check_counts": False},
                            epochs=1, batch_size=8)  # fmt: skip
    runs = [dl.fit(recipe, root=tmp_path, output=tmp_path / "without", progress=False)]
    monkeypatch.setenv("DCAL_CACHE", str(cache))
    contents = []
    for name in ("first", "second"):
        runs.append(dl.fit(recipe, root=tmp_path, output=tmp_path / name, progress=False))
        contents.append({file.name: file.read_bytes() for file in files(cache)})
        assert str(tmp_path) not in (tmp_path / name / "result.json").read_text()
    assert contents[0] == contents[1] and len(contents[0]) == 3  # train, query, gallery
    plain, *kept = (run.model.state_dict() for run in runs)
    assert all(torch.equal(value, weights[name]) for weights in kept for name, value in plain.items())
