"""Fine-grained datasets: protocols, lists that do not fit together, and the real Flowers-102."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import loadmat, savemat

from data_scripts.__main__ import main
from dcal_lite.data import load_dataset

FOLDERS = {
    "cub": "CUB_200_2011",
    "aircraft": "fgvc-aircraft-2013b",
    "flowers102": "flowers-102",
    "cars": "stanford_cars",
}
LISTS = {
    "cub": ["images.txt", "image_class_labels.txt", "train_test_split.txt"],
    "aircraft": ["data/variants.txt", "data/images_variant_train.txt", "data/images_variant_test.txt"],
}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The folder of each miniature."""
    root = tmp_path_factory.mktemp("fgvc")
    for name in FOLDERS:
        assert main(["miniature", name, "--root", str(root / name)]) == 0
        archive = min(path for path in (root / name).iterdir() if path.suffix != ".mat")
        load_dataset(name, root, archive=archive, check_counts=False)
    return root


@pytest.fixture
def root(unpacked, tmp_path):
    for name in FOLDERS.values():
        shutil.copytree(unpacked / name, tmp_path / name)
    return tmp_path


def load(name, root, **options):
    return load_dataset(name, root, check_counts=False, **options)


@pytest.mark.parametrize("name", ["aircraft", "flowers102"])
def test_trainval_is_train_and_val(name, root):
    both, apart = load(name, root), load(name, root, protocol="train")
    assert set(apart.splits) == {"train", "val", "test"}
    sources = {split: {record.source for record in apart[split].records} for split in apart.splits}
    assert not sources["train"] & sources["val"] and not sources["train"] & sources["test"]
    assert sources["train"] | sources["val"] == {record.source for record in both["train"].records}
    assert apart["test"].records == both["test"].records
    with pytest.raises(ValueError, match=f"unknown protocol of {name} 'val'"):
        load(name, root, protocol="val")


@pytest.mark.parametrize(("name", "file"), [(name, file) for name, files in LISTS.items() for file in files])
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_list_is_read_or_refused_in_one_line(unpacked, name, file, data):
    path = unpacked / FOLDERS[name] / file
    original = path.read_bytes()
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))] + data.draw(st.binary(max_size=9)))
        try:
            dataset = load(name, unpacked)
            assert all(".." not in record.source.split("/") for record in dataset["train"].records)
        except ValueError as error:
            message = str(error)
            assert path.name in message and "\n" not in message
    finally:
        path.write_bytes(original)


def test_lists_of_cub_must_number_the_same_images(root):
    path = root / "CUB_200_2011" / "train_test_split.txt"
    path.write_text(path.read_text() + "99 1\n")
    with pytest.raises(ValueError, match=r"train_test_split.txt of .* do not number the same images"):
        load("cub", root)
    path.write_text("1 2\n")
    with pytest.raises(ValueError, match=r"line 1 of .*train_test_split.txt is '1 2', not like '1 0'"):
        load("cub", root)


def test_a_variant_that_is_no_class(root):
    path = root / "fgvc-aircraft-2013b" / "data" / "variants.txt"
    path.write_text(path.read_text().replace("F/A-18", "F-16A/B"))
    with pytest.raises(
        ValueError, match=r"images_variant_train.txt has the variant 'F/A-18', which variants.txt lacks"
    ):
        load("aircraft", root)


def test_the_parts_of_flowers_must_be_a_partition(root):
    path = root / "flowers-102" / "setid.mat"
    ids = {name: array for name, array in loadmat(path).items() if not name.startswith("__")}
    for wrong in (ids["trnid"][:, 1:], ids["trnid"] * 0 + 1, ids["trnid"] + 999):
        savemat(path, ids | {"trnid": wrong})
        with pytest.raises(ValueError, match=r"setid.mat does not part the 27 images of .*imagelabels.mat"):
            load("flowers102", root)


def test_lists_of_flowers_are_copied_from_beside_the_archive_but_never_replaced(unpacked, tmp_path):
    archive = unpacked / "flowers102" / "102flowers.tgz"
    folder = tmp_path / "flowers-102"
    folder.mkdir()
    (folder / "setid.mat").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"setid.mat is no MATLAB file, or damaged"):
        load("flowers102", tmp_path, archive=archive)
    (folder / "setid.mat").unlink()
    assert len(load("flowers102", tmp_path, archive=archive)["test"]) == 9
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(archive, alone)
    with pytest.raises(ValueError, match=r"there is no file .*imagelabels.mat"):
        load("flowers102", tmp_path / "new", archive=alone / archive.name)


def test_test_images_of_cars_need_their_labels(root):
    folder = root / "stanford_cars"
    expected = load("cars", root)["test"].records
    labels = folder / "cars_test_annos_withlabels.mat"
    shutil.move(labels, folder / "devkit")
    assert load("cars", root)["test"].records == expected
    (folder / "devkit" / labels.name).unlink()
    with pytest.raises(ValueError, match=r"there is no file .*cars_test_annos_withlabels.mat"):
        load("cars", root)
    shutil.copy(folder / "devkit" / "cars_test_annos.mat", labels)
    with pytest.raises(
        ValueError, match=r"fields class and fname, but has bbox_x1, .*, fname: cars_test_annos.mat has no"
    ):
        load("cars", root)
    savemat(labels, {"annotations": np.array([("../x.jpg", 1)], dtype=[("fname", object), ("class", object)])})
    with pytest.raises(ValueError, match=r"lists '../x.jpg', not an image like 00001.jpg"):
        load("cars", root)


def test_the_banner_of_aircraft_is_cut_off(root):
    split = load("aircraft", root)["train"]
    record = split.records[0]
    with Image.open(root / "fgvc-aircraft-2013b" / record.source) as image:
        width, height = image.size
        banner, rest = (
            np.asarray(image.crop((0, *rows))) for rows in ((height - 20, width, height), (0, width, height - 20))
        )
    assert (width, height) == (120, 120) and banner.min() > 200  # white in the miniature
    np.testing.assert_array_equal(split.read(record), rest)
    assert rest[-20:].min() < 200


@pytest.mark.slow
def test_verify_of_the_real_flowers_reports_the_official_numbers(shared_data, capsys):
    """The two pairs of twins are in what was published: both of a pair are flowers of one class, in two parts."""
    assert main(["verify", "flowers102", "--root", str(shared_data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[2:5]] == [
        ["train", *["1,020"] * 2, *["102"] * 2],
        ["val", *["1,020"] * 2, *["102"] * 2],
        ["test", *["6,149"] * 2, *["102"] * 2],
    ]
    assert lines[5:] == [
        "as published: jpg/image_07307.jpg and jpg/image_07309.jpg are the same picture",
        "as published: jpg/image_08077.jpg and jpg/image_08067.jpg are the same picture",
        "Flowers-102: as published",
    ]
