"""A file of samples that is being written, with what `run.json` or a card will say of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import BinaryIO

from asyncgen.run_state import DatasetFile


@dataclass(slots=True)
class HashedFile:
    """Counts and hashes what passes through.

    Attributes:
        name: as it will be noted.
        file: where the bytes go.
    """

    name: str
    file: BinaryIO
    samples: int = 0
    size: int = 0
    _hash: hashlib._Hash = field(default_factory=hashlib.sha256)

    def write(self, data: bytes) -> None:
        """Write bytes that are no sample, such as a byte order mark."""
        self.file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def add(self, line: bytes) -> None:
        """Write one sample."""
        self.samples += 1
        self.write(line)

    def noted(self) -> DatasetFile:
        """What was written so far."""
        return DatasetFile(name=self.name, sha256=self._hash.hexdigest(), samples=self.samples, bytes=self.size)
