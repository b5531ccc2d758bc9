"""Which number formats a machine computes fast, and what follows from that for a run."""

import os
import platform
from dataclasses import replace
from itertools import accumulate, cycle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import dcal_lite as dl
from dcal_lite import precision
from dcal_lite.precision import choose_precision, has_instructions
from dcal_lite.train import for_device
from tests.test_train import tiny_recipe

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CPUINFO = Path("/proc/cpuinfo")


@pytest.fixture
def knows(monkeypatch):
    """Lets this machine have instructions for the formats that it is given, and for no other."""

    def only(*formats):
        monkeypatch.setattr(precision, "has_instructions", lambda kind, device: kind in formats)
        monkeypatch.setattr(precision, "bf16_gain", lambda: 1.5)

    return only


@pytest.mark.skipif(platform.machine() != "x86_64" or not CPUINFO.is_file(), reason="reads Linux's list of x86 flags")
def test_the_processor_is_asked():
    flags = CPUINFO.read_text().partition("\nflags")[2].partition("\n")[0].split()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL")
    for kind, flag in (("bf16", "avx512_bf16"), ("fp16", "avx512_fp16")):
        assert has_instructions(kind, CPU) == (flag in flags and limit not in ("SSE41", "AVX", "AVX2"))


@pytest.mark.parametrize(
    ("asked", "device", "formats", "chosen"),
    [
        ("auto", CPU, ["bf16", "fp16"], "bf16"),
        ("auto", CPU, ["fp16"], "fp32"),
        ("auto", CUDA, ["bf16", "fp16"], "bf16"),
        ("auto", CUDA, ["fp16"], "fp16"),
        ("auto", torch.device("mps"), [], "fp32"),
        ("bf16", CPU, ["bf16"], "bf16"),
        ("fp32", CPU, [], "fp32"),
    ],
)
def test_what_is_chosen(asked, device, formats, chosen, knows):
    knows(*formats)
    assert choose_precision(asked, device) == chosen


def test_instructions_that_are_slow_are_left_alone(knows, monkeypatch):
    knows("bf16")
    monkeypatch.setattr(precision, "bf16_gain", lambda: 0.5)
    assert choose_precision("auto", CPU) == "fp32"
    assert choose_precision("auto", CUDA) == choose_precision("bf16", CPU) == "bf16"


def test_the_gain_is_seconds_in_float32_over_seconds_in_bfloat16(monkeypatch):
    clock = accumulate(cycle([0, 6, 0, 3])).__next__  # a product in float32 takes 6 s, one in bfloat16 3 s
    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=clock))
    assert precision.bf16_gain.__wrapped__() == 2


@pytest.mark.parametrize("asked", ["bf16", "fp16"])
def test_a_format_without_instructions_is_refused_before_anything_is_written(asked, knows, tmp_path):
    knows()
    message = f"no instructions for {asked}, .* slower than in fp32: set precision=fp32 or precision=auto"
    with pytest.raises(ValueError, match=message):
        dl.fit(tiny_recipe(precision=asked), output=tmp_path / "run", device="cpu", progress=False)
    assert not (tmp_path / "run").exists()
    dataset = dl.load_dataset("plumage", train=24, test=4)
    with pytest.raises(ValueError, match=message):
        dl.evaluate(dl.load_model("plumage-baseline"), dataset, precision=asked)


def test_what_auto_became_is_part_of_the_run(knows, tmp_path, monkeypatch):
    recipe = tiny_recipe(epochs=1, precision="auto")
    knows("bf16")
    run = dl.fit(recipe, output=tmp_path, device="cpu", progress=False)
    assert run.result["precision"] == "bf16" and run.result["digest"] == for_device(recipe, "cpu").digest
    assert dl.load_recipe(tmp_path / "recipe.yaml").precision == "bf16"
    assert "precision=bf16" in run.result["command"].split()
    monkeypatch.setattr(precision, "bf16_gain", lambda: 0.5)  # a run goes on as it began, whatever is measured now
    again = dl.fit(recipe, output=tmp_path, device="cpu", progress=False)
    assert for_device(recipe, "cpu").precision == "fp32" and again.result["precision"] == "bf16"
    knows()
    with pytest.raises(ValueError, match="no instructions for bf16"):
        dl.fit(recipe, output=tmp_path, device="cpu", progress=False)
    with pytest.raises(ValueError, match="holds a run of another recipe"):
        dl.fit(replace(recipe, lr=0.1), output=tmp_path, device="cpu", progress=False)


def test_no_preset_for_processors_asks_for_a_format_that_some_lack():
    """The names of presets say whom they are for: `paper` and `t4` are for GPUs."""
    recipes = [dl.load_recipe(name, preset=preset) for name, presets in dl.list_recipes().items() for preset in presets]
    assert {recipe.precision for recipe in recipes if recipe.preset not in ("paper", "t4")} == {"fp32", "auto"}
