"""The config: defaults, every published config file, each check, and what may change on resume."""

import ast
import math
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sop_jax import config as configs
from sop_jax import main
from sop_jax.errors import UserError, suggestion

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sop_jax"
FILES = sorted((ROOT / "configs").glob("*.py"))
THEORY = sorted((ROOT / "configs" / "theory").glob("*.py"))


def changed(**fields):
    """The default config with some fields set: noise__rate=0.4 is config.noise.rate."""
    config = configs.default()
    for name, value in fields.items():
        group, leaf = configs.group_of(config, name.replace("__", "."))
        group[leaf] = value
    return config


def test_defaults_are_right_by_themselves_and_every_field_is_explained():
    configs.check(configs.default())
    source = (ROOT / "sop_jax" / "config.py").read_text()
    for name in configs.field_names(configs.default()):
        line = next(
            line for line in source.splitlines() if line.strip().startswith(f"config.{name} = ")
        )
        explained = (
            "#" in line
            or name in ("optimizer.momentum", "optimizer.drop_factor")
            or "distributed." in name
        )
        assert explained, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_files_are_complete_right_and_name_their_command(path):
    config = main.load_file(str(path))
    configs.check(config)
    assert configs.field_names(config) == configs.field_names(configs.default())
    assert f"--config=configs/{path.name}" in ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", THEORY, ids=lambda path: path.stem)
def test_theory_configs_are_right_and_name_their_command(path):
    config = main.parse(["main", f"--config={path}", "--dry_run"]).config
    assert (PACKAGE / "tasks" / f"{config.task}.py").exists()
    assert f"--config=configs/theory/{path.name}" in ast.get_docstring(ast.parse(path.read_text()))


def test_a_task_of_other_fields_is_refused_on_the_command_line():
    with pytest.raises(
        UserError, match="config.task='two_curves' cannot be set on the command line"
    ):
        main.parse(
            [
                "main",
                f"--config={ROOT}/configs/digits_sop.py",
                "--dry_run",
                "--config.task=two_curves",
            ]
        )


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
        ({"epochs": 0}, "config.epochs=0 is not allowed"),
        ({"batch_size": -1}, "config.batch_size=-1"),
        ({"seed": -1}, "config.seed=-1"),
        ({"seed": 2**32}, "below 2\\*\\*32"),
        ({"noise__seed": -1}, "config.noise.seed=-1"),
        (
            {"num_seeds": 0},
            "config.num_seeds=0 is not allowed: it must be a finite number of at least 1",
        ),
        (
            {"seed": 2**32 - 1, "num_seeds": 2},
            "config.num_seeds=2 is not allowed: .*config.seed=4294967295",
        ),
        ({"seeds_by": "vmaps"}, "config.seeds_by='vmaps' is unknown; did you mean 'vmap'"),
        ({"dtype": "float16"}, "did you mean 'bfloat16'"),
        ({"noise__kind": "symetric"}, "did you mean 'symmetric'"),
        ({"noise__kind": "symmetric", "noise__rate": 1.2}, "a rate lies in \\[0, 1\\]"),
        ({"noise__kind": "symmetric", "noise__rate": -0.1}, "a rate lies in \\[0, 1\\]"),
        ({"noise__kind": "symmetric", "noise__rate": math.nan}, "config.noise.rate=nan"),
        ({"noise__rate": 0.4}, "noise.kind='none' has no rate"),
        ({"noise__kind": "human", "noise__rate": 0.4}, "noise.kind='human' has no rate"),
        ({"method__variant": "papr"}, "did you mean 'paper'"),
        ({"method__mse_weight": math.inf}, "finite"),
        ({"method__learning_rate_u": -1.0}, "config.method.learning_rate_u=-1.0"),
        ({"optimizer__schedule": "steps"}, "did you mean 'step'"),
        ({"optimizer__learning_rate": math.inf}, "finite"),
        ({"optimizer__drop_epochs": (80, 40)}, "rising"),
        ({"optimizer__drop_epochs": (0, 40)}, "rising"),
        ({"optimizer__drop_epochs": ("a",)}, "rising"),
        ({"augment__strong": "autoaugmnt"}, "did you mean 'autoaugment'"),
        (
            {"augment__flip": False, "augment__alternating_flip": True},
            "config.augment.alternating_flip=True .*flip=true",
        ),
        ({"optimizer__name": "moun"}, "did you mean 'muon'"),
        ({"optimizer__muon_learning_rate": -0.1}, "config.optimizer.muon_learning_rate=-0.1"),
        ({"optimizer__warmup": 0.0}, "config.optimizer.warmup=0.0"),
        ({"optimizer__ema": 1.0}, "config.optimizer.ema=1.0"),
        ({"data__name": "npz"}, "--config.data.path=FILE.npz"),
        ({"data__num_classes": 1}, "at least 2"),
        ({"data__validation_fraction": 1.0}, "config.data.validation_fraction=1.0"),
        ({"data__downsample": 0}, "config.data.downsample=0"),
        (
            {"distributed__num_processes": 2, "distributed__process_id": 2},
            "config.distributed.process_id=2",
        ),
    ],
)
def test_each_check_names_the_field(fields, message):
    with pytest.raises(UserError, match=message):
        configs.check(changed(**fields))


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
@given(st.sampled_from(configs.field_names(configs.default())), st.data())
def test_suggestion_mends_a_dropped_letter(name, data):
    position = data.draw(st.integers(0, len(name) - 1))
    misspelt = name[:position] + name[position + 1 :]
    known = configs.field_names(configs.default())
    if misspelt in known or len(name) < 5:
        return
    assert "did you mean" in suggestion(misspelt, known)


