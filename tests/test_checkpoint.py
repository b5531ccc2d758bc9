import os
import subprocess
import sys
import time

import pytest
import torch

from dcal_lite.checkpoint import (
    atomic_path,
    load_checkpoint,
    remove_leftovers,
    save_checkpoint,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "r.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "r.json", {"a": float("nan")})
    assert (tmp_path / "r.json").read_text() == '{\n  "a": 1\n}\n'


def test_newest_two_are_kept(tmp_path):
    for epoch in range(4):
        save_checkpoint(tmp_path, epoch, 0, {"epoch": epoch, "x": torch.full((3,), epoch)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch-0002-step-000000.pt", "epoch-0003-step-000000.pt"]
    assert load_checkpoint(tmp_path)["x"].tolist() == [3, 3, 3]


def test_the_newest_is_that_of_the_furthest_step(tmp_path):
    for epoch, step in ((0, 9), (1, 0), (1, 100_000), (1, 20)):
        save_checkpoint(tmp_path, epoch, step, {"at": (epoch, step)})
    assert load_checkpoint(tmp_path)["at"] == (1, 100_000)


def test_no_checkpoint(tmp_path):
    assert load_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_checkpoint_falls_back_and_says_so(tmp_path, damage):
    for epoch in range(2):
        save_checkpoint(tmp_path, epoch, 0, {"x": torch.full((1000,), epoch)})
    path = tmp_path / "epoch-0001-step-000000.pt"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[content.index(torch.full((4,), 1).numpy().tobytes()) + 4000] ^= 1  # one bit of one tensor
    path.write_bytes({"truncate": content[: len(content) // 2], "flip": content, "empty": b""}[damage])
    with pytest.warns(UserWarning, match=r"epoch-0001-step-000000\.pt is damaged .*; falling back to the one before"):
        assert load_checkpoint(tmp_path)["x"][0] == 0
    path.unlink()
    (tmp_path / "epoch-0000-step-000000.pt").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"epoch-0000-step-000000\.pt is damaged .*; beginning anew"):
        assert load_checkpoint(tmp_path) is None


def test_only_data_is_loaded(tmp_path):
    save_checkpoint(tmp_path, 0, 0, {"x": torch.zeros(1)})
    torch.save({"x": os.system}, tmp_path / "epoch-0001-step-000000.pt")  # code where data should be
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        load_checkpoint(tmp_path)


KILLED = """
import sys, torch
from dcal_lite.checkpoint import save_checkpoint
for epoch in range(10**6):
    save_checkpoint(sys.argv[1], epoch, 0, {"x": torch.full((200_000,), epoch)})
"""


def kill_and_load(folder, delay):
    """Kill a process that writes checkpoints without pause; what is left must load and be whole."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen([sys.executable, "-c", KILLED, folder])
    while not list(folder.glob("epoch-*.pt")):
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    process.wait()
    state = load_checkpoint(folder)["x"]
    assert (state == state[0]).all()
    remove_leftovers(folder)
    assert all(path.suffix == ".pt" for path in folder.iterdir())


@pytest.mark.parametrize("delay", [0.013, 0.1])
def test_killed_while_writing(tmp_path, delay):
    kill_and_load(tmp_path, delay)


@pytest.mark.slow
def test_killed_while_writing_many_times(tmp_path, rng):
    for i, delay in enumerate(rng.uniform(0, 0.1, 100)):
        kill_and_load(tmp_path / str(i), delay)
