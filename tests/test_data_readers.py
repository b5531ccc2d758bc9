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

import h5py
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
    lists = loadmat(io.BytesIO(contents["cuhk03_new_protocol_config_labeled.mat"]))
    release = h5py.File(io.BytesIO(contents["cuhk03_release/cuhk-03.mat"]))
    there = set()
    for pair in range(release["labeled"].shape[1]):
        people = release[release["labeled"][0, pair]]
        there |= {f"{pair + 1}_{person + 1:03d}_{'1111122222'[shot]}_{shot + 1:02d}.png"
                  for shot in range(10) for person in range(people.shape[1])
                  if "MATLAB_empty" not in release[people[shot, person]].attrs}  # fmt: skip
    found = {}
    for split in ("train", "query", "gallery"):
        rows = [i - 1 for (i,) in lists[f"{split}_idx"].tolist()]
        names = [lists["filelist"][i, 0].item() for i in rows]
        found[split] = [(f"images_labeled/{name}", lists["labels"][i, 0], int(name.split("_")[2]))
                        for i, name in zip(rows, names, strict=True)]  # fmt: skip
    assert there == {source.removeprefix("images_labeled/") for rows in found.values() for source, *_ in rows}
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
            written[name] = min(path for path in root.iterdir() if path.suffix != ".mat")
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
    table = published(name, root, monkeypatch)
    dataset = load_dataset(name, root)
    version = ["--protocol", "labelled"] if name == "cuhk03" else []
    assert main(["verify", name, "--root", str(root), *version]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f" in {top(root)}") and lines[-1].endswith(": as published")
    for part, (images, labels) in table.items():  # what is there, and beside it what was published
        (cells,) = (line.replace("*", " ").replace(",", "").split() for line in lines if line.startswith(f"{part} "))
        assert cells[1:5] == [str(images)] * 2 + [str(labels)] * 2
    starred = {line.split()[0] for line in lines[2:] if line.split()[2].endswith("*")}
    key = "cuhk03/labelled" if name == "cuhk03" else name
    assert starred == set(official.SECOND_HAND.get(key, {}))
    assert any("second hand" in line for line in lines) == bool(starred)
    if dataset.task == "reid":
        cameras = {camera for split in dataset.splits.values() for camera in split.cameras}
        (cells,) = (line.split() for line in lines if line.startswith("all "))
        assert cells == ["all", *[str(len(cameras))] * 2]


def published(name, root, monkeypatch):
    """Publish the numbers of the miniature, as the errors of the reader tell them, and return them."""
    key = next(key for key in official.COUNTS if key.partition("/")[0] == name)
    monkeypatch.setitem(official.COUNTS, key, dict(official.COUNTS[key]))
    if name == "market1501":  # a part that only one protocol reads
        names = [path.name for path in (top(root) / "gt_bbox").iterdir()]
        official.COUNTS[key]["gt_bbox"] = len(names), len({name.split("_")[0] for name in names})
    for part, (images, labels) in list(official.COUNTS[key].items()):
        if part != "gt_bbox":
            with pytest.raises(ValueError, match=f"has {images:,} images and {labels:,} labels") as error:
                load_dataset(name, root)
            found = re.search(r"but ([\d,]+) and ([\d,]+) are", str(error.value))
            official.COUNTS[key][part] = int(found[1]), int(found[2])
    if name in official.CAMERAS:
        monkeypatch.setitem(official.CAMERAS, name, 2 if name == "cuhk03" else 4)
    return official.COUNTS[key]


