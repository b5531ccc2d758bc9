"""`data_scripts list` and `fetch`, against a server of our own that misbehaves in every way that servers do.

What was asked and sent is counted by the server, and the right files are known byte by byte.
"""

import gzip
import hashlib
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from data_scripts import fetch as fetch_module
from data_scripts.__main__ import DATASETS, main
from data_scripts.common import write_archive
from data_scripts.fetch import fetch
from data_scripts.sources import Download, Source
from dcal_lite.data import REAL, load_dataset
from dcal_lite.data.official import COUNTS

CONTENT = torch.randint(256, (1_000_003,), generator=torch.Generator().manual_seed(0)).to(torch.uint8).numpy().tobytes()
CHUNK = fetch_module._CHUNK  # what a dropped connection may cost


class Handler(BaseHTTPRequestHandler):
    """The first folder of the path says what goes wrong; /drop/3/x drops three connections before one holds."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server, kind = self.server, self.path.split("/")[1]
        server.asked.append((self.path, self.headers["Range"]))
        content = bytes(len(CONTENT)) if kind == "bad" else server.files.get(self.path.rpartition("/")[2], CONTENT)
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1]) if self.headers["Range"] else 0
        if kind == "gone":
            return self.answer(404)
        if kind == "moved":
            return self.answer(302, headers={"Location": "/good/x"})
        if kind == "whole":  # no ranges
            return self.answer(200, content)
        if kind == "squeeze" and "gzip" in self.headers["Accept-Encoding"]:  # compress on the way
            return self.answer(200, gzip.compress(content), headers={"Content-Encoding": "gzip"})
        if kind == "labelled":  # a compressed file, as some servers announce it
            return self.answer(200, content, headers={"Content-Encoding": "x-gzip"})
        if start >= len(content):
            return self.answer(416)
        drops = kind == "drop" and sum(path == self.path for path, _ in server.asked) <= int(self.path.split("/")[2])
        status = 206 if self.headers["Range"] else 200
        return self.answer(status, content[start:], upto=(len(content) - start) // 2 if drops else None)

    def answer(self, status, content=b"", *, headers=(), upto=None):
        """Announce all of the content, but send `upto` bytes."""
        self.send_response(status)
        for name, value in {**dict(headers), "Content-Length": len(content), "Connection": "close"}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.server.sent += len(content[:upto])
        self.wfile.write(content[:upto])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server with `asked`, the paths and ranges, `sent`, the number of bytes, and `files`, contents by name."""
    monkeypatch.setattr(fetch_module, "_WAITS", (0.0, 0.0, 0.0))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.sent, server.files = [], 0, {}
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def source_of(*urls, content=CONTENT):
    """A dataset that is one file, x, which is no archive."""
    file = Download("x", f"sha256:{hashlib.sha256(content).hexdigest()}", urls)
    return Source("X", "script", "none", "1 MB", "https://example.org", (file,))


def fetched(server, root, *kinds):
    """The file's content after a fetch from these addresses."""
    fetch("x", source_of(*(f"{server.url}/{kind}/x" for kind in kinds)), root)
    assert [path.name for path in root.iterdir()] == ["x"]
    return (root / "x").read_bytes()


def ranges(server):
    return [None if wanted is None else int(wanted[6:-1]) for _, wanted in server.asked]


def test_a_good_file(server, tmp_path):
    assert fetched(server, tmp_path / "new" / "root", "good") == CONTENT
    assert server.asked == [("/good/x", None)]
    assert server.sent == len(CONTENT)


def test_a_second_fetch_asks_for_nothing(server, tmp_path):
    source = source_of(f"{server.url}/good/x")
    assert "X is in" in fetch("x", source, tmp_path)
    said = fetch("x", source, tmp_path)
    assert f"already: nothing to do\nnext: python -m data_scripts verify x --root {tmp_path}" in said
    assert len(server.asked) == 1


