"""What every reader of a real dataset must do, on miniatures; what is special to one stands in its own file.

The expected records come from a list of the archive's files and from its own lists, split at separators: no reader and
no pattern of the library takes part.
"""

import io
import re
import shutil
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat

from data_scripts.__main__ import DATASETS, main
from dcal_lite.data import REAL, TOYS, list_datasets, load_dataset, official

each_reader = pytest.mark.parametrize("name", REAL)
FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


def files(archive: Path) -> dict[str, bytes]:
    """Contents by name, of a zip or tar file and of the lists beside it."""
    beside = {path.name: path.read_bytes() for path in archive.parent.glob("*.mat")}
    if archive.suffix == ".zip":
        with ZipFile(archive) as file:
            return beside | {name: file.read(name) for name in file.namelist()}
    with tarfile.open(archive) as file:
        return beside | {entry.name: file.extractfile(entry).read() for entry in file}


def by_folder(names, folders, parse):
    """Records as (source, label, camera), of the images in each split's folder."""
    found = {split: [] for split in folders}
    for name in names:
        source = name.partition("/")[2]
        for split, folder in folders.items():
            if source.startswith(f"{folder}/"):
                found[split].append((source, *parse(source.rpartition("/")[2])))
    return found


def market(name):
    label, camera = name.split("_")[:2]
    return int(label), int(camera[1])


def manifest_market1501(contents):
    found = by_folder(contents, FOLDERS, market)
    return {split: [row for row in rows if row[1] >= 0] for split, rows in found.items()}


def manifest_dukemtmcreid(contents):
    return by_folder(contents, FOLDERS, market)


def manifest_veri776(contents):
    folders = {"train": "image_train", "query": "image_query", "gallery": "image_test"}
    return by_folder(contents, folders, lambda name: (int(name.split("_")[0]), int(name.split("_")[1][1:])))


def manifest_ltcc(contents):
    folders = {"train": "train", "query": "query", "gallery": "test"}
    return by_folder(contents, folders, lambda name: (int(name.split("_")[0]), int(name.split("_")[2][1:])))


def manifest_cuhk03(contents):
    lists = loadmat(io.BytesIO(contents["cuhk03/cuhk03_new_protocol_config_labeled.mat"]))
    found = {}
    for split in ("train", "query", "gallery"):
        rows = [i - 1 for (i,) in lists[f"{split}_idx"].tolist()]
        names = [lists["filelist"][i, 0].item() for i in rows]
        found[split] = [(f"images_labeled/{name}", lists["labels"][i, 0], int(name.split("_")[2]))
                        for i, name in zip(rows, names, strict=True)]  # fmt: skip
    assert all(f"cuhk03/{source}" in contents for rows in found.values() for source, *_ in rows)
    return found


def manifest_cub(contents):
    lists = {
        name: dict(line.split(" ") for line in contents[f"CUB_200_2011/{name}.txt"].decode().splitlines())
        for name in ("images", "image_class_labels", "train_test_split")
    }
    found = {"train": [], "test": []}
    for i, path in lists["images"].items():
        split = "train" if lists["train_test_split"][i] == "1" else "test"
        assert path.startswith(f"{int(lists['image_class_labels'][i]):03d}.")
        found[split].append((f"images/{path}", int(lists["image_class_labels"][i]), 0))
    return found


def manifest_aircraft(contents):
    classes = contents["fgvc-aircraft-2013b/data/variants.txt"].decode().splitlines()
    found = {}
    for split, name in (("train", "trainval"), ("test", "test")):
        lines = contents[f"fgvc-aircraft-2013b/data/images_variant_{name}.txt"].decode().splitlines()
        found[split] = [(f"data/images/{line[:7]}.jpg", classes.index(line[8:]), 0) for line in lines]
    return found


def manifest_flowers102(contents):
    labels = loadmat(io.BytesIO(contents["imagelabels.mat"]))["labels"]
    ids = loadmat(io.BytesIO(contents["setid.mat"]))
    rows = {name: [(f"jpg/image_{i:05d}.jpg", labels[0, i - 1], 0) for i in ids[name][0].tolist()]
            for name in ("trnid", "valid", "tstid")}  # fmt: skip
    return {"train": rows["trnid"] + rows["valid"], "test": rows["tstid"]}


def manifest_cars(contents):
    found = {}
    for split, name in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = loadmat(io.BytesIO(contents[f"stanford_cars/{name}"]))["annotations"][0]
        found[split] = [(f"cars_{split}/{row['fname'].item()}", row["class"].item(), 0) for row in rows]
    return found


def manifest_msmt17(contents):
    found = {}
    for split, lists in {"train": ["train", "val"], "query": ["query"], "gallery": ["gallery"]}.items():
        lines = [line for name in lists for line in contents[f"MSMT17_V1/list_{name}.txt"].decode().splitlines()]
        folder = "train" if split == "train" else "test"
        found[split] = [
            (f"{folder}/{path}", int(label), int(path.split("_")[2])) for path, label in map(str.split, lines)
        ]
    return found


