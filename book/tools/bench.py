"""`make bench`: what the algebra saves, as ratios of two ways to the same answer, measured in one run.

Every bench is a function that returns rows; `BENCHES` lists them. Times are medians of interleaved runs, in seconds.
On one thread they are processor time, which other programs disturb less than the clock's (on an idle machine they are
the same); on more threads they are the clock's. Files are in the system's memory, not on a slow disk. Peak memory is
what PyTorch's and NumPy's allocators report: the same in every run, and what `torch.cuda.max_memory_allocated` says on
a GPU. Scratch space of the matrix product and pages of a mapped file, which the system may drop, aren't in it.
"""

import argparse
import json
import platform
import re
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Generator, Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torchvision import transforms
from torchvision.transforms import v2

import dcal_lite as dl
from book.tools.plain import RGA_STAGES, AffinityRGA, pwca_materialised, reranked_distances
from dcal_lite.attention_rollout import row_chain
from dcal_lite.backbones import attention_for, create_backbone
from dcal_lite.checkpoint import write_json
from dcal_lite.data import Record, Split
from dcal_lite.data.records import Files
from dcal_lite.data.transforms import augment
from dcal_lite.metrics import rank_metrics, rank_metrics_from_distances
from dcal_lite.precision import has_instructions
from dcal_lite.rga import from_official
from dcal_lite.train import Trainer, _commit


class Row(TypedDict):
    """One comparison: seconds of the plain way and of ours, and their ratio; peak memory in MiB likewise."""

    name: str
    plain: float
    ours: float
    ratio: float
    memory_plain: float
    memory_ours: float
    memory: float
    threads: int


def compare(name: str, plain: Callable[[], object], ours: Callable[[], object], *, repeats: int = 5) -> Row:
    """Time two functions in turns, then measure each one's peak memory in a process of its own."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[Callable, list[float]] = {plain: [], ours: []}
    for _ in range(repeats):
        for function, times in seconds.items():
            start = clock()
            function()
            times.append(clock() - start)
    a, b = (statistics.median(times) for times in seconds.values())
    memory_a, memory_b = peak_memory(plain), peak_memory(ours)
    return Row(name=name, plain=a, ours=b, ratio=a / b, memory_plain=memory_a, memory_ours=memory_b,
               memory=memory_a / memory_b, threads=torch.get_num_threads())  # fmt: skip


def has_bf16() -> bool:
    """Whether this processor has instructions for bfloat16; without, a step in it takes minutes."""
    return has_instructions("bf16", torch.device("cpu"))


def peak_memory(function: Callable[[], object]) -> float:
    """Most memory that the tensors and arrays of `function` take at once, in MiB; its inputs don't count."""
    with tempfile.TemporaryDirectory() as folder:
        tracemalloc.start()  # sees NumPy's arrays
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:  # sees tensors
            function()
        arrays = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        record.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    memory = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    totals = [e["args"]["Total Allocated"] for e in memory] or [0]
    before = totals[0] - memory[0]["args"]["Bytes"] if memory else 0  # what earlier profiled calls left
    return (max(totals) - before + arrays) / 2**20


# --- Scores of a ranking: counting against sorting ---


class Size(NamedTuple):
    """How many images a re-ID benchmark has, and how mixed they are."""

    seen: tuple[int, ...]  # identities that 2, 3, 4, ... cameras saw; a query for each identity and camera
    gallery: int
    others: int  # of these, images of nobody in the queries
    cameras: int


MARKET = Size((45, 105, 210, 217, 173), 15_913, 2_798, 6)  # 750 identities, 3,368 queries
MARKET_JUNK = MARKET._replace(gallery=19_732, others=6_617)  # as published, with 3,819 images that don't count
MSMT17 = Size((600, 800, 700, 501, 459), 82_161, 0, 15)  # 3,060 identities, 11,659 queries


@lru_cache(maxsize=1)
def benchmark(size: Size) -> tuple[Tensor, Tensor, list[np.ndarray]]:
    """Random features of 768 numbers, identities and cameras; the gallery is sorted by identity, as in a folder."""
    rng = np.random.default_rng(0)
    seen = np.repeat(np.arange(2, len(size.seen) + 2), size.seen)
    pairs = [(i, c) for i, n in enumerate(rng.permutation(seen), start=1) for c in rng.permutation(size.cameras)[:n]]
    query_ids, query_cams = np.array(sorted(pairs)).T
    images = rng.multinomial(size.gallery - size.others - len(pairs), rng.dirichlet(np.full(len(pairs), 1.5))) + 1
    gallery_ids = np.concatenate([np.zeros(size.others, dtype=int), np.repeat(query_ids, images)])
    gallery_cams = np.concatenate([rng.integers(0, size.cameras, size.others), np.repeat(query_cams, images)])
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(n, 768, generator=generator) for n in (len(query_ids), len(gallery_ids))]
    return *features, [query_ids, gallery_ids, query_cams, gallery_cams]


