"""The digits shipped with scikit-learn."""

from __future__ import annotations

import gzip
import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ddim_host.errors import UserError
from ddim_host.parts.datasets import digits

if TYPE_CHECKING:
    from pathlib import Path


def test_digits_equal_those_of_scikit_learn_in_order() -> None:
    from sklearn.datasets import load_digits  # noqa: PLC0415 - takes a second, and only this test needs it

    source = digits()
    data = source.load()
    assert (data.train.shape, data.test.shape) == ((1500, 8, 8, 1), (297, 8, 8, 1))
    assert data.train.shape[1:] == source.image_shape
    assert data.train.dtype == data.test.dtype == np.uint8
    assert not source.random_flip
    ours = np.concatenate([data.train, data.test])[..., 0]
    np.testing.assert_array_equal(np.rint(ours / 255 * 16), load_digits().images)
    assert set(np.unique(ours)) == {round(x * 255 / 16) for x in range(17)}


@pytest.mark.process
def test_reading_digits_does_not_import_scikit_learn() -> None:
    code = (
        "import sys\n"
        "from ddim_host.parts.datasets import digits\n"
        "digits().load()\n"
        "assert 'sklearn' not in sys.modules and 'scipy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_missing_scikit_learn_is_an_error_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="not installed") as caught:
        digits().load()
    assert "pip install scikit-learn" in caught.value.fix


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"no gzip",
        gzip.compress(b"1,2,3\n")[:-4],
        gzip.compress(b"1,2,3\n"),
        gzip.compress(b"a,b,c\n"),
        gzip.compress(b"\xff\xfe"),
        gzip.compress((",".join(["17"] * 65) + "\n").encode() * 1797),
    ],
    ids=["missing", "empty", "no-gzip", "truncated", "small", "words", "binary", "range"],
)
def test_a_damaged_file_is_one_clear_error(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModuleSpec("sklearn", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    if content is not None:
        (tmp_path / "datasets" / "data").mkdir(parents=True)
        (tmp_path / "datasets" / "data" / "digits.csv.gz").write_bytes(content)
    with pytest.raises(UserError, match="digits") as caught:
        digits().load()
    assert caught.value.why
    assert "scikit-learn" in caught.value.fix
