"""The stored benchmark has the rows that `make bench` measures; rates and machine are told."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch

from book.tools import bench
from book.tools.notebooks import ROOT

FILES = sorted((ROOT / "book" / "results" / "bench").glob("*.json"))
HEAVY = {"ranking", "reranking", "rga", "reading"}
BENCHES = [pytest.param(name, marks=[pytest.mark.slow] * (name in HEAVY)) for name in bench.BENCHES]


@pytest.mark.parametrize("name", BENCHES)
def test_stored_rows_are_those_of_the_benches(name, monkeypatch):
    names = []
    monkeypatch.setattr(bench, "has_bf16", lambda: True)
    monkeypatch.setattr(bench, "compare", lambda row, plain, ours, **_: names.append(row))
    bench.BENCHES[name]()  # also asserts that both ways agree
    for path in FILES:
        stored = [row["name"] for row in json.loads(path.read_text())["rows"]]
        first = stored.index(names[0])
        assert stored[first : first + len(names)] == names, f"{path.name}: `make bench` has other rows, measure again"


def test_stored_benchmarks_say_what_they_were_measured_on():
    assert FILES
    for path in FILES:
        result = json.loads(path.read_text())
        assert {"rows", "processor", "rates", "versions", "commit"} <= result.keys()
        assert len({row["threads"] for row in result["rows"]}) == 1
        assert all(row["ratio"] == pytest.approx(row["plain"] / row["ours"]) for row in result["rows"])


def test_rates_are_operations_over_seconds(monkeypatch):
    clock = map(float, itertools.count()).__next__  # each call takes a second
    monkeypatch.setattr(bench, "time", SimpleNamespace(process_time=clock, perf_counter=clock))
    product = 1024**2 * (2 * 1024)  # for each entry, so many multiplications and additions
    assert bench.rates() == {"bytes": 2 * 4 * 2**24, "float32": product, "bfloat16": product}
    assert torch.backends.cpu.get_cpu_capability() in bench.processor()


def test_peak_memory_leaves_out_what_earlier_calls_kept():
    kept = []
    peaks = [bench.peak_memory(lambda: kept.append(torch.zeros(2**20))) for _ in range(3)]
    assert peaks == pytest.approx([4, 4, 4], abs=0.1)  # MiB
