"""DCAL: self-attention, global-local cross-attention and pair-wise cross-attention in one model.

    Dual Cross-Attention Learning for Fine-Grained Visual Categorization and Object Re-Identification.
    Zhu, Ke, Li, Liu, Tian & Shan, CVPR 2022.

Letters: B batch, N tokens (class token first), R selected patches, D width, L SA blocks, M GLCA blocks, T PWCA blocks.

| paper                                             | here                              |
|---------------------------------------------------|-----------------------------------|
| Eq. 1  f_SA, L blocks                             | timm's blocks, unchanged          |
| Eq. 2  S^_i, first row                            | `attention_rollout.row_chain`     |
| top-R responses of that row                       | `top_patches`                     |
| Eq. 3  f_GLCA, M = 1 block with own weights       | `GLCA`                            |
| Eq. 4  f_PWCA, T = 12 blocks with SA's weights    | `pair_view`, `DCAL._pwca`         |
| loss   uncertainty weights                        | `losses.UncertaintyWeighting`     |
| test   add probabilities, concatenate class tokens| `Output.prediction`, `.embedding` |

What we do differently. PWCA is not a second attention: both images of a pair attend to [K_1; K_2], and softmax does
not care about the order of keys, so PWCA *is* self-attention on a sequence of two images. A reshape, no copied weights.
And where the prediction reads GLCA's class token, the selection cannot change it; then only that query is computed.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from dcal_lite.attention import attention_map
from dcal_lite.attention_rollout import row_chain
from dcal_lite.backbones import check_backbone, cross_attention, embed, record_queries_keys, run_block
from dcal_lite.errors import check_choice
from dcal_lite.heads import Output, create_head

BRANCHES = ("sa", "glca", "pwca")


# ---------------------------------------------------------------------------------------------------- selection


def top_patches(scores: Float[Tensor, "B N"], ratio: float) -> Int[Tensor, "B R"]:
    """Return the tokens of the R patches with the highest scores, R = round(ratio (N - 1)) >= 1.

    Args:
        scores: one score a token, e.g. `cls_rollout(maps)`. Column 0, the class token, is not a
            patch and never chosen.
        ratio: share of the patches to keep, in (0, 1]: 0.1 for fine-grained recognition, 0.3 for
            re-ID.

    Returns:
        Token positions in 1..N-1, best first; ties go to the lower position.

    Source: Zhu et al. 2022, section 3.2.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"a ratio in (0, 1] expected, got {ratio}; "
                         "the paper takes 0.1 (FGVC) and 0.3 (re-ID)")  # fmt: skip
    patches = scores[:, 1:]
    count = max(1, round(ratio * patches.shape[1]))
    return 1 + patches.argsort(dim=1, descending=True, stable=True)[:, :count]


# --------------------------------------------------------------------------------------------------------- GLCA


class GLCA(nn.Module):
    """Global-local cross-attention: few local queries read all global keys and values.

    A full encoder block (norms, attention, MLP) with its own weights. Of the tokens, only the class
    token and the selected patches ask; all N answer. The block and the norm start as copies of
    those given (the paper is silent).

    Args:
        block: encoder block to copy, timm's `Block`.
        norm: final norm to copy.
        blocks: M, number of stacked GLCA blocks (the paper: 1). Later ones read the same global
            tokens.
        keys: "global": keys and values from all N tokens (Eq. 3); "local": from the queries' own
            tokens (ablation).
    """

    def __init__(self, block: nn.Module, norm: nn.Module, *, blocks: int = 1, keys: str = "global"):
        super().__init__()
        check_choice("glca_keys", keys, ("global", "local"))
        if blocks < 1:
            raise ValueError(f"at least 1 GLCA block expected, got {blocks}; "
                             "leave GLCA out by branches=('sa', 'pwca')")  # fmt: skip
        self.blocks = nn.ModuleList(deepcopy(block) for _ in range(blocks))
        self.norm = deepcopy(norm)
        self.keys = keys

    def forward(
        self, tokens: Float[Tensor, "B N D"], selected: Int[Tensor, "B R"] | None = None
    ) -> Float[Tensor, "B Q D"]:
        """Return the class token and the selected tokens after GLCA, normalised.

        Args:
            tokens: all tokens of the SA branch.
            selected: positions of the selected patches, as `top_patches` gives them; None: the
                class token only.

        Returns:
            Q = 1 + R tokens (1 without a selection), the class token first.
        """
        local = tokens[:, :1]
        if selected is not None:
            rows = torch.cat([torch.zeros_like(selected[:, :1]), selected], dim=1)
            local = tokens.gather(1, rows[..., None].expand(-1, -1, tokens.shape[-1]))  # Q^l
        for block in self.blocks:
            context = block.norm1(tokens if self.keys == "global" else local)  # K^g, V^g
            local = run_block(
                block,
                local,
                lambda query: cross_attention(block.attn, query, context),  # Eq. 3
            )
        return self.norm(local)


