"""Images in Parquet files, the format of the Hugging Face hub."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddim_host.errors import UserError, printable, reason
from ddim_host.parts.datasets.archives import MAX_FILE_BYTES, readable, too_many_bytes
from ddim_host.parts.datasets.one_file import OneFile

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

PARQUET_MAGIC = b"PAR1"

_ROWS_AT_A_TIME = 16
_NAMES = ("image", "img")
"""Names of the image column, used if several columns could contain images."""


@dataclass(frozen=True)
class ParquetImages(OneFile):
    """The images in the rows of a Parquet file.

    An image column contains encoded image files: as binary values, or as structs with a field `bytes`, as
    written by the `datasets` library.
    """

    def names(self) -> Iterator[str]:
        """See `ImageFiles.names`."""
        with readable(self.path), _opened(self.path) as file:
            count = file.metadata.num_rows
            if not 0 <= count <= file.metadata.num_row_groups * (1 << 31):
                raise ValueError(f"it claims {count} rows")
        for row in range(count):
            yield _row_name(row)

    def contents(self) -> Generator[tuple[str, bytes], None, None]:
        """See `ImageFiles.contents`."""
        with readable(self.path), _opened(self.path) as file:
            column = _image_column(file.schema_arrow, self.path)
            row = 0
            for batch in file.iter_batches(_ROWS_AT_A_TIME, columns=[column], use_threads=False):
                for value in batch.column(0):
                    yield _row_name(row), self._content(value.as_py(), row)
                    row += 1

    def _content(self, value: Any, row: int) -> bytes:
        """Return the image file in a row; a missing value is an empty file, which is a broken image."""
        data = value
        if isinstance(value, dict):
            data = value.get("bytes")
            if data is None and value.get("path") is not None:
                raise UserError(
                    f"{printable(self.path)} contains the names of images, but not the images themselves",
                    why=f"row {row:,} has the path {printable(repr(value['path']))[:200]} but no bytes",
                    fix="set path= to the folder of the images",
                )
        data = b"" if data is None else bytes(data)
        if len(data) > MAX_FILE_BYTES:
            raise too_many_bytes(self.path, f"row {row:,}", MAX_FILE_BYTES)
        return data


def _row_name(row: int) -> str:
    return f"{row:09}"


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import pyarrow.parquet  # noqa: PLC0415 - needed only for Parquet files
    except ImportError as error:
        raise UserError(
            f"reading {printable(path)} needs pyarrow",
            why=f"it is a Parquet file, and pyarrow cannot be imported: {reason(error)}",
            fix='pip install "pyarrow>=18,<26"',
        ) from error
    with pyarrow.parquet.ParquetFile(
        path,
        pre_buffer=False,
        buffer_size=1 << 20,
        page_checksum_verification=True,
        thrift_string_size_limit=16 << 20,
        thrift_container_size_limit=1 << 20,
    ) as file:
        yield file


def _image_column(schema: Any, path: Path) -> str:
    """Return the name of the image column.

    Raises:
        UserError: No column, or more than one, could contain images.
    """
    found: list[str] = [field.name for field in schema if _holds_images(field.type)]
    named = [name for name in found if name in _NAMES]
    if len(found) == 1 or len(named) == 1:
        return (named or found)[0]
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise UserError(
        f"there is no image column in {printable(path)}"
        if not found
        else f"cannot tell which column in {printable(path)} contains the images",
        why=f"its columns: {printable(columns)[:500]}",
        fix="set path= to a file with one column of image files, named `image`, as binary values or as "
        "structs with a field `bytes`",
    )


def _holds_images(kind: Any) -> bool:
    import pyarrow.types  # noqa: PLC0415 - needed only for Parquet files

    if pyarrow.types.is_struct(kind):
        names = [field.name for field in kind]
        return "bytes" in names and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    import pyarrow.types  # noqa: PLC0415 - needed only for Parquet files

    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))
