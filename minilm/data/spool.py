"""Documents on disk, read back one at a time, so that a corpus may exceed memory and come through a pipe."""

import tempfile
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path


class Spool(Sequence[str]):
    """A sequence of documents, of which eight bytes each are in memory; its file has no name, and is gone once closed.

    Args:
      documents: read once.
      folder: of a disk that has room for them.

    >>> with Spool(iter(["one", "", "zwölf"]), tempfile.gettempdir()) as spool:
    ...     print(list(spool), spool[-1])
    ['one', '', 'zwölf'] zwölf
    """

    def __init__(self, documents: Iterable[str], folder: str | Path):
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (open for as long as the sequence is)
        self._ends = array("q", [0])
        try:
            for document in documents:
                self._file.write(document.encode("utf-8", "surrogatepass"))
                self._ends.append(self._file.tell())
        except BaseException:
            self._file.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def __len__(self):
        return len(self._ends) - 1

    def __getitem__(self, index):
        i = range(len(self))[index]
        self._file.seek(self._ends[i])
        return self._file.read(self._ends[i + 1] - self._ends[i]).decode("utf-8", "surrogatepass")
