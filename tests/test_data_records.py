"""Records, splits, decoding, and the registry of datasets."""

import numpy as np
import pytest
import torch
from PIL import Image

from dcal_lite.data import Dataset, Record, Split, list_datasets, load_dataset
from dcal_lite.data.records import Files, read_image


@pytest.fixture
def split(rng):
    """Five pictures of different sizes that are read from memory."""
    pictures = [rng.integers(0, 256, (8 + i, 6 + 2 * i, 3), dtype=np.uint8) for i in range(5)]
    records = tuple(
        Record(str(i), label, camera) for i, (label, camera) in enumerate([(7, 1), (-1, 2), (7, 3), (0, 1), (40, 2)])
    )
    return Split(records, lambda record: pictures[int(record.source)])


@pytest.fixture
def picture(rng):
    """Something smooth that survives JPEG: 24 x 16 pixels, no two corners alike."""
    down, across = np.mgrid[0:1:24j, 0:1:16j]
    return np.stack([200 * down, 200 * across, 255 * (1 - down)], axis=2).astype(np.uint8)


def test_columns(split):
    assert len(split) == 5
    np.testing.assert_array_equal(split.labels, [7, -1, 7, 0, 40])
    np.testing.assert_array_equal(split.cameras, [1, 2, 3, 1, 2])
    np.testing.assert_array_equal(split.classes, [-1, 0, 7, 40])
    np.testing.assert_array_equal(split.targets, [2, 0, 2, 1, 3])
    np.testing.assert_array_equal(split.classes[split.targets], split.labels)


@pytest.mark.parametrize("block", [2, 5, 256])
def test_images_equal_a_loop(split, block, monkeypatch):
    monkeypatch.setattr("dcal_lite.data.records._BLOCK", block)
    images = split.images((10, 8), progress=True)
    assert images.dtype == torch.uint8
    for image, record in zip(images, split.records, strict=True):
        resized = Image.fromarray(split.read(record)).resize((8, 10), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(image.numpy(), np.asarray(resized).transpose(2, 0, 1))


def test_images_of_the_right_size_are_left_alone(split):
    np.testing.assert_array_equal(split.images((9, 8))[1].numpy().transpose(1, 2, 0), split.read(split.records[1]))


def test_shrinking_antialiases():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert (Split((Record("stripes", 0),), lambda _: stripes).images((8, 8)).float() - 127.5).abs().max() < 10


def test_subset_keeps_order_and_reader(split):
    part = split.subset(np.array([4, 0]))
    assert part.records == (split.records[4], split.records[0])
    assert torch.equal(part.images((10, 8)), split.images((10, 8))[[4, 0]])
    assert split.subset([]).images((10, 8)).shape == (0, 3, 10, 8)
    assert split.subset([]).targets.shape == (0,)


def test_images_refuses_no_size(split):
    with pytest.raises(ValueError, match=r"two positive numbers \(height, width\), got \(0, 8\)"):
        split.images((0, 8))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path, picture, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.fromarray(picture).convert(mode).save(path)
    decoded = read_image(path)
    assert decoded.shape == (24, 16, 3)
    assert decoded.dtype == np.uint8
    expected = np.asarray(Image.fromarray(picture).convert(mode).convert("RGB"))
    np.testing.assert_array_equal(decoded, expected)
    assert len(np.unique(decoded)) > 1


def test_transparent_palette(tmp_path, picture):
    palette = Image.fromarray(picture).convert("P")
    palette.save(tmp_path / "image.png", transparency=bytes(range(256)))
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize(("orientation", "turn"), [(3, lambda x: x[::-1, ::-1]), (6, lambda x: np.rot90(x, 3))])
def test_exif_orientation_is_undone(tmp_path, picture, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), turn(picture))


@pytest.fixture
def broken(tmp_path, picture):
    """A folder of files that are no images, by what is wrong with them."""
    Image.fromarray(picture).resize((256, 256)).save(tmp_path / "good.jpg")
    (tmp_path / "truncated.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:700])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "folder.jpg").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated", "truncated"),
        ("empty", "it is empty"),
        ("text", "cannot identify"),
        ("folder", "it is a directory"),
        ("missing", "there is no such file"),
    ],
)
def test_a_broken_file_is_named_in_one_line(broken, name, reason):
    records = tuple(Record(f"{n}.jpg", 0) for n in ("good", name, "good"))
    with pytest.raises(ValueError, match=reason) as error:
        Split(records, Files(broken)).images((8, 8))
    assert f"{name}.jpg" in str(error.value)
    assert "unpack its archive again" in str(error.value)
    assert "\n" not in str(error.value)


def test_dataset_names_its_splits(split):
    dataset = Dataset("toy", "reid", {"train": split, "query": split})
    assert dataset["query"] is split
    with pytest.raises(ValueError, match="toy has the splits train, query, not 'test'"):
        dataset["test"]


def test_registry():
    assert {"market1501", "plumage", "promenade"} <= set(list_datasets())
    with pytest.raises(
        ValueError, match=r"unknown dataset 'market': did you mean 'market1501'\? known are .*market1501"
    ):
        load_dataset("market")


@pytest.mark.parametrize(("name", "task"), [("plumage", "fgvc"), ("promenade", "reid")])
def test_drawn_datasets_load_by_name(name, task):
    dataset = load_dataset(name, seed=1, train=30, test=30)
    assert (dataset.name, dataset.task) == (name, task)
    assert dataset["train"].subset(range(3)).images((64, 32)).float().std() > 0
