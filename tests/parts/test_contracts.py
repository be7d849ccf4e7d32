"""The parts of this project honour the contracts for parts."""

from __future__ import annotations

import os

import pytest

from ddim_host.diffusion import solvers
from ddim_host.parts import loss_weightings, noise_schedules, subset_searches, timestep_subsets
from ddim_host.parts.datasets import digits
from ddim_host.parts.feature_extractors import DigitsMLP
from ddim_host.plugin.discovery import installed_frameworks
from ddim_host.testing import (
    DatasetContract,
    FeatureExtractorContract,
    LossContract,
    LossWeightingContract,
    ModelFactoryContract,
    NoiseScheduleContract,
    SolverContract,
    SubsetSearchContract,
    TimestepSamplerContract,
    TimestepSubsetContract,
)
from ddim_losses import balanced, huber, l1, l2, mse
from ddim_timestep_samplers import Antithetic, Importance, Uniform
from ddim_torch.plugin import unet
from tests.support.commands import pass_tests
from tests.support.repository import ROOT


class TestLinearSchedule(NoiseScheduleContract):
    part = noise_schedules.linear


class TestCosineSchedule(NoiseScheduleContract):
    part = noise_schedules.cosine


class TestQuadSchedule(NoiseScheduleContract):
    part = noise_schedules.quad


class TestSigmoidSchedule(NoiseScheduleContract):
    part = noise_schedules.sigmoid


class TestUniform(TimestepSamplerContract):
    part = Uniform


class TestAntithetic(TimestepSamplerContract):
    part = Antithetic


class TestImportance(TimestepSamplerContract):
    part = Importance


class TestImportanceWithAnotherHistory(TimestepSamplerContract):
    part = Importance
    parameters = {"history": 3, "uniform_share": 0.5}  # noqa: RUF012 - nothing changes it


class TestNoWeighting(LossWeightingContract):
    part = loss_weightings.none


class TestMinSNR(LossWeightingContract):
    part = loss_weightings.min_snr


class TestP2(LossWeightingContract):
    part = loss_weightings.p2


class TestLinearSubset(TimestepSubsetContract):
    part = timestep_subsets.linear


class TestQuadSubset(TimestepSubsetContract):
    part = timestep_subsets.quad


class TestCosineSubset(TimestepSubsetContract):
    part = timestep_subsets.cosine


class TestLeadingSubset(TimestepSubsetContract):
    part = timestep_subsets.leading


class TestTrailingSubset(TimestepSubsetContract):
    part = timestep_subsets.trailing


class TestExplicitSubset(TimestepSubsetContract):
    part = timestep_subsets.explicit
    parameters = {"t": (0, 10, 999)}  # noqa: RUF012 - nothing changes it
    sizes = ((1000, 3),)


class TestDDIM(SolverContract):
    part = solvers.ddim


class TestDPMpp2M(SolverContract):
    part = solvers.dpmpp_2m


class TestIPNDM(SolverContract):
    part = solvers.ipndm


class TestUniPC(SolverContract):
    part = solvers.unipc


class TestUniPCWithTheOtherFunction(SolverContract):
    part = solvers.unipc
    parameters = {"b": "bh1"}  # noqa: RUF012 - nothing changes it


class TestHeun(SolverContract):
    part = solvers.heun


class TestDynamicProgramming(SubsetSearchContract):
    part = subset_searches.dynamic_programming


class TestDigits(DatasetContract):
    part = digits


class TestDigitsMLP(FeatureExtractorContract):
    part = DigitsMLP


class _Loss(LossContract):
    """The contract without the frameworks, to be fast; `test_losses.py` and a slow test cover those."""

    test_it_is_the_same_in_every_framework = None  # type: ignore[assignment]


class TestMSE(LossContract):
    part = mse

    @pytest.mark.slow
    @pytest.mark.parametrize("framework", installed_frameworks())
    def test_it_is_the_same_in_every_framework(self, framework: str) -> None:
        super().test_it_is_the_same_in_every_framework(framework)


class TestL2(_Loss):
    part = l2


class TestL1(_Loss):
    part = l1


class TestHuber(_Loss):
    part = huber


class TestBalanced(_Loss):
    part = balanced


class TestTorch(ModelFactoryContract):
    part = unet


@pytest.mark.slow
def test_jittor() -> None:
    # The cache that all tests share: compiling Jittor takes minutes.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    pass_tests("tests/support/jittor_contract.py", cwd=ROOT, env=env, timeout=1200)
