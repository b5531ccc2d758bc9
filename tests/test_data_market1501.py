"""The Market-1501 reader, on a drawn miniature in its layout and on the real archive where there is one."""

import shutil
from collections import Counter
from itertools import islice
from zipfile import ZipFile

import numpy as np
import pytest

from data_scripts.__main__ import main
from data_scripts.market1501 import _files
from dcal_lite.data import load_dataset, market1501, official

SCRIPT = ("market1501", "--root")


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """The miniature's archive, as its script writes it."""
    root = tmp_path_factory.mktemp("miniature")
    assert main(["miniature", *SCRIPT, str(root)]) == 0
    return root / "Market-1501-v15.09.15.zip"


@pytest.fixture
def root(archive, tmp_path):
    """A folder with the unpacked miniature."""
    load_dataset("market1501", tmp_path, archive=archive, check_counts=False)
    return tmp_path


def test_the_miniature_is_read_as_the_real_one(archive, tmp_path):
    dataset = load_dataset("market1501", tmp_path, archive=archive, check_counts=False)
    names = Counter(name.split("/")[1] for name in ZipFile(archive).namelist())
    train, query, gallery = (dataset[split] for split in ("train", "query", "gallery"))
    assert dataset.task == "reid"
    assert len(train) == names["bounding_box_train"]
    assert len(query) == names["query"]
    assert not set(train.labels) & set(query.labels)
    assert set(query.labels) | {0} == set(gallery.labels)  # distractors stay, junk is gone
    assert len(gallery) + sum("/-1_" in name for name in ZipFile(archive).namelist()) == names["bounding_box_test"]
    assert "-1" not in {record.source.split("/")[1][:2] for record in gallery.records}
    assert set(train.cameras) <= set(range(1, 7))
    assert gallery.images((128, 64)).float().std() > 0


def test_names_are_parsed(root):
    folder = root / market1501.LAYOUT.folder / "query"
    source = next(folder.iterdir())
    for name in ("1488_c6s3_023021_00.jpg.jpg", "0999_c2s1_000451_03.jpg", "Thumbs.db"):  # all as in the real archive
        shutil.copy(source, folder / name)
    query = load_dataset("market1501", root, check_counts=False)["query"]
    found = {record.source: (record.label, record.camera) for record in query.records}
    assert found["query/1488_c6s3_023021_00.jpg.jpg"] == (1488, 6)
    assert found["query/0999_c2s1_000451_03.jpg"] == (999, 2)
    assert list(found) == sorted(found)
    np.testing.assert_array_equal(query.read(query.records[-1]).shape, (128, 64, 3))


def test_root_may_be_the_folder_itself_or_come_from_the_environment(root, monkeypatch):
    expected = load_dataset("market1501", root, check_counts=False)["train"].records
    assert load_dataset("market1501", root / market1501.LAYOUT.folder, check_counts=False)["train"].records == expected
    (root / market1501.LAYOUT.folder).rename(root / "renamed")
    assert load_dataset("market1501", root / "renamed", check_counts=False)["train"].records == expected
    monkeypatch.setenv("DCAL_DATA", str(root / "renamed"))
    assert load_dataset("market1501", check_counts=False)["train"].records == expected
    monkeypatch.delenv("DCAL_DATA")
    with pytest.raises(ValueError, match="set DCAL_DATA"):
        load_dataset("market1501")


