"""Mutations of valid files: bytes, tokens of text, wrong lengths, and archives with hostile members."""

from __future__ import annotations

import io
import json
import re
import struct
import tarfile
import tomllib
import warnings
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import tomli_w

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Mapping

__all__ = [
    "mutated",
    "mutated_csv",
    "mutated_json",
    "mutated_safetensors",
    "mutated_tar",
    "mutated_toml",
    "mutated_zip",
    "png_of_any_size",
]

_TOKEN = re.compile(rb'"[^"\n]*"|[-+]?\d[\d.eE+-]*|true|false|null|[\[\]{},:=\n]')
_ODD_TOKENS = (
    *(b"nan NaN inf -inf Infinity 1e999 -1 0 -0.0 1e-320 null true false [] {} , : = ]".split()),
    *(b'"" "\\ud800" "\\u0000" "../../x" "\x1b[31m" [[ {"a": \xff\xfe \x00 '.split(b" ")),
    b"9" * 30,
    b"9" * 5000,
    b"[" * 2000,
    b"\n",
)
_ODD_WORDS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, 1e-320, 10**18, 2**63, 10**400),
    *(float("nan"), float("inf"), -float("inf"), "nan", "inf", "1e999", "9" * 400, "-1", "0"),
    *(
        "",
        " ",
        "x",
        "..",
        ".",
        "/etc",
        "a\0b",
        "a\nb",
        "\x1b[31m",
        "\ud800",
        "\u202e",
        "é" * 300,
        "x" * 100_000,
    ),
    *(
        "a.b/c:d=e,f=g",
        "<script>",
        "|",
        "torch",
        "digits",
        "linear",
        "raw",
        "latest",
        [],
        {},
        [[]],
        [0] * 2000,
    ),
)
_ZIP_METHODS = (*[zipfile.ZIP_STORED] * 3, *[zipfile.ZIP_DEFLATED] * 3, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_HOSTILE_NAMES = (
    *("../escaped.png", "/tmp/ddim-host-escaped.png", "a/../../escaped.png", "..", ".", "", "C:\\x.png"),
    *("x\x1b[31m.png", "x\ny.png", "\udcff.png", "a" * 300 + ".png", "/".join("d" * 200) + "/x.png"),
    *("train/one.png", "test/one.png", "data_batch_1.bin", "test_batch.bin"),
)


def mutated(data: bytes, rng: random.Random, *, text: bool = False) -> bytes:
    """Return a file after one to four changes of its bytes or, if it is text, of its tokens."""
    kinds: tuple[Callable[[bytes, random.Random], bytes], ...] = (
        _flipped,
        _cut,
        _copied,
        _inserted,
        _odd_word,
    )
    if text:
        kinds = (_odd_token, _odd_token, _odd_token, _without_token, *kinds)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(kinds)(data, rng)
    return data


def mutated_json(data: bytes, rng: random.Random) -> bytes:
    """Return JSON with odd values, valid so that they reach the reader; sometimes mutate the bytes."""
    if rng.random() < 0.3:
        return mutated(data, rng, text=True)
    return json.dumps(_with_odd_values(json.loads(data), rng)).encode()


def mutated_toml(data: bytes, rng: random.Random) -> bytes:
    """Return TOML with odd values; see `mutated_json`."""
    if rng.random() < 0.5:
        return mutated(data, rng, text=True)
    try:
        return tomli_w.dumps(_with_odd_values(tomllib.loads(data.decode()), rng)).encode()
    except (TypeError, ValueError, RecursionError):  # TOML has neither null nor lone surrogates
        name = ".".join(
            rng.choice(("a", "ab", '"c"', "'d'")) for _ in range(rng.choice((2, 40, 2000, 20_000)))
        )
        return data + f"\n[{name}]\n{name}={rng.choice(_ODD_TOKENS)!r}".encode()


def mutated_csv(data: bytes, rng: random.Random) -> bytes:
    """Return CSV with odd cells; see `mutated_json`."""
    if rng.random() < 0.3:
        return mutated(data, rng, text=True)
    rows = [line.split(",") for line in data.decode().splitlines()]
    for _ in range(rng.randint(1, 3)):
        row = rng.choice(rows[1:] or rows)
        row[rng.randrange(len(row))] = str(_odd_value(rng))
    if rng.random() < 0.3:
        rows += [rng.choice(rows) for _ in range(rng.choice((1, 100)))]
    return "\n".join(map(",".join, rows)).encode(errors="surrogatepass")


def mutated_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Return weights with a wrong header: names, shapes, dtypes, offsets or length."""
    if rng.random() < 0.3:
        return mutated(data, rng)
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]
    header = _mutated_header(header, rng) if rng.random() < 0.5 else mutated(header, rng, text=True)
    if rng.random() < 0.2:
        body = mutated(body, rng) if body else b"\0" * rng.randint(1, 100)
    claimed = len(header) if rng.random() < 0.9 else rng.choice(_ODD_WORDS)
    return struct.pack("<Q", claimed) + header + body


def mutated_tar(members: Mapping[str, bytes], rng: random.Random) -> bytes:
    """Return a tar of these files and hostile ones: names outside the folder, links, devices, wrong sizes."""
    buffer = io.BytesIO()
    mode: Any = rng.choice(("w", "w:gz", "w:bz2", "w:xz"))
    with tarfile.open(
        fileobj=buffer, mode=mode, format=rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    ) as tar:
        for name, data in _selected(members, rng):
            info = tarfile.TarInfo(name)
            info.type = rng.choice(
                (
                    *[tarfile.REGTYPE] * 40,
                    tarfile.SYMTYPE,
                    tarfile.LNKTYPE,
                    tarfile.FIFOTYPE,
                    tarfile.CHRTYPE,
                    tarfile.DIRTYPE,
                    tarfile.GNUTYPE_SPARSE,
                )
            )
            info.linkname = rng.choice(("/etc/passwd", "../..", name, "one.png"))
            info.size = len(data) if info.type == tarfile.REGTYPE else 0
            try:
                tar.addfile(info, io.BytesIO(data))
            except (ValueError, UnicodeEncodeError):
                continue
    return _sometimes_mutated(buffer.getvalue(), rng)


def mutated_zip(members: Mapping[str, bytes], rng: random.Random) -> bytes:
    """Return a zip of these files and hostile ones: names outside the folder, bombs, wrong sizes."""
    buffer = io.BytesIO()
    with (
        warnings.catch_warnings(),
        zipfile.ZipFile(buffer, "w", rng.choice(_ZIP_METHODS)) as archive,
    ):
        warnings.simplefilter("ignore")  # a repeated name
        for name, data in _selected(members, rng):
            info = zipfile.ZipInfo("x", (1980 + rng.randrange(100), 1, 1, 0, 0, 0))
            info.filename = name
            info.compress_type = archive.compression
            try:
                archive.writestr(info, data)
            except (ValueError, UnicodeEncodeError):
                continue
    return _sometimes_mutated(buffer.getvalue(), rng)


def png_of_any_size(data: bytes, rng: random.Random) -> bytes:
    """Return a PNG that claims a false size, with a valid checksum."""
    width, height = (rng.choice((0, 1, 7, 4096, 4097, 65535, 2**31 - 1, 2**32 - 1)) for _ in range(2))
    header = struct.pack(">II", width, height) + data[24:29]
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return data[:16] + header + checksum + data[33:]


def _selected(members: Mapping[str, bytes], rng: random.Random) -> list[tuple[str, bytes]]:
    chosen = [(name, data) for name, data in members.items() if rng.random() < 0.9]
    for _ in range(rng.randint(0, 3)):
        data = rng.choice((b"", b"\0" * rng.choice((1, 3073, 1 << 20)), *members.values()))
        chosen.insert(rng.randint(0, len(chosen)), (rng.choice(_HOSTILE_NAMES), data))
    return [(name, mutated(data, rng) if rng.random() < 0.05 else data) for name, data in chosen]


def _sometimes_mutated(data: bytes, rng: random.Random) -> bytes:
    return mutated(data, rng) if rng.random() < 0.5 else data


def _mutated_header(header: bytes, rng: random.Random) -> bytes:
    """Return a header that is valid JSON but describes arrays that do not exist or are elsewhere."""
    table = json.loads(header)
    names = [name for name in table if name != "__metadata__"]
    name = rng.choice(names)
    entry = table[name]
    kind = rng.randrange(7)
    if kind == 0:
        del table[name]
    elif kind == 1:
        table[rng.choice(("extra", "", "a" * 1000, "\x1b", f"{name} "))] = entry
    elif kind == 2:
        entry["dtype"] = rng.choice(("F16", "BF16", "F64", "I64", "BOOL", "U8", "F8_E4M3", "X", 3, None))
    elif kind == 3:
        entry["shape"] = rng.choice(
            ([], [0], [2**40, 2**40], [-1], entry["shape"][::-1], ["3"], [1] * 100, None)
        )
    elif kind == 4:
        entry["data_offsets"] = rng.choice(
            ([0, 0], [0, 2**63], [-4, 4], [8, 4], [0], None, ["0", "4"], [0, 2**40])
        )
    elif kind == 5:
        table["__metadata__"] = rng.choice(({"a": 1}, [], "x", {"a": "b" * 10000}, None))
    else:
        entry[rng.choice(("shape", "dtype", "data_offsets", "more"))] = table[rng.choice(names)]["shape"]
    return json.dumps(table).encode()


def _with_odd_values(document: Any, rng: random.Random) -> Any:
    for _ in range(rng.randint(1, 3)):
        places = [*_places(document)]
        if not places:
            return _odd_value(rng)
        holder, key = rng.choice(places)
        kind = rng.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            other, other_key = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[other_key]))
        elif kind == 2 and isinstance(holder, dict):
            holder[rng.choice(("", "x", "\x1b", "\ud800", "__class__", "name"))] = holder.pop(key)
        else:
            holder[key] = _odd_value(rng)
    return document


def _odd_value(rng: random.Random) -> Any:
    value = json.loads(json.dumps(rng.choice(_ODD_VALUES)))
    if rng.random() < 0.05:
        for _ in range(rng.choice((2, 25, 200))):
            value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the container and key of every item of nested lists and dicts."""
    waiting = [document]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict | list):
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            waiting += [holder[key] for key in keys]
            yield from ((holder, key) for key in keys)


