"""The interactive figures: in a browser, without a network, they say what Python computes."""

import base64
import copy
import io
import json
import re

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image

import dcal_lite as dl
from dcal_lite.backbones import embed
from dcal_lite.data.transforms import prepare
from dcal_lite.hacnn import crop_regions, strip_centres


@pytest.fixture(scope="module")
def people():
    """A model and three images of Promenade, as it takes them and to look at."""
    model = dl.load_model("promenade-dcal")
    pictures = dl.load_dataset("promenade", train=8, test=8, strangers=8)["query"].images(model.img_size)[:3]
    return model, prepare(pictures, model.img_size, mean=(0.5,) * 3, std=(0.5,) * 3), pictures


@pytest.fixture
def show(chromium, tmp_path):
    """Open an explorer as a file in a phone's browser that reaches no network; fail on any message to the console."""
    context = chromium.new_context(viewport={"width": 390, "height": 800}, has_touch=True, offline=True)
    page, messages = context.new_page(), []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and messages.append(request.url))

    def opened(explorer):
        file = tmp_path / "page.html"
        file.write_text(f"<!doctype html><html lang=en><body>{explorer.to_html()}</body></html>", encoding="utf-8")
        page.goto(file.as_uri())
        return page

    yield opened
    context.close()
    assert messages == []


def test_numbers_survive_their_journey():
    values = torch.rand(3, 4, dtype=torch.float64)
    received = np.frombuffer(base64.b64decode(dl.explorers.encode(values)), "<u2") / 65535
    np.testing.assert_allclose(received.reshape(3, 4), values, rtol=0, atol=1 / 131070)


@pytest.mark.parametrize(("name", "options"), [("rollout", ()), ("glca", ()), ("pwca", (["second", "third"],))])
def test_an_explorer_is_small_and_stands_for_itself(people, name, options):
    explorer = getattr(dl.explorers, name)(*people, *options)
    html = explorer.to_html()
    assert len(html) < 300_000
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html)
    assert html.count("</script>") == 1
    assert re.search(r'<noscript><img alt="[^"]{20,}" src="data:image/png;base64,', html)


def test_in_a_live_notebook_it_is_a_widget_with_the_same_module_and_data(people):
    explorer = dl.explorers.rollout(people[0], *[x[:1] for x in people[1:]])
    bundle, _ = explorer._repr_mimebundle_()
    assert {"text/html", "text/plain", "application/vnd.jupyter.widget-view+json"} <= bundle.keys()
    widget = explorer.widget()
    assert widget._esm == explorer.module
    assert widget.data == json.loads(json.dumps(explorer.data))


def shares(text: str) -> list[float]:
    """The percentages of a sentence."""
    return [float(number) for number in re.findall(r"([\d.]+) %", text)]


def expected(maps, token: int, layer: int, residual: float) -> list[float]:
    """The percentages that the rollout explorer should name, by full matrix products."""
    single = maps.mean(dim=1)[layer - 1]
    eye = torch.eye(single.shape[0], dtype=single.dtype)
    product = eye
    for attention in maps.mean(dim=1)[:layer]:
        product = ((1 - residual) * attention + residual * eye) @ product
    return [100 * x.item() for row in (single[token], product[token]) for x in (row[1:].max(), row[token])]


@pytest.mark.browser
def test_rollout_by_touch_mouse_and_keyboard(people, show):
    model, images, pictures = people
    maps = dl.attention_maps(model, images).double()  # layer, image, head, query, key
    page = show(dl.explorers.rollout(model, images, pictures))
    says = page.locator(".says")

    def agrees(image: int, token: int, layer: int, residual: float) -> None:
        assert shares(says.inner_text()) == pytest.approx(expected(maps[:, image], token, layer, residual), abs=0.06)

    agrees(image=0, token=0, layer=6, residual=0.5)
    page.locator("[data-token='14']").tap()
    assert says.inner_text().startswith("The patch in row 4, column 2 asks.")
    agrees(image=0, token=14, layer=6, residual=0.5)
    page.keyboard.press("ArrowDown")
    agrees(image=0, token=18, layer=6, residual=0.5)
    page.get_by_role("slider", name="layer").fill("3")
    page.get_by_role("slider", name="residual weight").fill("0.2")
    agrees(image=0, token=18, layer=3, residual=0.2)
    page.get_by_role("combobox", name="image").select_option(index=2)
    page.locator("[data-token='7']").hover()
    assert says.inner_text().startswith("The patch in row 2, column 3 asks.")
    agrees(image=2, token=7, layer=3, residual=0.2)
    page.get_by_role("combobox", name="head").select_option(index=2)
    one = 100 * maps[2, 2, 1, 7, 1:].max().item()
    assert shares(says.inner_text())[0] == pytest.approx(one, abs=0.06)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.browser
