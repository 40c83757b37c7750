"""Read the first sheet of an Excel workbook row by row, within bounds.

A small file may unpack to gigabytes or claim a billion rows: both are refused. Translates every error that openpyxl
(the extra `xlsx`, imported only here) raises while it reads. The conversion of a cell to text is an argument;
`cell_text` is the one for chats.
"""

from __future__ import annotations

import math
import re
import zipfile
from datetime import date, datetime, time
from typing import IO, TYPE_CHECKING, Any

from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.text_files import open_input

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

MOST_ROWS = 1_048_576  # Excel's own limits
MOST_COLUMNS = 16_384
MOST_CELLS = 64_000_000  # empty ones before the last of a row count too
LARGEST_BYTES = 256 * 1024 * 1024  # of all parts of the workbook, unpacked
_MOST_PARTS = 10_000
_BLOCK_BYTES = 1 << 20
_MERGED = re.compile(rb'<mergeCell [^>]{0,200}?ref="([A-Z]{1,3}[0-9]{1,7}:[A-Z]{1,3}[0-9]{1,7})"')
_ESCAPE = re.compile(r"_x([0-9A-Fa-f]{4})_")
_LARGEST_WHOLE = 1e15


def sheet_rows(path: Path, text: Callable[[Any], str]) -> Iterator[list[str]]:
    """Read every row up to the last that is not empty, without blank cells at its end.

    Args:
        path: the workbook.
        text: converts openpyxl's cell to text.

    Raises:
        AsyncgenError: it is not a workbook, exceeds a limit, or a row cannot be read; names the row.
        UsageError: there is no such file, or openpyxl is not installed.
    """
    number, cells, blank = 0, 0, 0
    with _opened(path) as workbook:
        rows = _first_sheet(path, workbook).iter_rows()
        while True:
            number += 1
            try:
                row = next(rows, None)
                texts = None if row is None else [text(cell) for cell in row]
            except Exception as error:  # noqa: BLE001 - openpyxl raises whatever comes, and has no error of its own
                raise _unreadable(path, number, error) from None
            if texts is None:
                return
            cells += len(texts)
            _check_bounds(path, number, len(texts), cells)
            while texts and not texts[-1]:
                texts.pop()
            if not texts:
                blank += 1
                continue
            yield from ([] for _ in range(blank))
            blank = 0
            yield texts


def sheet_count(path: Path) -> int:
    """How many sheets a workbook has."""
    with _opened(path) as workbook:
        return len(workbook.worksheets)


def cell_text(cell: Any) -> str:
    """A cell as JSON would have it: whole numbers without a fraction, true and false, ISO dates, errors as nothing.

    Raises:
        OverflowError: a number is infinite, which the file cannot have meant.
    """
    value = cell.value
    if value is None or cell.data_type == "e":
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and abs(value) < _LARGEST_WHOLE and value.is_integer():
        return str(int(value))
    if isinstance(value, float) and not math.isfinite(value):
        raise OverflowError
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(sep=" ")
    if isinstance(value, date | time):
        return value.isoformat()
    return _unescaped(value) if isinstance(value, str) else str(value)


def _unescaped(text: str) -> str:
    """Decode `_x000D_` and the like (ECMA-376, ST_Xstring), and write Excel's line ends as LF."""
    if "_x" in text:
        text = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), text)
        # Characters beyond the first plane are written as two halves; half of one alone is not a character.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\r\n", "\n")


def about_empty_cells(path: Path) -> str:
    """Explain cells that are empty although they were filled; "" if there is no explanation.

    Raises:
        AsyncgenError: there are formulas without stored values.
    """
    try:
        count = _formulas_without_values(path)
        merged = _merged(path)
    except Exception:  # noqa: BLE001 - as in `sheet_rows`; the rows themselves could be read
        return ""
    if count:
        raise AsyncgenError(
            f"{count:,} cells of {path} contain formulas without values",
            help_text="open the file in Excel or LibreOffice and save it; this stores the values",
            code="bad_data",
        )
    if not merged:
        return ""
    shown = ", ".join(merged[:3]) + (" and more" if len(merged) > 3 else "")  # noqa: PLR2004 - as many as are shown
    return f"WARNING: the sheet has merged cells ({shown}): only the first cell of each contains the text"


