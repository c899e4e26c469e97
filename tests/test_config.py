"""The config: defaults, every published config file, and each check of the general fields."""

import ast
import math
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sop_jax import config as configs
from sop_jax.command_line import load_file, parse
from sop_jax.errors import UserError, suggestion
from sop_jax.general import FIELDS
from sop_jax.settings import complete

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sop_jax"
FILES = sorted((ROOT / "configs").glob("*.py"))
THEORY = sorted((ROOT / "configs" / "theory").glob("*.py"))
NAMES = list(configs.flatten(configs.default()))


def changed(**fields):
    """The default config with some fields set: noise__rate=0.4 is config.noise.rate."""
    config = configs.default()
    for name, value in fields.items():
        group, leaf = configs.group_of(config, name.replace("__", "."))
        group[leaf] = value
    return config


def test_defaults_are_right_by_themselves_and_every_field_is_explained_once():
    configs.check(configs.default())
    assert sorted(NAMES) == sorted(field.name for field in FIELDS)
    assert all(len(field.meaning) > 10 for field in FIELDS)


def test_flatten():
    nested = {"a": {"b": {"c": 1}, "d": (2, 3)}, "e": None, "f": configs.base("x")}
    assert configs.flatten(nested) == {
        "a.b.c": 1,
        "a.d": (2, 3),
        "e": None,
        "f.task": "x",
        "f.seed": 0,
        "f.compilation_cache": None,
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_files_are_complete_right_and_name_their_command(path):
    config = load_file(str(path))
    configs.check(config)
    assert set(NAMES) <= set(configs.flatten(complete(config)))
    header = ast.get_docstring(ast.parse(path.read_text()))
    assert f"--config=configs/{path.name}" in header


@pytest.mark.parametrize("path", THEORY, ids=lambda path: path.stem)
def test_theory_configs_are_right_and_name_their_command(path):
    config = parse(["main", f"--config={path}", "--dry_run"]).config
    assert (PACKAGE / "tasks" / f"{config.task}.py").exists()
    assert f"--config=configs/theory/{path.name}" in ast.get_docstring(ast.parse(path.read_text()))


def test_the_published_configs_are_there():
    wanted = {
        f"{data}_{method}"
        for data in ("digits", "cifar10", "cifar100", "cifar10n", "cifar100n")
        for method in ("ce", "sop", "sop_plus")
    } | {"cifar10n_small_sop", "cifar10n_small_ce", "cifar10n_fast"}
    assert wanted <= {path.stem for path in FILES}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "config.epochs=0 is not allowed: it must be a whole number from 1"),
        ({"epochs": 2**31}, "config.epochs=2147483648 is not allowed"),
        ({"batch_size": -1}, "config.batch_size=-1"),
        ({"batch_size": 2**31}, "config.batch_size=2147483648"),
        ({"batch_size": 10**400}, "config.batch_size=a number beyond"),
        ({"seed": -1}, "config.seed=-1"),
        ({"seed": 2**32}, "config.seed=4294967296"),
        ({"noise__seed": -1}, "config.noise.seed=-1"),
        ({"num_seeds": 0}, "config.num_seeds=0 is not allowed: it must be a whole number from 1"),
        ({"num_seeds": 10**9}, "config.num_seeds=1000000000 .* from 1 to 1000"),
        (
            {"seed": 2**32 - 1, "num_seeds": 2},
            "config.num_seeds=2 is not allowed: .*config.seed=4294967295",
        ),
        ({"eval_every": 0}, "config.eval_every=0"),
        ({"steps_per_dispatch": 2**31}, "config.steps_per_dispatch=2147483648"),
        ({"dtype": "float16"}, "did you mean 'bfloat16'"),
        ({"noise__kind": "symetric"}, "did you mean 'symmetric'"),
        ({"noise__kind": "symmetric", "noise__rate": 1.2}, "config.noise.rate=1.2 .* from 0 to 1"),
        ({"noise__kind": "symmetric", "noise__rate": -0.1}, "config.noise.rate=-0.1"),
        ({"noise__kind": "symmetric", "noise__rate": math.nan}, "config.noise.rate=nan"),
        ({"noise__rate": 0.4}, "noise.kind='none' has no rate"),
        ({"noise__kind": "human", "noise__rate": 0.4}, "noise.kind='human' has no rate"),
        ({"noise__labels": "worst"}, "config.noise.labels='worst' .*noise.kind='none'"),
        ({"optimizer__learning_rate": math.inf}, "config.optimizer.learning_rate=inf .*finite"),
        ({"optimizer__learning_rate": 1e308}, "config.optimizer.learning_rate=1e\\+308"),
        ({"optimizer__weight_decay": -1.0}, "config.optimizer.weight_decay=-1"),
        ({"augment__strong": "autoaugmnt"}, "did you mean 'autoaugment'"),
        ({"augment__crop_padding": 2**31}, "config.augment.crop_padding=2147483648"),
        ({"augment__cutout": 2**31}, "config.augment.cutout=2147483648"),
        (
            {"augment__flip": False, "augment__alternating_flip": True},
            "config.augment.alternating_flip=True .*flip=true",
        ),
        ({"optimizer__ema": 1.0}, "config.optimizer.ema=1.0"),
        ({"data__name": "npz"}, "--config.data.path=FILE.npz"),
        ({"data__path": "my.npz"}, "config.data.path='my.npz' .*data.name='digits'"),
        ({"data__num_classes": 1}, "config.data.num_classes=1 .*from 2"),
        ({"data__num_classes": 10**9}, "config.data.num_classes=1000000000"),
        ({"data__validation_fraction": 1.0}, "config.data.validation_fraction=1.0"),
        ({"data__downsample": 0}, "config.data.downsample=0"),
        (
            {"distributed__num_processes": 2, "distributed__process_id": 2},
            "config.distributed.process_id=2",
        ),
        ({"distributed__process_id": 0}, "config.distributed.process_id=0 .*num_processes"),
    ],
)
def test_each_check_names_the_field(fields, message):
    with pytest.raises(UserError, match=message):
        configs.check(changed(**fields))