# --------------------------------------------------------------------------------------------------------- PWCA


def pair_view(tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B2 N2 D"]:
    """See images 2i and 2i + 1 as one sequence of 2N tokens: (B, N, D) -> (B/2, 2N, D), no copy.

    Self-attention on this view is pair-wise cross-attention of both images at once (Eq. 4).
    """
    if len(tokens) % 2:
        raise ValueError(f"an even batch expected, got {len(tokens)} image(s): PWCA needs pairs; "
                         "choose an even batch size and drop the last batch")  # fmt: skip
    return rearrange(tokens, "(B two) N D -> B (two N) D", two=2)


def unpair_view(tokens: Float[Tensor, "B2 N2 D"]) -> Float[Tensor, "B N D"]:
    """Undo `pair_view`: (B/2, 2N, D) -> (B, N, D)."""
    return rearrange(tokens, "B (two N) D -> (B two) N D", two=2)


def pair_order(count: int, labels: Int[Tensor, "B"] | None = None, *, partner: str = "random") -> Int[Tensor, "B"]:
    """Return an order of the batch in which neighbours 2i and 2i + 1 are partners, drawn from torch's CPU generator.

    Args:
        count: batch size, even.
        labels: classes or identities of the batch; needed for "intra" and "inter".
        partner: "random" (the paper: no constraint), "intra" (same label) or "inter" (different labels).

    Raises:
        ValueError: an odd count, labels missing, or no such pairing exists in the batch.

    Source: Zhu et al. 2022, section 3.3 and Table 4.
    """
    check_choice("partner", partner, ("random", "intra", "inter"))
    if count % 2:
        raise ValueError(f"an even batch expected, got {count} image(s): PWCA needs pairs; choose an even batch size")
    order = torch.randperm(count)
    if partner == "random":
        return order
    if labels is None:
        raise ValueError(f"partner={partner!r} needs the batch's labels; call model(images, labels)")
    labels = labels.cpu()
    order = order[labels[order].argsort(stable=True)]  # by label, in random order within each
    if partner == "inter":  # half a batch apart in sorted order: different unless one label fills more than half
        order = order.view(2, -1).T.flatten()
    same = labels[order[0::2]] == labels[order[1::2]]
    if (partner == "intra" and not same.all()) or (partner == "inter" and same.any()):
        intra, inter = "an even number of images of every label", "no label in more than half the batch"
        need = intra if partner == "intra" else inter
        raise ValueError(f"partner={partner!r} needs {need}; use the P x K sampler with an even K and P >= 2")
    return order


# --------------------------------------------------------------------------------------------------------- DCAL


class DCAL(nn.Module):
    """Dual cross-attention learning around a vision transformer.

    Args:
        backbone: timm `VisionTransformer` with a class token and absolute positions; its blocks are SA's and PWCA's.
        num_classes: C, classes or training identities.
        branches: any of "sa", "glca", "pwca" that contains "sa"; ("sa",) is the plain baseline.
        inference: branches computed in evaluation, "sa" and/or "glca"; None takes all that exist. Alone, SA costs
            what the baseline costs.
        head: "linear" (fine-grained) or "bnneck" (re-ID). SA and PWCA share one, GLCA has its own.
        ratio: share R / (N - 1) of patches selected, in (0, 1].
        readout: what GLCA predicts from. "cls": its class token, which the selection cannot reach (the selection is
            then not computed, unless the keys are local); "pool": mean of the class token and the selected tokens.
        glca_at: "after" (GLCA reads the tokens after block L) or "parallel" (those before block L). Rollout is S^_L.
        glca_blocks: M. The paper: 1.
        glca_keys: "global" (Eq. 3) or "local" (ablation).
        selection: "rollout" (Eq. 2), "last" (map of the last SA block before GLCA), "random" or "all" (ablations).
        pwca_blocks: T, the last T blocks attend pair-wise; None takes all L, as the paper does.
        partner: "random", "intra", "inter", or "noise" (the partner's tokens, from which its keys and values come, are
            Gaussian noise; that they have the norm's scale is inferred): Table 4.
        partner_stream: where a pair's partner tokens come from: its own PWCA stream ("pair") or its SA stream ("sa").

    What the paper leaves open, and our choice: readout "cls", glca_at "after", partner_stream "pair". With the last
    and T = L, partners leave PWCA with one and the same class token: it starts equal and reads the same 2N keys.

    Raises:
        ValueError: an unsuitable backbone or an unknown value, named with those that are known.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        branches: Sequence[str] = BRANCHES,
        inference: Sequence[str] | None = None,
        head: str = "linear",
        ratio: float = 0.1,
        readout: str = "cls",
        glca_at: str = "after",
        glca_blocks: int = 1,
        glca_keys: str = "global",
        selection: str = "rollout",
        pwca_blocks: int | None = None,
        partner: str = "random",
        partner_stream: str = "pair",
    ):
        super().__init__()
        check_backbone(backbone)
        check_choice("readout", readout, ("cls", "pool"))
        check_choice("glca_at", glca_at, ("after", "parallel"))
        check_choice("selection", selection, ("rollout", "last", "random", "all"))
        check_choice("partner", partner, ("random", "intra", "inter", "noise"))
        check_choice("partner_stream", partner_stream, ("pair", "sa"))
        for branch in branches:
            check_choice("branch", branch, BRANCHES)
        if "sa" not in branches:
            raise ValueError(f"branches that contain 'sa' expected, got {branches}; GLCA and PWCA build on it")
        if not 0 < ratio <= 1:
            raise ValueError(f"a ratio in (0, 1] expected, got {ratio}; the paper takes 0.1 (FGVC) and 0.3 (re-ID)")
        depth, width = len(backbone.blocks), backbone.embed_dim
        self.pwca_blocks = depth if pwca_blocks is None else pwca_blocks
        if not 1 <= self.pwca_blocks <= depth:
            raise ValueError(f"1 to {depth} PWCA blocks expected, got {pwca_blocks}; leave PWCA out with branches")
        self.backbone = backbone
        self.branches = tuple(branches)
        self.ratio, self.readout, self.glca_at, self.selection = ratio, readout, glca_at, selection
        self.partner, self.partner_stream = partner, partner_stream
        self.heads = nn.ModuleDict({"sa": create_head(head, width, num_classes)})
        if "glca" in branches:
            self.glca = GLCA(backbone.blocks[-1], backbone.norm, blocks=glca_blocks, keys=glca_keys)
            self.heads["glca"] = create_head(head, width, num_classes)
        self.inference = tuple(inference or self.heads)

    @property
    def img_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the images the model takes."""
        return tuple(self.backbone.patch_embed.img_size)

    @property
    def inference(self) -> tuple[str, ...]:
        """Branches computed in evaluation; may be set at any time, e.g. `model.inference = ("sa",)`."""
        return self._inference

    @inference.setter
    def inference(self, branches: Sequence[str]) -> None:
        for branch in branches:
            check_choice("inference branch", branch, self.heads)
        self._inference = tuple(branches)

    def forward(self, images: Float[Tensor, "B 3 h w"], labels: Int[Tensor, "B"] | None = None) -> Output:
        """Return logits and class-token features of every active branch.

        Args:
            images: normalised images of the backbone's size; an even number when PWCA trains.
            labels: needed in training with partner="intra" or "inter" only.
        """
        active = self.branches if self.training else self.inference
        with record_queries_keys(self.backbone) if self._needs_maps(active) else nullcontext() as record:
            inputs, tokens = self._self_attention(embed(self.backbone, images))
        features = {}
        if "sa" in active:
            features["sa"] = self.backbone.norm(tokens)[:, 0]
        if "glca" in active:
            selected = self._select(record, tokens) if self._needs_selection() else None
            local = self.glca(tokens if self.glca_at == "after" else inputs[-1], selected)
            features["glca"] = local[:, 0] if self.readout == "cls" else local.mean(dim=1)
        if "pwca" in active:
            features["pwca"] = self.backbone.norm(self._pwca(inputs, labels))[:, 0]
        logits = {"sa": self.heads["sa"](features["sa"])} if "sa" in features else {}
        if "glca" in features:
            logits["glca"] = self.heads["glca"](features["glca"])
        if "pwca" in features:
            logits["pwca"] = self.heads["sa"](features["pwca"], track=False)  # shared weights, SA's statistics
        return Output(logits, features)

    def _self_attention(self, tokens: Tensor) -> tuple[list[Tensor], Tensor]:
        """Run the L SA blocks; return the input of each (evaluation keeps the last one only) and the final tokens."""
        inputs = []
        for block in self.backbone.blocks:
            inputs = [*inputs, tokens] if self.training else [tokens]
            tokens = block(tokens)  # Eq. 1
        return inputs, tokens

    # GLCA's selection ------------------------------------------------------------------------------------------

    def _needs_selection(self) -> bool:
        return self.readout == "pool" or self.glca.keys == "local"

    def _needs_maps(self, active: tuple[str, ...]) -> bool:
        return "glca" in active and self._needs_selection() and self.selection in ("rollout", "last")

    @torch.no_grad()
    def _select(self, record: list[tuple[Tensor, Tensor]] | None, tokens: Tensor) -> Int[Tensor, "B R"]:
        if self.selection == "all":
            return top_patches(tokens.new_zeros(tokens.shape[:2]), 1.0)
        if self.selection == "random":
            return top_patches(torch.rand(tokens.shape[:2]).to(tokens.device), self.ratio)
        if self.selection == "last":
            query, key = record[-1 if self.glca_at == "after" else -2]
            return top_patches(attention_map(query[:, :, :1], key).mean(dim=1)[:, 0].float(), self.ratio)
        layers = (attention_map(query, key).mean(dim=1) for query, key in reversed(record))
        return top_patches(row_chain(layers), self.ratio)  # first row of S^_L, Eq. 2

    # PWCA ------------------------------------------------------------------------------------------------------

    def _pwca(self, inputs: list[Tensor], labels: Tensor | None) -> Float[Tensor, "B N D"]:
        """Run the last T blocks on pairs, from the SA blocks' inputs."""
        count, start = len(inputs[0]), len(inputs) - self.pwca_blocks
        order = torch.arange(count)
        if self.partner != "noise":
            order = pair_order(count, labels, partner=self.partner)
        order = order.to(inputs[0].device)
        inputs = [x[order] for x in inputs[start:]]
        tokens = inputs[0]
        for block, sa in zip(self.backbone.blocks[start:], inputs, strict=True):
            tokens = run_block(block, tokens, lambda query: self._attend_in_pairs(block, query, sa))
        return tokens[order.argsort()]

    def _attend_in_pairs(self, block: nn.Module, tokens: Tensor, sa: Tensor) -> Tensor:
        if self.partner == "noise":
            noise = torch.randn_like(tokens)
            return cross_attention(block.attn, tokens, torch.cat([tokens, noise], dim=1))
        if self.partner_stream == "pair":
            return unpair_view(block.attn(pair_view(tokens)))  # Eq. 4, both images at once
        pairs = rearrange(block.norm1(sa), "(B two) N D -> B two N D", two=2)
        partners = pairs.flip(1).flatten(0, 1)
        return cross_attention(block.attn, tokens, torch.cat([tokens, partners], dim=1))
