"""`ddim-host import`: pipelines become runs, and each hostile pipeline raises one error."""

from __future__ import annotations

import json
import struct
import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy

from ddim_host.plugin.registry import Kind
from ddim_host.run.directory import RunDirectory
from tests.support.pipelines import INDEX, NETWORK, SCHEDULER, save_pipeline, weights_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Command, Outcome, PythonCode, Run

    Import = Callable[..., Outcome]

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def importing(in_process: Callable[..., Outcome], tmp_path: Path) -> Import:
    def run(*options: str | Path, source: str | Path = tmp_path / "pipeline") -> Outcome:
        return in_process("import", source, "--out", tmp_path / "run", "--plugin", "torch", *options)

    return run


def imported_weights(run: Path) -> dict[str, np.ndarray[Any, Any]]:
    files = [run / "checkpoints" / "step-00000000" / f"{which}.safetensors" for which in ("raw", "ema")]
    raw, ema = (safetensors.numpy.load_file(path) for path in files)
    assert all(np.array_equal(raw[name], ema[name]) for name in raw)
    return raw


@pytest.mark.parametrize("flat", [False, True])
def test_pipeline_becomes_a_run(importing: Import, tmp_path: Path, flat: bool) -> None:
    save_pipeline(tmp_path / "pipeline", flat=flat)
    outcome = importing()
    assert (outcome.code, outcome.err) == (0, "")
    assert "predicts epsilon" in outcome.out
    assert "images            unknown" in outcome.out
    run = RunDirectory(tmp_path / "run")
    assert run.config.image_shape == (8, 8, 1)
    assert run.config.is_imported
    expected, found = weights_of(), imported_weights(run.path)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_scheduler_config_becomes_settings(importing: Import, tmp_path: Path) -> None:
    config_of_scheduler = {
        "num_train_timesteps": 500,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.001,
        "beta_end": 0.01,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "clip_sample": True,
        "clip_sample_range": 2.5,
    }
    save_pipeline(tmp_path / "pipeline", scheduler=config_of_scheduler)
    assert importing().code == 0
    request = RunDirectory(tmp_path / "run").config.request
    wanted = {"num_train_timesteps": 500, "prediction_type": "v_prediction", "rescale_zero_snr": True}
    assert request.settings.items() >= (wanted | {"clip": True, "clip_range": 2.5}).items()


