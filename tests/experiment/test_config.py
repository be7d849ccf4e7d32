"""Configuration: TOML files, the command line on top of them, and reading the `config.toml` of a run."""

from __future__ import annotations

import dataclasses
import keyword
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.diffusion import PREDICTION_TYPES
from ddim_host.errors import UserError
from ddim_host.experiment.assembly import assemble
from ddim_host.experiment.config import PART_KINDS, Config, PartConfig, Request
from ddim_host.experiment.config_file import (
    read_config_file,
    with_resumption,
    write_config,
    write_run_config,
)
from ddim_host.experiment.settings import SETTINGS
from ddim_host.plugin.data import DataFingerprint
from ddim_host.plugin.parameters import REQUIRED, Parameter, PartChoice, parse_choice, resolve
from ddim_host.plugin.registry import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.commands import Outcome

IMAGES = DataFingerprint(5, 1, "a" * 64, "b" * 64)


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], Request]:
    """Return a function that reads a TOML file with the given text."""

    def read_text(text: str) -> Request:
        path = tmp_path / "some.toml"
        path.write_text(text, encoding="utf-8")
        return read_config_file(path).request

    return read_text


# --- A resumed run ------------------------------------------------------------------------------------------


def test_conditions_that_changed_at_a_resumption_say_since_when(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    config = assemble(Request("torch")).config
    facts = {"threads": "1", "device": "cpu", "command": "run"}
    path.write_text(write_run_config(config, (8, 8, 1), IMAGES, facts), encoding="utf-8")
    assert read_config_file(path).made_with == facts
    for step, threads in ((40, "1"), (1250, "2"), (1300, "2")):
        changed = {"threads": threads, "device": "cpu", "command": f"resume {step}"}
        path.write_text(with_resumption(path, step, changed), encoding="utf-8")
    again = read_config_file(path)
    assert again.made_with == {
        "threads": "1; 2 from step 1,250",
        "device": "cpu",
        "command": "run; resume 40 from step 40; resume 1250 from step 1,250; resume 1300 from step 1,300",
    }
    assert (again.request, again.fingerprint) == (read_config_file(path).request, IMAGES)


# --- Written and read back ----------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: numbers,
    str: texts,
    Path: texts.filter(lambda text: "\0" not in text).map(lambda text: Path("/", text)),
    int | None: st.none() | st.integers(-(2**63), 2**63 - 1),
    Path | None: st.none(),
    tuple[int, ...]: st.lists(st.integers(-9, 9), max_size=3).map(tuple),
    tuple[float, ...] | None: st.none() | st.lists(numbers, max_size=3).map(tuple),
}
typed_values = st.sampled_from(list(VALUES.items())).flatmap(
    lambda item: st.tuples(st.just(item[0]), item[1])
)
part_names = st.from_regex(r"[\w.-]{1,9}", fullmatch=True)
counts = st.integers(1, 100_000)
positive = st.floats(0, exclude_min=True, allow_infinity=False)
some_settings = st.fixed_dictionaries(
    {
        "num_train_timesteps": counts,
        "steps": counts,
        "eta": st.floats(0, 1),
        "clip": st.booleans(),
        "clip_range": positive,
        "prediction_type": st.sampled_from(PREDICTION_TYPES),
        "rescale_zero_snr": st.booleans(),
        "num_images": counts,
        "batch_size": counts,
        "lr": positive,
        "lr_warmup_steps": st.integers(0, 10**12),
        "ema_decay": st.floats(0, 1, exclude_max=True),
        "max_grad_norm": positive,
        "checkpoint_seconds": positive,
        "sample_every": st.just("auto") | st.integers(0, 10**12),
        "real_images": st.booleans(),
        "test_images": counts,
        "seed": st.integers(0, 2**63 - 1),
        "device": st.sampled_from(["auto", "cpu", "cuda"]),
        "precision": st.sampled_from(["auto", "fp32", "bf16"]),
    }
)
lengths = st.tuples(counts, st.none()) | st.tuples(st.none(), counts)