def test_flow_plays_once_and_can_be_stopped(people, show):
    model, images, pictures = people
    maps = dl.attention_maps(model, images[:1]).double()[:, 0]
    page = show(dl.explorers.flow(model, images[:1], pictures[0]))
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    page.reload()
    says, layer = page.locator(".says"), page.get_by_role("slider", name="layer")

    def agrees(k: int) -> None:
        rolled = dl.rollout(maps[:k, None])[0, 0]  # the full product's first row
        assert layer.input_value() == str(k)
        assert shares(says.inner_text()) == pytest.approx(
            [100 * x.item() for x in (1 - rolled[0], rolled[1:].max())], abs=0.06
        )
        chosen = page.get_by_role("img").nth(2).locator("rect[fill-opacity='0.000']")
        assert chosen.count() == round(model.ratio * 32)

    agrees(1)
    page.clock.run_for(1600)
    agrees(2)
    page.get_by_role("button").press("Enter")
    page.clock.run_for(60_000)
    agrees(2)
    page.get_by_role("button").tap()
    page.clock.run_for(60_000)
    agrees(len(maps))
    assert page.get_by_role("button").inner_text() == "play"


@pytest.mark.browser
def test_flow_stands_still_where_motion_is_unwelcome(people, show):
    model, images, pictures = people
    explorer = dl.explorers.flow(model, images[:1], pictures[0])
    assert len(explorer.to_html()) < 300_000
    page = show(explorer)
    page.emulate_media(reduced_motion="reduce")
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    page.reload()
    assert page.get_by_role("slider", name="layer").input_value() == "6"
    assert page.locator("rect").first.evaluate("rect => getComputedStyle(rect).transitionDuration") == "0s"
    page.clock.run_for(60_000)
    selected = page.get_by_role("img").nth(2).locator("rect")
    bright = [
        i
        for i, share in enumerate(selected.evaluate_all("all => all.map(x => +x.getAttribute('fill-opacity'))"), 1)
        if share == 0
    ]
    assert bright == sorted(
        dl.top_patches(dl.cls_rollout(dl.attention_maps(model, images[:1])), model.ratio)[0].tolist()
    )


@pytest.fixture(scope="module")
def walkers():
    """Three images of Promenade's queries, by three cameras, as the convolutional zoo takes them and to look at."""
    pictures = dl.load_dataset("promenade", train=8, test=8, strangers=8)["query"].images((64, 32))[[1, 2, 20]]
    recipe = dl.load_recipe("rga-reid", preset="toy")
    return prepare(pictures, (64, 32), mean=recipe.mean, std=recipe.std), pictures


def affinity_of(model, images, stage: int):
    """The affinity (n, N, N), embedded relations (n, R, N) and gates (n, N) of a spatial gate, by the affinity."""
    gate, seen = model.attention[stage - 1].gates["s"], []
    hook = gate.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    gates = dl.outputs_of(model, dl.RelationGate, images)[2 * stage - 2]
    hook.remove()
    theta, phi, _ = gate.project(seen[0].unsqueeze(2)).squeeze(2).chunk(3, dim=1)
    R = theta.mT @ phi
    return R, gate.relate.weight @ torch.cat([R.mT, R], dim=1), gates[:, 0]


