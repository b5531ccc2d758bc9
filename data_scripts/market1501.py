"""Market-1501: research only, no redistribution. Its miniature holds drawn people, and may be passed on."""

from collections.abc import Iterator

from data_scripts.common import PEOPLE, README, File, encode, miniaturist, people, verifier
from data_scripts.sources import Download, Source
from dcal_lite.data.market1501 import LAYOUT, SPLITS

SIZE = (64, 128)
verify = verifier("market1501", {"": LAYOUT})
SOURCE = Source(
    title=LAYOUT.title,
    access="by hand",
    licence="research only, not to be passed on",
    size="158 MB",  # of a copy that was packed anew
    page="https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html",
    how="read its terms, and follow the link to the archive on its owners' page",
    files=(Download(f"{LAYOUT.folder}.zip", folder=LAYOUT.folder, holds=LAYOUT.holds),),
)


def _files(seed: int, labels: int) -> Iterator[File]:
    """All but the .mat files of gt_query."""
    """Name and content of every file in the archive."""
    yield "readme.txt", README.format(title=LAYOUT.title, **PEOPLE).encode()
    for split, shots in people("market1501", seed, labels).items():
        for shot in shots:
            name, jpeg = f"_c{shot.camera}s1_{shot.number:06d}_01.jpg", encode(shot.image, SIZE)
            yield f"{SPLITS[split]}/{shot.label:04d}{name}", jpeg
            if shot.label:
                yield f"gt_bbox/{shot.label:04d}{name}", jpeg  # in the real one, boxes drawn by hand
            else:
                yield f"{SPLITS[split]}/-1{name}", encode(shot.image[:24], SIZE)  # junk: a part of somebody


miniature = miniaturist(LAYOUT, _files)
