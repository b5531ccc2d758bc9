"""CUHK03: two kinds of boxes, the lists of the new protocol, and MATLAB files that are not as they should be."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from data_scripts.__main__ import main
from dcal_lite.data import load_dataset
from dcal_lite.data.matlab import read_arrays


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    root = tmp_path_factory.mktemp("cuhk03")
    assert main(["miniature", "cuhk03", "--root", str(root)]) == 0
    load_dataset("cuhk03", root, archive=root / "cuhk03.zip", check_counts=False)
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


def test_a_folder_without_images_says_how_to_make_them(folder):
    shutil.rmtree(folder / "images_labeled")
    with pytest.raises(ValueError, match=r"there is no folder .*images_labeled"):
        load(folder.parent)
    (folder / "cuhk03_release").mkdir()
    (folder / "cuhk03_release" / "cuhk-03.mat").touch()
    with pytest.raises(ValueError, match="HDF5, which is not read here; make the images with the CUHK03 class"):
        load(folder.parent)


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
