"""CUHK03: two kinds of boxes, the lists of the new protocol, and MATLAB files that are not as they should be."""

import shutil
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import loadmat, savemat

from data_scripts.__main__ import main
from dcal_lite.data import load_dataset, official
from dcal_lite.data.cuhk03 import _images
from dcal_lite.data.matlab import read_arrays


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    root = tmp_path_factory.mktemp("cuhk03")
    assert main(["miniature", "cuhk03", "--root", str(root)]) == 0
    load_dataset("cuhk03", root, archive=root / "cuhk03_release.zip", check_counts=False)
    return root / "cuhk03"


@pytest.fixture
def folder(unpacked, tmp_path):
    return shutil.copytree(unpacked, tmp_path / "cuhk03")


def load(root, protocol="labelled"):
    return load_dataset("cuhk03", root, check_counts=False, protocol=protocol)


def test_the_two_kinds_of_boxes(unpacked):
    labelled, detected = load(unpacked), load(unpacked, "detected")
    assert len(detected["train"]) == len(labelled["train"]) - 1
    assert {record.source.split("/")[0] for record in detected["query"].records} == {"images_detected"}
    for dataset in (labelled, detected):  # one query of each person by each camera
        pairs = list(zip(dataset["query"].labels, dataset["query"].cameras, strict=True))
        assert sorted(pairs) == [(4, 1), (4, 2), (5, 1), (5, 2)]
    with pytest.raises(ValueError, match="unknown protocol of cuhk03 'labeled': did you mean 'labelled'"):
        load(unpacked, "labeled")


def release_of(folder):
    return folder / "cuhk03_release" / "cuhk-03.mat"


def test_the_images_are_those_of_the_release(unpacked):
    """Every cell, looked up as MATLAB counts (person, number), with HDF5's axes reversed."""
    seen = set()
    with h5py.File(release_of(unpacked)) as file:
        assert file.userblock_size == 512
        for pair in range(1, 6):
            people = file[file["labeled"][0, pair - 1]]
            for person in range(1, people.shape[1] + 1):
                for number in range(1, 11):
                    cell = file[people[number - 1, person - 1]]
                    if "MATLAB_empty" in cell.attrs:
                        continue
                    name = f"{pair}_{person:03d}_{1 if number <= 5 else 2}_{number:02d}.png"
                    with Image.open(unpacked / "images_labeled" / name) as image:
                        assert image.size == (60, 160)
                        for x, y in ((0, 0), (59, 0), (0, 159), (20, 100)):
                            assert image.getpixel((x, y)) == tuple(cell[c, x, y] for c in range(3))
                    seen.add(name)
    assert {path.name for path in (unpacked / "images_labeled").iterdir()} == seen
    assert release_of(unpacked).read_bytes().startswith(b"MATLAB 7.3 MAT-file")


