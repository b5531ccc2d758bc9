"""What was published: the numbers of images and labels in every part of every dataset, in one place.

A part is a folder or a list as it lies on the disk, before junk is left out. `SECOND_HAND` tells which numbers are not
from the dataset's own paper, page or files.
"""

from collections.abc import Mapping, Sequence

from dcal_lite.data.records import Record

Counts = dict[str, tuple[int, int]]  # images and labels of each part

COUNTS: dict[str, Counts] = {
    # labels with 0 (distractors) and -1 (junk); all counted in the archive
    "market1501": {
        "bounding_box_train": (12_936, 751),
        "query": (3_368, 750),
        "bounding_box_test": (19_732, 752),
        "gt_bbox": (25_259, 1_501),
    },
    # 408 of the 1,110 in the gallery are distractors
    "dukemtmcreid": {"bounding_box_train": (16_522, 702), "query": (2_228, 702), "bounding_box_test": (17_661, 1_110)},
    "msmt17": {"train": (32_621, 1_041), "query": (11_659, 3_060), "gallery": (82_161, 3_060)},  # both versions
    # The ReadMe says 37,778 training images, and the paper 576 vehicles; the folder of copies in use holds these.
    # Test parts as in the ReadMe.
    "veri776": {"image_train": (37_746, 575), "image_query": (1_678, 200), "image_test": (11_579, 200)},
    # as in CUHK03-NP/README.md
    "cuhk03/labelled": {"train": (7_368, 767), "query": (1_400, 700), "gallery": (5_328, 700)},
    "cuhk03/detected": {"train": (7_365, 767), "query": (1_400, 700), "gallery": (5_332, 700)},
    "cub": {"train": (5_994, 200), "test": (5_794, 200)},
    "aircraft": {"train": (3_334, 100), "val": (3_333, 100), "test": (3_333, 100)},
    # counted in the official setid.mat and imagelabels.mat
    "flowers102": {"train": (1_020, 102), "val": (1_020, 102), "test": (6_149, 102)},
    "cars": {"train": (8_144, 196), "test": (8_041, 196)},
    "ltcc": {"train": (9_576, 77), "query": (493, 75), "test": (7_050, 75)},
}

# of the parts of these keys of `COUNTS`: where the numbers come from, and what supports them
SECOND_HAND: dict[str, dict[str, str]] = {
    "dukemtmcreid": dict.fromkeys(COUNTS["dukemtmcreid"], "images as in torchreid's loader, identities from papers"),
    "msmt17": dict.fromkeys(COUNTS["msmt17"], "images as in torchreid's loader, identities as in TransReID's"),
    "veri776": {"image_train": "print-outs of loaders, and a loader by the dataset's author"},
    "cub": dict.fromkeys(COUNTS["cub"], "papers; the sum is that of the dataset's page, 11,788 images"),
    "aircraft": dict.fromkeys(COUNTS["aircraft"], "papers; the sum is that of the dataset's paper, 10,000 images"),
    "cars": dict.fromkeys(COUNTS["cars"], "torchvision's loader"),
    "ltcc": dict.fromkeys(COUNTS["ltcc"], "papers; the sum is that of the dataset's page, 17,119 images"),
}

# as in the datasets' papers; of CUHK03 the two views of each person
CAMERAS = {"market1501": 6, "dukemtmcreid": 8, "msmt17": 15, "veri776": 20, "cuhk03": 2, "ltcc": 12}

# The same picture in two parts of what was published, found in a copy with smaller images.
TWINS = {
    "flowers102": {
        ("jpg/image_07307.jpg", "jpg/image_07309.jpg"),
        ("jpg/image_08077.jpg", "jpg/image_08067.jpg"),
    }
}

MIX_UPS: dict[str, dict[int, str]] = {  # numbers of images that tell what somebody has instead
    "market1501": {
        15_913: "the junk images (-1) were removed",
        519_732: "the 500,000 extra distractors were added",
        16_522: "this is DukeMTMC-reID",
        2_228: "this is DukeMTMC-reID",
        17_661: "this is DukeMTMC-reID",
        25_259: "this is gt_bbox, which serves multi-query evaluation",
    },
    "dukemtmcreid": {
        12_936: "this is Market-1501",
        3_368: "this is Market-1501",
        19_732: "this is Market-1501",
        15_618: "this is Occluded-DukeMTMC",  # this and the next second hand
        2_210: "this is Occluded-DukeMTMC",
    },
    "veri776": {37_778: "as many as the ReadMe announces, but copies in use hold 37,746"},
    "msmt17": {30_248: "these are the images of list_train without those of list_val"},  # second hand
}


def verify_counts(name: str, title: str, parts: Mapping[str, Sequence[Record]]) -> None:
    """Compare what was read with what was published.

    Args:
        name: key of `COUNTS`.
        title: the dataset's name as people write it.
        parts: the records of each part, junk and all.

    Raises:
        ValueError: a number differs.
    """
    for wrong in wrong_counts(name, title, parts):
        raise ValueError(f"{wrong}: unpack the original archive again, or pass check_counts=False")


def wrong_counts(name: str, title: str, parts: Mapping[str, Sequence[Record]]) -> list[str]:
    """A sentence for every part with other numbers than those published; arguments as in `verify_counts`."""
    wrong = []
    for part, records in parts.items():
        images, labels = COUNTS[name][part]
        found = count(records)
        if found != (images, labels):
            guess = MIX_UPS.get(name, {}).get(found[0], "the copy is not complete, or it was changed")
            wrong.append(
                f"{part} of {title} has {images:,} images and {labels:,} labels, but {found[0]:,} and {found[1]:,} "
                f"are there ({guess})"
            )
    return wrong


def count(records: Sequence[Record]) -> tuple[int, int]:
    """The numbers of images and labels."""
    return len(records), len({record.label for record in records})