def test_a_good_file_needs_no_network(server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)  # nor pooch
    (tmp_path / "x").write_bytes(CONTENT)
    assert "nothing to do" in fetch("x", source_of(f"{server.url}/gone/x"), tmp_path)
    assert server.asked == []
    (tmp_path / "x").unlink()
    with pytest.raises(ValueError, match=r"fetching needs pooch: python -m pip install 'dcal_lite\[data\]'"):
        fetch("x", source_of(f"{server.url}/good/x"), tmp_path)


def test_a_dropped_connection_is_gone_on_with(server, tmp_path):
    assert fetched(server, tmp_path, "drop/1") == CONTENT
    first, start = ranges(server)
    half = len(CONTENT) // 2
    assert first is None
    assert half - CHUNK < start <= half
    assert server.sent == half + len(CONTENT) - start  # nothing else was sent twice


def test_what_a_broken_fetch_left_is_used_by_the_next_one(server, tmp_path):
    with pytest.raises(ValueError, match=r"x could not be fetched \(\S+/drop/4/x: ChunkedEncodingError\): run this"):
        fetch("x", source_of(f"{server.url}/drop/4/x"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.lock", "x.part"]
    begun = (tmp_path / "x.part").read_bytes()
    starts = ranges(server)
    assert starts == [None, *sorted(starts[1:])]
    assert len(starts) == 1 + len(fetch_module._WAITS)
    assert begun == CONTENT[: len(begun)]
    assert len(begun) > len(CONTENT) * 3 // 4

    sent = server.sent
    assert fetched(server, tmp_path, "good") == CONTENT
    assert ranges(server)[-1] == len(begun)
    assert server.sent - sent == len(CONTENT) - len(begun)


def test_a_server_that_ignores_ranges(server, tmp_path):
    (tmp_path / "x.part").write_bytes(CONTENT[:1000])
    assert fetched(server, tmp_path, "whole") == CONTENT
    assert ranges(server) == [1000]


@pytest.mark.parametrize("length", [1, 1000, len(CONTENT), len(CONTENT) + 1000])
def test_a_part_of_another_file_costs_a_second_attempt(server, tmp_path, length):
    (tmp_path / "x.part").write_bytes(b"?" * length)
    assert fetched(server, tmp_path, "good") == CONTENT
    assert ranges(server) == [length, None]


def test_a_part_that_is_complete(server, tmp_path):
    (tmp_path / "x.part").write_bytes(CONTENT)
    assert fetched(server, tmp_path, "good") == CONTENT
    assert server.sent == 0


@pytest.mark.parametrize("kind", ["labelled", "squeeze"])
def test_the_bytes_are_those_of_the_file(server, tmp_path, kind):
    assert fetched(server, tmp_path, kind) == CONTENT


def test_a_redirect(server, tmp_path):
    assert fetched(server, tmp_path, "moved") == CONTENT
    assert [path for path, _ in server.asked] == ["/moved/x", "/good/x"]


def test_mirrors_are_tried_in_turn(server, tmp_path):
    assert fetched(server, tmp_path, "gone", "bad", "good", "whole") == CONTENT
    assert [path for path, _ in server.asked] == ["/gone/x", "/bad/x", "/good/x"]


def test_the_next_mirror_goes_on_where_the_last_one_stopped(server, tmp_path):
    assert fetched(server, tmp_path, "drop/9", "good") == CONTENT
    assert ranges(server)[-1] > len(CONTENT) * 3 // 4


def test_all_mirrors_dead(server, tmp_path):
    closed = "http://127.0.0.1:9/x"  # nobody listens on the port of the discard protocol
    with pytest.raises(ValueError, match=r"\(\S+/gone/x: 404; http://127\.0\.0\.1:9/x: ConnectionError\): run this"):
        fetch("x", source_of(f"{server.url}/gone/x", closed), tmp_path)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("before", [None, b"a damaged copy"])
def test_a_wrong_file_is_never_kept(server, tmp_path, before):
    if before:
        (tmp_path / "x").write_bytes(before)
    with pytest.raises(ValueError, match=r"/bad/x: its checksum is not sha256:[0-9a-f]{64}\)"):
        fetch("x", source_of(f"{server.url}/bad/x"), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name != "x"] == [".x.lock"]
    assert ((tmp_path / "x").read_bytes() if before else None) == before
    assert fetched(server, tmp_path, "good") == CONTENT  # a damaged copy is replaced by a good one


def test_two_at_once_download_once(server, tmp_path):
    source = source_of(f"{server.url}/good/x")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetch("x", source, tmp_path), range(4)))
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert server.asked == [("/good/x", None)]