def test_images_are_made_once_and_whole(folder, monkeypatch):
    path = next((folder / "images_labeled").iterdir())
    path.write_bytes(b"mine")
    load(folder)
    assert path.read_bytes() == b"mine"
    shutil.rmtree(folder / "images_labeled")
    save, saved = Image.Image.save, []

    def stop(image, target):
        saved.append(target)
        if len(saved) == 5:
            raise KeyboardInterrupt
        save(image, target)

    monkeypatch.setattr(Image.Image, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        load(folder)
    assert len(saved) == 5 and not list(folder.glob("*images_labeled*/"))
    monkeypatch.setattr(Image.Image, "save", save)
    assert len(load(folder)["train"]) == 24


def test_images_alone_are_enough_and_so_is_the_release(folder):
    expected = load(folder)["train"].records
    shutil.move(folder / "cuhk03_release", folder.parent / "aside")
    assert load(folder.parent)["train"].records == expected
    shutil.rmtree(folder / "images_labeled")
    with pytest.raises(ValueError, match=r"there is no folder .*images_labeled"):
        load(folder.parent)
    shutil.move(folder.parent / "aside", folder / "cuhk03_release")
    folder.rename(folder.with_name("renamed"))
    assert load(folder.with_name("renamed"))["train"].records == expected


def test_without_h5py_the_error_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    load(folder)
    shutil.rmtree(folder / "images_labeled")
    with pytest.raises(ValueError, match=r"MATLAB files of version 7\.3 need h5py: pip install h5py"):
        load(folder)


def change(file, what):
    """Spoil the release of an open file."""
    people = file[file["labeled"][0, 0]]
    image = people[0, 0]
    if what == "no labeled":
        del file["labeled"]
    elif what == "numbers for references":
        del file["labeled"]
        file["labeled"] = np.zeros((1, 5))
    elif what == "six pairs":
        references = file["labeled"][()]
        del file["labeled"]
        file["labeled"] = np.concatenate([references, references[:, :1]], axis=1, dtype=references.dtype)
    elif what == "a null reference":
        people[0, 0] = h5py.Reference()
    elif what == "people by images":
        file["labeled"][0, 0] = file.create_dataset("turned", data=people[()].T).ref
    elif what == "a group for an image":
        people[0, 0] = file["#refs#"].ref
    elif what == "floats":
        people[0, 0] = file.create_dataset("floats", data=file[image][()] / 255).ref
    elif what == "gray":
        people[0, 0] = file.create_dataset("gray", data=file[image][()][:1]).ref
    elif what == "a bomb":
        bomb = file.create_dataset("bomb", (3, 100_000, 100_000), np.uint8, chunks=(1, 1000, 1000), compression="gzip")
        people[0, 0] = bomb.ref


@pytest.mark.parametrize(
    "what",
    ["no labeled", "numbers for references", "six pairs", "a null reference", "people by images",
     "a group for an image", "floats", "gray", "a bomb"],
)  # fmt: skip
def test_a_file_that_is_not_the_release_is_refused_in_one_line(folder, what):
    shutil.rmtree(folder / "images_labeled")
    with h5py.File(release_of(folder), "r+") as file:
        change(file, what)
    with pytest.raises(
        ValueError, match=r"cuhk-03.mat is not the release of CUHK03, or damaged \(.+\): get it"
    ) as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert not list(folder.glob("*images_labeled*/"))
    load(folder, "detected")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_release_is_refused_in_one_line_or_read(unpacked, data):
    content = bytearray(release_of(unpacked).read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(512, min(len(content) - 1, 30_000)))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    path = unpacked.parent / "damaged.mat"
    path.write_bytes(content)
    try:
        for name, pixels in _images(path, "labeled"):
            assert len(name) == len("1_001_1_01.png") and pixels.dtype == np.uint8 and pixels.shape[2] == 3
    except ValueError as error:
        message = str(error)
        assert "damaged.mat" in message and "\n" not in message


def test_verify_recognises_the_boxes_by_the_folders(folder, capsys, monkeypatch):
    for key, train in (("cuhk03/labelled", 24), ("cuhk03/detected", 23)):
        counts = {"train": (train, 3), "query": (4, 2), "gallery": (12, 2)}
        monkeypatch.setitem(official.COUNTS, key, counts)
    command = ["verify", "cuhk03", "--root", str(folder.parent)]
    shutil.rmtree(folder / "images_detected", ignore_errors=True)
    assert main(command) == 0  # made from the release
    assert capsys.readouterr().out.splitlines()[-1] == "CUHK03 (labelled) and CUHK03 (detected): as published"
    shutil.rmtree(folder / "cuhk03_release")
    shutil.rmtree(folder / "images_labeled")
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "CUHK03 (detected): as published"
    assert main([*command, "--protocol", "labelled"]) == 1
    assert f"{folder} holds CUHK03 (detected), not CUHK03 (labelled)" in capsys.readouterr().err


def test_listed_images_must_be_there(folder):
    next((folder / "images_labeled").glob("*_1_01.png")).unlink()
    with pytest.raises(ValueError, match=r"images_labeled/.*_1_01.png is listed in .*, as are 1 images"):
        load(folder)


def test_lists_that_do_not_fit_together(folder):
    path = folder / "cuhk03_new_protocol_config_labeled.mat"
    arrays = {name: array for name, array in loadmat(path).items() if not name.startswith("__")}
    for name, array in {"train_idx": [[0]], "query_idx": [[999]], "labels": arrays["labels"][1:]}.items():
        savemat(path, arrays | {name: np.array(array)})
        with pytest.raises(ValueError, match=r"the lists of .*labeled.mat do not fit together"):
            load(folder)
    del arrays["gallery_idx"]
    savemat(path, arrays)
    with pytest.raises(
        ValueError, match="must hold gallery_idx, but it holds camId, filelist, labels, query_idx, train"
    ):
        load(folder)
    path.unlink()
    with pytest.raises(ValueError, match=r"there is no file .*config_labeled.mat"):
        load(folder)


def test_a_file_of_version_7_is_named(tmp_path):
    path = tmp_path / "x.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(ValueError, match=r"x.mat is a MATLAB file of version 7.3, and only version 5 is read here"):
        read_arrays(path, "x")


@settings(max_examples=30, deadline=None)  # each starts a process
@given(st.data())
def test_a_damaged_matlab_file_is_refused_in_one_line(unpacked, tmp_path_factory, data):
    content = bytearray((unpacked / "cuhk03_new_protocol_config_labeled.mat").read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, min(len(content) - 1, 400)))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path_factory.mktemp("x") / "x.mat"
    path.write_bytes(content)
    try:
        (names,) = read_arrays(path, "filelist")
        assert names.ndim == 1
    except ValueError as error:
        message = str(error)
        assert "x.mat" in message and "\n" not in message


def test_a_file_that_crashes_the_reader_is_a_value_error(tmp_path, monkeypatch):
    monkeypatch.setattr("dcal_lite.data.matlab._READ", "import os; os.abort()")
    with pytest.raises(ValueError, match=r"x.mat is damaged \(it crashes SciPy\)"):
        read_arrays(tmp_path / "x.mat", "x")