def test_a_multi_query_is_all_boxes_of_a_person_and_a_camera(archive, root):
    dataset = load_dataset("market1501", root, check_counts=False, protocol="multi-query")
    names = [name.partition("/")[2] for name in ZipFile(archive).namelist()]
    queries = sorted(name.removeprefix("query/")[:7] for name in names if name.startswith("query/"))
    expected = {i: [name for name in sorted(names) if name.startswith(f"gt_bbox/{q}")] for i, q in enumerate(queries)}
    found = {i: [record.source for record in dataset["query"].records if record.track == i] for i in expected}
    assert found == expected
    assert sum(map(len, found.values())) == len(dataset["query"]) > len(queries)
    single = load_dataset("market1501", root, check_counts=False)
    assert single["gallery"].records == dataset["gallery"].records
    for path in (root / market1501.LAYOUT.folder / "gt_bbox").glob("0004_c1*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"gt_bbox has no image of the person and camera of query/0004_c1"):
        load_dataset("market1501", root, check_counts=False, protocol="multi-query")
    with pytest.raises(ValueError, match="unknown protocol of market1501 'multi': did you mean 'multi-query'"):
        load_dataset("market1501", root, protocol="multi")


def test_counts_are_checked(root, monkeypatch):
    with pytest.raises(ValueError, match=r"bounding_box_train of Market-1501 has 12,936 images and 751 labels, but 48"):
        load_dataset("market1501", root)
    monkeypatch.setitem(official.MIX_UPS["market1501"], 48, "this is the miniature")
    with pytest.raises(ValueError, match="this is the miniature"):
        load_dataset("market1501", root)


def test_a_missing_folder_is_named(root):
    with pytest.raises(ValueError, match=r"there is no folder .*Market-1501-v15.09.15/bounding_box_train"):
        load_dataset("market1501", root / "nowhere")
    shutil.rmtree(root / market1501.LAYOUT.folder / "query")
    with pytest.raises(ValueError, match=r"there is no folder .*query: pass root="):
        load_dataset("market1501", root, check_counts=False)


def test_another_datasets_names_are_refused(root):
    (root / market1501.LAYOUT.folder / "query" / "0005_c2_f0046985.jpg").touch()
    with pytest.raises(ValueError, match=r"query/0005_c2_f0046985.jpg' is not a name like"):
        load_dataset("market1501", root, check_counts=False)


def test_a_broken_image_is_named(root):
    name = "0004_c1s1_000000_00.jpg"
    (root / market1501.LAYOUT.folder / "query" / name).mkdir()
    with pytest.raises(ValueError, match=f"{name} .it is a directory"):
        load_dataset("market1501", root, check_counts=False)["query"].images((8, 8))


def test_the_wrong_archive(tmp_path):
    with ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("Market-1501-v15.09.15/query/0001_c1s1_000451_03.jpg", b"")
    with pytest.raises(ValueError, match=r"holds no .*bounding_box_train: this is not the archive of Market-1501"):
        load_dataset("market1501", tmp_path / "root", archive=tmp_path / "x.zip")
    assert not (tmp_path / "root").exists()


def test_the_miniature_is_a_function_of_its_seed(archive):
    with ZipFile(archive) as file:
        first = [file.read(f"{market1501.LAYOUT.folder}/{name}") for name, _ in islice(_files(0), 4)]
        assert {entry.date_time for entry in file.infolist()} == {(2015, 9, 15, 0, 0, 0)}
    assert first == [content for _, content in islice(_files(0), 4)]
    assert first[1:] != [content for _, content in islice(_files(1), 4)][1:]


def test_scripts_report_wrong_input_in_one_line(root, archive, capsys):
    assert main(["miniature", *SCRIPT, str(archive.parent)]) == 1
    assert main(["verify", *SCRIPT, str(root)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "exists: remove it" in lines[0]
    assert "has 12,936 images" in lines[1]


def test_verify_prints_the_splits(root, capsys, monkeypatch):
    counts = {"bounding_box_train": (48, 3), "query": (8, 2), "bounding_box_test": (32, 4)}
    monkeypatch.setitem(official.COUNTS, "market1501", counts)
    assert main(["verify", *SCRIPT, str(root)]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[:-1]] == [
        ["train", "48", "images", "3", "labels", "4", "cameras"],
        ["query", "8", "images", "2", "labels", "4", "cameras"],
        ["gallery", "28", "images", "3", "labels", "4", "cameras"],
    ]


@pytest.mark.slow
def test_the_real_archive(shared_data, tmp_path):
    dataset = load_dataset("market1501", tmp_path, archive=shared_data / "Market-1501-v15.09.15.zip")
    assert {name: (len(split), len(split.classes)) for name, split in dataset.splits.items()} == {
        "train": (12_936, 751),
        "query": (3_368, 750),
        "gallery": (15_913, 751),
    }
    assert (dataset["gallery"].labels == 0).sum() == 2_798
    assert dataset["query"].subset([0]).read(dataset["query"].records[0]).shape == (128, 64, 3)
    for split in dataset.splits.values():
        assert set(split.cameras) == set(range(1, 7))
    multi = load_dataset("market1501", tmp_path, protocol="multi-query")["query"]
    assert len(multi) == 12_688 and len(set(multi.tracks)) == 3_368
