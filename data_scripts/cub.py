"""CUB-200-2011: research and education only. Its miniature holds drawn birds, and may be passed on."""

from collections.abc import Iterator

from data_scripts.common import BIRDS, README, File, birds, encode, miniaturist, numbered, text, verifier
from data_scripts.sources import Download, Source
from dcal_lite.data.cub import LAYOUT
from dcal_lite.data.plumage import SPECIES

verify = verifier("cub", {"": LAYOUT})
SOURCE = Source(
    title=LAYOUT.title,
    access="script",
    licence="research, education (second hand)",
    size="1.15 GB",
    page="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    files=(
        Download(
            f"{LAYOUT.folder}.tgz",
            # second hand: tensorflow/datasets, url_checksums/caltech_birds2011.txt, and pytorch/vision,
            # torchvision/prototype/datasets/_builtin/cub200.py
            checksum="sha256:0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
            urls=(
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
                # fast.ai's copy; that it is the same file is second hand, the checksum will tell
                "https://s3.amazonaws.com/fast-ai-imageclas/CUB_200_2011.tgz",
            ),
            folder=LAYOUT.folder,
            holds=LAYOUT.holds,
        ),
    ),
)


def _files(seed: int, labels: int) -> Iterator[File]:
    """All but parts and attributes."""
    yield "README", README.format(title=LAYOUT.title, **BIRDS).encode()
    shots = [(shot, split) for split, part in birds("cub", seed, labels).items() for shot in part]
    shots.sort(key=lambda pair: (pair[0].label, pair[0].number))  # the two splits take turns in the lists
    names = {shot.label: SPECIES[(shot.label - 1) % len(SPECIES)].family.name.title() for shot, _ in shots}
    folders = {label: f"{label:03d}.{name}_{label}" for label, name in names.items()}
    paths = [
        f"{folders[shot.label]}/{names[shot.label]}_{shot.number:04d}_{i}.jpg" for i, (shot, _) in enumerate(shots)
    ]
    yield "classes.txt", text(numbered(folders.values()))
    yield "images.txt", text(numbered(paths))
    yield "image_class_labels.txt", text(numbered(str(shot.label) for shot, _ in shots))
    yield "train_test_split.txt", text(numbered(str(int(split != "test")) for _, split in shots))
    yield "bounding_boxes.txt", text(numbered("10.0 10.0 80.0 80.0" for _ in shots))  # made up
    for path, (shot, _) in zip(paths, shots, strict=True):
        yield f"images/{path}", encode(shot.image, (120, 100))


miniature = miniaturist(LAYOUT, _files, suffix=".tgz", labels=3)