def test_suggestion_knows_the_group_of_a_bare_field():
    assert (
        suggestion("rate", configs.field_names(configs.default())) == "; did you mean 'noise.rate'?"
    )
    assert suggestion("xyzzy", ["noise.rate"]) == ""


def changes(old, new, requested=None):
    return configs.changed_fields(old.to_dict(), new, requested if requested is not None else new)


def test_what_may_change_on_resume():
    old = changed(dtype="float32", optimizer__schedule="step")
    free = changed(
        dtype="float32",
        optimizer__schedule="step",
        data__dir="/elsewhere",
        eval_every=5,
        epochs=61,
        checkpoint_every=7,
        compilation_cache="off",
        steps_per_dispatch=8,
        distributed__num_processes=2,
    )
    assert changes(old, free) == []
    for name, value in (
        ("seed", 1),
        ("batch_size", 64),
        ("noise__rate", 0.3),
        ("method__name", "ce"),
    ):
        (line,) = changes(
            old, changed(dtype="float32", optimizer__schedule="step", **{name: value})
        )
        assert line.startswith(f"{name.replace('__', '.')} (was ") and repr(value) in line


def test_the_length_of_a_run_on_resume():
    for schedule, epochs, reason in (
        ("step", 59, "longer, not shorter"),
        ("cosine", 61, "cosine"),
        ("cosine", 59, "cosine"),
        ("triangular", 61, "triangular"),
    ):
        old, new = (
            changed(optimizer__schedule=schedule),
            changed(optimizer__schedule=schedule, epochs=epochs),
        )
        (line,) = changes(old, new)
        assert line.startswith(f"epochs (was 60, now {epochs}") and reason in line


def test_a_dtype_left_to_the_device_may_change_with_it():
    old, new = changed(dtype="bfloat16"), changed(dtype="float32")
    assert changes(old, new, requested=configs.default()) == []
    assert changes(old, new, requested=new) == ["dtype (was 'bfloat16', now 'float32')"]


def test_seeds_on_resume():
    old = changed(seeds_by="unroll", num_seeds=2)
    assert changes(old, changed(seeds_by="vmap", num_seeds=2), requested=changed(num_seeds=2)) == []
    assert changes(old, changed(seeds_by="vmap", num_seeds=2)) == [
        "seeds_by (was 'unroll', now 'vmap')"
    ]
    assert changes(old, changed(seeds_by="unroll", num_seeds=3)) == ["num_seeds (was 2, now 3)"]
    # an older folder
    before = {k: v for k, v in old.to_dict().items() if k not in ("num_seeds", "seeds_by")}
    assert configs.changed_fields(before, changed(seeds_by="unroll"), configs.default()) == []


def test_each_seed_is_a_config_of_one_seed():
    config = changed(seed=4, num_seeds=3)
    assert [(own.seed, own.num_seeds) for own in configs.each_seed(config)] == [
        (4, 1),
        (5, 1),
        (6, 1),
    ]
    assert config.seed == 4 and configs.each_seed(config)[1].data.name == config.data.name


def test_tuples_survive_json():
    old = configs.default().to_dict()
    old["optimizer"]["drop_epochs"] = list(old["optimizer"]["drop_epochs"])
    assert configs.changed_fields(old, configs.default(), configs.default()) == []