def _odd_token(data: bytes, rng: random.Random) -> bytes:
    tokens = list(_TOKEN.finditer(data))
    if not tokens:
        return data + rng.choice(_ODD_TOKENS)
    token = rng.choice(tokens)
    new = rng.choice((*_ODD_TOKENS, rng.choice(tokens).group()))
    return data[: token.start()] + new + data[token.end() :]


def _without_token(data: bytes, rng: random.Random) -> bytes:
    tokens = list(_TOKEN.finditer(data))
    if not tokens:
        return data
    first, last = sorted((rng.choice(tokens), rng.choice(tokens)), key=lambda token: token.start())
    return data[: first.start()] + data[rng.choice((first.end(), last.end())) :]


def _flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randint(0, len(data)) for _ in range(2))
    return rng.choice((data[:first], data[:first] + data[last:], data[last:]))


def _copied(data: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randint(0, len(data)) for _ in range(2))
    at = rng.randint(0, len(data))
    return data[:at] + data[first:last][:10_000] + data[at:]


def _inserted(data: bytes, rng: random.Random) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.randbytes(rng.choice((1, 4, 100))) + data[at:]


def _odd_word(data: bytes, rng: random.Random) -> bytes:
    size, order = rng.choice((1, 2, 4, 8)), rng.choice("<>")
    word = struct.pack(f"{order}Q", rng.choice(_ODD_WORDS))
    word = word[:size] if order == "<" else word[-size:]
    at = rng.randint(0, max(0, len(data) - size))
    return data[:at] + word + data[at + size :]
