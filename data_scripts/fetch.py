"""Getting the files of a dataset: checksums, mirrors, downloads that go on where they stopped, safe unpacking."""

import os
from hashlib import file_digest
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from data_scripts.sources import Download, Source
from dcal_lite.data.archives import data_root, locked, unpack

if TYPE_CHECKING:
    import requests  # and pooch, which brings it, are imported where they are used: only `fetch` needs them

_WAITS = (1.0, 4.0, 16.0)  # seconds before each new attempt, after a connection was dropped
_TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces of a file
_CHUNK = 2**16  # bytes


def fetch(name: str, source: Source, root: Path) -> str:
    """Download, check and unpack a dataset, as far as that was not done before.

    A file that is there and has the right checksum is taken as it is, without a network; a file with another one is
    replaced by a good one only. What no script may fetch is checked and unpacked where somebody has put it.

    Args:
        name: the dataset, as `load_dataset` knows it.
        source: where it comes from.
        root: folder that holds, or will hold, the dataset's folder.

    Returns:
        What was done, and the next command.

    Raises:
        ValueError: no script may fetch the dataset, no address gave the right file, or an archive is not usable.
    """
    root = data_root(root)
    missing = [file for file in source.files if not (file.urls or _is_there(file, root) or _is_good(root / file.name))]
    if len(missing) == len(source.files) or (missing and not source.versions):
        raise source.by_hand(missing, root)
    done = [_get(file, root) for file in source.files if file not in missing]
    said = f"{source.title} is in {root} now" if any(done) else f"{source.title} is in {root} already: nothing to do"
    return f"{said}\nnext: python -m data_scripts verify {name} --root {root}"


def _is_there(file: Download, root: Path) -> bool:
    return (root / file.folder).is_dir() if file.folder else _is_good(root / file.name, file.checksum)


def _is_good(path: Path, checksum: str = "") -> bool:
    if not path.is_file() or not checksum:
        return path.is_file()
    algorithm, _, digest = checksum.partition(":")
    with path.open("rb") as file:
        return file_digest(file, algorithm).hexdigest() == digest


def _get(file: Download, root: Path) -> bool:
    """Download and unpack a file; tell whether there was anything to do."""
    if _is_there(file, root):
        return False
    path = root / file.name
    if not _is_good(path, file.checksum):
        if not file.urls:
            raise ValueError(
                f"the checksum of {path} is not that of the original, {file.checksum}: it is damaged or was packed "
                "anew; get it again, or unpack it yourself"
            )
        _download(file, path)
    if file.folder:
        unpack(path, root / file.folder, holds=file.holds)
    return True


def _download(file: Download, path: Path) -> None:
    """Try one address after the other until one gives the right file; it appears whole or not at all."""
    try:
        import pooch  # noqa: F401  and with it requests
    except ImportError as error:
        raise ValueError("fetching needs pooch: python -m pip install 'dcal_lite[data]'") from error
    from requests import RequestException

    path.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    with locked(path):
        for url in file.urls:
            try:
                _retrieve(url, path, file.checksum)
            except RequestException as error:  # some of these are ValueErrors, too
                status = None if error.response is None else error.response.status_code
                failures.append(f"{url}: {status or type(error).__name__}")
            except ValueError:
                failures.append(f"{url}: its checksum is not {file.checksum}")
            else:
                return
        raise ValueError(
            f"{path.name} could not be fetched ({'; '.join(failures)}): run this command again, it goes on where it "
            f"stopped; or get the file by hand and put it into {path.parent}"
        )


def _retrieve(url: str, path: Path, checksum: str) -> None:
    """Let pooch check and move what `_Resuming` downloads; a part that was of another file costs a second attempt."""
    import pooch

    downloader = _Resuming(path.with_name(f"{path.name}.part"))
    try:
        pooch.retrieve(url, checksum, path.name, path.parent, downloader=downloader)
    except ValueError:
        if not downloader.resumed:
            raise
        pooch.retrieve(url, checksum, path.name, path.parent, downloader=downloader)


class _Resuming:
    """A downloader for pooch that writes to a part file, which outlives a dropped connection and a killed process."""

    def __init__(self, part: Path):
        self.part = part
        self.resumed = False  # whether a part was gone on with, which may have been of another file

    def __call__(self, url: str, output_file: str, _: object) -> None:
        from requests.exceptions import ChunkedEncodingError

        for wait in (*_WAITS, None):
            try:
                self._get_rest(url)
                break
            except ChunkedEncodingError:  # in the middle
                if wait is None:
                    raise
                sleep(wait)
        self.part.replace(output_file)

    def _get_rest(self, url: str) -> None:
        """Append what the part lacks, or write it anew where the server sends the whole file."""
        import requests

        start = self.part.stat().st_size if self.part.exists() else 0
        # Compressed on the way, a range would be one of other bytes.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            self.resumed = response.status_code in (206, 416)
            if start and response.status_code == 416:  # nothing is left to get, says the server: the checksum will tell
                return
            response.raise_for_status()
            self._write(response, start if self.resumed else 0)

    def _write(self, response: "requests.Response", start: int) -> None:
        from requests.exceptions import ChunkedEncodingError
        from urllib3.exceptions import HTTPError

        size = start + int(response.headers.get("Content-Length", 0)) or None
        with (
            self.part.open("ab" if start else "wb") as file,
            tqdm(desc=self.part.stem, initial=start, total=size, unit="B", unit_scale=True) as bar,
        ):
            try:
                for chunk in response.raw.stream(_CHUNK, decode_content=False):
                    bar.update(file.write(chunk))
            except HTTPError as error:
                raise ChunkedEncodingError(error) from error
            file.flush()
            os.fsync(file.fileno())
