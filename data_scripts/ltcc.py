"""LTCC: to be requested from its owners. Its miniature holds drawn people, and may be passed on."""

from collections.abc import Iterator

from data_scripts.common import PEOPLE, README, File, encode, miniaturist, text, train_and_test, verifier
from data_scripts.sources import Download, Source
from dcal_lite.data.ltcc import LAYOUT, SPLITS
from dcal_lite.data.promenade import CAMERAS, SHOTS, Promenade, index_of

STEADY = 3  # every third person never changes clothes
verify = verifier("ltcc", {"": LAYOUT})
SOURCE = Source(
    title=LAYOUT.title,
    access="on request",
    licence="research only (second hand)",
    size="unknown",
    page="https://naiq.github.io/LTCC_Perosn_ReID.html",  # spelt so; known from loaders
    how="ask its owners for it, as their page says",
    files=(Download(f"{LAYOUT.folder}.zip", folder=LAYOUT.folder, holds=LAYOUT.holds),),
)


def _files(seed: int, labels: int) -> Iterator[File]:
    """All but silhouettes and poses.

    Whoever changes clothes is drawn as another person: the drawn people are known by little but their clothes.
    """
    world = Promenade(seed, (64, 32))
    train, _ = train_and_test("ltcc", labels)
    test = range(train + 1, labels + 1)
    yield "readme.txt", README.format(title=LAYOUT.title, **PEOPLE).encode()
    for split, people in {"train": range(1, train + 1), "query": test, "gallery": test}.items():
        for person in people:
            for camera in range(len(CAMERAS)):
                yield from _shots(world, split, person, camera)
        if split != "query":
            changing = [str(person) for person in people if person % STEADY]
            steady = [str(person) for person in people if not person % STEADY]
            yield f"info/cloth-change_id_{SPLITS[split]}.txt", text(changing)
            yield f"info/cloth-unchange_id_{SPLITS[split]}.txt", text(steady)


def _shots(world: Promenade, split: str, person: int, camera: int) -> Iterator[File]:
    """The first shot is a query, the last two show the second outfit."""
    for shot in {"train": range(SHOTS), "query": range(1), "gallery": range(1, SHOTS)}[split]:
        outfit = 2 if shot >= SHOTS // 2 and person % STEADY else 1
        index = index_of(person, camera, shot)
        name = f"{person:03d}_{outfit}_c{camera + 1}_{index:06d}.png"
        drawing = world.draw(index, label=2 * (person + 1000 * outfit), masks=False)
        yield f"{SPLITS[split]}/{name}", encode(drawing.image, (64, 128), "PNG")


miniature = miniaturist(LAYOUT, _files, labels=6)
