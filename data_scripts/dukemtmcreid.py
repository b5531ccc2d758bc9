"""DukeMTMC-reID: withdrawn in 2019. Its miniature holds drawn people, and may be passed on."""

from collections.abc import Iterator

from data_scripts.common import PEOPLE, README, File, encode, miniaturist, people, verifier
from data_scripts.sources import Download, Source
from dcal_lite.data.dukemtmcreid import LAYOUT, SPLITS

verify = verifier("dukemtmcreid", {"": LAYOUT})
SOURCE = Source(
    title=LAYOUT.title,
    access="withdrawn",
    licence="CC BY-NC-SA 4.0 (second hand)",
    size="none",
    page="https://www.dukechronicle.com/article/2019/06/duke-university-mtmc-surveillance-facial-recognition-students-video",
    # Date and reason as the university's spokesman told CBS 17 in June 2019.
    how="Duke University took it down on 25 April 2019, because people had been filmed outdoors and put on an open "
    "website against what its review board had approved; a copy that you hold is still read",
    files=(Download(f"{LAYOUT.folder}.zip", folder=LAYOUT.folder, holds=LAYOUT.holds),),
)


def _files(seed: int, labels: int) -> Iterator[File]:
    yield "README.md", README.format(title=LAYOUT.title, **PEOPLE).encode()
    for split, shots in people("dukemtmcreid", seed, labels).items():
        for i, shot in enumerate(shots):
            label = shot.label or 9000 + len(shots) - i  # distractors, the last, have identities of their own
            name = f"{label:04d}_c{shot.camera}_f{shot.number:07d}.jpg"
            yield f"{SPLITS[split]}/{name}", encode(shot.image, (60, 130))  # boxes are of many sizes


miniature = miniaturist(LAYOUT, _files)
