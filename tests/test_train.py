"""The engine: exact resume, schedules, losses, errors. Runs are tiny: two blocks, a few drawn images."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from accelerate.tracking import GeneralTracker
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import dcal_lite as dl
from dcal_lite import optimisation
from dcal_lite.optimisation import Objective
from dcal_lite.train import _commit, _share_statistics

TIMES = ("seconds", "images_per_second", "waiting")
ROOT = str(Path(dl.__file__).parents[1])
THREADS = str(torch.get_num_threads())  # equal bits need equally many threads
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": THREADS, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ROOT}
TINY = {"batch_size": 16, "eval_batch_size": 64, "warmup_epochs": 0.0, "eval_every": 1}


def tiny_recipe(name="dcal-fgvc", **overrides):
    data = {"train": 64, "test": 32} if name == "dcal-fgvc" else {"train": 8, "test": 6, "strangers": 4}
    settings = {**TINY, "dataset_args": data, "drop_path": 0.2 if name.startswith("dcal") else 0.0}
    return dl.load_recipe(name, preset="smoke", **(settings | overrides))


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_equal_runs(one, other):
    assert weights(one).keys() == weights(other).keys()
    for key, value in weights(one).items():
        assert torch.equal(value, weights(other)[key]), key


@pytest.mark.parametrize("name", ["dcal-fgvc", "dcal-reid", "rga-reid", "hacnn-reid"])
def test_a_run_writes_its_folder_and_repeats_exactly(name, tmp_path):
    recipe = tiny_recipe(name)
    runs = [dl.fit(recipe, output=tmp_path / str(i), progress=False) for i in range(2)]
    assert_equal_runs(*(run.folder for run in runs))
    folder = runs[0].folder
    assert sorted(p.name for p in folder.iterdir()) == [
        "last", "metrics.jsonl", "model.safetensors", "recipe.yaml", "result.json"]  # fmt: skip
    assert dl.load_recipe(folder / "recipe.yaml") == recipe
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2] and rows == runs[0].history
    result = json.loads((folder / "result.json").read_text())
    score = "top1" if name == "dcal-fgvc" else "mAP"
    assert result["scores"][score] == rows[-1][score] and result["losses"]["total"] == rows[-1]["loss/total"]
    assert str(tmp_path) not in (folder / "result.json").read_text() + (folder / "recipe.yaml").read_text()
    dataset = dl.load_dataset(recipe.dataset, **recipe.dataset_args)
    again = dl.evaluate(dl.load_model(folder / "model.safetensors"), dataset, **recipe.evaluation())
    assert again[score] == pytest.approx(rows[-1][score])


def test_another_seed_is_another_run(tmp_path):
    runs = [dl.fit(tiny_recipe(epochs=1, seed=s), output=tmp_path / str(s), progress=False) for s in (0, 1)]
    assert any(not torch.equal(v, weights(runs[1].folder)[k]) for k, v in weights(runs[0].folder).items())


def test_a_stopped_run_resumes_to_the_same_bits(tmp_path, monkeypatch):
    recipe = tiny_recipe(epochs=3)
    dl.fit(recipe, output=tmp_path / "whole", progress=False)
    original = dl.train.Trainer.run_epoch

    def interrupted(self):
        if self.epoch == 2:
            raise KeyboardInterrupt
        original(self)

    monkeypatch.setattr(dl.train.Trainer, "run_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dl.fit(recipe, output=tmp_path / "stopped", progress=False)
    assert not (tmp_path / "stopped" / "result.json").exists()
    monkeypatch.setattr(dl.train.Trainer, "run_epoch", original)
    run = dl.fit(recipe, output=tmp_path / "stopped", progress=False)
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_stopped_within_an_epoch_resumes_to_the_same_bits(tmp_path, monkeypatch):
    recipe = tiny_recipe("dcal-reid", epochs=2)
    whole = dl.fit(recipe, output=tmp_path / "whole", progress=False)
    original, left = dl.train.Trainer._step, [7]

    def interrupted(self, *arguments):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(dl.train.Trainer, "_step", interrupted)
    for steps in (10, 2):  # the second run is stopped, too
        left[0] = steps
        with pytest.raises(KeyboardInterrupt):
            dl.fit(recipe, output=tmp_path / "stopped", progress=False, save_minutes=0.0)
    names = sorted(path.name for path in (tmp_path / "stopped" / "last").iterdir())
    assert names[-1].startswith("epoch-0001-step-") and not names[-1].endswith("-000000.pt")
    monkeypatch.setattr(dl.train.Trainer, "_step", original)
    run = dl.fit(recipe, output=tmp_path / "stopped", progress=False)
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")
    for row, expected in zip(run.history, whole.history, strict=True):
        assert {k: v for k, v in row.items() if k not in TIMES} == {k: v for k, v in expected.items() if k not in TIMES}


def test_workers_change_nothing(tmp_path):
    recipe = tiny_recipe(epochs=1)
    for workers in (0, 2):
        dl.fit(recipe, output=tmp_path / str(workers), workers=workers, progress=False)
    assert_equal_runs(tmp_path / "0", tmp_path / "2")


def whole_batches():
    """A recipe whose models see no other image of the batch: no BatchNorm, no pairs, no triplets."""
    return tiny_recipe(
        epochs=2, drop_path=0.0, erase=0.5, optimizer="sgd", lr=0.02, **{"model_args.branches": ["sa", "glca"]}
    )


DOUBLE = """
import json, sys, torch
from torch.distributed.nn.functional import all_gather
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
import dcal_lite as dl
from dcal_lite import train
from dcal_lite.data.transforms import augment
from dcal_lite.models import create_model