def test_proxies_are_honoured(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    fetch("x", source_of("http://data.invalid/x"), tmp_path)
    assert server.asked == [("http://data.invalid/x", None)]


def serve(server, monkeypatch, name, folder):
    """Let the dataset's files come from the server, which has those in `folder`, a miniature."""
    files = []
    for file in DATASETS[name].SOURCE.files:
        basename = file.name.rpartition("/")[2]
        server.files[basename] = (folder / basename).read_bytes()
        digest = hashlib.md5(server.files[basename]).hexdigest()
        files.append(replace(file, checksum=f"md5:{digest}", urls=(f"{server.url}/good/{basename}",)))
    monkeypatch.setattr(DATASETS[name], "SOURCE", replace(DATASETS[name].SOURCE, files=tuple(files)))


BY_SCRIPT = [name for name in REAL if DATASETS[name].SOURCE.access == "script"]
BY_HAND = [name for name in REAL if name not in BY_SCRIPT]


@pytest.mark.parametrize("name", BY_SCRIPT)
def test_a_fetched_dataset_loads(server, name, tmp_path, monkeypatch, capsys):
    main(["miniature", name, "--root", str(tmp_path / "made")])
    serve(server, monkeypatch, name, tmp_path / "made")
    command = ["fetch", name, "--root", str(tmp_path / "root")]
    assert main(command) == 0
    assert len(load_dataset(name, tmp_path / "root", check_counts=False)["train"]) > 0
    asked = len(server.asked)
    assert asked == len(DATASETS[name].SOURCE.files)

    for path in (tmp_path / "root").glob("*.t*gz"):
        path.unlink()  # the archive is not needed any more
    capsys.readouterr()
    assert main(command) == 0
    assert "already: nothing to do" in capsys.readouterr().out
    assert len(server.asked) == asked


@pytest.mark.parametrize("name", BY_HAND)
def test_what_no_script_may_fetch(name, tmp_path, capsys):
    assert main(["fetch", name, "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: no script fetches ")
    assert said.count("\n") == 1
    assert all(file.name in said for file in DATASETS[name].SOURCE.files)
    assert str(tmp_path) in said
    assert not list(tmp_path.iterdir())


def test_the_withdrawn_one_says_since_when(tmp_path, capsys):
    assert [name for name in REAL if DATASETS[name].SOURCE.access == "withdrawn"] == ["dukemtmcreid"]
    main(["fetch", "dukemtmcreid", "--root", str(tmp_path)])
    assert "took it down on 25 April 2019, because" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dukemtmcreid", "ltcc", "market1501", "msmt17", "veri776"])
def test_an_archive_that_somebody_put_there_is_unpacked(name, tmp_path, capsys):
    main(["miniature", name, "--root", str(tmp_path)])
    assert main(["fetch", name, "--root", str(tmp_path)]) == 0
    assert f"next: python -m data_scripts verify {name} --root {tmp_path}" in capsys.readouterr().out
    assert len(load_dataset(name, tmp_path, check_counts=False)["train"]) > 0
    assert main(["fetch", name, "--root", str(tmp_path)]) == 0
    assert "already: nothing to do" in capsys.readouterr().out


def test_one_version_of_msmt17_is_enough(tmp_path):
    main(["miniature", "msmt17", "--root", str(tmp_path)])
    (tmp_path / "MSMT17_V1.tar.gz").unlink()
    assert main(["fetch", "msmt17", "--root", str(tmp_path)]) == 0
    assert len(load_dataset("msmt17", tmp_path, check_counts=False, protocol="V2")["train"]) > 0


def test_a_file_put_there_by_hand_is_checked(tmp_path, capsys):
    files = DATASETS["cars"].SOURCE.files
    for file in files[:-1]:
        (tmp_path / file.name).write_bytes(b"?")
    assert main(["fetch", "cars", "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert files[-1].name in said  # what is missing is asked for first, and alone
    assert files[0].name not in said
    (tmp_path / files[-1].name).parent.mkdir()
    (tmp_path / files[-1].name).write_bytes(b"?")
    assert main(["fetch", "cars", "--root", str(tmp_path)]) == 1
    assert f"the checksum of {tmp_path / 'cars_train.tgz'} is not that of the original" in capsys.readouterr().err


def test_a_wrong_archive_put_there_by_hand(tmp_path, capsys):
    name = "Market-1501-v15.09.15"
    write_archive(tmp_path / f"{name}.zip", [("bounding_box_train/x.jpg", b"")], folder=name)  # but no query
    assert main(["fetch", "market1501", "--root", str(tmp_path)]) == 1
    assert f"{name}.zip holds no {name}/query: this is not the archive of {name}" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_a_root_that_is_a_file(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["fetch", "cub", "--root", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_ctrl_c(tmp_path, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("data_scripts.__main__.fetch", interrupted)
    assert main(["fetch", "cub", "--root", str(tmp_path)]) == 130
    assert "run the same command again" in capsys.readouterr().err


@pytest.mark.parametrize("name", REAL)
def test_every_source_is_complete(name):
    source = DATASETS[name].SOURCE
    assert source.title
    assert source.licence
    assert source.size
    assert re.match(r"https?://\S+$", source.page)
    assert bool(source.how) == (source.access != "script")
    assert source.files
    for file in source.files:
        assert bool(file.urls) == (source.access == "script")
        assert bool(file.checksum) >= bool(file.urls)
        assert all(re.match(r"https://\S+$", url) for url in file.urls)
        assert re.fullmatch(r"(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}|)", file.checksum)
        assert not file.name.startswith(("/", "."))
        assert bool(file.folder) == file.name.endswith((".zip", "gz"))


def test_checksums_are_those_of_the_files_at_hand(shared_data):
    lists = [file for file in DATASETS["flowers102"].SOURCE.files if not file.folder]
    assert len(lists) == 2
    for file in lists:
        assert file.checksum == f"md5:{hashlib.md5((shared_data / file.name).read_bytes()).hexdigest()}"


def test_list_prints_all(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    rows = {line.split()[0]: line for line in lines[1 : lines.index("")]}
    assert rows.keys() == COUNTS.keys()
    for name in REAL:
        own = [row for key, row in rows.items() if key.split("/")[0] == name]
        assert own
        assert all(DATASETS[name].SOURCE.licence in row and DATASETS[name].SOURCE.access in row for row in own)
    assert "36,411" in rows["dukemtmcreid"]  # 16,522 + 2,228 + 17,661
    assert "702 + 702" in rows["dukemtmcreid"]
    assert re.search(r" 8,189 +102 ", rows["flowers102"])


@pytest.mark.parametrize("name", REAL)
def test_list_of_one_tells_counts_and_files(name, capsys):
    assert main(["list", name]) == 0
    said = capsys.readouterr().out
    for key, parts in COUNTS.items():
        if key.split("/")[0] == name:
            for part, (images, labels) in parts.items():
                assert re.search(rf"{key} +{part} +{images:,} images +{labels:,} labels", said)
    for file in DATASETS[name].SOURCE.files:
        assert all(text in said for text in (file.name, file.checksum, file.folder, *file.urls))