MANIFESTS = {name.removeprefix("manifest_"): value for name, value in globals().items() if name.startswith("manifest_")}


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    """The archive of each miniature, as its script writes it."""
    written = {}

    def write(name):
        if name not in written:
            root = tmp_path_factory.mktemp(name)
            assert main(["miniature", name, "--root", str(root)]) == 0
            written[name] = min(root.iterdir())
        return written[name]

    return write


@pytest.fixture
def root(archives, name, tmp_path):
    """A folder with the unpacked miniature of dataset `name`."""
    load_dataset(name, tmp_path, archive=archives(name), check_counts=False)
    return tmp_path


def top(root):
    """The dataset's own folder."""
    (folder,) = root.iterdir()
    return folder


def files_of(root, name):
    """The dataset's images, as its train split finds them."""
    return [top(root) / record.source for record in load_dataset(name, root, check_counts=False)["train"].records]


def test_every_dataset_has_a_script_a_manifest_and_counts():
    assert sorted(DATASETS) == sorted(MANIFESTS) == sorted(REAL)
    assert sorted([*REAL, *TOYS]) == list_datasets()
    assert {key.partition("/")[0] for key in official.COUNTS} == set(REAL)
    assert set(official.MIX_UPS) <= set(official.COUNTS)


@each_reader
def test_the_miniature_is_read_as_the_real_one(name, archives, tmp_path):
    dataset = load_dataset(name, tmp_path, archive=archives(name), check_counts=False)
    expected = MANIFESTS[name](files(archives(name)))
    assert dataset.name == name
    assert set(dataset.splits) == set(expected)
    for split, rows in expected.items():
        assert rows
        found = {record.source: (record.label, record.camera) for record in dataset[split].records}
        assert len(found) == len(dataset[split])
        assert found == {source: tuple(rest) for source, *rest in rows}
        assert dataset[split].images((16, 16)).float().std() > 0


@each_reader
def test_identities_and_classes_fit_the_task(name, root):
    dataset = load_dataset(name, root, check_counts=False)
    if dataset.task == "fgvc":
        assert set(dataset["train"].labels) == set(dataset["test"].labels)
    else:
        if name != "msmt17":  # there, training and test people are both numbered from 0
            assert not set(dataset["train"].labels) & set(dataset["query"].labels)
        assert set(dataset["query"].labels) <= set(dataset["gallery"].labels)
        assert len(set(dataset["gallery"].cameras)) > 1


@each_reader
def test_splits_are_in_an_order_that_no_file_system_changes(name, root):
    first = load_dataset(name, root, check_counts=False)
    copy = root.with_name("copy")
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_file():
            (copy / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy / path.relative_to(root))
    second = load_dataset(name, copy, check_counts=False)
    assert all(first[split].records == second[split].records for split in first.splits)


@each_reader
def test_root_may_be_the_folder_itself_renamed_or_from_the_environment(name, root, monkeypatch):
    expected = load_dataset(name, root, check_counts=False)["train"].records
    assert load_dataset(name, top(root), check_counts=False)["train"].records == expected
    top(root).rename(root / "renamed")
    monkeypatch.setenv("DCAL_DATA", str(root / "renamed"))
    assert load_dataset(name, check_counts=False)["train"].records == expected


@each_reader
def test_counts_are_checked_and_a_mix_up_is_named(name, root, monkeypatch):
    with pytest.raises(ValueError, match=r"has [\d,]+ images and [\d,]+ labels, but \d+ and \d+ are there") as error:
        load_dataset(name, root)
    assert "\n" not in str(error.value)
    key = next(key for key in official.COUNTS if key.partition("/")[0] == name)
    number = int(re.search(r"but (\d+) and", str(error.value))[1])
    monkeypatch.setitem(official.MIX_UPS, key, {number: "this is the miniature"})
    with pytest.raises(ValueError, match="this is the miniature"):
        load_dataset(name, root)


@each_reader
def test_the_right_counts_pass(name, root, monkeypatch, capsys):
    key = next(key for key in official.COUNTS if key.partition("/")[0] == name)
    if name == "market1501":  # a part that only one protocol reads
        monkeypatch.delitem(official.COUNTS[key], "gt_bbox")
    for part, (images, labels) in list(official.COUNTS[key].items()):
        with pytest.raises(ValueError, match=f"has {images:,} images and {labels:,} labels") as error:
            load_dataset(name, root)
        found = re.search(r"but ([\d,]+) and ([\d,]+) are", str(error.value))
        monkeypatch.setitem(official.COUNTS[key], part, (int(found[1]), int(found[2])))
    dataset = load_dataset(name, root)
    assert main(["verify", name, "--root", str(root)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], int(line[1])) for line in lines[:-1]] == [(s, len(data)) for s, data in dataset.splits.items()]
    assert " ".join(lines[-1]) == "pictures of train that are in another split, too: 0"
    source = dataset["train"].records[-1].source
    other = list(dataset.splits.values())[-1].records[0].source
    shutil.copy(top(root) / source, top(root) / other)
    assert main(["verify", name, "--root", str(root)]) == 0
    assert f"pictures of train that are in another split, too: 1, first {source} as {other}" in capsys.readouterr().out


