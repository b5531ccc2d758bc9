"""DCAL against its equations: identities, loops, exact counts. All in float64."""

import itertools

import pytest
import torch
from torch import nn

import dcal_lite as dl
from book.tools.plain import pwca_materialised
from dcal_lite.backbones import cross_attention
from dcal_lite.dcal import DCAL, GLCA, pair_order
from tests.oracles import rollout_by_loops
from tests.test_backbones import tiny


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def dcal(classes=3, *, drop_path=0.0, **options) -> DCAL:
    model = DCAL(tiny(drop_path_rate=drop_path), classes, **options).double()
    for name, parameter in model.named_parameters():
        if name.startswith(("glca", "heads")):
            nn.init.normal_(parameter, std=0.3)  # weights of its own, not the copy it starts from
    return model


def assert_same(one: dl.Output, other: dl.Output, *branches: str) -> None:
    for branch in branches:
        torch.testing.assert_close(one.logits[branch], other.logits[branch])
        torch.testing.assert_close(one.features[branch], other.features[branch])


# ---------------------------------------------------------------------------------------------------- selection


def test_top_patches_equals_a_sort_by_hand():
    scores = torch.tensor([[9.0, 0.1, 0.4, 0.2, 0.4, 0.0]])  # the class token's 9 must not win; 2 and 4 tie
    assert dl.top_patches(scores, 0.6).tolist() == [[2, 4, 3]]
    assert dl.top_patches(scores, 1.0).tolist() == [[2, 4, 3, 1, 5]]
    assert dl.top_patches(scores, 0.01).tolist() == [[2]]


@pytest.mark.parametrize(("patches", "ratio", "count"), [(784, 0.1, 78), (128, 0.3, 38), (256, 0.3, 77)])
def test_top_patches_counts_of_the_paper(patches, ratio, count):
    assert dl.top_patches(torch.rand(2, 1 + patches), ratio).shape == (2, count)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.01])
def test_top_patches_bad_ratio(ratio):
    with pytest.raises(ValueError, match=r"ratio in \(0, 1\]"):
        dl.top_patches(torch.rand(1, 5), ratio)
    with pytest.raises(ValueError, match=r"ratio in \(0, 1\]"):
        dcal(ratio=ratio)


def test_model_selects_by_the_rollout_of_its_own_maps(images):
    model = dcal(readout="pool", ratio=0.4).eval()
    flow = rollout_by_loops(dl.attention_maps(model, images))[:, 0]
    expected = flow[:, 1:].topk(round(0.4 * 8), dim=1).indices.add(1)
    tokens = model.backbone.blocks(model.backbone.norm_pre(
        model.backbone._pos_embed(model.backbone.patch_embed(images))))  # fmt: skip
    local = model.glca(tokens, expected)
    torch.testing.assert_close(model(images).features["glca"], local.mean(1))


@pytest.mark.parametrize(("glca_at", "layer"), [("after", -1), ("parallel", -2)])
def test_selection_by_the_last_map_before_glca(images, glca_at, layer):
    model = dcal(readout="pool", ratio=0.4, selection="last", glca_at=glca_at).eval()
    row = dl.attention_maps(model, images)[layer].mean(1)[:, 0]
    seen = []
    model.glca.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    model(images)
    assert torch.equal(seen[0], dl.top_patches(row, 0.4))


def test_random_selection_is_uniform_and_never_the_class_token(images):
    model = dcal(readout="pool", ratio=0.25, selection="random").eval()
    seen = []
    model.glca.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].flatten()))
    for _ in range(200):
        model(images)
    counts = torch.cat(seen).bincount(minlength=9)
    assert counts[0] == 0 and counts.sum() == 200 * 4 * 2
    assert (counts[1:] - 200).abs().max() < 60  # 8 patches, expectation 200, standard deviation about 12


# --------------------------------------------------------------------------------------------------------- GLCA


def test_glca_with_all_tokens_and_copied_weights_is_self_attention():
    vit = tiny()
    tokens = torch.randn(2, 9, 12, dtype=torch.float64)
    glca = GLCA(vit.blocks[-1], vit.norm)
    everything = torch.arange(1, 9).expand(2, -1)
    torch.testing.assert_close(glca(tokens, everything), vit.norm(vit.blocks[-1](tokens)))
    few = torch.tensor([[3, 7], [8, 1]])
    rows = torch.stack([vit.norm(vit.blocks[-1](tokens))[b, [0, *few[b].tolist()]] for b in range(2)])
    torch.testing.assert_close(glca(tokens, few), rows)


