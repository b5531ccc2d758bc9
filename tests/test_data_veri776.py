"""VeRi-776: the protocol image-to-track, and the official lists."""

import numpy as np
import pytest
import torch

from data_scripts.__main__ import main
from data_scripts.veri776 import _check_lists
from dcal_lite.data import load_dataset
from dcal_lite.metrics import rank_metrics_from_distances


@pytest.fixture
def root(tmp_path):
    assert main(["miniature", "veri776", "--root", str(tmp_path)]) == 0
    load_dataset("veri776", tmp_path, archive=tmp_path / "VeRi.zip", check_counts=False)
    return tmp_path


def load(root, **options):
    return load_dataset("veri776", root, check_counts=False, **options)


def test_tracks_are_those_of_the_list(root):
    lines = [line.split() for line in (root / "VeRi" / "test_track.txt").read_text().splitlines()]
    dataset = load(root, protocol="image-to-track")
    tracks = {}
    for record in dataset["gallery"].records:
        tracks.setdefault(record.track, set()).add(record.source.removeprefix("image_test/"))
    assert tracks == {i: set(names) for i, names in enumerate(lines)}
    assert (dataset["query"].tracks == -1).all() and (dataset["train"].tracks == -1).all()
    assert (load(root)["gallery"].tracks == -1).all()


def test_lines_may_begin_with_a_name_of_the_track(root):
    expected = load(root, protocol="image-to-track")["gallery"].records
    path = root / "VeRi" / "test_track.txt"
    path.write_text("".join(f"{line[:10]}t0001 {line}\n" for line in path.read_text().splitlines()))
    assert load(root, protocol="image-to-track")["gallery"].records == expected


def test_queries_are_in_the_gallery(root):
    dataset = load(root)
    names = [{record.source.split("/")[1] for record in dataset[split].records} for split in ("query", "gallery")]
    assert names[0] < names[1]


def test_the_official_lists_and_the_protocols_rank_alike(root, rng):
    """The lists of the miniature, walked as in the official MATLAB code (but with the plain AP), against evaluation."""
    dataset = load(root, protocol="image-to-track")
    query, gallery = dataset["query"], dataset["gallery"]
    lists = {
        name: [{int(i) - 1 for i in line.split()} for line in (root / "VeRi" / name).read_text().splitlines()]
        for name in ("gt_index.txt", "jk_index.txt")
    }
    distances = rng.random((len(query), len(gallery)))
    expected = []
    for row, good, junk in zip(distances, lists["gt_index.txt"], lists["jk_index.txt"], strict=True):
        ranked = [i for i in np.argsort(row) if i not in junk]
        hits = [rank for rank, i in enumerate(ranked, start=1) if i in good]
        expected.append(np.mean([(k + 1) / rank for k, rank in enumerate(hits)]))
    columns = query.labels, gallery.labels, query.cameras, gallery.cameras
    np.testing.assert_allclose(
        rank_metrics_from_distances(torch.from_numpy(distances), *columns).average_precision, expected
    )
    by_track = rank_metrics_from_distances(torch.from_numpy(distances), *columns, tracks=gallery.tracks)
    assert len(by_track.cmc) == len(set(gallery.tracks)) < len(gallery)


def test_images_and_tracks_must_agree(root):
    path = root / "VeRi" / "test_track.txt"
    text = path.read_text()
    path.write_text(text.partition("\n")[2])
    with pytest.raises(ValueError, match=r"image_test/0004_c001_.* is not both an image and in a track of .*4 images"):
        load(root, protocol="image-to-track")
    path.write_text(f"{text}0001_c001_00000001_0.jpg\n")
    with pytest.raises(ValueError, match=r"image_test/0001_c001_00000001_0.jpg is not both"):
        load(root, protocol="image-to-track")
    path.write_text("12 13 14\n")
    with pytest.raises(ValueError, match=r"line 1 of .*test_track.txt is '12 13 14', not like"):
        load(root, protocol="image-to-track")
    load(root)
    with pytest.raises(ValueError, match="unknown protocol of veri776 'image_to_track': did you mean 'image-to-track'"):
        load(root, protocol="image_to_track")


def test_verify_compares_the_official_lists_with_the_rule(root):
    _check_lists(root)
    path = root / "VeRi" / "gt_index.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(ValueError, match=r"gt_index.txt is not what the rule of the same camera gives"):
        _check_lists(root)
    path.unlink()
    with pytest.raises(ValueError, match=r"there is no file .*gt_index.txt"):
        _check_lists(root)
