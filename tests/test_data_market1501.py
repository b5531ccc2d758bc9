"""The Market-1501 reader, on a drawn miniature in its layout and on the real archive where there is one."""

import shutil
from collections import Counter
from itertools import islice
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

from data_scripts.__main__ import main
from data_scripts.market1501 import _files, verify
from dcal_lite import evaluation
from dcal_lite.data import load_dataset, market1501, official
from dcal_lite.heads import Output
from tests import oracles

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
    with pytest.raises(ValueError, match=r"there is no folder .*Market-1501-v15\.09\.15.bounding_box_train"):
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
        first = [file.read(f"{market1501.LAYOUT.folder}/{name}") for name, _ in islice(_files(0, 5), 4)]
        assert {entry.date_time for entry in file.infolist()} == {(2015, 9, 15, 0, 0, 0)}
    assert first == [content for _, content in islice(_files(0, 5), 4)]
    assert first[1:] != [content for _, content in islice(_files(1, 5), 4)][1:]


def test_scripts_report_wrong_input_in_one_line(root, archive, capsys):
    assert main(["miniature", *SCRIPT, str(archive.parent)]) == 1
    assert main(["verify", *SCRIPT, str(root)]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2
    assert "exists: remove it" in lines[0]
    assert lines[1] == "error: Market-1501: not as published, see the problems above (5)"  # four parts and the cameras


def test_verify_prints_what_is_there_beside_what_was_published(root, capsys, monkeypatch):
    counts = {"bounding_box_train": (48, 3), "query": (8, 2), "bounding_box_test": (32, 4), "gt_bbox": (80, 6)}
    monkeypatch.setitem(official.COUNTS, "market1501", counts)
    assert main(["verify", *SCRIPT, str(root)]) == 1
    shown = capsys.readouterr()
    assert [line.split() for line in shown.out.splitlines()[1:-2]] == [
        ["part", "images", "official", "labels", "official", "cameras", "official"],
        ["bounding_box_train", "48", "48", "3", "3", "4"],
        ["query", "8", "8", "2", "2", "4"],
        ["bounding_box_test", "32", "32", "4", "4", "4"],
        ["gt_bbox", "80", "80", "5", "6", "4"],
        ["all", "4", "6"],
    ]
    assert shown.out.splitlines()[-1] == "problem: Market-1501 has 6 cameras, but 4 are there"
    shutil.rmtree(root / market1501.LAYOUT.folder / "gt_bbox")
    monkeypatch.setitem(official.CAMERAS, "market1501", 4)
    assert main(["verify", *SCRIPT, str(root)]) == 0
    assert "gt_bbox" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="all protocols of market1501 read the same files: leave --protocol out"):
        verify(root, protocol="multi-query")


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    """A folder with the real dataset."""
    root = tmp_path_factory.mktemp("real")
    load_dataset("market1501", root, archive=shared_data / "Market-1501-v15.09.15.zip")
    return root


@pytest.mark.slow
def test_the_real_archive(real):
    dataset = load_dataset("market1501", real)
    assert {name: (len(split), len(split.classes)) for name, split in dataset.splits.items()} == {
        "train": (12_936, 751),
        "query": (3_368, 750),
        "gallery": (15_913, 751),
    }
    assert (dataset["gallery"].labels == 0).sum() == 2_798
    assert dataset["query"].subset([0]).read(dataset["query"].records[0]).shape == (128, 64, 3)
    for split in dataset.splits.values():
        assert set(split.cameras) == set(range(1, 7))
    multi = load_dataset("market1501", real, protocol="multi-query")["query"]
    assert len(multi) == 12_688 and len(set(multi.tracks)) == 3_368


@pytest.mark.slow
def test_verify_of_the_real_one_reports_the_official_numbers(real, capsys):
    assert main(["verify", *SCRIPT, str(real)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[2:-1]] == [
        ["bounding_box_train", *["12,936"] * 2, *["751"] * 2, "6"],
        ["query", *["3,368"] * 2, *["750"] * 2, "6"],
        ["bounding_box_test", *["19,732"] * 2, *["752"] * 2, "6"],
        ["gt_bbox", *["25,259"] * 2, *["1,501"] * 2, "6"],
        ["all", "6", "6"],
    ]
    assert lines[-1] == "Market-1501: as published"


class Colours(torch.nn.Module):
    """A model that embeds an image by its mean colours in eight bands."""

    img_size = (128, 64)

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        feature = images.unflatten(2, (8, 16)).mean(dim=(3, 4)).flatten(1)
        return Output({"sa": feature}, {"sa": feature})


def colours(paths):
    """The same embedding, of length 1 like every feature, from the files and in float64."""
    pixels = (
        np.asarray(Image.open(path).convert("RGB").resize((64, 128), Image.Resampling.BILINEAR)) for path in paths
    )
    means = np.array([x.reshape(8, 16, 64, 3).mean(axis=(1, 2), dtype=float).ravel() for x in pixels])
    centred = means / 127.5 - 1
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["single-query", "multi-query"])
def test_scores_on_the_real_one_equal_those_of_a_walk_down_the_files(real, rng, protocol):
    """100 queries, ranked by file names and pixels alone: junk and the query's own camera are passed over."""
    ranks = evaluation.rank_split(Colours(), load_dataset("market1501", real, protocol=protocol))
    assert ranks.valid_queries == 3_368  # each has a true match
    folders = {name: sorted((real / market1501.LAYOUT.folder / name).glob("*.jpg"))
               for name in ("query", "bounding_box_test", "gt_bbox")}  # fmt: skip
    gallery = colours(folders["bounding_box_test"])
    names = [path.name.split("_")[:2] for path in folders["bounding_box_test"]]
    expected, first = [], []
    chosen = rng.choice(3_368, 100, replace=False)
    for query in (folders["query"][i] for i in chosen):
        person, camera = query.name[:4], query.name[5:7]
        shown = [path for path in folders["gt_bbox"] if path.name.startswith(f"{person}_{camera}")]
        feature = colours(shown if protocol == "multi-query" else [query]).mean(axis=0)
        order = np.argsort(np.square(gallery - feature).sum(axis=1), kind="stable")
        seen = [(names[i][0], names[i][1][:2]) for i in order]
        hits = [who == person for who, where in seen if who != "-1" and (who, where) != (person, camera)]
        expected.append(oracles.average_precision(hits))
        first.append(hits.index(True))
    np.testing.assert_allclose(ranks.average_precision[chosen], expected, rtol=0.01)  # float32 swaps near neighbours
    assert np.mean(ranks.first_match[chosen] == first) > 0.9
