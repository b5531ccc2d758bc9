"""What differs between terms: the tasks themselves, so that last year's answers fail.

The notebooks in `source/` are the public sample. A choice lists, in its first option, pieces of the sample's text and
code, and in each further option what stands in their place. A course draws from the further options only, by a secret.
"""

import random
import re
from pathlib import Path

import nbformat

SOURCE = Path(__file__).parent / "source"

Choice = list[tuple[str, ...]]  # options; an option's pieces stand in the same order in all

PS1: dict[str, Choice] = {
    "heads": [
        (
            "the geometric mean of the heads' entries (the $H$-th root of their product)",
            "maps.prod(dim=2) ** (1 / maps.shape[2])",
            "math.prod(heads) ** (1 / len(heads))",
            "[(0.5 * 0.1) ** 0.5, (0.5 * 0.9) ** 0.5]",
        ),
        (
            "the root mean square of the heads' entries",
            "maps.square().mean(dim=2).sqrt()",
            "math.hypot(*heads) / len(heads) ** 0.5",
            "[((0.25 + 0.01) / 2) ** 0.5, ((0.25 + 0.81) / 2) ** 0.5]",
        ),
        (
            "the harmonic mean of the heads' entries ($H$ divided by the sum of their inverses)",
            "1 / (1 / maps).mean(dim=2)",
            "len(heads) / sum(1 / x for x in heads)",
            "[2 / (1 / 0.5 + 1 / 0.1), 2 / (1 / 0.5 + 1 / 0.9)]",
        ),
        ("the smallest of the heads' entries", "maps.amin(dim=2)", "min(heads)", "[0.1, 0.5]"),
    ],
    "residual": [
        (r"l / (L + 1)$", "layer / (depth + 1)", "[2 / 9, 9 / 18, 5 / 18]", "L! / (L + 1)^L"),
        (r"1 / (l + 1)$", "1 / (layer + 1)", "[1 / 6, 1 / 3, 1 / 2]", "1 / (L + 1)!"),
        (r"l / (l + 1)$", "layer / (layer + 1)", "[1 / 3, 5 / 12, 1 / 4]", "1 / (L + 1)"),
        (r"2^{-l}$", "0.5**layer", "[1 / 8, 5 / 16, 9 / 16]", "2^{-L (L + 1) / 2}"),
    ],
    "direction": [
        (
            "Entry $R_{ij}$ is the share of token $j$ before these layers in token $i$ after them.",
            "return product\n",
            "right = whole\n",
            "[0, 0, 2]",
        ),
        (
            "But turned round: entry $R_{ij}$ is the share of token $i$ before these layers in token $j$ after them.",
            "return product.mT\n",
            "right = whole.transpose(1, 2)\n",
            "[0, 2, 0]",
        ),
        (
            "But without what a token keeps of itself: the diagonal of the product is set to zero, then each row is "
            "divided by its sum.",
            "product = product.masked_fill(torch.eye(product.shape[-1]).bool(), 0)\n"
            "    return product / product.sum(dim=-1, keepdim=True)\n",
            "right = torch.nn.functional.normalize(whole * (1 - torch.eye(whole.shape[1])), p=1, dim=2)\n",
            "[0, 0, 2]",
        ),
    ],
    "readout": [
        (
            "The model averages all its tokens at the end, so what we want is the mean of all rows of the rollout",
            "torch.full_like(mixed[0, :, :1], 1 / mixed.shape[-1])\n    for layer in mixed.flip(0):\n"
            "        row = row @ layer\n    return row[:, 0]",
            "whole.mean(dim=1)",
        ),
        (
            "The model reads its last token at the end, a second class token, so what we want is the last row of the "
            "rollout",
            "torch.eye(mixed.shape[-1]).to(mixed)[-1].expand(mixed.shape[1], 1, -1)\n    for layer in mixed.flip(0):\n"
            "        row = row @ layer\n    return row[:, 0]",
            "whole[:, -1]",
        ),
        (
            "We ask who hears the class token: how much of its input each token holds at the end, which is the first "
            "column of the rollout",
            "torch.eye(mixed.shape[-1]).to(mixed)[:, :1]\n    for layer in mixed:\n"
            "        row = layer @ row\n    return row[..., 0]",
            "whole[:, :, 0]",
        ),
    ],
    "suspect": [
        (
            """Mix maps (B, N, N) of one layer with the identity, with weight extra[b] in image b.\"\"\"
    identity = torch.eye(maps.shape[-1], dtype=maps.dtype)
    return extra * identity + (1 - extra) * maps""",
            "return some_maps(0, 3, 3, 3), torch.tensor([0.2, 0.5, 0.8]).double()",
            "maps.shape[:1]",
            "some_maps(5, 1, 4, 4), torch.tensor([0.25]).double()",
            "with one image",
            """torch.zeros_like(maps)
    for b, i, j in torch.cartesian_prod(*map(torch.arange, maps.shape)).tolist():
        right[b, i, j] = extra[b] * (i == j) + (1 - extra[b]) * maps[b, i, j]""",
            """some_maps(SEED, batch, tokens, tokens)
    extra = torch.linspace(0.1, 0.9, batch).double()""",
            """extra[:, None, None]
    return extra * torch.eye(maps.shape[-1], dtype=maps.dtype) + (1 - extra) * maps""",
        ),
        (
            """Weigh token n of image b, as it is read in maps (B, N, N), by extra[b, n]; rows sum to one.\"\"\"
    maps = maps * extra
    return maps / maps.sum(dim=-1, keepdim=True)""",
            "return some_maps(0, 3, 3, 3), some_maps(1, 3, 3)",
            "maps.shape[:2]",
            "some_maps(5, 1, 4, 4), some_maps(6, 1, 4)",
            "with one image",
            """torch.zeros_like(maps)
    for b, i, j in torch.cartesian_prod(*map(torch.arange, maps.shape)).tolist():
        right[b, i, j] = extra[b, j] * maps[b, i, j] / torch.dot(extra[b], maps[b, i])""",
            """some_maps(SEED, batch, tokens, tokens)
    extra = some_maps(SEED, batch, tokens)""",
            """maps * extra[:, None]
    return extra / extra.sum(dim=-1, keepdim=True)""",
        ),
        (
            """Add up the heads of maps (B, H, N, N), head h with the weight extra[h].\"\"\"
    return (extra * maps).sum(dim=1)""",
            "return some_maps(0, 2, 3, 3, 3), torch.tensor([0.2, 0.5, 0.3]).double()",
            "maps.shape[1:2]",
            "some_maps(5, 2, 1, 4, 4), torch.tensor([0.25]).double()",
            "with one head",
            """torch.zeros_like(maps[:, 0])
    for b, h, i, j in torch.cartesian_prod(*map(torch.arange, maps.shape)).tolist():
        right[b, i, j] += extra[h] * maps[b, h, i, j]""",
            """some_maps(SEED, 2, batch, tokens, tokens)
    extra = torch.linspace(0.1, 0.9, batch).double()""",
            """extra[:, None, None]
    return (extra * maps).sum(dim=1)""",
        ),
    ],
}