@each_reader
def test_verify_tells_all_that_is_wrong(name, root, monkeypatch, capsys):
    published(name, root, monkeypatch)
    train, *_, test = load_dataset(name, root).splits.values()
    sources = [top(root) / record.source for record in (*train.records[:3], test.records[0])]
    sources[0].write_bytes(sources[0].read_bytes()[:100])
    sources[1].unlink()
    sources[1].mkdir()
    shutil.copy(sources[2], sources[3])
    key = next(key for key in official.COUNTS if key.partition("/")[0] == name)
    part = list(official.COUNTS[key])[1]
    monkeypatch.setitem(official.COUNTS[key], part, (7, 8))
    version = ["--protocol", "labelled"] if name == "cuhk03" else []
    assert main(["verify", name, "--root", str(root), *version]) == 1
    shown = capsys.readouterr()
    problems = [line for line in shown.out.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 4 and shown.err.splitlines()[-1].endswith("see the problems above (4)")
    assert problems[0].startswith(f"problem: {part} of ") and "has 7 images and 8 labels, but" in problems[0]
    assert f"cannot read the image {sources[0]} (" in problems[1]
    assert f"cannot read the image {sources[1]} (it is a directory)" in problems[2]
    twins = [str(path.relative_to(top(root))) for path in sources[2:]]
    assert problems[3] == f"problem: {twins[0]} and {twins[1]} are the same picture"
    monkeypatch.setitem(official.TWINS, name, {tuple(twins)})
    assert main(["verify", name, "--root", str(root), *version]) == 1
    shown = capsys.readouterr()
    assert f"as published: {twins[0]} and {twins[1]} are" in shown.out and "(3)" in shown.err


@each_reader
def test_verify_of_a_miniature_or_of_nothing_says_so(name, root, tmp_path, capsys):
    assert main(["verify", name, "--root", str(root)]) == 1
    shown = capsys.readouterr()
    assert "an incomplete copy, or a miniature" in shown.out
    assert "not as published" in shown.err
    assert main(["verify", name, "--root", str(tmp_path / "nowhere")]) == 1
    assert re.search(r"error: there is no folder .*: pass root=", capsys.readouterr().err)


def test_a_published_pair_of_twins_is_of_a_dataset():
    assert set(official.TWINS) <= set(REAL) and set(official.CAMERAS) <= set(REAL)
    assert all(set(parts) <= set(official.COUNTS[key]) for key, parts in official.SECOND_HAND.items())


@each_reader
@pytest.mark.parametrize("few", [True, False])
def test_a_miniature_has_any_number_of_labels(name, few, tmp_path):
    labels = 2 if few else 26 if name in ("aircraft", "cars", "cub", "flowers102") else 9  # more than there are species
    assert main(["miniature", name, "--root", str(tmp_path), "--labels", str(labels)]) == 0
    archive = min(path for path in tmp_path.iterdir() if path.suffix != ".mat")
    dataset = load_dataset(name, tmp_path / "root", archive=archive, check_counts=False)
    found = {
        split: set(data.classes) - ({0} if name == "market1501" else set()) for split, data in dataset.splits.items()
    }
    if dataset.task == "fgvc":
        assert len(found["train"]) == labels and found["train"] == found["test"]
    else:
        assert (len(found["train"]), len(found["query"])) == (labels - labels // 2, labels // 2)
        strangers = 4 if name == "dukemtmcreid" else 0
        assert found["query"] <= found["gallery"] and len(found["gallery"]) == labels // 2 + strangers
    records = [record.source for data in dataset.splits.values() for record in data.records]
    assert len(set(records)) == len(records) or name == "veri776"


@each_reader
def test_a_miniature_is_never_larger_than_the_real_dataset(name, tmp_path, capsys):
    total = {"aircraft": 100, "cars": 196, "cub": 200, "cuhk03": 1_467, "dukemtmcreid": 1_404, "flowers102": 102,
             "ltcc": 152, "market1501": 1_501, "msmt17": 4_101, "veri776": 775}[name]  # fmt: skip
    for labels in (-1, 0, 1, total + 1):
        assert main(["miniature", name, "--root", str(tmp_path), f"--labels={labels}"]) == 1
        assert f"labels must be 2 to {total}, as many as the real dataset has, got {labels}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@each_reader
def test_a_missing_folder_is_named(name, root):
    with pytest.raises(ValueError, match=r"there is no (file|folder) .*nowhere.*: pass root="):
        load_dataset(name, root / "nowhere", check_counts=False)
    folder = top(root) / files_of(root, name)[0].relative_to(top(root)).parts[0]
    shutil.rmtree(folder)
    shutil.rmtree(top(root) / "cuhk03_release", ignore_errors=True)  # or the folder is made again

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
    shutil.copy(bad, folder / f"another{bad.suffix}")
    with pytest.raises(
        ValueError, match=r"2 of \d+ names in .*, first 'another\.\w+', are not like .*: this is another"
    ):
        load_dataset(name, root, check_counts=False)
    (folder / f"another{bad.suffix}").unlink()
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