@given(
    given_settings=some_settings,
    length=lengths,
    origin=st.tuples(part_names, part_names, texts),
    # A Python keyword is not a valid parameter name.
    typed=st.dictionaries(texts.filter(lambda name: not keyword.iskeyword(name)), typed_values, max_size=3),
    provenance=st.dictionaries(texts, texts, max_size=2),
)
def test_any_config_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    *,
    given_settings: dict[str, Any],
    length: tuple[int | None, int | None],
    origin: tuple[str, str, str],
    typed: dict[str, tuple[Any, Any]],
    provenance: dict[str, str],
) -> None:
    part = PartConfig(*origin, {name: value for name, (_, value) in typed.items()})
    parts: dict[str, Any] = {kind.option: part for kind in PART_KINDS}
    plugin = PartConfig("torch", "ddim-torch", "0.1.0")
    config = Config(
        plugin=plugin,
        **parts,
        **given_settings | {"train_steps": length[0], "epochs": length[1]},
        observer=(part, plugin),
    )
    path = tmp_path_factory.getbasetemp() / "config.toml"
    path.write_text(write_run_config(config, (8, 8, 1), IMAGES, provenance), encoding="utf-8", newline="")

    request = read_config_file(path).request
    assert request.plugin == "ddim-torch/torch"
    assert request.watchers is not None
    assert request.watchers.recorded, "the file belongs to a run"
    assert request.watchers.choices == (request.parts[Kind.LOSS], PartChoice("torch", "ddim-torch", {}))
    values = {name: getattr(config, name) for name in SETTINGS}
    assert dict(request.settings) == {name: value for name, value in values.items() if value is not None}
    known = [Parameter(name, annotation, REQUIRED) for name, (annotation, _) in typed.items()]
    for kind in PART_KINDS:
        choice = request.parts[kind]
        assert (choice.name, choice.distribution) == origin[:2]
        assert resolve("part", known, choice.arguments) == part.parameters


@pytest.mark.parametrize(("annotation", "default"), [(str, ""), (float, float("inf"))])
def test_default_that_users_cannot_set_is_read_back(
    read: Callable[[str], Request], no_framework: None, annotation: Any, default: Any
) -> None:
    config = assemble(Request(plugin="torch")).config
    part = dataclasses.replace(config.loss, parameters={"odd": default})
    request = read(write_config(dataclasses.replace(config, loss=part)))
    known = [Parameter("odd", annotation, default)]
    assert resolve("part", known, request.parts[Kind.LOSS].arguments) == {"odd": default}


@pytest.mark.parametrize(
    "request_",
    [
        Request(plugin="torch"),
        Request(plugin="torch", settings={"epochs": 7}),
        Request(
            plugin="torch",
            parts={
                Kind.TIMESTEP_SUBSET: parse_choice("quad:span=0.5"),
                Kind.MODEL: parse_choice("unet:channel_multipliers=1,2,attention_head_dim=8,dropout=0.25"),
                Kind.LOSS: parse_choice("ddim-losses/l2"),
            },
            settings={"steps": 7, "eta": 0.3, "clip": False, "seed": 2**63 - 1, "device": "cpu"},
        ),
        Request(
            plugin="torch",
            parts={
                Kind.MODEL: parse_choice(
                    "unet:channel_multipliers=1,1.5,up_attention_resolutions=,time_embedding_dim=none"
                ),
            },
        ),
    ],
    ids=["defaults", "epochs", "many", "network"],
)
def test_config_assembles_the_same_experiment(
    read: Callable[[str], Request], no_framework: None, request_: Request
) -> None:
    config = assemble(request_).config
    text = write_run_config(config, (8, 8, 1), IMAGES, {"command": "odd \"quotes\" and 'others' = \n"})
    assert assemble(read(text)).config == config
    assert set(tomllib.loads(text)) == {
        "plugin",
        *(kind.option for kind in PART_KINDS),
        *(name for name in SETTINGS if getattr(config, name) is not None),
        "provenance",
    }


