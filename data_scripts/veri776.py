"""VeRi-776: to be requested from its owners. Its miniature holds drawn people in place of vehicles."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from data_scripts.common import README, VEHICLES, File, Shot, encode, miniaturist, people, text, verifier
from data_scripts.sources import Download, Source
from dcal_lite.data.veri776 import LAYOUT, SPLITS

_NAME = r"((\d{4})_c(\d{3})_\d{8}_\d\.jpg)", LAYOUT.example


def _check_lists(root: Path) -> None:
    """The official lists of true matches and junk say what the rule of the same camera says, for every query."""
    folder = LAYOUT.find(root)
    queries, items = (LAYOUT.rows(folder, f"name_{part}.txt", *_NAME) for part in ("query", "test"))
    by_vehicle = defaultdict(list)
    for i, (_, vehicle, camera) in enumerate(items, start=1):
        by_vehicle[vehicle].append((i, camera))
    for name, same_camera in (("gt_index.txt", False), ("jk_index.txt", True)):
        rows = LAYOUT.rows(folder, name, r"([\d\s]+)", "5 6 7")
        rule = [
            {i for i, seen in by_vehicle[vehicle] if (seen == camera) == same_camera} for _, vehicle, camera in queries
        ]
        listed = [set(map(int, row.split())) for (row,) in rows]
        if listed != rule:
            raise ValueError(
                f"{folder / name} is not what the rule of the same camera gives for the names in name_query.txt and "
                "name_test.txt: unpack the original archive again"
            )


verify = verifier("veri776", {"": LAYOUT}, check=_check_lists)
SOURCE = Source(
    title=LAYOUT.title,
    access="on request",
    licence="non-commercial",  # README.md of JDAI-CV/VeRidataset
    size="unknown",
    page="https://github.com/JDAI-CV/VeRidataset",
    how="send your name and affiliation to its owners",
    files=(Download(f"{LAYOUT.folder}.zip", folder=LAYOUT.folder, holds=LAYOUT.holds),),
)


def _files(seed: int, labels: int) -> Iterator[File]:
    """Drawn people stand in for vehicles."""
    yield "ReadMe.txt", README.format(title=LAYOUT.title, **VEHICLES).encode()
    shots = people("veri776", seed, labels)
    shots["gallery"] = shots["query"] + [shot for shot in shots["gallery"] if shot.label]  # queries are in the gallery
    shots = {split: sorted(chosen, key=_name) for split, chosen in shots.items()}
    for split, chosen in shots.items():
        yield f"name_{SPLITS[split].removeprefix('image_')}.txt", text(map(_name, chosen))
        for shot in chosen:
            yield f"{SPLITS[split]}/{_name(shot)}", encode(shot.image, (110, 90))
    yield from _lists(shots["query"], shots["gallery"])
    for part, chosen in (("train", shots["train"]), ("test", shots["gallery"])):
        yield f"{part}_label.xml", _labels(chosen)


def _lists(queries: list[Shot], items: list[Shot]) -> Iterator[File]:
    """Tracks, and for each query the numbers (from 1) of its true matches and of its junk."""
    tracks = defaultdict(list)
    for shot in items:
        tracks[shot.label, shot.camera].append(_name(shot))
    yield "test_track.txt", text(" ".join(names) for names in tracks.values())
    matches, junk = [], []
    for query in queries:
        same = [(i, item) for i, item in enumerate(items, start=1) if item.label == query.label]
        matches.append(" ".join(str(i) for i, item in same if item.camera != query.camera))
        junk.append(" ".join(str(i) for i, item in same if item.camera == query.camera))
    yield "gt_index.txt", text(matches)
    yield "jk_index.txt", text(junk)


def _labels(shots: list[Shot]) -> bytes:
    """Annotations; colours and types are made up."""
    items = (
        f'    <Item imageName="{_name(shot)}" vehicleID="{shot.label:04d}" cameraID="c{shot.camera:03d}" '
        f'colorID="{shot.label % 10 + 1}" typeID="{shot.label % 9 + 1}" />'
        for shot in shots
    )
    head = (
        '<?xml version="1.0" encoding="gb2312" ?>',
        '<TrainingImages Version="1.0">',
        f'  <Items number="{len(shots)}">',
    )
    return text((*head, *items, "  </Items>", "</TrainingImages>"))


def _name(shot: Shot) -> str:
    return f"{shot.label:04d}_c{shot.camera:03d}_{shot.number:08d}_0.jpg"


miniature = miniaturist(LAYOUT, _files)
