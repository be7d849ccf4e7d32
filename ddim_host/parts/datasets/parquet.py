"""Images in Parquet files, as the Hugging Face hub stores them."""

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
"""What a column of images is called, if there are several that could be it."""


@dataclass(frozen=True)
class ParquetImages(OneFile):
    """The images in the rows of a Parquet file.

    A column of images holds encoded image files: as binary values, or as structs with a field `bytes`, which
    is what the `datasets` library writes.
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
        """Return the image file in a row; empty if there is none, which then is a broken image."""
        data = value
        if isinstance(value, dict):
            data = value.get("bytes")
            if data is None and value.get("path") is not None:
                raise UserError(
                    f"{printable(self.path)} holds no images, only their names",
                    why=f"row {row:,} has the path {printable(repr(value['path']))[:200]}, and no bytes",
                    fix="give path= of the folder that the images are in",
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
        import pyarrow.parquet  # noqa: PLC0415 - only those who read Parquet need it
    except ImportError as error:
        raise UserError(
            f"reading {printable(path)} needs pyarrow",
            why=f"it is a Parquet file, and pyarrow cannot be imported: {reason(error)}",
            fix="pip install 'ddim-host[parquet]'",
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
    """Return the name of the column of images.

    Raises:
        UserError: There is none, or several.
    """
    found: list[str] = [field.name for field in schema if _holds_images(field.type)]
    named = [name for name in found if name in _NAMES]
    if len(found) == 1 or len(named) == 1:
        return (named or found)[0]
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise UserError(
        f"there is no column of images in {printable(path)}"
        if not found
        else f"it is unclear which column in {printable(path)} holds the images",
        why=f"its columns: {printable(columns)[:500]}",
        fix="give path= of a file with one column of image files, named `image`, as binary values or as "
        "structs with a field `bytes`",
    )


def _holds_images(kind: Any) -> bool:
    import pyarrow.types  # noqa: PLC0415 - only those who read Parquet need it

    if pyarrow.types.is_struct(kind):
        names = [field.name for field in kind]
        return "bytes" in names and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    import pyarrow.types  # noqa: PLC0415 - only those who read Parquet need it

    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))