def _formulas_without_values(path: Path) -> int:
    count = 0
    with _opened(path) as values, _opened(path, values=False) as formulas:
        pairs = zip(_first_sheet(path, values).iter_rows(), _first_sheet(path, formulas).iter_rows(), strict=False)
        for stored, written in pairs:
            count += sum(
                cell.data_type == "f" and value.value is None for value, cell in zip(stored, written, strict=False)
            )
    return count


def _merged(path: Path) -> list[str]:
    with _opened(path) as workbook:
        part = _first_sheet(path, workbook)._worksheet_path  # noqa: SLF001 - where no public name tells the part
    found: list[str] = []
    with open_input(path) as file, zipfile.ZipFile(file) as archive, archive.open(part.lstrip("/")) as sheet:
        before = b""
        while block := sheet.read(_BLOCK_BYTES):
            found += [match.decode() for match in _MERGED.findall(before + block) if match.decode() not in found]
            before = block[-256:]
    return found


class _opened:  # noqa: N801 - a context manager, used as a function is
    """A workbook whose size is within bounds; closed at the end of the block."""

    def __init__(self, path: Path, *, values: bool = True) -> None:
        openpyxl = _openpyxl()
        self._file = open_input(path)
        try:
            _check_size(path, self._file)
            self._workbook = openpyxl.load_workbook(self._file, read_only=True, data_only=values, keep_links=False)
        except AsyncgenError:
            self._file.close()
            raise
        except Exception as error:  # noqa: BLE001 - as in `sheet_rows`
            self._file.close()
            raise AsyncgenError(
                f"{path} is not an Excel workbook, or it is damaged",
                cause=_words(error),
                help_text="save it again as .xlsx, or as .csv (UTF-8)",
                code="bad_data",
            ) from None

    def __enter__(self) -> Any:
        return self._workbook

    def __exit__(self, *_: object) -> None:
        self._workbook.close()
        self._file.close()


def _openpyxl() -> ModuleType:
    try:
        import openpyxl  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        raise UsageError(
            "reading .xlsx needs openpyxl, which is not installed",
            help_text="pip install 'asyncgen[xlsx]', or save the sheet as .csv",
        ) from None
    module: ModuleType = openpyxl
    return module


def _check_size(path: Path, file: IO[bytes]) -> None:
    """Refuse what would not fit into memory. A part never yields more than its entry declares."""
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
    size = sum(part.file_size for part in parts)
    if size > LARGEST_BYTES or len(parts) > _MOST_PARTS:
        raise _too_large(path, f"it unpacks to {size >> 20:,} MiB in {len(parts):,} parts")
    file.seek(0)


def _too_large(path: Path, cause: str) -> AsyncgenError:
    return AsyncgenError(
        f"{path} is too large for a sheet",
        cause=cause,
        help_text="save the sheet as .csv (UTF-8)",
        code="bad_data",
    )


def _check_bounds(path: Path, row: int, columns: int, cells: int) -> None:
    if row > MOST_ROWS:
        raise _too_large(path, f"it has more than {MOST_ROWS:,} rows, the maximum of Excel")
    if columns > MOST_COLUMNS:
        raise _too_large(path, f"row {row:,} has more than {MOST_COLUMNS:,} cells, the maximum of Excel")
    if cells > MOST_CELLS:
        raise _too_large(path, f"up to row {row:,} it has more than {MOST_CELLS:,} cells, including empty ones")


def _first_sheet(path: Path, workbook: Any) -> Any:
    if not workbook.worksheets:
        raise AsyncgenError(f"{path} has no sheet", help_text="add a sheet and save the file again", code="bad_data")
    sheet = workbook.worksheets[0]
    sheet.reset_dimensions()  # what the file claims of its size may be wrong
    return sheet


def _unreadable(path: Path, row: int, error: Exception) -> AsyncgenError:
    return AsyncgenError(
        f"{path}: row {row:,} of the first sheet cannot be read",
        cause=_words(error),
        help_text="open the file in Excel or LibreOffice and save it again, or save the sheet as .csv (UTF-8)",
        code="bad_data",
    )


def _words(error: Exception) -> str:
    if isinstance(error, zipfile.BadZipFile):
        return "it is not a zip archive, unlike all workbooks"
    return "a part of it is missing" if isinstance(error, KeyError) else "its content is damaged"