def euclidean(query: Tensor, gallery: Tensor) -> Tensor:
    """Squared distances by one matrix product, as fast-reid and TransReID make them."""
    squares = query.square().sum(dim=1, keepdim=True) + gallery.square().sum(dim=1)
    return squares.addmm_(query, gallery.T, alpha=-2)


def by_argsort(
    distances: Tensor, query_ids: np.ndarray, gallery_ids: np.ndarray, query_cams: np.ndarray, gallery_cams: np.ndarray
) -> tuple[float, float]:
    """mAP and rank-1 from the full ranking, without a loop over queries."""
    order = np.argsort(distances.numpy(), axis=1)
    match = gallery_ids[order] == query_ids[:, None]
    keep = ~(match & (gallery_cams[order] == query_cams[:, None]))
    match &= keep
    rank, found = np.cumsum(keep, axis=1), np.cumsum(match, axis=1)
    average_precision = np.where(match, found / np.maximum(rank, 1), 0).sum(axis=1) / found[:, -1]
    first = np.where(match, rank, rank.shape[1] + 1).min(axis=1)
    return average_precision.mean().item(), (first == 1).mean().item()


def ranking() -> list[Row]:
    """Counting against argsort with vectorised AP, given distances and from features.

    At the size of MSMT17 every 16th query is ranked: argsort's matrices for all of them take 30 GB. The time of both
    ways is proportional to the queries; the memory of counting isn't, so the ratio of memory is larger for all.
    """
    return [*_ranking(MARKET), *_ranking(MSMT17, step=16)]


def _ranking(size: Size, step: int = 1) -> list[Row]:
    query, gallery, (query_ids, gallery_ids, query_cams, gallery_cams) = benchmark(size)
    query, labels = query[::step], [query_ids[::step], gallery_ids, query_cams[::step], gallery_cams]
    distances = euclidean(query, gallery)
    expected, (mean_ap, rank1) = rank_metrics_from_distances(distances, *labels), by_argsort(distances, *labels)
    assert abs(expected.mAP - mean_ap) < 1e-6  # argsort breaks ties as it likes
    assert abs(expected.cmc[0] - rank1) < 2e-3
    name = f"ranking scores, {len(query)} x {len(gallery)}, "
    name += "distances given" if step == 1 else f"1 query of {step}"
    repeats = 5 if step == 1 else 3
    given = compare(
        name,
        partial(by_argsort, distances, *labels),
        partial(rank_metrics_from_distances, distances, *labels),
        repeats=repeats,
    )
    del distances
    made = compare(
        f"  from {query.shape[1]}-d features",
        lambda: by_argsort(euclidean(query, gallery), *labels),
        lambda: rank_metrics(query, gallery, *labels),
        repeats=repeats,
    )
    return [given, made]


def reranking() -> list[Row]:
    """Sparse re-ranking against the dense definition, and what it costs at the size of Market-1501 with all junk."""
    query, gallery, labels = benchmark(MARKET_JUNK)
    centres = torch.randn(751, 768, generator=torch.Generator().manual_seed(1)) / 2  # images of a person are alike
    centres[0] = 0
    query, gallery = (x + centres[ids] for x, ids in zip((query, gallery), labels[:2], strict=True))
    q, g = (x[(ids > 0) & (ids <= 240)] for x, ids in zip((query, gallery), labels[:2], strict=True))

    def dense(dtype: torch.dtype = torch.float32) -> np.ndarray:
        both = torch.cat([q, g]).to(dtype)
        return reranked_distances(euclidean(both, both).numpy(), len(q), 20, 6, 0.3)

    # In float32 the two ways round distances differently, and so find other neighbours here and there.
    np.testing.assert_allclose(dl.rerank(q.double(), g.double()).numpy(), dense(torch.float64), rtol=0, atol=1e-6)
    sparse = compare(f"re-ranking, {len(q)} + {len(g)} images", dense, lambda: dl.rerank(q, g), repeats=3)
    cost = compare(
        f"{len(query)} x {len(gallery)}: re-ranked / not",
        lambda: rank_metrics_from_distances(dl.rerank(query, gallery), *labels),
        lambda: rank_metrics(query, gallery, *labels),
        repeats=1,
    )
    return [sparse, cost]