@pytest.mark.usefixtures("no_framework")
def test_whole_multipliers_are_written_as_whole_numbers() -> None:
    choice = parse_choice("unet:channel_multipliers=1,1.5")
    config = assemble(Request(plugin="torch", parts={Kind.MODEL: choice})).config
    written = tomllib.loads(write_config(config))["model"]["parameters"]["channel_multipliers"]
    assert [repr(multiplier) for multiplier in written] == ["1", "1.5"]


# --- The command line over the file -------------------------------------------------------------------------

BASE = Request(
    plugin="torch",
    parts={Kind.LOSS: parse_choice("mse"), Kind.DATA: parse_choice("digits")},
    settings={"lr": 0.1, "seed": 3},
)


def test_over_replaces_only_the_given_settings() -> None:
    top = Request("jittor", {Kind.LOSS: parse_choice("l2")}, {"lr": 0.5})
    assert top.over(BASE) == Request(
        "jittor",
        {Kind.LOSS: parse_choice("l2"), Kind.DATA: parse_choice("digits")},
        {"lr": 0.5, "seed": 3},
    )
    assert Request().over(BASE) == BASE
    assert BASE.over(Request()) == BASE


@pytest.mark.parametrize(
    ("top", "base", "epochs", "train_steps"),
    [
        ({}, {"epochs": 2}, 2, None),
        ({}, {"train_steps": 5}, None, 5),
        ({"epochs": 3}, {"train_steps": 5}, 3, None),
        ({"train_steps": 7}, {"epochs": 2}, None, 7),
        ({"epochs": 3}, {"epochs": 2}, 3, None),
        ({"train_steps": 7}, {"train_steps": 5}, None, 7),
    ],
)
def test_over_replaces_epochs_or_train_steps(
    top: dict[str, Any], base: dict[str, Any], epochs: int | None, train_steps: int | None
) -> None:
    result = Request(settings=top).over(Request(settings=base)).settings
    assert (result.get("epochs"), result.get("train_steps")) == (epochs, train_steps)


def test_epochs_replace_the_default_train_steps(no_framework: None) -> None:
    by_default = assemble(Request(plugin="torch")).config
    assert (by_default.epochs, by_default.train_steps) == (None, 450)
    by_epochs = assemble(Request(plugin="torch", settings={"batch_size": 8, "epochs": 2})).config
    assert (by_epochs.epochs, by_epochs.train_steps) == (2, None)
    assert (by_epochs.length(20), by_epochs.length(17)) == (5, 5)
    assert dataclasses.replace(by_default, batch_size=8).length(20) == 450