PS2: dict[str, Choice] = {
    "selection": [
        (
            "Of each row of the grid, the patch with the highest score is selected, from the top row down.",
            "groups = places\n",
            "return [2, 5]\n",
            "count = grid[0]\n",
            "[[(i, j) for j in range(width)] for i in range(height)]",
        ),
        (
            "Of each column of the grid, the patch with the highest score is selected, from left to right.",
            "groups = places.T\n",
            "return [5, 2, 3, 8]\n",
            "count = grid[1]\n",
            "[[(i, j) for i in range(height)] for j in range(width)]",
        ),
        (
            "The grid is cut into blocks of 2 × 2 patches. Of each block, the patch with the highest score is "
            "selected, block by block, row by row.",
            "groups = places.unfold(0, 2, 2).unfold(1, 2, 2).flatten(2).flatten(0, 1)\n",
            "return [2, 3]\n",
            "count = grid[0] * grid[1] // 4\n",
            "[\n        [(i, j) for i in (a, a + 1) for j in (b, b + 1)]\n"
            "        for a in range(0, height, 2)\n        for b in range(0, width, 2)\n    ]",
        ),
    ],
    "scores": [
        (
            r"$10 \cos(q, k)$, ten times the cosine of the angle between them.",
            "10 * F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT",
            "difference = 10 ",
            "10 * dot / (math.hypot(*q) * math.hypot(*k))",
        ),
        (
            r"$-\lVert q - k \rVert^2$, minus the square of their distance.",
            "-torch.cdist(q, k).square()",
            "difference = 2 ",
            "-(math.dist(q, k) ** 2)",
        ),
        (
            r"$\lvert q^\top k \rvert / \sqrt d$, the usual one without its sign.",
            "(q @ k.mT).abs() / q.shape[-1] ** 0.5",
            "difference = 0.5**0.5 ",
            "abs(dot) / len(q) ** 0.5",
        ),
    ],
    "answering": [
        (
            "All patches answer; the class token does not.",
            "answering = tokens[:, 1:]\n",
            "if n > 0]",
            "[False, True, False, False, True]",
            "1 + selected, tokens - 1\n",
            "1. No.",
            "all patches, selected or not, so no part contains the selection.",
            "those of all patches.",
        ),
        (
            "The class token and the patches that are *not* selected answer.",
            "unread = torch.ones(tokens.shape[:2]).scatter(1, selected, 0) > 0\n"
            "    answering = tokens[unread].unflatten(0, (len(tokens), -1))\n",
            "if n not in chosen]",
            "[True, True, False, False, True]",
            "1 + selected, tokens - selected\n",
            "1. Yes.",
            "the patches that are not selected: exchange one, and another answers. One example proves it.",
            "those of the class token and of the patches that are not selected.",
        ),
        (
            "They alone answer, too.",
            "answering = asking\n",
            "if n in [0, *chosen]]",
            "[True, True, False, False, False]",
            "1 + selected, 1 + selected\n",
            "1. Yes.",
            "the selected patches: exchange one, and another answers. One example proves it.",
            "those of the class token and of the selected patches.",
        ),
    ],
}

CHOICES = {"ps1": PS1, "ps2": PS2}


def draw(name: str, secret: str, term: int) -> dict[str, int]:
    """Return which option of each choice a term has: never the sample's, and never the one of the term before."""
    orders = {choice: list(range(1, len(options))) for choice, options in CHOICES[name].items()}
    for choice, order in orders.items():
        random.Random(f"{secret} {name} {choice}").shuffle(order)
    return {choice: order[term % len(order)] for choice, order in orders.items()}


def render(name: str, drawn: dict[str, int], seed: int = 0) -> nbformat.NotebookNode:
    """Return a problem set with its solutions and hidden tests.

    Args:
        name: problem set, "ps1".
        drawn: option of each choice; the sample's where a choice is left out.
        seed: of the hidden tests' data.
    """
    notebook = nbformat.read(SOURCE / name / f"{name}.ipynb", as_version=4)
    pieces = {"SEED = 2022": f"SEED = {seed}"}
    for choice, option in drawn.items():
        options = CHOICES[name][choice]
        pieces |= dict(zip(options[0], options[option], strict=True))
    found = re.compile("|".join(map(re.escape, sorted(pieces, key=len, reverse=True))))
    for cell in notebook.cells:
        cell.source = found.sub(lambda match: pieces[match[0]], cell.source)
    return notebook
