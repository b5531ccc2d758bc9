"""FGVC-Aircraft: research only. Its miniature holds drawn birds in place of aircraft."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from data_scripts.common import BIRDS, README, File, Shot, birds, encode, miniaturist, text, verifier
from data_scripts.sources import Download, Source
from dcal_lite.data.aircraft import BANNER, LAYOUT

VARIANTS = ("707-320", "A340-200", "F/A-18")  # names like the real ones, with what they may hold
verify = verifier("aircraft", {"": LAYOUT})
SOURCE = Source(
    title=LAYOUT.title,
    access="script",
    licence="non-commercial research",  # its README
    size="2.75 GB",  # its README
    page="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    files=(
        Download(
            f"{LAYOUT.folder}.tar.gz",
            # second hand: google-deepmind/dm_nevis, dm_nevis/datasets_storage/handlers/fgvc_aircraft.py
            checksum="md5:d4acdd33327262359767eeaa97a4f732",
            urls=("https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",),
            folder=LAYOUT.folder,
            holds=LAYOUT.holds,
        ),
    ),
)


def _files(seed: int, labels: int) -> Iterator[File]:
    """All but families and manufacturers."""
    yield "README.md", README.format(title=LAYOUT.title, **BIRDS).encode()
    variants = [*VARIANTS, *(f"Variant {i}" for i in range(len(VARIANTS), labels))][:labels]
    yield "data/variants.txt", text(variants)
    shots = birds("aircraft", seed, labels)
    for part, chosen in (shots | {"trainval": shots["train"] + shots["val"]}).items():
        chosen = sorted(chosen, key=lambda shot: (shot.label, shot.number))
        yield f"data/images_variant_{part}.txt", text(f"{_name(shot)} {variants[shot.label - 1]}" for shot in chosen)
    for shot in (shot for chosen in shots.values() for shot in chosen):
        image = np.asarray(Image.fromarray(shot.image).resize((120, 100)))
        banner = np.full((BANNER, 120, 3), 255, dtype=np.uint8)
        yield f"data/images/{_name(shot)}.jpg", encode(np.concatenate([image, banner]), (120, 100 + BANNER))


def _name(shot: Shot) -> str:
    return f"{1_000_000 + shot.number}"


miniature = miniaturist(LAYOUT, _files, suffix=".tar.gz", labels=3)
