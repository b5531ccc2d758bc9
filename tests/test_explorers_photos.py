"""The reader's own photos. The pictures here are drawn: blocks of colour, and the toy worlds."""

import base64
import io
import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import dcal_lite as dl

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def stripes(*colours, side=40):
    """Squares of these colours, one below the other."""
    return Image.fromarray(np.repeat(np.array(colours, np.uint8)[:, None], side, axis=1).repeat(side, axis=0))


def as_file(image, kind="png", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_the_middle_window_of_the_models_shape_is_read():
    photo = stripes(RED, GREEN, GREEN, BLUE)  # 160 x 40
    images, pictures = dl.explorers.read_photos(as_file(photo), size=(32, 16), **HALF)
    inside = pictures[0, :, 1:-1]  # of 80 x 40 pixels in the middle; on its edge the filter reads beyond
    assert (inside == torch.tensor(GREEN)[:, None, None]).all()
    assert torch.equal(images, pictures / 127.5 - 1)
    _, wide = dl.explorers.read_photos(as_file(photo.rotate(90, expand=True)), size=(8, 32), **HALF)
    assert {tuple(pixel) for pixel in wide[0, :, 4].T.tolist()} >= {RED, GREEN, BLUE}


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_any_mode_is_read_and_turned_upright(tmp_path, mode):
    photo = stripes((255,) * 3, (0,) * 3)  # white above, black below
    exif = Image.Exif()
    exif[0x0112] = 3  # the camera was held upside down
    path = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    photo.convert(mode).save(path, exif=exif)
    _, pictures = dl.explorers.read_photos(path, str(path), size=(16, 8), **HALF)
    assert pictures.shape == (2, 3, 16, 8)
    assert (pictures[:, :, :7] == 0).all() and (pictures[:, :, 9:] == 255).all()


def test_what_is_no_photo_is_one_line(tmp_path, monkeypatch):
    read = partial(dl.explorers.read_photos, size=(8, 8), **HALF)
    with pytest.raises(ValueError, match="at least one photo expected"):
        read()
    with pytest.raises(ValueError, match=r"cannot read none\.jpg as an image \(.*No such file.*\): give a whole"):
        read("none.jpg")
    for content in (b"", b"hello", as_file(stripes(RED))[:60]):
        with pytest.raises(ValueError, match="cannot read this file as an image") as caught:
            read(content)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="exceeds limit"):
        read(as_file(stripes(RED)))


@pytest.fixture(scope="module")
def bird():
    """A model, and a drawn bird of its size."""
    model = dl.load_model("plumage-dcal")
    return model, dl.load_dataset("plumage", train=24, test=24)["test"].images(model.img_size)[:1]


def test_an_uploaded_photo_takes_the_place_of_the_drawn_one(bird):
    model, pictures = bird
    look = dict(zip(("mean", "std"), (dl.load_recipe("dcal-fgvc", preset="toy").mean,) * 2, strict=True))
    widget = dl.explorers.upload(partial(dl.explorers.rollout, model), pictures, **look).widget()
    first, photo = json.dumps(widget.data), as_file(stripes(RED, BLUE))
    widget.photo = "data:image/png;base64," + base64.b64encode(photo).decode()
    expected = dl.explorers.rollout(model, *dl.explorers.read_photos(photo, size=(64, 64), **look)).data
    assert widget.error == "" and widget.data == expected
    widget.photo = "data:image/png;base64,AAAA"
    assert widget.error.startswith("cannot read this file") and widget.data == expected
    widget.photo = "data:image/png;base64," + base64.b64encode(as_file(Image.fromarray(as_array(pictures)))).decode()
    assert widget.error == "" and json.dumps(widget.data) == first


def as_array(pictures):
    return pictures[0].permute(1, 2, 0).numpy()


@pytest.mark.browser
def test_the_browser_sends_a_photo_upright_and_not_too_large(bird, chromium, tmp_path):
    model, pictures = bird
    explorer = dl.explorers.upload(partial(dl.explorers.rollout, model), pictures, **HALF)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    (tmp_path / "photo.jpg").write_bytes(as_file(stripes(RED, BLUE, side=1500), "jpeg", exif=exif))
    (tmp_path / "photo.txt").write_text("hello")
    model_of_widget = f"""
        const state = {{ photo: "", error: "", data: {json.dumps(explorer.data)} }}, heard = {{}};
        const model = {{ get: (key) => state[key], set: (key, value) => {{ state[key] = value; }},
          on: (name, call) => {{ heard[name] = call; }}, save_changes: () => {{ window.sent = state.photo; }} }};
        window.refuse = (text) => {{ state.error = text; heard["change:error"](); }};
        render({{ model, el: document.body }});"""
    page = chromium.new_page()
    page.set_content(f'<!doctype html><body><script type="module">{explorer.module}{model_of_widget}</script>')
    button, says = page.get_by_label("your photo"), page.locator("output").first
    button.set_input_files(tmp_path / "photo.txt")
    says.filter(has_text="choose a JPEG or PNG file").wait_for()
    button.set_input_files(tmp_path / "photo.jpg")
    page.wait_for_function("window.sent")
    sent = Image.open(io.BytesIO(base64.b64decode(page.evaluate("sent").partition(",")[2]))).convert("RGB")
    assert sent.size == (1024, 512)
    left, right = (np.array(sent.getpixel((x, 256))) for x in (100, 900))
    assert abs(left - BLUE).max() < 10 and abs(right - RED).max() < 10
    assert says.inner_text() == ""
    page.evaluate("refuse('too dark')")
    assert says.inner_text() == "too dark"
    page.close()


@pytest.mark.browser
def test_a_page_has_no_button(bird, chromium):
    model, pictures = bird
    page = chromium.new_page()
    page.set_content(dl.explorers.upload(partial(dl.explorers.rollout, model), pictures, **HALF).to_html())
    page.locator(".says").wait_for()
    assert page.locator("input[type=file]").count() == 0
    page.close()


def test_real_weights_take_a_picture(shared_data):
    weights = shared_data / "weights" / "deit_tiny_patch16_224.fp16.safetensors"
    model = dl.create_model("dcal_deit_tiny_patch16_224", pretrained=weights)
    look = {key: model.backbone.pretrained_cfg[key] for key in ("mean", "std")}
    pictures = dl.load_dataset("plumage", train=24, test=24)["test"].images((224, 224))[:1]
    explorer = dl.explorers.upload(partial(dl.explorers.rollout, model), pictures, **look)
    assert [explorer.data[key] for key in ("layers", "heads", "grid")] == [12, 3, [14, 14]]
    received = np.frombuffer(base64.b64decode(explorer.data["images"][0]["maps"]), "<u2") / 65535
    np.testing.assert_allclose(received.reshape(12, 3, 197, 197).sum(axis=-1), 1, atol=197 / 65535)


def test_without_a_network_published_weights_are_one_line(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("dcal_deit_tiny_patch16_224", "rga_resnet50"):
        with pytest.raises(ValueError, match=r"cannot download .*: connect to a network, or pass pretrained='file"):
            dl.create_model(name, pretrained=True)