@each_reader
def test_a_broken_image_is_found_by_verify(name, root, monkeypatch, capsys):
    monkeypatch.setattr(f"dcal_lite.data.{name}.verify_counts", lambda *_: None)
    path = files_of(root, name)[0]
    path.write_bytes(path.read_bytes()[:100])
    assert main(["verify", name, "--root", str(root)]) == 1
    assert path.name in capsys.readouterr().err


@each_reader
def test_a_missing_folder_is_named(name, root):
    with pytest.raises(ValueError, match=r"there is no (file|folder) .*nowhere.*: pass root="):
        load_dataset(name, root / "nowhere", check_counts=False)
    folder = top(root) / files_of(root, name)[0].relative_to(top(root)).parts[0]
    shutil.rmtree(folder)

    def read():
        for split in load_dataset(name, root, check_counts=False).splits.values():
            split.images((8, 8))

    with pytest.raises(ValueError, match=f"(there is no|cannot read) .*{folder.name}") as error:
        read()
    assert "\n" not in str(error.value)


@each_reader
def test_the_wrong_archive(name, archives, tmp_path):
    other = archives("market1501" if name != "market1501" else "dukemtmcreid")
    with pytest.raises(ValueError, match=r"holds no .*: this is not the archive of"):
        load_dataset(name, tmp_path / "root", archive=other)
    assert not (tmp_path / "root").exists()


@each_reader
def test_the_miniature_is_a_function_of_its_seed(name, archives, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    assert main(["miniature", name, "--root", str(again)]) == 0
    assert main(["miniature", name, "--root", str(other), "--seed", "1"]) == 0
    first = archives(name)
    assert (again / first.name).read_bytes() == first.read_bytes()
    assert sorted(files(other / first.name)) == sorted(files(first))
    assert files(other / first.name) != files(first)
    assert all("drawn" in text.decode() for name, text in files(first).items() if "readme" in name.lower())
    assert any("readme" in name.lower() for name in files(first))


@each_reader
def test_a_miniature_never_replaces_an_archive(name, archives, capsys):
    assert main(["miniature", name, "--root", str(archives(name).parent)]) == 1
    assert "exists: remove it" in capsys.readouterr().err


@each_reader
def test_an_option_that_the_reader_lacks(name, root):
    with pytest.raises(ValueError, match=f"unknown option of {name} 'protocoll'"):
        load_dataset(name, root, protocoll="x")


def attempt(function, *arguments):
    """What a function returns and "", or None and its ValueError's text; any other error passes."""
    try:
        return function(*arguments), ""
    except ValueError as error:
        return None, str(error)


FOLDER_READERS = ["dukemtmcreid", "ltcc", "market1501", "veri776"]


@pytest.mark.parametrize("name", FOLDER_READERS)
def test_another_datasets_names_are_refused(name, root):
    folder = files_of(root, name)[0].parent
    bad = folder / f"some_other_name{files_of(root, name)[0].suffix}"
    bad.touch()
    with pytest.raises(ValueError, match=r"some_other_name\.\w+' is not a name like .*: this is another dataset"):
        load_dataset(name, root, check_counts=False)
    bad.rename(folder / f".{bad.name}")  # hidden files, as macOS leaves them, are passed over
    (folder / "Thumbs.db").touch()
    load_dataset(name, root, check_counts=False)


@pytest.mark.parametrize("name", FOLDER_READERS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_file_name_is_parsed_or_refused(name, data):
    layout = DATASETS[name].LAYOUT
    mutated = st.tuples(st.integers(0, len(layout.example)), st.integers(0, 3), st.text(max_size=3)).map(
        lambda cut: layout.example[: cut[0]] + cut[2] + layout.example[cut[0] + cut[1] :]
    )
    text = data.draw(st.one_of(st.text(max_size=40), mutated, st.from_regex(layout.pattern, fullmatch=True)))
    record, message = attempt(layout.record, f"part/{text}")
    if record is None:
        assert message.startswith(f"{f'part/{text}'!r} is not a name like {layout.example}")
        assert "\n" not in message
        return
    digits = [int(number) for number in re.findall(r"-?[0-9]+", text)]
    assert record.label == digits[0] or record.label == -1
    assert {record.camera, record.label} - {-1} <= set(map(abs, digits)) | {0}
    assert record.source == f"part/{text}"