def test_flips_may_alternate_where_the_data_decide_on_flips():
    configs.check(changed(augment__alternating_flip=True))  # `fitting` knows the data


def test_fields_are_those_of_the_default():
    config = configs.default()
    config.epoch = 3
    with pytest.raises(UserError, match="config.epoch is unknown; did you mean 'epochs'"):
        configs.check(config)
    config = configs.default()
    del config.noise.rate
    with pytest.raises(UserError, match="config.noise.rate is missing"):
        configs.check(config)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(NAMES), st.data())
def test_suggestion_mends_a_dropped_letter(name, data):
    position = data.draw(st.integers(0, len(name) - 1))
    misspelt = name[:position] + name[position + 1 :]
    if misspelt in NAMES or len(name) < 5:
        return
    assert "did you mean" in suggestion(misspelt, NAMES)


def test_suggestion_knows_the_group_of_a_bare_field():
    assert suggestion("rate", NAMES) == "; did you mean 'noise.rate'?"
    assert suggestion("xyzzy", ["noise.rate"]) == ""


def test_each_seed_is_a_config_of_one_seed():
    config = changed(seed=4, num_seeds=3)
    own = configs.each_seed(config)
    assert [(each.seed, each.num_seeds) for each in own] == [(4, 1), (5, 1), (6, 1)]
    assert config.seed == 4 and own[1].data.name == config.data.name


def test_differences_pass_over_what_the_config_no_longer_has():
    config = changed(epochs=3)
    saved = {"epochs": 2, "seeds_by": "unroll", "optimizer": {"learning_rate": 0.02}}
    assert configs.differences(saved, config, configs.default()) == [("epochs", 2, 3)]
