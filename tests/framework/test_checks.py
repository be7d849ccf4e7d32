"""Checks that the host makes for every framework."""

from __future__ import annotations

import pytest

from ddim_host import UserError
from ddim_host.framework import KERNELS_VARIABLE, PRECISION_VARIABLE, Check, bf16_check, checks
from ddim_host.framework.kernels import cpu_kernels
from ddim_host.framework.precision import resolve_precision

AMX = "avx512f avx512_bf16 amx_bf16"


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (PRECISION_VARIABLE, KERNELS_VARIABLE):
        monkeypatch.delenv(name, raising=False)


class FakeKernels:
    """Kernels that only know whether they use matrix units."""

    def __init__(self, *, units: bool) -> None:
        self._units = units

    def has_matrix_units(self) -> bool:
        return self._units


@pytest.mark.parametrize(
    ("flags", "kernels", "text"),
    [
        (AMX, FakeKernels(units=True), "matrix units (AMX); auto selects bf16"),
        (
            *(AMX, FakeKernels(units=False)),
            "matrix units (AMX), which the compiler or the operating system does not support; "
            "auto selects fp32",
        ),
        (AMX, None, "matrix units (AMX), unused without the host's kernels; auto selects fp32"),
        (
            *("avx512f avx512_bf16", FakeKernels(units=False)),
            "AVX512_BF16, no matrix units (AMX); auto selects fp32",
        ),
        ("avx2", None, "no bf16 instructions, no matrix units (AMX); auto selects fp32"),
    ],
)
def test_doctor_says_what_auto_is_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, flags: str, kernels: FakeKernels | None, text: str
) -> None:
    monkeypatch.setattr(checks, "processor_flags", lambda: flags)
    monkeypatch.setattr(checks, "cpu_kernels", lambda: kernels)
    assert bf16_check() == Check("bf16 on the CPU", True, text)


def test_doctor_needs_no_compiler_if_kernels_are_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "processor_flags", lambda: AMX)
    monkeypatch.setattr(checks, "cpu_kernels", cpu_kernels.__wrapped__)  # without the cache of this process
    monkeypatch.setenv(KERNELS_VARIABLE, "framework")
    assert bf16_check().detail == "matrix units (AMX), unused without the host's kernels; auto selects fp32"


def test_requested_precision_comes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_precision("auto", matrix_units=True) == "bf16"
    assert resolve_precision("auto", matrix_units=False) == "fp32"
    monkeypatch.setenv(PRECISION_VARIABLE, "fp32")
    assert resolve_precision("auto", matrix_units=True) == "fp32"
    assert resolve_precision("bf16", matrix_units=True) == "bf16"
    monkeypatch.setenv(PRECISION_VARIABLE, "bf16")
    assert resolve_precision("auto", matrix_units=False) == "bf16"
    assert resolve_precision("fp32", matrix_units=False) == "fp32"


def test_unknown_value_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRECISION_VARIABLE, "fp16")
    with pytest.raises(UserError, match="DDIM_HOST_CPU_PRECISION must be auto, fp32 or bf16, not fp16"):
        resolve_precision("auto", matrix_units=True)
    assert not bf16_check().ok