@pytest.mark.parametrize("glca_at", ["after", "parallel"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_the_selection_cannot_reach_a_class_token_readout(images, glca_at, blocks):
    """Values and all gradients agree for every selection and for the shortcut that computes no selection at all."""
    results = []
    for selection in ("shortcut", "rollout", "last", "random", "all"):
        model = dcal(glca_at=glca_at, glca_blocks=blocks, branches=("sa", "glca"), ratio=0.3)
        if selection != "shortcut":
            model.selection = selection
            model._needs_selection = lambda: True
        output = model(images)
        (output.logits["glca"].square().sum() + output.logits["sa"].sum()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((output, gradients))
    first, gradients = results[0]
    for output, other in results[1:]:
        assert_same(first, output, "glca", "sa")
        assert gradients.keys() == other.keys()
        for name in gradients:
            torch.testing.assert_close(gradients[name], other[name])


def test_the_selection_reaches_a_pooled_readout_and_local_keys(images):
    for options in ({"readout": "pool"}, {"glca_keys": "local"}):
        logits = [dcal(selection=s, ratio=0.3, **options).eval()(images).logits["glca"] for s in ("rollout", "all")]
        assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_local_keys_equal_attention_among_the_selected_tokens(images):
    vit = tiny()
    tokens, few = torch.randn(2, 9, 12, dtype=torch.float64), torch.tensor([[3, 7], [8, 1]])
    glca = GLCA(vit.blocks[-1], vit.norm, keys="local")
    alone = torch.stack([tokens[b, [0, *few[b].tolist()]] for b in range(2)])
    torch.testing.assert_close(glca(tokens, few), vit.norm(vit.blocks[-1](alone)))


def test_two_glca_blocks_read_the_same_global_tokens():
    vit = tiny()
    tokens = torch.randn(2, 9, 12, dtype=torch.float64)
    glca = GLCA(vit.blocks[-1], vit.norm, blocks=2)
    local = tokens[:, :1]
    for block in glca.blocks:
        query, keys = block.norm1(local), block.norm1(tokens)
        local = local + cross_attention(block.attn, query, keys)
        local = local + block.mlp(block.norm2(local))
    torch.testing.assert_close(glca(tokens), vit.norm(local))


def test_glca_does_not_share_weights_and_adds_a_whole_block():
    model = dcal()
    own = {id(p) for p in model.glca.parameters()}
    assert own.isdisjoint(id(p) for p in model.backbone.parameters())


def counts_by_hand(width: int, tokens: int, classes: int, head: str) -> tuple[int, int, int]:
    """Parameters of a ViT with 12 blocks and patches of 16, of GLCA's block and norm, and of one head."""
    norm = 2 * width
    block = norm + (3 * width * width + 3 * width) + (width * width + width) + norm + (8 * width * width + 5 * width)
    backbone = (16 * 16 * 3 * width + width) + width + tokens * width + 12 * block + norm
    return backbone, block + norm, {"linear": classes * width + classes, "bnneck": norm + classes * width}[head]


@pytest.mark.parametrize(
    ("backbone", "width", "classes", "head", "size", "extra", "with_heads", "without_heads"),
    [
        # the paper: +9 % for DeiT-Tiny on CUB; fits with the classifiers counted
        ("deit_tiny_patch16_224", 192, 200, "linear", 448, 483_848, 8.5, 7.9),
        # the paper: +8 % for ViT-Base on VeRi; fits only without the classifiers
        ("vit_base_patch16_224", 768, 576, "bnneck", 256, 7_533_312, 8.7, 8.3),
    ],
)
def test_parameter_overhead(backbone, width, classes, head, size, extra, with_heads, without_heads):
    parts = {"head": head, "num_classes": classes, "img_size": (size, size)}
    with torch.device("meta"):
        plain, full = (dl.create_model(f"dcal_{backbone}", branches=b, **parts) for b in (("sa",), dl.dcal.BRANCHES))
    base, added = (sum(p.numel() for p in m.parameters()) for m in (plain, full))
    vit, glca, classifier = counts_by_hand(width, 1 + (size // 16) ** 2, classes, head)
    assert (base, added - base) == (vit + classifier, glca + classifier) and added - base == extra
    assert (round(100 * extra / base, 1), round(100 * glca / vit, 1)) == (with_heads, without_heads)


# --------------------------------------------------------------------------------------------------------- PWCA


def test_pair_view_is_a_view_and_unpair_view_undoes_it():
    tokens = torch.randn(6, 5, 4)
    pairs = dl.pair_view(tokens)
    assert pairs.shape == (3, 10, 4) and pairs.data_ptr() == tokens.data_ptr()
    torch.testing.assert_close(pairs[1], torch.cat([tokens[2], tokens[3]]))
    assert torch.equal(dl.unpair_view(pairs), tokens)
    for odd in (1, 3):
        with pytest.raises(ValueError, match=f"even batch expected, got {odd}"):
            dl.pair_view(torch.randn(odd, 5, 4))


def test_attention_on_the_pair_view_is_equation_4():
    layer = tiny().blocks[0].attn
    tokens = torch.randn(6, 5, 12, dtype=torch.float64, requires_grad=True)
    partner = torch.tensor([1, 0, 3, 2, 5, 4])
    ours, theirs = dl.unpair_view(layer(dl.pair_view(tokens))), pwca_materialised(layer, tokens, partner)
    torch.testing.assert_close(ours, theirs)
    for loss in (ours, theirs):
        layer.zero_grad()
        tokens.grad = None
        loss.square().sum().backward(retain_graph=True)
    gradients = [torch.autograd.grad(x.square().sum(), [tokens, *layer.parameters()], retain_graph=True)
                 for x in (ours, theirs)]  # fmt: skip
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("stream", ["pair", "sa"])
@pytest.mark.parametrize("blocks", [3, 2, 1])
def test_pwca_equals_the_materialised_form_through_all_blocks(images, stream, blocks):
    model = dcal(partner_stream=stream, pwca_blocks=blocks, branches=("sa", "pwca"))
    torch.manual_seed(5)
    output = model(images)
    torch.manual_seed(5)
    order = pair_order(4)
    partner = torch.empty(4, dtype=torch.long)
    partner[order] = order.view(-1, 2).flip(1).flatten()
    vit = model.backbone
    sa = vit._pos_embed(vit.patch_embed(images))
    tokens = sa
    for depth, block in enumerate(vit.blocks):
        if depth < 3 - blocks:
            tokens = sa = block(sa)
            continue
        query = block.norm1(tokens)
        if stream == "pair":
            mixed = pwca_materialised(block.attn, query, partner)
        else:
            mixed = cross_attention(block.attn, query, torch.cat([query, block.norm1(sa)[partner]], dim=1))
        tokens = tokens + mixed
        tokens = tokens + block.mlp(block.norm2(tokens))
        sa = block(sa)
    torch.testing.assert_close(output.features["pwca"], vit.norm(tokens)[:, 0])


@pytest.mark.parametrize("stream", ["pair", "sa"])
def test_pwca_of_an_image_with_itself_is_self_attention(images, stream):
    twins = images[:1].expand(4, -1, -1, -1)
    output = dcal(partner_stream=stream, branches=("sa", "pwca"))(twins)
    torch.testing.assert_close(output.features["pwca"], output.features["sa"])
    torch.testing.assert_close(output.logits["pwca"], output.logits["sa"])


def test_pwca_of_different_images_is_not(images):
    output = dcal(branches=("sa", "pwca"))(images)
    assert (output.features["pwca"] - output.features["sa"]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("options", "same"), [({}, True), ({"pwca_blocks": 2}, False), ({"partner_stream": "sa"}, False)]
)
def test_partners_share_one_class_token_if_all_blocks_pair_symmetrically(images, options, same):
    """It starts the same for every image and reads the same keys: nothing can tell the partners' apart."""
    model = dcal(branches=("sa", "pwca"), **options)
    torch.manual_seed(5)
    features = model(images).features["pwca"]
    torch.manual_seed(5)
    one, other = features[pair_order(4)].view(2, 2, -1).unbind(1)
    assert ((one - other).abs().max() < 1e-12) == same


def test_pwca_shares_all_weights():
    count = [sum(p.numel() for p in dcal(branches=b).parameters()) for b in (("sa",), ("sa", "pwca"))]
    assert count[0] == count[1]


def test_pwca_shares_bn_statistics_of_sa_only(images):
    torch.manual_seed(0)
    models = [dcal(head="bnneck", branches=branches) for branches in (("sa",), ("sa", "pwca"))]
    for model in models:
        model(images)
    for one, other in zip(*(model.heads["sa"].norm.buffers() for model in models), strict=True):
        torch.testing.assert_close(one, other)


def test_noise_takes_the_place_of_the_partners_tokens_in_every_block(images):
    """As in Table 4, an image's queries meet the keys and values of noise; other images of the batch stay out of it."""
    model = dcal(partner="noise", branches=("sa", "pwca"))
    torch.manual_seed(3)
    output = model(images[:3])  # needs no even batch
    torch.manual_seed(3)
    vit = model.backbone
    tokens = vit._pos_embed(vit.patch_embed(images[:3]))
    for block in vit.blocks:
        query = block.norm1(tokens)
        pairs = torch.cat([query, torch.randn(3, 9, 12, dtype=torch.float64)])  # image i, and noise as its partner
        tokens = tokens + pwca_materialised(block.attn, pairs, torch.tensor([3, 4, 5, 0, 1, 2]))[:3]
        tokens = tokens + block.mlp(block.norm2(tokens))
    torch.testing.assert_close(output.features["pwca"], vit.norm(tokens)[:, 0])
    assert (output.features["pwca"] - output.features["sa"]).abs().max() > 1e-2


def test_stochastic_depth_draws_a_mask_an_image_not_a_pair(images):
    model = dcal(drop_path=0.5, branches=("sa", "pwca")).train()
    masks = []
    for block in model.backbone.blocks[1:]:
        block.drop_path1.register_forward_hook(lambda _, inputs, output: masks.append(len(output)))
    model(images)
    assert set(masks) == {4}


@pytest.mark.parametrize("partner", ["random", "intra", "inter"])
def test_pairing(partner):
    labels = torch.tensor([5, 5, 5, 5, 2, 2, 7, 7, 7, 7, 1, 1])
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        order = pair_order(12, labels, partner=partner)
        assert sorted(order.tolist()) == list(range(12))
        pairs = labels[order].view(-1, 2)
        same = pairs[:, 0] == pairs[:, 1]
        assert {"intra": same.all(), "inter": not same.any(), "random": True}[partner]
        seen.add(tuple(order.tolist()))
    assert len(seen) == 20


def test_random_pairs_are_uniform():
    torch.manual_seed(0)
    counts = dict.fromkeys(itertools.combinations(range(4), 2), 0)
    for _ in range(600):
        for pair in pair_order(4).view(-1, 2).tolist():
            counts[tuple(sorted(pair))] += 1
    assert all(abs(count - 200) < 60 for count in counts.values())


def test_impossible_pairings_say_so(images):
    with pytest.raises(ValueError, match="even batch expected, got 1"):
        dcal()(images[:1])
    with pytest.raises(ValueError, match="needs the batch's labels"):
        dcal(partner="intra")(images)
    with pytest.raises(ValueError, match="even number of images of every label"):
        pair_order(4, torch.tensor([0, 0, 0, 1]), partner="intra")
    with pytest.raises(ValueError, match="no label in more than half"):
        pair_order(4, torch.tensor([0, 0, 0, 1]), partner="inter")


# -------------------------------------------------------------------------------------------------- the whole model


def test_baseline_equals_timm(images):
    model = dcal(branches=("sa",)).eval()
    torch.testing.assert_close(model(images).features["sa"], model.backbone.forward_features(images)[:, 0])


def test_evaluation_is_the_same_with_pwca_removed(images):
    full, without = dcal(), dcal(branches=("sa", "glca"))
    without.load_state_dict(full.state_dict())
    full.eval(), without.eval()
    assert "pwca" not in full(images).logits
    assert torch.equal(full(images).embedding, without(images).embedding)
    assert torch.equal(full(images).prediction, without(images).prediction)


def test_inference_from_a_subset_of_branches(images):
    model = dcal(readout="pool").eval()
    both = model(images)
    for branch in ("sa", "glca"):
        model.inference = (branch,)
        alone = model(images)
        assert list(alone.logits) == [branch]
        assert_same(both, alone, branch)
    with pytest.raises(ValueError, match="unknown inference branch 'pwca'"):
        model.inference = ("pwca",)


def test_sa_alone_costs_what_the_baseline_costs(images):
    from torch.utils.flop_counter import FlopCounterMode

    flops = []
    for model in (dcal(branches=("sa",)), dcal(inference=("sa",), readout="pool")):
        with FlopCounterMode(display=False) as counter:
            model.eval()(images)
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1] > 0


def test_every_parameter_learns(images):
    model = dcal(readout="pool", ratio=0.3, head="bnneck")
    sum(z.square().sum() for z in model(images).logits.values()).backward()
    still = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or p.grad.norm() == 0)]
    assert still == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branches": ("glca",)}, "contain 'sa'"),
        ({"branches": ("sa", "glac")}, "did you mean 'glca'"),
        ({"readout": "mean"}, "unknown readout 'mean'"),
        ({"selection": "rolout"}, "did you mean 'rollout'"),
        ({"partner": "class"}, "unknown partner 'class'"),
        ({"glca_at": "before"}, "unknown glca_at"),
        ({"glca_keys": "all"}, "unknown glca_keys"),
        ({"partner_stream": "both"}, "unknown partner_stream"),
        ({"glca_blocks": 0}, "at least 1 GLCA block"),
        ({"pwca_blocks": 4}, "1 to 3 PWCA blocks expected, got 4"),
        ({"head": "cosine"}, "unknown head"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        dcal(**options)
