"""MSMT17: two versions that are never mixed up, and lists of which every line is read or refused."""

import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_scripts.__main__ import main
from dcal_lite.data import load_dataset, official


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    root = tmp_path_factory.mktemp("msmt17")
    assert main(["miniature", "msmt17", "--root", str(root)]) == 0
    return {"V1": root / "MSMT17_V1.tar.gz", "V2": root / "MSMT17_V2.zip"}


def load(root, version, **options):
    return load_dataset("msmt17", root, check_counts=False, protocol=version, **options)


def test_both_versions_hold_the_same_but_for_their_folders(archives, tmp_path):
    first, second = (load(tmp_path, version, archive=archives[version]) for version in ("V1", "V2"))
    for split in ("train", "query", "gallery"):
        folders = ("train/", "mask_train_v2/") if split == "train" else ("test/", "mask_test_v2/")
        assert [record.source.removeprefix(folders[0]) for record in first[split].records] == [
            record.source.removeprefix(folders[1]) for record in second[split].records
        ]
        assert (first[split].labels == second[split].labels).all()
    assert set(first["train"].labels) == {0, 1, 2} and set(first["query"].labels) == {0, 1}
    assert any(record.source.endswith("_ex.jpg") for record in first["train"].records)


@pytest.mark.parametrize(("have", "asked"), [("V1", "V2"), ("V2", "V1")])
def test_the_other_version_is_named(archives, tmp_path, have, asked):
    load(tmp_path, have, archive=archives[have])
    message = f"MSMT17_{have} holds MSMT17 {have}, not {asked} .*: pass protocol='{have}'"
    for root in (tmp_path, tmp_path / f"MSMT17_{have}"):
        with pytest.raises(ValueError, match=message):
            load(root, asked)
    (tmp_path / f"MSMT17_{have}").rename(tmp_path / f"MSMT17_{asked}")
    with pytest.raises(ValueError, match=f"holds MSMT17 {have}, not {asked}"):
        load(tmp_path, asked)
    with pytest.raises(ValueError, match=f"holds no MSMT17_{asked}/.* but MSMT17_{have}: this is not the archive"):
        load(tmp_path / "new", asked, archive=archives[have])
    with pytest.raises(ValueError, match="unknown protocol of msmt17 'v1': did you mean 'V1'"):
        load(tmp_path, "v1")


def test_both_versions_side_by_side_are_told_apart(archives, tmp_path):
    for version in ("V1", "V2"):
        load(tmp_path, version, archive=archives[version])
    assert load(tmp_path, "V2")["query"].records[0].source.startswith("mask_test_v2/")
    assert load(tmp_path, "V1")["query"].records[0].source.startswith("test/")


@pytest.fixture(scope="module")
def unpacked(archives, tmp_path_factory):
    root = tmp_path_factory.mktemp("unpacked")
    load(root, "V1", archive=archives["V1"])
    return root / "MSMT17_V1"


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode), st.just(b"\n\n")))
def test_any_list_is_read_or_refused_in_one_line(unpacked, content):
    path = unpacked / "list_query.txt"
    original = path.read_bytes()
    try:
        path.write_bytes(original + content)
        try:
            assert len(load(unpacked, "V1")["query"]) >= original.count(b"\n")
        except ValueError as error:
            message = str(error)
            assert "list_query.txt" in message and "\n" not in message
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize("line", ["../../etc/passwd 0", "/etc/0000_000_01_x.jpg 0", "0000/0000_000_01_x.jpg", "a b"])
def test_a_line_that_is_no_image_is_named_with_its_number(unpacked, tmp_path, line):
    copy = tmp_path / "MSMT17_V1"
    shutil.copytree(unpacked, copy)
    (copy / "list_val.txt").write_text(f"0000/0000_000_01_0303morning_0015_0.jpg 0\n\n{line}\n")
    with pytest.raises(ValueError, match=r"line 3 of .*list_val.txt is .*not like '0000/0000_000_01_0303morning"):
        load(copy, "V1")
    (copy / "list_val.txt").unlink()
    with pytest.raises(ValueError, match=r"there is no file .*list_val.txt"):
        load(copy, "V1")


@pytest.mark.parametrize("place", ["MSMT17_V1", "MSMT17_V2"])
@pytest.mark.parametrize("version", ["V1", "V2"])
def test_verify_recognises_the_version_by_what_is_in_the_folder(
    archives, tmp_path, capsys, monkeypatch, version, place
):
    load(tmp_path, version, archive=archives[version])
    (tmp_path / f"MSMT17_{version}").rename(tmp_path / place)
    asked, other = ([*["verify", "msmt17", "--root", str(tmp_path), "--protocol"], v] for v in ("V1", "V2"))
    if version == "V2":
        asked, other = other, asked
    assert main(other) == 1
    assert f"{tmp_path / place} holds MSMT17 {version}, not MSMT17 {other[-1]}" in capsys.readouterr().err
    counts = {"train": (48, 3), "query": (8, 2), "gallery": (24, 2)}
    monkeypatch.setitem(official.COUNTS, "msmt17", counts)
    monkeypatch.setitem(official.CAMERAS, "msmt17", 4)
    for command in (asked, asked[:-2]):
        assert main(command) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"MSMT17 {version} in {tmp_path / place}"
        assert lines[-1] == f"MSMT17 {version}: as published"


def test_verify_reports_both_versions(archives, tmp_path, capsys):
    for version in ("V1", "V2"):
        load(tmp_path, version, archive=archives[version])
    assert main(["verify", "msmt17", "--root", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert {line for line in shown.out.splitlines() if " in /" in line} == {
        f"MSMT17 {version} in {tmp_path / f'MSMT17_{version}'}" for version in ("V1", "V2")
    }
    assert "MSMT17 V1 and MSMT17 V2: not as published, see the problems above (8)" in shown.err
    assert main(["verify", "msmt17", "--root", str(tmp_path), "--protocol", "v2"]) == 1
    assert "unknown version of msmt17 'v2': did you mean 'V2'" in capsys.readouterr().err
