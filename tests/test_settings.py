"""A method, a network, an optimiser and a schedule own their fields; old run folders go on."""

import json
import pathlib

import pytest
from test_config import FILES, changed
from test_fitting import CIFAR, DIGITS, made_up

from sop_jax import methods, settings
from sop_jax.command_line import load_file
from sop_jax.config import default, flatten, group_of
from sop_jax.errors import UserError
from sop_jax.experiment import resolve

ROOT = pathlib.Path(__file__).resolve().parents[1]
# config.json of digits_sop.py as written when every method's fields stood in every config
OLD = json.loads((ROOT / "tests" / "old_config.json").read_text())


def all_choices():
    return [(choice.field, name) for choice in settings.CHOICES for name in choice.names()]


@pytest.mark.parametrize(("field", "name"), all_choices())
def test_every_choice_has_its_own_fields_complete_explained_and_accepted(field, name):
    config = default()
    group, leaf = group_of(config, field)
    group[leaf] = name
    full = settings.complete(config)
    (choice,) = [choice for choice in settings.CHOICES if choice.field == field]
    own = choice.fields(name)
    part = field.split(".")[0]
    assert set(own) <= set(full[part])
    for known in own.values():
        assert len(known.meaning) > 10, f"{name} does not explain {known.name}"
        assert full[part][known.name] == known.default
    again = settings.complete(full)
    assert flatten(again) == flatten(full)


def test_the_part_of_a_method_holds_exactly_its_fields():
    for name in methods.names():
        part = settings.complete(changed(method__name=name)).method
        assert set(part) == {"name", *methods.fields(name)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"method__name": "gce", "method__smoothing": 0.9},
            r"config.method.smoothing is no field of method 'gce' "
            r"\(it belongs to label_smoothing\); the fields there are name, q",
        ),
        ({"method__name": "gce", "method__p": 1.0}, "config.method.p is no field of method 'gce'"),
        ({"method__name": "sopp"}, "method.name='sopp' is unknown; did you mean 'sop'"),
        ({"method__variant": "papr"}, "did you mean 'paper'"),
        ({"method__learning_rate_u": -1.0}, "config.method.learning_rate_u=-1 is not allowed"),
        ({"method__learning_rate_v": 1e308}, "config.method.learning_rate_v=1e\\+308"),
        ({"method__mse_weight": float("inf")}, "config.method.mse_weight=inf"),
        ({"method__mse_weight": "much"}, "config.method.mse_weight='much' is of type str"),
        ({"model__name": "resnet18", "model__width": 8}, "belongs to small_resnet and fast_net"),
        ({"model__name": "fast_net", "model__classifier": "etf"}, "no field of network 'fast_net'"),
        ({"model__name": "resnet19"}, "did you mean 'resnet18'"),
        ({"model__activation": "gelu"}, "choose from silu, relu"),
        ({"model__width": 2**31}, "config.model.width=2147483648"),
        ({"model__feature_dim": 0}, "config.model.feature_dim=0"),
        ({"model__feature_dim": 2**31}, "config.model.feature_dim=2147483648"),
        ({"optimizer__schedule": "steps"}, "did you mean 'step'"),
        ({"optimizer__name": "moun"}, "did you mean 'muon'"),
        (
            {"optimizer__warmup": 0.5},
            "no field of optimiser 'sgd' with schedule 'cosine' .it belongs to triangular",
        ),
        ({"optimizer__name": "muon", "optimizer__muon_learning_rate": -0.1}, "muon_learning_rate"),
        ({"optimizer__schedule": "triangular", "optimizer__warmup": 0.0}, "optimizer.warmup=0.0"),
        *(
            ({"optimizer__schedule": "step", "optimizer__drop_epochs": drops}, "rising")
            for drops in ((80, 40), (0, 40), ("a",), (2**31,))
        ),
    ],
)
def test_what_does_not_belong_or_cannot_be_is_refused_by_name(fields, message):
    with pytest.raises(UserError, match=message):
        settings.complete(changed(**fields))


def test_a_whole_number_serves_where_a_number_is_wanted():
    config = default()
    config.method.learning_rate_u = 20
    assert type(settings.complete(config).method.learning_rate_u) is float


def test_other_choices_leave_out_what_only_the_files_own_has():
    config = changed(method__name="sop", method__learning_rate_u=20.0, method__mse_weight=0.5)
    other, notes = settings.choose(config, {"method.name": "elr"})
    assert set(other.method) == {"name"} and len(notes) == 2
    assert "config.method.learning_rate_u of the config file is left out" in notes[0]
    assert "method 'elr' has no such field" in notes[0]
    same, notes = settings.choose(config, {"method.name": "sop_plus"})
    assert same.method.learning_rate_u == 20.0 and notes == []
    assert config.method.name == "sop"  # the copy alone has changed


def test_text_says_what_every_field_means():
    lines = settings.text(settings.complete(changed(method__name="gce"))).splitlines()
    assert any(line.startswith("method.q = 0.7  # ") for line in lines)
    assert all("  # " in line for line in lines)


# Resuming


def changes(old, new, requested=None):
    old, new = settings.complete(old), settings.complete(new)
    asked = new if requested is None else requested
    return settings.changed_fields(old.to_dict(), new, asked)


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
        ("method__mse_weight", 0.5),
    ):
        new = changed(dtype="float32", optimizer__schedule="step", **{name: value})
        (line,) = changes(old, new)
        assert line.startswith(f"{name.replace('__', '.')} (was ") and repr(value) in line


def test_another_method_is_told_by_its_name():
    line, *_ = changes(default(), changed(method__name="ce"))
    assert line == "method.name (was 'sop', now 'ce')"


