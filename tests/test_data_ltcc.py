"""LTCC: the two protocols, from the reader to the scores."""

import numpy as np
import pytest
import torch

from data_scripts.__main__ import main
from data_scripts.ltcc import STEADY
from dcal_lite import evaluation
from dcal_lite.data import load_dataset
from dcal_lite.heads import Output


@pytest.fixture
def root(tmp_path):
    assert main(["miniature", "ltcc", "--root", str(tmp_path)]) == 0
    load_dataset("ltcc", tmp_path, archive=tmp_path / "LTCC_ReID.zip", check_counts=False)
    return tmp_path


def load(root, protocol):
    return load_dataset("ltcc", root, check_counts=False, protocol=protocol)


def test_only_the_cloth_changing_protocol_tells_the_clothes(root):
    general, changing = load(root, "general"), load(root, "cloth-changing")
    for split in ("train", "query", "gallery"):
        assert (general[split].clothes == -1).all()
        named = [int(record.source.split("/")[1].split("_")[1]) for record in changing[split].records]
        assert changing[split].clothes.tolist() == named
        assert general[split].labels.tolist() == changing[split].labels.tolist()
    assert set(changing["gallery"].clothes) == {1, 2}
    with pytest.raises(ValueError, match="unknown protocol of ltcc 'cloth changing': did you mean 'cloth-changing'"):
        load(root, "cloth changing")


class Mean(torch.nn.Module):
    """A model that embeds an image by its mean colours in four bands."""

    img_size = (32, 16)

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        feature = images.unflatten(2, (4, 8)).mean(dim=(3, 4)).flatten(1)
        return Output({"sa": feature}, {"sa": feature})


@pytest.mark.parametrize("protocol", ["general", "cloth-changing"])
def test_scores_equal_those_of_lists_from_file_names(root, protocol):
    """The rule of Simple-CCReID's mode "CC", written out with what the file names say."""
    dataset = load(root, protocol)
    ranks = evaluation.rank_split(Mean(), dataset)
    embedded = [evaluation.embeddings(Mean(), dataset[split]).double() for split in ("query", "gallery")]
    distances = torch.cdist(*embedded).numpy()
    named = [
        [record.source.split("/")[1].split("_")[:3] for record in dataset[s].records] for s in ("query", "gallery")
    ]
    expected = []
    for row, (person, outfit, camera) in zip(distances, named[0], strict=True):
        hits = []
        for i in np.argsort(row, kind="stable"):
            other, worn, seen = named[1][i]
            same_clothes = protocol == "cloth-changing" and worn == outfit
            if other != person or not (seen == camera or same_clothes):
                hits.append(other == person)
        if any(hits):
            expected.append(np.mean([sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit]))
    np.testing.assert_allclose(ranks.average_precision, expected, rtol=1e-6)
    steady = sum(int(person) % STEADY == 0 for person, *_ in named[0])
    assert ranks.valid_queries == len(dataset["query"]) - (steady if protocol == "cloth-changing" else 0)