@pytest.mark.browser
def test_rga_by_touch_mouse_and_keyboard(walkers, show):
    images, pictures = walkers
    model = dl.load_model("promenade-rga")
    page = show(dl.explorers.rga(model, images, pictures))
    with torch.no_grad():
        R, embedded, gates = affinity_of(model.double().eval(), images.double(), stage=2)
    says = page.locator(".says")

    def agrees(image: int, position: int) -> None:
        row, column = R[image, position], R[image, :, position]
        numbers = [float(x) for x in re.findall(r"\d+\.\d{3}", says.inner_text())]
        expected = [x.item() for x in (gates[image, position], row.max(), column.max())]
        assert numbers == pytest.approx(expected, abs=0.0006)
        table = [[float(x) for x in line.split()] for line in page.locator("tbody tr").all_inner_texts()]
        for k, (number, affinity, brackets, difference) in enumerate(table):
            assert number == k + 1
            assert [affinity, brackets] == pytest.approx([embedded[image, k, position].item()] * 2, abs=2e-4)
            assert abs(difference) < 1e-12
        assert len(table) == embedded.shape[1]

    agrees(image=0, position=0)
    page.locator("[data-token='14']").tap()
    assert says.inner_text().startswith("The position in row 4, column 2 has the gate")
    agrees(image=0, position=13)
    page.keyboard.press("ArrowDown")
    agrees(image=0, position=17)
    page.get_by_role("combobox", name="image").select_option(index=2)
    page.locator("[data-token='7']").hover()
    agrees(image=2, position=6)
    assert page.locator("[data-token='0']").count() == 0  # a map of features has no class token
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_rga_wants_a_spatial_gate_with_relations(walkers):
    for options in ({"variant": "c"}, {"variant": None}, {"relations": False}):
        model = dl.create_model("rga_resnet50", img_size=(64, 32), **options)
        with pytest.raises(ValueError, match="stage 2 has no spatial gate with relations"):
            dl.explorers.rga(model, *walkers)


@pytest.fixture(scope="module")
def regions(walkers):
    """HA-CNN, three images, and two moments of its training: before it, and halfway to where it ends."""
    images, pictures = walkers
    model = dl.load_model("promenade-hacnn")
    end = torch.stack([centres for _, centres in dl.outputs_of(model, dl.HarmoniousAttention, images)])
    start = strip_centres(4).expand_as(end)
    return model, images, pictures, torch.stack([start, (start + end) / 2, end])