def test_command_line_overrides_the_file(in_process: Callable[..., Outcome], tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_text('plugin = "torch"\nseed = 5\neta = 0.5\nloss = "l2"\n[timestep_subset]\nname = "quad"\n')
    out = in_process("run", "--config", path, "--eta", "1", "--loss", "mse", "--dry-run").out
    assert "seed 5" in out
    assert "eta 1," in out
    assert "\nloss              mse" in out
    assert "\ntimestep subset   quad (ddim-host" in out


# --- Files written by hand ----------------------------------------------------------------------------------


def test_part_is_a_string_or_a_table(read: Callable[[str], Request]) -> None:
    request = read(
        """
        plugin = "torch"
        epochs = 3
        batch_size = "16"
        model = "ddim-torch/unet:dropout=0.1"
        [loss]
        name = "huber"
        [timestep_subset]
        name = "explicit"
        distribution = "mine"
        version = "0.1"
        parameters = {t = [0, 10], x = "none"}
        [provenance]
        whatever = 3
        """
    )
    assert (request.plugin, request.settings) == ("torch", {"batch_size": 16, "epochs": 3})
    assert request.parts == {
        Kind.MODEL: PartChoice("unet", "ddim-torch", {"dropout": "0.1"}),
        Kind.LOSS: PartChoice("huber", None, {}),
        Kind.TIMESTEP_SUBSET: PartChoice("explicit", "mine", {"t": [0, 10], "x": "none"}),
    }


def test_empty_file_is_an_empty_request(read: Callable[[str], Request]) -> None:
    assert read("") == Request()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize = 3", "unknown setting 'batchsize'; did you mean 'batch_size'?"),
        ("[losses]", "unknown setting 'losses'; did you mean 'loss'?"),
        ("resume = true", "unknown setting 'resume'"),
        ("feature = 'x'", "unknown setting 'feature'"),
        ("batch_size = 1.5", "batch_size in {path} must be an integer from 1 to 100,000, not 1.5"),
        ("batch_size = true", "batch_size in {path} must be an integer from 1 to 100,000, not True"),
        ("batch_size = 0", "batch_size in {path} must be an integer from 1 to 100,000, not 0"),
        ("batch_size = [8]", "batch_size in {path} is only valid in a sweep"),
        ("eta = nan", "eta in {path} must be a number in [0, 1], not nan"),
        ("lr = -inf", "lr in {path} must be a number above 0, not -inf"),
        ("lr = 2020-01-01", "lr in {path} must be a number above 0, not"),
        ("clip = 1", "clip in {path} must be true or false, not 1"),
        ("seed = -1", "seed in {path} must be an integer in [0, 2^63), not -1"),
        ("device = 'tpu'", "device in {path} must be one of auto, cpu, cuda, not 'tpu'"),
        ("epochs = 0", "epochs in {path} must be an integer from 1 to 1,000,000,000,000, not 0"),
        ("epochs = 1.0", "epochs in {path} must be an integer from 1 to 1,000,000,000,000, not 1.0"),
        ("epochs = 'x'", "epochs in {path} must be an integer from 1 to 1,000,000,000,000, not 'x'"),
        ("epochs = 1\ntrain_steps = 2", "sets both epochs and train_steps"),
        ("loss = 3", "cannot read loss in {path}"),
        ("loss = ['mse']", "loss in {path} is only valid in a sweep"),
        ("plugin = ['torch', 'jittor']", "plugin in {path} is only valid in a sweep"),
        ("[evaluate]\nsamples = 10", "evaluate in {path} is only valid in a sweep"),
        ("[model]\nbase_channels = 16", "cannot read model in {path}"),
        ("loss = ''", "'' does not name a part"),
        ("plugin = 3", "cannot read plugin in {path}"),
        ("[loss]", "cannot read loss in {path}"),
        ("[loss]\nname = 3", "cannot read loss in {path}"),
        ("[loss]\nname = 'mse'\ndistribution = 3", "cannot read loss in {path}"),
        ("[loss]\nname = 'mse'\nparameters = 3", "cannot read loss in {path}"),
        ("[loss]\nname = 'mse'\nparameter = {}", "cannot read loss in {path}"),
        ("batch_size 3", "is not valid TOML"),
        ("batch_size = 3\nbatch_size = 3", "is not valid TOML"),
        ("[loss", "is not valid TOML"),
    ],
)
def test_invalid_setting_is_reported(
    read: Callable[[str], Request], tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        read(text)
    assert message.format(path=tmp_path / "some.toml") in caught.value.what


def test_error_shows_the_valid_forms_of_a_part(read: Callable[[str], Request]) -> None:
    with pytest.raises(UserError) as caught:
        read("[model]\nbase_channels = 16")
    assert 'model = "NAME:parameter=value,..."' in caught.value.fix
    assert "[model.parameters]" in caught.value.fix


def test_preset_in_a_file_is_refused_with_a_hint(read: Callable[[str], Request]) -> None:
    with pytest.raises(UserError, match="unknown setting 'preset'") as caught:
        read("preset = 'paper-cifar10'")
    assert "--preset" in caught.value.fix


def test_run_config_records_the_fingerprint_of_its_images(
    read: Callable[[str], Request], tmp_path: Path
) -> None:
    path = tmp_path / "some.toml"
    read(write_run_config(assemble(Request(plugin="torch")).config, (8, 8, 1), IMAGES, {}))
    assert read_config_file(path).fingerprint == IMAGES
    read("seed = 3")
    assert read_config_file(path).fingerprint is None, "only the config of a run has a fingerprint"
    for text in ("[provenance]", "[provenance]\nimages = 3", "[provenance.images]\nnum_train = 3"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="does not record a fingerprint of the training images"):
            _ = read_config_file(path).fingerprint


def test_true_is_not_a_number_of_epochs(read: Callable[[str], Request]) -> None:
    with pytest.raises(UserError):
        read("epochs = true")


@pytest.mark.parametrize(
    "text",
    [
        "lr = 1" + "0" * 400,
        "seed = 1" + "0" * 5000,
        "seed = 0x" + "f" * 5000,
        f"[model]\nname = 'unet'\nparameters = {{ num_groups = 0x{'f' * 5000} }}",
        "lr_warmup_steps = 1" + "0" * 18,
        "loss = " + "[" * 5000,
    ],
    ids=["beyond floats", "beyond integers", "hexadecimal", "part parameter", "beyond all steps", "nested"],
)
def test_huge_values_are_refused(read: Callable[[str], Request], text: str) -> None:
    with pytest.raises(UserError):
        read(text)


@pytest.mark.parametrize("name", ["a", '"."', "'='", '"\\""', "a "])
def test_key_with_thousands_of_parts_is_refused_at_once(read: Callable[[str], Request], name: str) -> None:
    """`tomllib` uses gigabytes for such a key, and its result is nested too deeply to be printed."""
    for text in (".".join([name] * 6000) + " = 1", f"[lr.{'.'.join([name] * 6000)}]"):
        with pytest.raises(UserError, match="is not valid TOML") as caught:
            read(text)
        assert caught.value.why == "a key has too many dotted parts"


def test_nesting_too_deep_to_print_is_refused(read: Callable[[str], Request]) -> None:
    long = "a" * 50
    for text in (f"lr.{'.'.join([long] * 1000)} = 1", f"[data.parameters]\nx = {'[' * 30}{']' * 30}"):
        with pytest.raises(UserError, match="is not valid TOML") as caught:
            read(text)
        assert caught.value.why == "it is nested deeper than 20 levels"


def test_dots_in_values_are_not_key_parts(read: Callable[[str], Request]) -> None:
    path = "/".join(["a.b.c"] * 30)
    part = read(f'[data]\nname = "images"\n[data.parameters]\npath = "{path}"').parts[Kind.DATA]
    assert part.arguments == {"path": path}


def test_oversized_file_is_not_read(read: Callable[[str], Request]) -> None:
    with pytest.raises(UserError, match="cannot read the configuration") as caught:
        read("# " + "x" * (4 << 20))
    assert caught.value.why == "it is larger than 4,194,304 bytes"


def test_unreadable_files_are_one_error(tmp_path: Path) -> None:
    not_utf8 = tmp_path / "latin.toml"
    not_utf8.write_bytes(b'loss = "\xe9"')
    with pytest.raises(UserError, match="is not valid TOML"):
        read_config_file(not_utf8)
    with pytest.raises(UserError, match="cannot read the configuration") as caught:
        read_config_file(tmp_path / "missing.toml")
    assert caught.value.why == "No such file or directory"
    with pytest.raises(UserError, match="cannot read the configuration"):
        read_config_file(tmp_path)


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "replace")))
def test_arbitrary_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    try:
        read_config_file(path)
    except UserError as error:
        assert str(path) in str(error)  # noqa: PT017 - both outcomes are allowed


def test_other_framework_uses_its_own_network_of_the_same_name() -> None:
    stored = Request(plugin="torch", parts={Kind.MODEL: PartChoice("unet", "ddim-torch", {"dropout": 0.5})})
    assert Request().over(stored).parts[Kind.MODEL].distribution == "ddim-torch"
    moved = Request(plugin="jittor").over(stored).parts[Kind.MODEL]
    assert (moved.name, moved.distribution, moved.arguments) == ("unet", None, {"dropout": 0.5})


def test_settings_accept_each_prediction_type() -> None:
    for prediction_type in PREDICTION_TYPES:
        assert SETTINGS["prediction_type"].accepts(prediction_type)
    assert SETTINGS["prediction_type"].rule == f"one of {', '.join(PREDICTION_TYPES)}"