@pytest.mark.parametrize(
    ("schedule", "epochs", "reason"),
    [
        ("step", 59, "longer, not shorter"),
        ("cosine", 61, "cosine"),
        ("cosine", 59, "cosine"),
        ("triangular", 61, "triangular"),
    ],
)
def test_the_length_of_a_run_on_resume(schedule, epochs, reason):
    old = changed(optimizer__schedule=schedule)
    (line,) = changes(old, changed(optimizer__schedule=schedule, epochs=epochs))
    assert line.startswith(f"epochs (was 60, now {epochs}") and reason in line


def test_a_dtype_left_to_the_device_may_change_with_it():
    old, new = changed(dtype="bfloat16"), changed(dtype="float32")
    assert changes(old, new, requested=default()) == []
    assert changes(old, new, requested=new) == ["dtype (was 'bfloat16', now 'float32')"]


def test_num_seeds_on_resume():
    assert changes(changed(num_seeds=2), changed(num_seeds=3)) == ["num_seeds (was 2, now 3)"]


def test_tuples_survive_json():
    old = settings.complete(changed(optimizer__schedule="step"))
    saved = json.loads(json.dumps(old.to_dict()))
    assert settings.changed_fields(saved, old, old) == []


def old_run(**fields):
    """The config that goes on with OLD, resolved, and what was asked for."""
    (path,) = [path for path in FILES if path.stem == "digits_sop"]
    asked = load_file(str(path))
    asked.update(epochs=6, compilation_cache="off")
    for name, value in fields.items():
        asked.method[name] = value
    resolved, _ = resolve(asked, made_up(*DIGITS))
    return resolved, asked


def test_a_folder_with_the_fields_of_every_method_goes_on():
    assert "seeds_by" in OLD and "focal_gamma" in OLD["method"] and "whitening" in OLD["model"]
    resolved, asked = old_run()
    assert settings.changed_fields(OLD, resolved, asked) == []
    resolved, asked = old_run(learning_rate_u=3.0)
    assert settings.changed_fields(OLD, resolved, asked) == [
        "method.learning_rate_u (was 20.0, now 3.0)"
    ]


def before_the_data_decided(**fields):
    """config.json of a run of `default()` from when these were its fixed values."""
    fixed = {"batch_size": 128, "dtype": "float32", "steps_per_dispatch": 1}
    fixed |= {"augment__crop_padding": 4, "augment__flip": True}
    fixed |= {"augment__strong": "autoaugment", "augment__cutout": 16}
    rates = {"method__learning_rate_u": 10.0, "method__learning_rate_v": 10.0}
    saved = settings.complete(changed(epochs=120, **{**fixed, **rates, **fields}))
    return json.loads(json.dumps(saved.to_dict()))


@pytest.mark.parametrize("method", ["sop", "sop_plus"])
def test_a_folder_from_before_the_data_decided_goes_on_where_they_decide_alike(method):
    asked = changed(epochs=120, method__name=method)
    resolved, _ = resolve(asked, made_up(*CIFAR))
    saved = before_the_data_decided(method__name=method)
    assert settings.changed_fields(saved, resolved, asked) == []


def test_where_the_data_decide_otherwise_it_is_a_difference_like_a_published_rate():
    asked = changed(epochs=60)
    resolved, _ = resolve(asked, made_up(*DIGITS))
    saved = before_the_data_decided() | {"epochs": 60}
    assert set(settings.changed_fields(saved, resolved, asked)) == {
        "batch_size (was 128, now 64)",
        "augment.crop_padding (was 4, now 1)",
        "augment.flip (was True, now False)",
        "method.learning_rate_u (was 10.0, now 20.0)",
        "method.learning_rate_v (was 10.0, now 20.0)",
    }
    asked.update(batch_size=128)  # the cure that the line names
    asked.augment.update(crop_padding=4, flip=True)
    asked.method.update(learning_rate_u=10.0, learning_rate_v=10.0)
    resolved, _ = resolve(asked, made_up(*DIGITS))
    assert settings.changed_fields(saved, resolved, asked) == []


def test_a_view_that_the_method_has_is_compared():
    asked = changed(epochs=120, method__name="sop_plus")
    resolved, _ = resolve(asked, made_up(50_000, 32, 32, 1))
    saved = before_the_data_decided(method__name="sop_plus", augment__cutout=8)
    assert settings.idle(resolved) == set()
    assert set(settings.changed_fields(saved, resolved, asked)) == {
        "augment.flip (was True, now False)",
        "augment.strong (was 'autoaugment', now 'weak')",
        "augment.cutout (was 8, now 16)",
    }
    assert settings.idle(settings.complete(default())) == {"augment.strong", "augment.cutout"}


def test_a_field_of_another_name_is_recognised():
    saved = OLD | {"method": OLD["method"] | {"name": "focal", "focal_gamma": 2.0}}
    resolved, asked = old_run()
    for config in (resolved, asked):
        config.method = {"name": "focal", "gamma": 2.0}
    assert settings.changed_fields(saved, resolved, asked) == []
    resolved.method.gamma = 3.0
    assert settings.changed_fields(saved, resolved, asked) == ["method.gamma (was 2.0, now 3.0)"]


def test_a_folder_that_lacks_fields_stands_at_their_defaults():
    without = OLD | {"method": {"name": "sop"}}  # rates that were published then are so now
    resolved, asked = old_run()
    del asked.method.learning_rate_u, asked.method.learning_rate_v
    assert settings.changed_fields(without, resolved, asked) == []
    resolved.method.init_std = 1e-3
    assert settings.changed_fields(without, resolved, asked) == [
        "method.init_std (was 1e-08, now 0.001)"
    ]