# --- Attention: a row instead of a matrix, a reshape instead of copies ---


def rollout() -> list[Row]:
    """The class token's row of the rollout: the row chain against the product of all layers, on the same maps."""
    generator = torch.Generator().manual_seed(0)
    layers = torch.randn(12, 8, 197, 197, generator=generator).mul_(3).softmax(dim=-1).unbind()  # heads averaged

    def product() -> Tensor:
        flow = dl.mix_residual(layers[0])
        for layer in layers[1:]:
            flow = dl.mix_residual(layer) @ flow
        return flow[:, 0]

    def chain() -> Tensor:
        return row_chain(reversed(layers))

    torch.testing.assert_close(chain(), product())
    return [compare("rollout of the class token, DeiT-Tiny, N=197, batch 8", product, chain, repeats=11)]


def pairs() -> list[Row]:
    """PWCA forward and backward: self-attention on the pair view against concatenated keys and values."""
    return [_pairs(size=224, batch=32), _pairs(size=448, batch=8)]  # timm's size, the paper's for birds


def _pairs(size: int, batch: int) -> Row:
    vit = create_backbone("deit_tiny_patch16_224", img_size=size)
    layer, count = vit.blocks[0].attn, vit.pos_embed.shape[1]
    tokens = torch.randn(batch, count, 192, generator=torch.Generator().manual_seed(0), requires_grad=True)
    partner = torch.arange(batch).view(-1, 2).flip(1).flatten()

    def materialised() -> Tensor:
        return torch.autograd.grad(pwca_materialised(layer, tokens, partner).square().sum(), tokens)[0]

    def viewed() -> Tensor:
        return torch.autograd.grad(dl.unpair_view(layer(dl.pair_view(tokens))).square().sum(), tokens)[0]

    row = compare(f"PWCA layer, DeiT-Tiny, N={count}, batch {batch}, gradients", materialised, viewed, repeats=7)
    torch.testing.assert_close(viewed(), materialised())
    return row


# --- Convolutional networks: relations without the affinity, and the memory formats ---


def training_step(model: nn.Module, images: Tensor, *, half: bool = False) -> Callable[[], None]:
    """Forward, backward and update by SGD on the sum of squared features."""
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-9)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            features = model(images).features
        sum(f.float().square().sum() for f in features.values()).backward()
        optimizer.step()

    return step