@pytest.mark.browser
def test_hacnn_by_touch_mouse_and_keyboard(regions, show):
    model, images, pictures, path = regions
    page = show(dl.explorers.hacnn(model, images, pictures, [*path[:-1]]))
    says, sliders = page.locator(".says"), [page.get_by_role("slider", name=name) for name in ("across", "down")]

    def agrees(image: int, level: int, centres) -> None:
        size, crop = [n // 2 ** (level + 1) for n in (64, 32)], model.crops[level]
        picture = Image.fromarray(pictures[image].permute(1, 2, 0).numpy())
        coarse = np.array(picture.resize(size[::-1], Image.Resampling.BILINEAR))
        coarse = torch.from_numpy(coarse).permute(2, 0, 1)[None].float()
        expected = crop_regions(coarse, centres[None], (1, 1 / 4), crop)[0]  # (T, 3, h, w)
        addresses = page.locator("canvas").evaluate_all("all => all.map((canvas) => canvas.toDataURL())")
        files = [io.BytesIO(base64.b64decode(address.split(",")[1])) for address in addresses]
        seen = np.stack([Image.open(file).convert("RGB") for file in files])  # (T, h, w, 3)
        np.testing.assert_allclose(seen, expected.permute(0, 2, 3, 1), rtol=0, atol=2)

    agrees(0, 0, path[2, 0, 0])
    page.get_by_role("combobox", name="image").select_option(index=1)
    page.get_by_role("combobox", name="level").select_option(index=2)
    agrees(1, 2, path[2, 2, 1])
    page.get_by_role("slider", name="training").fill("1")
    agrees(1, 2, path[1, 2, 1])
    page.get_by_role("combobox", name="level").select_option(index=0)
    page.get_by_role("combobox", name="region").select_option(index=2)
    for slider, value in zip(sliders, ("-0.5", "0.9"), strict=True):
        slider.fill(value)
    sliders[1].press("ArrowLeft")
    centres = path[1, 0, 1].clone()
    centres[2] = torch.tensor([-0.5, 0.89])
    agrees(1, 0, centres)
    away = ((centres - path[1, 0, 1])[2] * torch.tensor([16, 32])).norm().item()
    assert f"(-0.50, 0.89), {away:.1f} pixels from" in says.inner_text()
    outside = 100 * (1 - 0.75 * (1 - (0.89 - 0.25)) / 0.5)  # 3/4 of the width; from 0.64 to 1 of 0.64 to 1.14
    assert shares(says.inner_text()) == pytest.approx([outside], abs=0.06)

    page.get_by_role("button", name="as the network has it").click()
    agrees(1, 0, path[1, 0, 1])
    box = page.locator("svg").bounding_box()
    x, y = ((at + 1) / 2 for at in path[1, 0, 1, 0].tolist())
    at = box["x"] + box["width"] * (x + 0.4) / 1.8, box["y"] + box["height"] * (64 * y + 1) / 66
    page.mouse.move(*at)
    page.mouse.down()
    page.mouse.move(at[0], at[1] + box["height"] * 16 / 66, steps=3)  # a quarter of the image's height
    page.mouse.up()
    page.mouse.move(0, 0)
    assert "Region 1 has" in says.inner_text()
    assert "16.0 pixels from" in says.inner_text()
    page.touchscreen.tap(at[0], box["y"] + box["height"] * 0.95)
    assert "Region 4 has" in says.inner_text()

    page.get_by_role("button", name="play training").click()
    assert page.get_by_role("slider", name="training").input_value() == "0"
    agrees(1, 0, path[0, 0, 1])
    page.wait_for_function("document.querySelectorAll('output')[2].value === '2 of 2'")
    agrees(1, 0, path[2, 0, 1])
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_hacnn_wants_regions_on_every_level(walkers):
    for options in ({"branches": ["global"]}, {"cail": False}, {"port": True}):
        model = dl.create_model("hacnn", img_size=(64, 32), **options)
        with pytest.raises(ValueError, match="regions on every level expected"):
            dl.explorers.hacnn(model, *walkers)


@pytest.fixture(scope="module")
def listed():
    """What `ranking` takes: a query, ten pictures of each kind, ten kinds and distances."""
    pictures = dl.load_dataset("promenade", train=8, test=8, strangers=8)["query"].images((64, 32))
    kinds = ["same_camera", "match", "other", "other", "match", "other", "same_camera", "other", "match", "other"]
    gallery = {kind: pictures[i : i + 10] for i, kind in enumerate(sorted(set(kinds)))}
    return pictures[0], gallery, kinds, [float(k) for k in range(1, 11)]


def scores_of(kinds, distances, rule: bool):
    """Rank-1, AP and trapezoid AP by the library, as embeddings on a line."""
    ids = [2 if kind == "other" else 1 for kind in kinds]
    cams = [0 if kind == "same_camera" else 1 for kind in kinds]
    line = torch.tensor(distances, dtype=torch.float64)[:, None]
    labels = [np.array(values) for values in ([1], ids, [0 if rule else -1], cams)]
    scores = dl.rank_metrics(torch.zeros(1, 1).double(), line, *labels)
    return [scores.cmc[0], scores.mAP, scores.mAP_trapezoid]


@pytest.mark.browser
def test_ranking_by_touch_and_keyboard(listed, show):
    query, gallery, kinds, distances = listed
    kinds, distances = list(kinds), list(distances)
    page = show(dl.explorers.ranking(query, gallery, kinds, distances))
    says, far = page.locator(".says"), page.get_by_role("slider", name="its distance")

    def agrees(rule: bool = True) -> None:
        found = re.search(r"Rank-1 (\d), AP ([\d.]+), trapezoid AP ([\d.]+)\.$", says.inner_text())
        assert [float(x) for x in found.groups()] == pytest.approx(scores_of(kinds, distances, rule), abs=0.0006)

    agrees()
    page.locator("[data-item='8']").tap()
    far.fill("0.5")  # the last match comes first
    distances[8] = 0.5
    agrees()
    far.press("End")
    distances[8] = 11.0
    agrees()
    page.locator("[data-item='2']").tap()
    page.keyboard.press("ArrowLeft")  # to the next nearer one, which is a match
    page.get_by_role("combobox", name="it shows").select_option("other")
    kinds[1] = "other"
    agrees()
    page.get_by_role("checkbox").uncheck()
    agrees(rule=False)
    far.fill("4.0")  # as far as item 3, which stays in front by its index
    distances[1] = 4.0
    agrees(rule=False)
    labels = page.locator("[role=radio]").evaluate_all("nodes => nodes.map((node) => +node.dataset.item)")
    assert labels == np.argsort(distances, kind="stable").tolist()
    areas = [area_under(page, k) for k in (0, 1)]
    assert areas == pytest.approx(scores_of(kinds, distances, rule=False)[1:], abs=1e-6)
    page.get_by_role("checkbox").check()
    for item in (4, 8):
        page.locator(f"[data-item='{item}']").tap()
        page.get_by_role("combobox", name="it shows").select_option("same_camera")
    assert says.inner_text() == "No true match is left: this query is not scored."
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def area_under(page, chart: int) -> float:
    """Area of a chart's first curve, closed, where both axes go from 0 to 1."""
    points = page.locator(".plot").nth(chart).locator("polyline").first.get_attribute("points")
    x, y = np.array([[float(n) for n in point.split(",")] for point in points.split()]).T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2 / 80**2  # the axes are 80 units long


def test_ranking_wants_lists_of_one_length_and_known_kinds(listed):
    query, gallery, kinds, distances = listed
    with pytest.raises(ValueError, match="did you mean 'match'"):
        dl.explorers.ranking(query, gallery, ["matches", *kinds[1:]], distances)
    with pytest.raises(ValueError, match="of equally many items expected, got"):
        dl.explorers.ranking(query, gallery, kinds[:9], distances)


def test_all_explorers_are_small(walkers, regions, listed):
    rga = dl.explorers.rga(dl.load_model("promenade-rga"), *walkers)
    for explorer in (rga, dl.explorers.hacnn(*regions[:3], [*regions[3]] * 4), dl.explorers.ranking(*listed)):
        assert len(explorer.to_html()) < 300_000


@pytest.fixture(scope="module")
def readouts(people):
    """GLCA's logits of every image under both readouts, as the model itself returns them for each ratio."""
    model, images, _ = people
    logits = {}
    for readout in ("cls", "pool"):
        variant = copy.deepcopy(model)
        variant.readout = readout
        each = []
        for count in range(1, 33):
            variant.ratio = count / 32
            with torch.no_grad():
                each.append(variant(images).logits["glca"])
        logits[readout] = torch.stack(each)  # R, image, class
    return logits


def ranking(model, images) -> torch.Tensor:
    """The patches' tokens, best first, by the first row of the full product."""
    return 1 + dl.rollout(dl.attention_maps(model, images))[:, 0, 1:].argsort(dim=1, descending=True)


def glca_row(model, image, token: int) -> torch.Tensor:
    """What one token reads in GLCA (Eq. 3), from its own query alone; heads averaged."""
    block, tokens = model.glca.blocks[0], embed(model.backbone, image[None])
    for layer in model.backbone.blocks:
        tokens = layer(tokens)
    weight, bias = block.attn.qkv.weight, block.attn.qkv.bias
    normed, heads = block.norm1(tokens)[0], block.attn.num_heads
    query = (weight[:96] @ normed[token] + bias[:96]).view(heads, -1)
    keys = (normed @ weight[96:192].T + bias[96:192]).view(len(normed), heads, -1)
    return torch.stack([(keys[:, h] @ query[h] * block.attn.scale).softmax(0) for h in range(heads)]).mean(0)


@pytest.mark.browser
@torch.no_grad()
def test_glca_selects_reads_and_moves_one_readout_only(people, readouts, show):
    model, images, pictures = people
    order = ranking(model, images)
    page = show(dl.explorers.glca(model, images, pictures))
    says, rank = page.locator(".says"), page.get_by_role("slider", name="R")

    def agrees(image: int, token: int, count: int) -> None:
        row, selected = glca_row(model, images[image], token), order[image, :count]
        named = [100 * x.item() for x in (row[1:].max(), row[selected].sum(), row[0])]
        assert shares(says.inner_text()) == pytest.approx(named, abs=0.06)
        classes = readouts["cls"][0, image].topk(5).indices.tolist()
        lines = page.locator(".bars tbody tr").all_inner_texts()
        assert [int(re.search(r"class (\d+)", line)[1]) for line in lines] == classes
        shown = [[float(cell) for cell in line.split("\t")[1:]] for line in lines]
        expected = [[readouts[name][count - 1, image, c].item() for name in ("cls", "pool")] for c in classes]
        np.testing.assert_allclose(shown, expected, atol=0.006)
        moves = [float(x) for x in re.findall(r"moves by ([\d.]+) .*? by ([\d.]+) ", says.inner_text())[0]]
        spread = [readouts[name][:, image, classes[0]] for name in ("cls", "pool")]
        assert moves == pytest.approx([(x.max() - x.min()).item() for x in spread], abs=0.006)
        assert moves[0] == 0 < moves[1]

    agrees(image=0, token=0, count=10)  # the model's own ratio: 30 % of 32 patches
    rank.fill("20")
    agrees(image=0, token=0, count=20)
    best, last = order[0, 0].item(), order[0, 31].item()
    page.locator(f"[data-token='{best}']").tap()
    agrees(image=0, token=best, count=20)
    page.locator(f"[data-token='{last}']").hover()
    assert "answers but does not ask before R = 32" in says.inner_text()
    rank.fill("32")
    agrees(image=0, token=last, count=32)
    page.get_by_role("combobox", name="image").select_option(index=1)
    page.locator("[data-token='9']").tap()
    page.keyboard.press("ArrowRight")
    agrees(image=1, token=10, count=32)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_glca_needs_its_branch_and_global_keys(people):
    _, images, pictures = people
    for options in ({"branches": ("sa",)}, {"glca_keys": "local"}):
        model = dl.create_model("dcal_vit_toy_patch8_64", num_classes=5, img_size=(64, 32), **options)
        with pytest.raises(ValueError, match="'glca' and glca_keys='global' expected"):
            dl.explorers.glca(model, images, pictures)


def pair_maps(vit, image, partner) -> torch.Tensor:
    """The image's maps over both (L, N, 2N) by Eq. 4 as it is written: both streams apart, keys and values stacked."""
    streams, maps = [embed(vit, x[None]) for x in (image, partner)], []
    for block in vit.blocks:
        layer, into_heads = block.attn, "B N (three H d) -> three B H N d"
        parts = [rearrange(layer.qkv(block.norm1(x)), into_heads, three=3, H=layer.num_heads) for x in streams]
        for i, (query, _, _) in enumerate(parts):
            keys, values = (torch.cat([parts[i][part], parts[1 - i][part]], dim=2) for part in (1, 2))
            weights = (query @ keys.transpose(-2, -1) * layer.scale).softmax(dim=-1)
            streams[i] = streams[i] + layer.proj(rearrange(weights @ values, "B H N d -> B N (H d)"))
            streams[i] = streams[i] + block.mlp(block.norm2(streams[i]))
            if i == 0:
                maps.append(weights[0].mean(dim=0))
    return torch.stack(maps)


@pytest.mark.browser
@torch.no_grad()
def test_pwca_leaks_to_the_partner_and_not_at_all_to_itself(people, show):
    model, images, pictures = people
    page = show(dl.explorers.pwca(model, images, pictures, ["second", "third"]))
    says = page.locator(".says")

    def agrees(partner: int, token: int, layer: int) -> None:
        rows = pair_maps(model.backbone, images[0], images[partner])[:, token]
        own, other = rows[layer - 1, :33], rows[layer - 1, 33:]
        named = [100 * x.item() for x in (other.sum(), own[1:].max(), other[1:].max())]
        assert shares(says.inner_text())[:3] == pytest.approx(named, abs=0.06)
        table = shares(page.locator(".bars").inner_text())
        assert table == pytest.approx((100 * rows[:, 33:].sum(dim=1)).tolist(), abs=0.06)

    agrees(partner=1, token=0, layer=6)
    page.locator("[data-token='14']").tap()
    page.get_by_role("slider", name="layer").fill("2")
    agrees(partner=1, token=14, layer=2)
    page.get_by_role("combobox", name="partner").select_option("third")
    page.locator("[data-token='20']").hover()
    agrees(partner=2, token=20, layer=2)
    page.locator("[data-token='14']").tap()
    page.keyboard.press("ArrowUp")
    agrees(partner=2, token=10, layer=2)
    assert "divided by two" not in says.inner_text()
    page.get_by_role("combobox", name="partner").select_option("itself")
    agrees(partner=0, token=10, layer=2)
    assert shares(page.locator(".bars").inner_text()) == [50.0] * 6
    assert "divided by two: no weight differs by more than 0.00 %" in says.inner_text()
    half = dl.attention_maps(model, images[:1]).mean(dim=2)[1, 0, 10, 1:].max() / 2
    assert shares(says.inner_text())[1:3] == pytest.approx([100 * half.item()] * 2, abs=0.06)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_pwca_asks_for_a_name_for_each_partner(people):
    with pytest.raises(ValueError, match="2 names expected"):
        dl.explorers.pwca(*people, ["second"])