class Whole(_BatchNorm):  # does what SyncBatchNorm does, which refuses CPUs
    def _check_input_dim(self, x):
        pass

    def forward(self, x):
        return super().forward(torch.cat(all_gather(x))).split(len(x))[torch.distributed.get_rank()].clone()

def share(objective, processes, device, original=train._share_statistics):
    original(objective, processes, torch.device("cuda"))
    for part in objective.modules():
        if isinstance(part, SyncBatchNorm):
            part.__class__ = Whole

torch.Tensor.float = torch.Tensor.double  # also where the library asks for float32
train.create_model = lambda **k: create_model(**k).double()
train.augment = lambda *a, **k: augment(*a, **k).double()
train.evaluate = lambda *a, **k: {"top1": 0.0}
if "--as-on-gpus" in sys.argv:
    train._share_statistics = share
run = dl.fit(dl.load_recipe(sys.argv[1]), output=sys.argv[2], progress=False)
"""


def in_float64(folder, recipe, processes, *options):
    """The history and weights of a run in float64, in a process of its own or in several."""
    folder.mkdir()
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    (folder / "script.py").write_text(DOUBLE)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] * (processes > 1)
    words = [str(folder / "script.py"), str(folder / "recipe.yaml"), str(folder / "run"), *options]
    done = subprocess.run([sys.executable, *launch, *words], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return rows, weights(folder / "run")


def assert_equal_losses(rows, others):
    for row, expected in zip(rows, others, strict=True):
        for name in (name for name in expected if name.startswith("loss/")):
            assert row[name] == pytest.approx(expected[name], rel=1e-6), name


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.posix
def test_two_processes_do_what_one_does(pairs, tmp_path):
    """Without pairs, the same as one process with whole batches; with them, as one that computes batches in halves."""
    recipe = tiny_recipe("dcal-reid", epochs=1) if pairs else whole_batches()
    if pairs:  # BNNeck's training-mode BatchNorm is over a part, too
        recipe = replace(recipe, triplet=("sa",))
    one = in_float64(tmp_path / "one", replace(recipe, accumulate=2) if pairs else recipe, 1)
    two = in_float64(tmp_path / "two", recipe, 2)
    assert_equal_losses(two[0], one[0])
    if not pairs:  # running statistics are those of the first process's part
        for name, value in two[1].items():
            torch.testing.assert_close(value, one[1][name], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_two_gpus_do_what_one_does_with_batchnorm_too(tmp_path):
    """Losses, weights and running statistics; a batch is computed in two parts, of which each process has a half."""
    recipe = tiny_recipe("rga-reid", epochs=1, accumulate=2, optimizer="sgd", lr=0.02)
    one = in_float64(tmp_path / "one", recipe, 1)
    two = in_float64(tmp_path / "two", recipe, 2, "--as-on-gpus")
    assert_equal_losses(two[0], one[0])
    for name, value in two[1].items():
        torch.testing.assert_close(value, one[1][name], rtol=1e-4, atol=1e-5)  # unshared, they differ by 1 and more


@pytest.mark.parametrize("name", ["dcal-reid", "rga-reid", "hacnn-reid"])
def test_statistics_are_shared_on_several_gpus_only(name):
    """The same parameters under the same names, for the optimiser and the file hold them; the same evaluation."""
    recipe = tiny_recipe(name)
    model = dl.create_model(recipe.model, num_classes=5, img_size=recipe.img_size, **recipe.model_args).eval()
    objective, images = Objective(recipe, model), torch.randn(2, 3, *recipe.img_size)
    state, embedding = model.state_dict(keep_vars=True), model(images).embedding
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm)]
    for processes, device in ((1, "cuda"), (2, "cpu"), (2, "cuda")):
        assert not any(isinstance(part, nn.SyncBatchNorm) for part in model.modules())
        _share_statistics(objective, processes, torch.device(device))
    found = [part for part in model.modules() if isinstance(part, _BatchNorm)]
    assert len(found) == len(norms) > 0 and all(isinstance(part, nn.SyncBatchNorm) for part in found)
    assert {key: id(value) for key, value in state.items()} == {
        key: id(value) for key, value in model.state_dict(keep_vars=True).items()
    }
    assert torch.equal(model(images).embedding, embedding)


LAUNCHED = """
import sys
import dcal_lite as dl
from accelerate import notebook_launcher
recipe, folder = dl.load_recipe(sys.argv[1]), sys.argv[3]
notebook_launcher(lambda: dl.fit(recipe, output=folder, progress=False), num_processes=2)
"""


@pytest.mark.posix
@pytest.mark.parametrize("launcher", ["accelerate", pytest.param("notebook", marks=pytest.mark.slow)])
def test_accelerates_launchers_start_two_processes(launcher, tmp_path):
    recipe = whole_batches()
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    launch = ["-c", LAUNCHED]
    if launcher == "accelerate":
        launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "dcal_lite", "train"]
    words = [*launch, str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, *words], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written to") == (launcher == "accelerate")  # not by each of them
    run = tmp_path / "run"
    assert json.loads((run / "result.json").read_text())["processes"] == 2
    losses = [json.loads(line)["loss/total"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    alone = dl.fit(recipe, output=tmp_path / "alone", device="cpu", progress=False)
    assert losses == pytest.approx([row["loss/total"] for row in alone.history], rel=1e-5)


def test_parts_have_the_gradient_of_the_whole_batch(tmp_path):
    recipe = whole_batches()
    one, four = (dl.fit(replace(recipe, accumulate=n), output=tmp_path / str(n), progress=False) for n in (1, 4))
    for row, expected in zip(four.history, one.history, strict=True):
        assert row["loss/total"] == pytest.approx(expected["loss/total"], rel=1e-5)
    for name, value in weights(four.folder).items():
        torch.testing.assert_close(value, weights(one.folder)[name], rtol=1e-3, atol=1e-5)


def test_a_batch_must_divide_into_its_parts(tmp_path):
    with pytest.raises(ValueError, match="batch_size divisible by 24 expected, got 16: it is computed in 6 parts"):
        dl.fit(tiny_recipe("dcal-reid", accumulate=6), output=tmp_path, progress=False)


def test_recomputed_blocks_give_the_same_bits(tmp_path):
    recipe = tiny_recipe(epochs=1)
    for kept in (True, False):
        dl.fit(replace(recipe, checkpoint_blocks=not kept), output=tmp_path / str(kept), progress=False)
    assert_equal_runs(tmp_path / "True", tmp_path / "False")
    with pytest.raises(ValueError, match="ResNetRGA has no transformer blocks: set checkpoint_blocks=false"):
        dl.fit(tiny_recipe("rga-reid", checkpoint_blocks=True), output=tmp_path / "cnn", progress=False)


def test_a_negative_total_is_explained_once(tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", "dcal_lite")
    small = {"sa": 1e-3, "glca": 1e-3, "pwca": 1e-3}  # losses, as after long training
    losses = optimisation.branch_losses
    monkeypatch.setattr(optimisation, "branch_losses", lambda *a: {k: v * small[k] for k, v in losses(*a).items()})
    run = dl.fit(tiny_recipe(lr=0.01, optimizer="adamw"), output=tmp_path, progress=False)
    assert all(row["loss/total"] < 0 for row in run.history)
    assert [record.message.count("no error") for record in caplog.records].count(1) == 1
    assert "an epoch is 4 iterations of 16 images: nearly all images of the 64" in caplog.text


def test_a_full_memory_names_what_needs_less(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")

    monkeypatch.setattr(dl.train.Trainer, "_step", full)
    with pytest.raises(torch.OutOfMemoryError, match=r"preset=t4, or add accumulate=2, .*\(CUDA out of memory\)"):
        dl.fit(tiny_recipe(), output=tmp_path, progress=False)


def test_a_tracker_gets_every_row(tmp_path, monkeypatch):
    class Kept(GeneralTracker):
        name, requires_logging_directory, tracker = "kept", False, None
        rows: ClassVar[list] = []

        def store_init_configuration(self, values):
            self.rows.append(values["lr"])

        def log(self, values, step=None, **_):
            self.rows.append((step, values["loss/total"]))

    run = dl.fit(tiny_recipe(), output=tmp_path / "kept", tracker=Kept(), progress=False)
    assert Kept.rows == [str(tiny_recipe().lr), *((row["epoch"], row["loss/total"]) for row in run.history)]


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    with (
        pytest.warns(UserWarning, match="no supported trackers"),
        pytest.raises(ValueError, match="the package of the tracker 'tensorboard' is missing: install it"),
    ):
        dl.fit(tiny_recipe(), output=tmp_path, tracker="tensorboard", progress=False)
    assert not list(tmp_path.iterdir())


def test_the_notebook_is_told_of_every_epoch(tmp_path):
    lengths = []
    dl.fit(tiny_recipe(), output=tmp_path, on_epoch=lambda history: lengths.append(len(history)), progress=False)
    assert lengths == [1, 2]


KILLER = """
import os, random, signal, sys, time, torch
import dcal_lite as dl
recipe, folder, kills = dl.load_recipe(sys.argv[1]), sys.argv[2], int(sys.argv[3])
chance, done = random.Random(int(sys.argv[4])), 0
while True:
    child = os.fork()  # the import has been paid for
    if child == 0:
        dl.fit(recipe, output=f"{folder}/{done}", save_minutes=0.0, progress=False)
        os._exit(0)
    if kills > 0:
        time.sleep(chance.uniform(0.0, 1.0))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        kills -= 1
    elif status:
        sys.exit(1)
    elif kills > 0:
        done += 1  # it was faster: another run
    else:
        break