def gradients(module: nn.Module, x: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
    """Forward and backward: the gradients of the input and of all parameters."""
    return torch.autograd.grad(module(x), [x, *module.parameters()], cotangent)


def rga() -> list[Row]:
    """RGA-SC with its affinity and without: each stage of ResNet-50 with gradients, then whole training steps."""
    rows, plains = [], []
    for stage, (channels, size) in enumerate(RGA_STAGES, start=1):
        plain, ours = AffinityRGA(channels, size[0] * size[1]), dl.RGA(channels, size)
        ours.load_state_dict(from_official(plain.state_dict()))
        x = torch.randn(8, channels, *size, generator=torch.Generator().manual_seed(0), requires_grad=True)
        with torch.no_grad():
            torch.testing.assert_close(ours.eval()(x), plain.eval()(x), rtol=1e-3, atol=1e-3)
        cotangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        step = [partial(gradients, module.train(), x, cotangent) for module in (plain, ours)]
        rows.append(compare(f"RGA-SC, stage {stage} of ResNet-50, with gradients, batch 8", *step, repeats=3))
        plains.append(plain)
    images = torch.randn(8, 3, 256, 128, generator=torch.Generator().manual_seed(0))
    models = [dl.create_model("rga_resnet50", variant=v) for v in (None, "sc", None)]
    models[0].attention = nn.ModuleList(plains)
    formats = ((False, False), (True, False), (True, True))  # `dl.fit` trains as in the second
    for last, half in formats if has_bf16() else formats[:2]:
        if last:
            images = images.contiguous(memory_format=torch.channels_last)
            models = [model.to(memory_format=torch.channels_last) for model in models]
        plain, ours, without = (training_step(model, images, half=half) for model in models)
        name = ", ".join(["RGA-SC ResNet-50, step"] + ["channels_last"] * last + ["bfloat16"] * half)
        rows.append(compare(name, plain, ours))
        rows.append(compare("  its cost: with RGA-SC / without", ours, without))
    return rows


def hacnn() -> list[Row]:
    """HA-CNN's training step: contiguous float32 against channels_last, and against bfloat16."""
    images = torch.randn(32, 3, 160, 64, generator=torch.Generator().manual_seed(0))
    across = images.contiguous(memory_format=torch.channels_last)
    plain, last, half = (dl.create_model("hacnn") for _ in range(3))
    last, half = (model.to(memory_format=torch.channels_last) for model in (last, half))
    steps = training_step(plain, images), training_step(last, across), training_step(half, across, half=True)
    rows = [compare("HA-CNN training step, batch 32: channels_last", steps[0], steps[1])]
    return [*rows, compare("  and bfloat16", steps[0], steps[2])] if has_bf16() else rows


# --- Training: the engine's steps, and what a checkpoint costs ---


def training() -> list[Row]:
    """A training step of each model as `dl.fit` takes it, in float32 and in bfloat16; images/s is batch / seconds."""
    rows = []
    if not has_bf16():
        return rows
    for name, size, batch in (
        ("dcal_deit_tiny_patch16_224", (256, 128), 16), ("rga_resnet50", (256, 128), 8), ("hacnn", (160, 64), 32)
    ):  # fmt: skip
        images = torch.randn(batch, 3, *size, generator=Generator().manual_seed(0))
        images = images.contiguous(memory_format=torch.channels_last)
        models = [dl.create_model(name, img_size=size).to(memory_format=torch.channels_last) for _ in range(3)]
        whole, fused, half = (
            training_step(m, images, half=h) for m, h in zip(models, (False, True, True), strict=True)
        )
        with attention_for(models[2], "bf16"):
            rows.append(compare(f"{name}, batch {batch}: step in fp32, in bf16", whole, half, repeats=3))
            if name.startswith("dcal"):
                rows.append(compare("  in bf16: attention fused, written out", fused, half, repeats=3))
    return rows


def saving() -> list[Row]:
    """An epoch of DCAL on Promenade against the checkpoint after it: the ratio says what resuming costs."""
    recipe = dl.load_recipe("dcal-reid", preset="toy")
    dataset = dl.load_dataset(recipe.dataset, train=60, test=2, strangers=0)
    model = dl.create_model(recipe.model, num_classes=60, img_size=recipe.img_size, **recipe.model_args)
    with tempfile.TemporaryDirectory() as folder:
        cpu = torch.device("cpu")
        trainer = Trainer(replace(recipe, eval_every=0), model, dataset, Path(folder), Accelerator(), cpu)
        name = f"an epoch of DCAL on {len(dataset['train'])} drawn images / its checkpoint"
        return [compare(name, trainer.run_epoch, trainer.save, repeats=3)]


# --- Data: decoding once against every epoch, augmenting batches against images ---

SIZE, BATCH = (256, 128), 64  # of re-ID recipes


def people() -> Split:
    """2,000 drawn images of 64 x 128 pixels, the size of Market-1501's."""
    return dl.load_dataset("promenade", size=(128, 64), train=125, test=1, strangers=0)["train"]


def reading() -> list[Row]:
    """An epoch of batches from JPEG files, decoded again and from the cache; `--threads` counts decoders, too."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = people()
        records = tuple(Record(f"{i}.jpg", record.label) for i, record in enumerate(drawn.records))
        for record, original in zip(records, drawn.records, strict=True):
            Image.fromarray(drawn.read(original)).save(Path(folder, record.source), quality=90)
        return _reading(Split(records, Files(Path(folder)), threads=torch.get_num_threads()), Path(folder, "cache"))


def _reading(split: Split, cache: Path) -> list[Row]:
    batches = torch.randperm(len(split), generator=Generator().manual_seed(0)).split(BATCH)
    kept = split.images(SIZE, cache=cache)

    def decoded() -> list[int]:
        return [split.subset(batch.numpy()).images(SIZE)[0].sum().item() for batch in batches]

    def gathered(images: Tensor = kept) -> list[int]:
        return [images.index_select(0, batch)[0].sum().item() for batch in batches]

    def made() -> list[int]:
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            return gathered(split.images(SIZE, cache=folder))

    assert gathered() == decoded()
    name = f"an epoch of {len(split)} JPEG files"
    return [
        compare(f"{name}: decoded, cached", decoded, gathered, repeats=3),
        compare(
            "  with the opening of the cache", decoded, lambda: gathered(split.images(SIZE, cache=cache)), repeats=3
        ),
        compare("  with the making of the cache", decoded, made, repeats=3),
    ]


def augmentation() -> list[Row]:
    """A re-ID recipe's batch from uint8 images: ours, and torchvision's transforms image by image."""
    images = people().subset(range(BATCH)).images(SIZE)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    mean = std = (0.5, 0.5, 0.5)
    ours = partial(augment, images, SIZE, Generator().manual_seed(0), mean=mean, std=std)
    steps = [transforms.RandomHorizontalFlip(), transforms.Pad(10), transforms.RandomCrop(SIZE), transforms.ToTensor(),
             transforms.Normalize(mean, std), transforms.RandomErasing(value="random")]  # fmt: skip
    v2_steps = [v2.RandomHorizontalFlip(), v2.Pad(10), v2.RandomCrop(SIZE), v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean, std), v2.RandomErasing(value="random")]  # fmt: skip
    pipelines = transforms.Compose(steps), v2.Compose(v2_steps)
    plain, tensors = (
        lambda: torch.stack([pipelines[0](picture) for picture in pictures]),
        lambda: torch.stack([pipelines[1](image) for image in images]),
    )
    name = f"augmentation, batch {BATCH}"
    return [
        compare(f"{name}: torchvision on PIL, ours", plain, ours, repeats=21),
        compare(f"{name}: torchvision v2 on tensors, ours", tensors, ours, repeats=21),
    ]


BENCHES: dict[str, Callable[[], list[Row]]] = {
    "rollout": rollout, "pairs": pairs, "ranking": ranking, "reranking": reranking, "rga": rga, "hacnn": hacnn,
    "training": training, "saving": saving, "reading": reading, "augmentation": augmentation}  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """The rows as lines of text."""
    lines = [f"{'':52}{'plain':>10}{'ours':>10}{'ratio':>8}{'plain':>10}{'ours':>9}{'ratio':>8}{'threads':>9}"]
    lines += [
        f"{row['name']:52}{row['plain']:8.3f} s{row['ours']:8.3f} s{row['ratio']:7.1f}x"
        f"{row['memory_plain']:6.0f} MiB{row['memory_ours']:5.0f} MiB{row['memory']:7.1f}x{row['threads']:9}"
        for row in rows
    ]
    return "\n".join(lines)


def rates() -> dict[str, float]:
    """What this machine does in a second: operations of a product, by number format, and bytes.

    The bytes are those of an addition that reads one array and writes to new memory, as most of
    PyTorch's kernels do.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    def seconds(function: Callable[[], object]) -> float:
        times = []
        for _ in range(8):
            start = clock()
            function()
            times.append(clock() - start)
        return statistics.median(times[1:])  # the first call also prepares

    size, array = 1024, torch.zeros(2**24)
    found = {"bytes": 2 * array.nbytes / seconds(lambda: array + 1)}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(size, size, dtype=dtype)
        product = partial(torch.mm, matrix, matrix)
        found[str(dtype).removeprefix("torch.")] = 2 * size**3 / seconds(product)
    return found


def processor() -> str:
    """The processor's name, as far as the system tells it, and its widest instructions."""
    info = Path("/proc/cpuinfo")  # of Linux
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def report(rows: Sequence[Row]) -> dict[str, object]:
    """The rows with what they were measured on, its rates, and the library's commit."""
    versions = {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__}
    return {"rows": list(rows), "processor": processor(), "rates": rates(), "versions": versions, "commit": _commit()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run benches, print their table, and write the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; all by default")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; 1 by default, the least disturbed")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - BENCHES.keys():
        parser.error(f"unknown bench {', '.join(sorted(unknown))}: known are {', '.join(BENCHES)}")
    torch.set_num_threads(options.threads)
    rows = [row for name in options.names or BENCHES for row in BENCHES[name]()]
    print(table(rows))
    if not has_bf16():
        print("This processor has no instructions for bfloat16: the comparisons with it are left out.")
    if options.output:
        write_json(options.output, report(rows))


if __name__ == "__main__":
    main()