def test_pipeline_of_the_first_layout_is_imported(importing: Import, tmp_path: Path) -> None:
    """Attention was named `query`, `key`, `value` and `proj_attn`, and all files were in one folder."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for name, array in weights_of().items():
        renamed = name
        for new, before in old.items():
            renamed = renamed.replace(f".{new}.", f".{before}.")
        weights[renamed] = array
    assert any("proj_attn" in name for name in weights)
    save_pipeline(tmp_path / "pipeline", weights=weights, flat=True)
    assert importing().code == 0
    found = imported_weights(tmp_path / "run")
    assert all(np.array_equal(array, found[name]) for name, array in weights_of().items())


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_weights_of_other_dtypes_are_converted(importing: Import, tmp_path: Path, dtype: str) -> None:
    weights = {name: array.astype(dtype) for name, array in weights_of().items()}
    save_pipeline(tmp_path / "pipeline", weights=weights)
    assert importing().code == 0
    found = imported_weights(tmp_path / "run")
    for name, array in weights.items():
        np.testing.assert_array_equal(found[name], array.astype(np.float32))


def test_bfloat16_is_the_upper_half_of_float32(importing: Import, tmp_path: Path) -> None:
    weights = weights_of()
    halves = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in weights.items()}
    # The dtype name is longer, so the padding of the header is stripped and its length written again.
    (length,) = struct.unpack("<Q", safetensors.numpy.save(halves)[:8])
    header = safetensors.numpy.save(halves)[8 : 8 + length].rstrip().replace(b'"U16"', b'"BF16"')
    data = struct.pack("<Q", len(header)) + header + safetensors.numpy.save(halves)[8 + length :]
    save_pipeline(tmp_path / "pipeline")
    (tmp_path / "pipeline" / "unet" / WEIGHTS).write_bytes(data)
    assert importing().code == 0
    found = imported_weights(tmp_path / "run")
    for name, array in weights.items():
        np.testing.assert_allclose(found[name], array, rtol=1 / 128)
        assert not (found[name].view(np.uint32) & 0xFFFF).any()


def test_imported_run_can_be_sampled_continued_and_compared(
    ddim_host: Command, tiny: list[str], tmp_path: Path
) -> None:
    save_pipeline(tmp_path / "pipeline")
    run = tmp_path / "run"
    printed = ddim_host(
        "import", tmp_path / "pipeline", "--out", run, "--plugin", "torch", "--data", "digits"
    )
    assert (printed.code, printed.err) == (0, "")
    sampled = ddim_host("sample", run, "--num-images", "4", "--steps", "3", "--out", tmp_path / "x.npz")
    assert sampled.code == 0, sampled.err
    assert np.load(tmp_path / "x.npz")["images"].shape == (4, 8, 8, 1)
    assert ddim_host("reconstruct", run, "--steps", "2", "--num-images", "4").code == 0
    length = ["--train-steps", "2", "--batch-size", "8", "--num-images", "2", "--steps", "2"]
    more = ddim_host("run", "--start-from", run, "--out", tmp_path / "more", *length)
    assert more.code == 0, more.err
    assert "after 0 steps, from the newest checkpoint of" in more.out
    compared = ddim_host("compare", run, tmp_path / "more", "--out", tmp_path / "page.html")
    assert compared.code == 0, compared.err
    resumed = ddim_host("run", "--resume", "--out", run)
    assert resumed.code == 2
    assert "was imported and has no training to resume" in resumed.err


def test_fine_tuning_stores_the_imported_weights_first(
    ddim_host: Command, python: PythonCode, tmp_path: Path
) -> None:
    """A run killed before its first checkpoint must not resume with random weights."""
    killed = (
        "import os, sys\n"
        "from ddim_host.cli import main\n"
        "from ddim_host.run.training import Trainer\n"
        "Trainer.train = lambda self: os._exit(9)\n"
        "main(sys.argv[1:])\n"
    )
    save_pipeline(tmp_path / "pipeline")
    run, more = tmp_path / "run", tmp_path / "more"
    assert ddim_host("import", tmp_path / "pipeline", "--out", run, "--plugin", "torch").code == 0
    options = ["--data", "digits", "--train-steps", "1", "--lr", "1e-12", "--num-images", "1", "--steps", "1"]
    assert python(killed, "run", "--start-from", run, "--out", more, *options).code == 9
    assert ddim_host("run", "--resume", "--out", more).code == 0
    assert RunDirectory(more).config.ancestor["pipeline"] == str(tmp_path / "pipeline")
    [folder] = [path for path in (more / "checkpoints").iterdir() if path.name.startswith("step-")]
    raw = safetensors.numpy.load_file(folder / "raw.safetensors")
    for name, array in weights_of().items():
        np.testing.assert_allclose(raw[name], array, atol=1e-6)


def test_commands_that_need_no_images_work_without_them(ddim_host: Command, tmp_path: Path) -> None:
    save_pipeline(tmp_path / "pipeline")
    run = tmp_path / "run"
    assert ddim_host("import", tmp_path / "pipeline", "--out", run, "--plugin", "torch").code == 0
    for command in (("evaluate", run), ("reconstruct", run), ("run", "--start-from", run)):
        outcome = ddim_host(*command)
        assert outcome.code == 2
        assert "the images that this network was trained on are unknown" in outcome.err
    fast = ["--steps", "2", "--images", "8", "--teacher-steps", "4"]
    assert ddim_host("optimize", run, *fast).code == 0
    scored = ddim_host("evaluate", run, "--data", "digits", "--samples", "160", "--steps", "2", "--eta", "0")
    assert scored.code == 0, scored.err
    page = tmp_path / "page.html"
    assert ddim_host("compare", run, "--out", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert "unknown (imported)" in text
    assert str(tmp_path / "pipeline") in text


def test_failed_write_leaves_no_files(
    importing: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*_: object, **__: object) -> bytes:
        raise OSError(28, "No space left on device")

    save_pipeline(tmp_path / "pipeline")
    monkeypatch.setattr("ddim_host.run.checkpoints.safetensors.numpy.save", disk_full)
    outcome = importing()
    assert outcome.code == 2
    assert "No space left on device" in outcome.err
    assert "--resume" not in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]


def test_schedule_with_the_maximum_number_of_betas_is_read_back(importing: Import, tmp_path: Path) -> None:
    count = 100_000
    betas = [1e-5 + 1e-10 * number / 3 for number in range(count)]
    save_pipeline(tmp_path / "pipeline", scheduler={"num_train_timesteps": count, "trained_betas": betas})
    assert importing().code == 0
    schedule = RunDirectory(tmp_path / "run").config.request.parts[Kind.NOISE_SCHEDULE]
    assert schedule.arguments["betas"] == betas


def test_absurdly_long_source_is_one_error(importing: Import) -> None:
    outcome = importing(source="x" * 5000)
    assert outcome.code == 2
    assert "File name too long" in outcome.err


def test_new_runs_with_the_settings_of_an_imported_run_need_images(
    importing: Import, in_process: Import, tmp_path: Path
) -> None:
    """The default data set would be unrelated to the network."""
    save_pipeline(tmp_path / "pipeline")
    assert importing().code == 0
    config = tmp_path / "run" / "config.toml"
    for command in ("run", "sweep"):
        options = (command, "--config", config, "--dry-run", "--out", tmp_path / "new")
        refused = in_process(*options)
        assert refused.code == 2
        assert "error: the images that this network was trained on are unknown" in refused.err
        assert "fix: add --data" in refused.err
        assert in_process(*options, "--data", "digits").code == 0
    assert (
        in_process(
            "import",
            tmp_path / "pipeline",
            "--out",
            tmp_path / "known",
            "--plugin",
            "torch",
            "--data",
            "digits",
        ).code
        == 0
    )
    for command in ("run", "sweep"):
        known = in_process(
            command, "--config", tmp_path / "known/config.toml", "--dry-run", "--out", tmp_path / "new"
        )
        assert known.code == 0, known.err


def test_preset_may_provide_the_images(importing: Import, in_process: Import, tmp_path: Path) -> None:
    save_pipeline(tmp_path / "pipeline")
    assert importing().code == 0
    config = tmp_path / "run" / "config.toml"
    for command in ("run", "sweep"):
        options = (command, "--config", config, "--preset", "paper-cifar10", "--dry-run")
        assert "are unknown" not in in_process(*options, "--out", tmp_path / "new").err


@pytest.mark.parametrize("size", [4100, [8, 4100]])
def test_image_size_that_runs_do_not_support_is_refused(
    importing: Import, tmp_path: Path, size: int | list[int]
) -> None:
    save_pipeline(tmp_path / "pipeline")
    path = tmp_path / "pipeline" / "unet" / "config.json"
    path.write_text(json.dumps(NETWORK | {"sample_size": size}), encoding="utf-8")
    outcome = importing()
    assert outcome.code == 2
    assert f"a diffusers network with sample_size = {size} cannot be imported" in outcome.err
    assert "sample_size must be at most 4096" in outcome.err
    assert not (tmp_path / "run").exists()


def test_images_of_another_shape_are_refused(importing: Import, tmp_path: Path) -> None:
    save_pipeline(tmp_path / "pipeline", network={"sample_size": 16})
    outcome = importing("--data", "digits")
    assert outcome.code == 2
    assert "differ in shape from the training images" in outcome.err
    assert not (tmp_path / "run").exists()


def test_existing_run_is_not_overwritten(importing: Import, tiny_run: Run, in_process: Import) -> None:
    outcome = in_process("import", "anything", "--out", tiny_run.path, "--plugin", "torch")
    assert outcome.code == 2
    assert "already contains a run" in outcome.err


# --- Hostile pipelines --------------------------------------------------------------------------------------


def write(path: str, text: str | bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / path).write_bytes(text if isinstance(text, bytes) else text.encode())

    return change


def config(path: str, original: dict[str, Any], **changes: Any) -> Callable[[Path], None]:
    return write(path, json.dumps(original | changes))


def without(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink()


def weights(**changes: Any) -> Callable[[Path], None]:
    arrays = {name: array for name, array in (weights_of() | changes).items() if array is not None}
    return write(f"unet/{WEIGHTS}", safetensors.numpy.save(arrays))


def linked(path: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        outside = folder.parent / "outside"
        (folder / path).rename(outside)
        (folder / path).symlink_to(outside)

    return change


def pickled(folder: Path) -> None:
    (folder / "unet" / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.bin")


UNET, SCHEDULE = "unet/config.json", "scheduler/scheduler_config.json"
BIAS = "conv_in.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(UNET), "cannot read"),
        (without(SCHEDULE), "cannot read"),
        (without(f"unet/{WEIGHTS}"), "has no weights"),
        (pickled, "are in a pickle file, which can run arbitrary code"),
        (write(UNET, "{"), "is damaged"),
        (write(UNET, "[]"), "it contains a list, not an object"),
        (write(SCHEDULE, '{"a": ' * 200), "is damaged"),
        (linked(UNET), "is a link to a file outside the pipeline's folder"),
        (linked(f"unet/{WEIGHTS}"), "is a link to a file outside the pipeline's folder"),
        (config("model_index.json", INDEX, vqvae=["diffusers", "VQModel"]), "it contains vqvae"),
        (config(UNET, NETWORK, down_block_types=["DownBlock2D"] * 3), "down_block_types"),
        (config(UNET, NETWORK, num_class_embeds=10), "num_class_embeds"),
        (config(UNET, NETWORK, act_fn="gelu"), "act_fn"),
        (config(UNET, NETWORK, out_channels=2), "out_channels"),
        (config(UNET, NETWORK, in_channels=4, out_channels=4), "images with 4 channels"),
        (config(UNET, NETWORK, block_out_channels=[2**17, 2**17]), "cannot be built"),
        (config(UNET, NETWORK, layers_per_block="2"), "layers_per_block"),
        (config(UNET, NETWORK, unheard_of=1), "unheard_of"),
        (config(SCHEDULE, SCHEDULER, _class_name="PNDMScheduler"), "PNDMScheduler"),
        (config(SCHEDULE, SCHEDULER, beta_schedule="laplace"), "laplace"),
        (config(SCHEDULE, SCHEDULER, beta_start=-1), "beta_start"),
        (config(SCHEDULE, SCHEDULER, beta_end="much"), "beta_end"),
        (config(SCHEDULE, SCHEDULER, beta_end=1.5), "beta_end = 1.5"),
        (config(SCHEDULE, SCHEDULER, beta_end=0.99), "cannot be used for sampling"),
        (config(SCHEDULE, SCHEDULER, timestep_values=[1, 2]), "timestep_values"),
        (config(UNET, NETWORK, block_out_channels=[65536, 65536]), "does not fit the network"),
        (config(SCHEDULE, SCHEDULER, num_train_timesteps=10**9), "num_train_timesteps"),
        (config(SCHEDULE, SCHEDULER, trained_betas=[0.1, "x"]), "trained_betas"),
        (config(SCHEDULE, SCHEDULER, trained_betas=[0.1, 0.2]), "there are 2 trained_betas"),
        (config(SCHEDULE, SCHEDULER, thresholding=True), "thresholding"),
        (config(SCHEDULE, SCHEDULER, variance_type="learned_range"), "learned_range"),
        (config(SCHEDULE, SCHEDULER, prediction_type="flow"), "prediction_type"),
        (config(SCHEDULE, SCHEDULER, clip_sample="yes"), "clip_sample"),
        (config(SCHEDULE, SCHEDULER, rescale_betas_zero_snr=True), "rescale_betas_zero_snr"),
        (config(SCHEDULE, SCHEDULER, unheard_of=1), "unheard_of"),
        (write(f"unet/{WEIGHTS}", b"\x80\x04."), "is not a complete safetensors file"),
        (weights(**{BIAS: None}), f"it does not contain {BIAS}"),
        (weights(**{BIAS: np.zeros(9, np.float32)}), f"{BIAS} is float32 (9,)"),
        (weights(**{BIAS: np.full(8, np.nan, np.float32)}), "not finite"),
        (weights(**{BIAS: np.full(8, 1e300)}), "not finite"),
        (weights(**{BIAS: np.zeros(8, np.int64)}), "not a floating-point type"),
        (weights(**{"class_embedding.weight": np.zeros(8, np.float32)}), "class_embedding.weight"),
    ],
)
def test_hostile_pipeline_is_one_error_and_leaves_no_files(
    importing: Import, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    change(save_pipeline(tmp_path / "pipeline"))
    outcome = importing()
    assert outcome.code == 2
    assert outcome.err.startswith("ddim-host: error: ")
    assert message in outcome.err
    assert not (tmp_path / "run").exists()


def test_error_for_a_pickle_shows_how_to_convert_it(importing: Import, tmp_path: Path) -> None:
    pickled(save_pipeline(tmp_path / "pipeline"))
    assert "UNet2DModel.from_pretrained(" in importing().err


# --- The hub ------------------------------------------------------------------------------------------------


@pytest.fixture
def files() -> list[str]:
    return [f"unet/{WEIGHTS}", "unet/config.json"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, files: list[str]) -> list[dict[str, Any]]:
    """A fake hub with one pipeline of these files; the value is the list of calls it receives."""
    calls: list[dict[str, Any]] = []
    module = ModuleType("huggingface_hub")

    class HubError(Exception):
        """An error from a third library: neither huggingface_hub's nor Python's."""

    def model_info(name: str, *, revision: str | None) -> SimpleNamespace:
        if name != "someone/digits":
            raise HubError(f"404: there is no {name}\nRequest ID: 1")
        siblings = [SimpleNamespace(rfilename=file) for file in files]
        return SimpleNamespace(sha=f"commit of {revision}", siblings=siblings)

    def snapshot_download(name: str, *, revision: str, local_dir: Path, allow_patterns: list[str]) -> None:
        calls.append({"name": name, "revision": revision, "patterns": allow_patterns})
        save_pipeline(local_dir)
        for path in local_dir.rglob("*.safetensors"):
            if f"unet/{path.name}" not in files:
                path.unlink()

    vars(module).update(
        HfApi=lambda: SimpleNamespace(model_info=model_info), snapshot_download=snapshot_download
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return calls


def test_pipeline_of_the_hub_is_stored_with_its_commit(
    importing: Import, hub: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert importing("--revision", "v1", source="someone/digits").code == 0
    [call] = hub
    assert (call["name"], call["revision"]) == ("someone/digits", "commit of v1")
    assert not any(pattern.endswith(".bin") for pattern in call["patterns"])
    origin = RunDirectory(tmp_path / "run").config.provenance_table["imported"]
    assert (origin["pipeline"], origin["revision"]) == ("someone/digits", "commit of v1")
    assert len(origin["weights_sha256"]) == 64


def test_error_for_a_pickle_of_the_hub_shows_how_to_convert_it(
    importing: Import, hub: list[dict[str, Any]], files: list[str], tmp_path: Path
) -> None:
    files[0] = "unet/diffusion_pytorch_model.bin"
    outcome = importing(source="someone/digits")
    assert outcome.code == 2
    assert "the weights of someone/digits on the Hugging Face Hub are in a pickle" in outcome.err
    assert "DDPMPipeline.from_pretrained(" in outcome.err
    assert not (tmp_path / "run").exists()


def test_unknown_name_on_the_hub_is_one_error(
    importing: Import, hub: list[dict[str, Any]], tmp_path: Path
) -> None:
    outcome = importing(source="someone/nothing")
    assert outcome.code == 2
    assert "cannot download someone/nothing" in outcome.err
    assert "404: there is no someone/nothing Request ID: 1" in outcome.err
    assert not (tmp_path / "run").exists()


def test_missing_huggingface_hub_is_one_error(importing: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    outcome = importing(source="someone/digits")
    assert outcome.code == 2
    assert 'pip install "huggingface_hub>=0.24"' in outcome.err


def test_missing_folder_is_not_searched_on_the_hub(importing: Import) -> None:
    outcome = importing(source="./nowhere")
    assert outcome.code == 2
    assert "it does not exist" in outcome.err


def test_revision_of_a_folder_is_refused(importing: Import, tmp_path: Path) -> None:
    save_pipeline(tmp_path / "pipeline")
    outcome = importing("--revision", "main")
    assert outcome.code == 2
    assert "--revision applies only to pipelines on the Hub" in outcome.err