"""


@pytest.mark.posix
@pytest.mark.parametrize("kills", [4, pytest.param(1000, marks=pytest.mark.slow)])
def test_killed_runs_resume_to_the_same_bits(kills, tmp_path, rng):
    """kill -9 at random moments, also while a checkpoint is written: the same weights as the run nobody touched."""
    recipe = tiny_recipe(epochs=2, eval_every=0, accumulate=2)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    dl.fit(recipe, output=tmp_path / "whole", progress=False)
    numbers = str(kills), str(rng.integers(2**31))
    command = [sys.executable, "-c", KILLER, str(tmp_path / "recipe.yaml"), str(tmp_path / "runs"), *numbers]
    subprocess.run(command, check=True, env=ENVIRONMENT)
    for folder in (tmp_path / "runs").iterdir():
        assert_equal_runs(tmp_path / "whole", folder)
        assert not list(folder.rglob("*.tmp"))


FULL = """
import resource, signal, sys, torch
from dcal_lite.__main__ import main
from dcal_lite.train import Trainer
original = Trainer.run_epoch

def run_epoch(self):
    if self.epoch == 1:  # as if the disk had become full
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    original(self)

Trainer.run_epoch = run_epoch
sys.exit(main(["train", sys.argv[1], "--output", sys.argv[2]]))
"""


@pytest.mark.posix
def test_a_full_disk_costs_no_run(tmp_path):
    recipe = tiny_recipe(epochs=2, eval_every=0)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    command = [sys.executable, "-c", FULL, str(tmp_path / "recipe.yaml"), str(tmp_path / "full")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2 and "is the disk full?" in done.stderr.splitlines()[-1]
    assert [path.name for path in (tmp_path / "full" / "last").iterdir()] == ["epoch-0001-step-000000.pt"]
    for folder in ("whole", "full"):
        dl.fit(recipe, output=tmp_path / folder, progress=False)
    assert_equal_runs(tmp_path / "whole", tmp_path / "full")


def test_another_recipe_in_the_same_folder_is_refused(tmp_path):
    dl.fit(tiny_recipe(epochs=1), output=tmp_path, progress=False)
    with pytest.raises(ValueError, match="a run of another recipe"):
        dl.fit(tiny_recipe(epochs=1, seed=1), output=tmp_path, progress=False)


def test_a_run_goes_on_that_was_started_before_a_setting_existed(tmp_path):
    dl.fit(tiny_recipe(epochs=1), output=tmp_path, progress=False)
    saved = tmp_path / "recipe.yaml"
    saved.write_text(saved.read_text().replace("weighting: uncertainty\n", ""))
    dl.fit(tiny_recipe(epochs=1), output=tmp_path, progress=False)


def test_without_git_a_result_has_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    assert _commit() is None


def test_nan_names_the_step_and_keeps_the_checkpoint(tmp_path):
    recipe = tiny_recipe(epochs=3)
    original = dl.train.Trainer.run_epoch

    def poisoned(self):
        if self.epoch == 1:
            next(self.model.parameters()).data.fill_(float("nan"))
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dl.train.Trainer, "run_epoch", poisoned)
        with pytest.raises(FloatingPointError, match=r"not finite in epoch 2, step 1 .*sa nan.*lower lr"):
            dl.fit(recipe, output=tmp_path, progress=False)
    assert [p.name for p in (tmp_path / "last").iterdir()] == ["epoch-0001-step-000000.pt"]
    assert len(dl.fit(recipe, output=tmp_path, progress=False).history) == 3


def test_a_missing_or_foreign_weight_file_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"'none\.safetensors' not found"):
        dl.fit(tiny_recipe(), weights=tmp_path / "none.safetensors", output=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_losses_are_summed_where_the_recipe_says(tmp_path):
    (row,) = dl.fit(tiny_recipe("hacnn-reid", epochs=1), output=tmp_path, progress=False).history
    assert row["loss/total"] == pytest.approx(row["loss/global"] + row["loss/local"], rel=1e-6)
    assert not [key for key in row if key.startswith("w/")]


def test_uncertainty_weights_are_learned(tmp_path):
    run = dl.fit(tiny_recipe(), output=tmp_path, progress=False)
    assert all(abs(run.history[-1][f"w/{branch}"]) > 1e-4 for branch in ("sa", "glca", "pwca"))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_trains_on_a_gpu(precision, tmp_path):
    run = dl.fit(tiny_recipe("dcal-reid", precision=precision), output=tmp_path, progress=False, device="cuda")
    assert run.result["device"] == torch.cuda.get_device_name()
