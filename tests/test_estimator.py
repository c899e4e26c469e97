"""SOPClassifier on 400 digits, 30 % of whose labels are wrong."""

import pathlib
import pickle

import jax
import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

from sop_jax import SOPClassifier, config, estimator, main, run_folder
from sop_jax.data import noise
from sop_jax.errors import UserError
from sop_jax.loop import Outcome

OWN_DATA = pathlib.Path(__file__).resolve().parents[1] / "configs" / "own_data.py"
SETTINGS = {
    "epochs": 12,
    "batch_size": 64,
    "learning_rate": 0.1,
    "model_options": {"width": 8},
    "crop_padding": 1,
    "flip": False,
}


@pytest.fixture(scope="module", autouse=True)
def compile_once(tmp_path_factory):
    """The second fit finds the compiled steps of the first."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
    yield
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="module")
def digits():
    """(images float [N, 8, 8] in [0, 1], true labels, given labels) of 400 training rows, and the
    same of 1,000 test rows without given labels."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(1797)
    train, test = order[:400], order[400:1400]
    given, _ = noise.corrupt(data.target[train], noise.symmetric(0.3, 10), 0)
    return (data.images[train] / 16, data.target[train], given), (
        data.images[test] / 16,
        data.target[test],
    )


@pytest.fixture(scope="module")
def fitted(digits):
    return SOPClassifier(**SETTINGS).fit(digits[0][0], digits[0][2])


def test_learns_the_true_labels_from_wrong_ones(fitted, digits):
    images, labels = digits[1]
    assert fitted.score(images, labels) > 0.85  # 70 % of the given labels are right
    assert fitted.score(images, labels) == np.mean(fitted.predict(images) == labels)
    assert fitted.score(images[:2], [labels[0], "no class"], sample_weight=[1, 3]) in (0, 0.25)
    probs = fitted.predict_proba(images)
    assert probs.shape == (1000, 10) and probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(fitted.classes_, np.arange(10))


def test_names_the_wrong_labels_worst_first(fitted, digits):
    _, true, given = digits[0]
    issues = fitted.label_issues()
    assert list(issues) == [
        "id",
        "given_label",
        "predicted_label",
        "label_quality",
        "is_label_issue",
        "suggestion_confidence",
        "apply_suggestion",
    ]
    assert sorted(issues["id"]) == list(range(400))
    assert np.all(np.diff(issues["label_quality"]) >= 0)
    np.testing.assert_array_equal(issues["given_label"], given[issues["id"]])
    wrong = (given != true)[issues["id"]]
    assert roc_auc_score(wrong, 1 - issues["label_quality"]) > 0.9
    corrected = np.where(issues["is_label_issue"], issues["predicted_label"], issues["given_label"])
    assert np.mean(corrected == true[issues["id"]]) > 0.85
    safe = issues["apply_suggestion"]
    assert np.all(issues["is_label_issue"][safe])
    taken = np.where(safe, issues["predicted_label"], issues["given_label"])
    assert np.mean(taken == true[issues["id"]]) >= np.mean(~wrong)
    assert fitted.noise_rate_ == pytest.approx(0.3, abs=0.1)
    assert fitted.noise_rate_ == pytest.approx(np.mean(1 - issues["label_quality"]), abs=1e-6)
    low, high = fitted.noise_rate_interval_
    assert low <= fitted.noise_rate_ <= high
    assert isinstance(fitted.warnings_, tuple)
    assert fitted.evidence_.held_out.shape == (400, 10)


def test_same_seed_same_predictions_whatever_the_kind_of_label(fitted, digits, capsys):
    """Strings that sort like the numbers, and uint8 instead of float, change nothing."""
    (images, _, given), (test_images, _) = digits
    names = [f"digit {label}" for label in given]
    again = (
        clone(fitted)
        .set_params(verbose=True)
        .fit(np.rint(images * 255).astype(np.uint8)[..., None], names)
    )
    assert "epoch 12/12" in capsys.readouterr().out
    np.testing.assert_array_equal(
        again.predict_proba(test_images), fitted.predict_proba(test_images)
    )
    assert again.predict(test_images)[0] == f"digit {fitted.predict(test_images)[0]}"
    assert (
        again.label_issues()["given_label"][0] == f"digit {fitted.label_issues()['given_label'][0]}"
    )


def test_a_pickle_predicts_the_same(fitted, digits):
    images = digits[1][0]
    before = fitted.predict_proba(images)
    restored = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(restored.predict_proba(images), before)
    for name, values in fitted.label_issues().items():
        np.testing.assert_array_equal(restored.label_issues()[name], values)


def test_predictions_do_not_depend_on_how_many_images_come_at_once(fitted, digits):
    images = digits[1][0]
    np.testing.assert_allclose(
        fitted.predict_proba(images[598:601]), fitted.predict_proba(images)[598:601], atol=1e-5
    )


def test_is_quiet_unless_asked(digits, capfd):
    SOPClassifier(**SETTINGS | {"epochs": 1}).fit(digits[0][0], digits[0][2])
    assert capfd.readouterr() == ("", "")


def test_sigterm_ends_the_process_instead_of_leaving_half_a_fit(monkeypatch):
    stopped = Outcome(None, [], False, 0.0, [])
    monkeypatch.setattr(estimator, "train", lambda *args, **kwargs: stopped)
    classifier = SOPClassifier(batch_size=8)
    with pytest.raises(SystemExit) as end:
        classifier.fit(np.zeros((8, 8, 8)), [0, 1] * 4)
    assert end.value.code == 143 and not hasattr(classifier, "classes_")


def test_with_nothing_set_it_trains_the_run_of_the_command_line(tmp_path):
    """On 300 digits with 20 % wrong labels: the network and every verdict, bit for bit."""
    data = load_digits()
    images = (data.images * 15).astype(np.uint8)
    given, _ = noise.corrupt(data.target[:300], noise.symmetric(0.2, 10), 0)
    np.savez(
        tmp_path / "mine.npz",
        train_images=images[:300],
        train_labels=given,
        test_images=images[300:340],
        test_labels=data.target[300:340],
    )
    command = ["main", f"--config={OWN_DATA}", f"--config.data.path={tmp_path}/mine.npz"]
    command += [f"--workdir={tmp_path}/run", "--config.epochs=3", "--config.compilation_cache=off"]
    assert main.main(command) == 0
    run = run_folder.read_run(tmp_path / "run")
    assert run.config["batch_size"] == 16 and run.config["augment.flip"] is False

    classifier = SOPClassifier(epochs=3).fit(images[:300], given)
    issues = classifier.label_issues()
    assert [int(name) for name in run.ids] == issues["id"].tolist()
    np.testing.assert_array_equal(run.label, issues["given_label"])
    np.testing.assert_array_equal(run.suggested_label, issues["predicted_label"])
    np.testing.assert_array_equal(run.flagged, issues["is_label_issue"])
    assert 0 < run.flagged.sum() < 300
    np.testing.assert_array_equal(run.score, 1 - issues["label_quality"])
    probs = np.load(tmp_path / "run" / "predictions.npz")["test_pred_probs"]
    np.testing.assert_allclose(
        classifier.predict_proba(images[300:340]), probs, rtol=1e-5, atol=1e-7
    )


def test_is_a_scikit_learn_estimator():
    classifier = SOPClassifier(epochs=3, method_options={"learning_rate_u": 5.0})
    assert is_classifier(classifier)
    copy = clone(classifier)
    assert copy.get_params() == classifier.get_params()
    assert copy.get_params()["method_options"] == {"learning_rate_u": 5.0}
    assert copy.set_params(model_options={"width": 4}).model_options == {"width": 4}


def test_defaults_are_those_of_the_config():
    parameters, default = SOPClassifier().get_params(), config.default()
    assert parameters.pop("verbose") is False
    assert parameters.pop("method_options") is None and parameters.pop("model_options") is None
    fields = {**default.to_dict(), **default.optimizer, **default.augment}
    fields |= {"method": default.method.name, "model": default.model.name}
    assert parameters == {name: fields[name] for name in parameters}


def test_options_reach_the_config_of_the_method_and_the_network():
    classifier = SOPClassifier(
        method="focal", method_options={"gamma": np.int64(2)}, model_options={"width": 4}
    )
    made = classifier._config()
    assert made.method.to_dict() == {"name": "focal", "gamma": 2.0}
    assert made.model.width == 4 and made.model.activation == "silu"


def test_labels_of_every_hashable_kind_and_numpy_parameters_get_as_far_as_the_batch():
    """A batch that does not fit the devices is refused last, once everything else is accepted."""
    images = np.zeros((64, 8, 8, 3), np.float32)
    kinds = (
        [("a", 1), ("b", 2)],
        [1, "one"],
        [True, False],
        [0.5, 1.5],
        [frozenset("a"), 2],
        [np.str_("x"), "y"],
    )
    for kind in kinds:
        with pytest.raises(UserError, match="batch_size=60 is not divisible by the 8 devices"):
            SOPClassifier(batch_size=np.int64(60), learning_rate=1).fit(images, kind * 32)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((8, 64)), [0, 1] * 4, r"images has shape \(8, 64\); it must be \[N, H, W\]"),
        (np.zeros((0, 8, 8)), [], r"images has shape \(0, 8, 8\)"),
        (
            np.zeros((8, 8, 8), int),
            [0, 1] * 4,
            "images is of type int64; it must be uint8, or float",
        ),
        (
            np.full((8, 8, 8), 16.0),
            [0, 1] * 4,
            r"images\[0\] holds 16.0, but floats must lie in \[0, 1\]",
        ),
        (np.full((8, 8, 8), np.nan), [0, 1] * 4, r"images\[0\] holds nan"),
        (np.zeros((8, 8, 8)), [0, 1, 1], "images has 8 rows but labels has 3"),
        (np.zeros((8, 8, 8)), [3] * 8, r"labels holds 1 class \(3\); it takes at least 2"),
        (np.zeros((8, 8, 8)), np.eye(8), r"labels has shape \(8, 8\); it must be \[N\]"),
        (
            np.zeros((8, 8, 8)),
            [[1]] * 8,
            r"labels\[0\] cannot be a label \(unhashable type: 'list'\)",
        ),
        (np.zeros((8, 8, 8)), [0.0, 1.0] * 3 + [np.nan, 1.0], r"labels\[6\] is nan; drop the rows"),
        (np.zeros((8, 8, 8)), ["a", None] * 4, r"labels\[1\] is None; drop the rows"),
    ],
)
def test_arrays_that_cannot_be_trained_on(images, labels, message):
    with pytest.raises(UserError, match=message):
        SOPClassifier().fit(images, labels)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epochs": 2.5}, "epochs=2.5 is of type float; it must be int"),
        ({"epochs": None}, "epochs=None is of type NoneType; it must be int"),
        ({"flip": 1}, "flip=1 is of type int; it must be bool"),
        ({"batch_size": 128}, "batch_size=128 exceeds the 8 images"),
        ({"batch_size": "16"}, "batch_size='16' is of type str; it must be int"),
        (
            {"method_options": {"learning_rate_u": "10"}},
            "method.learning_rate_u='10' is of type str; it must be a number",
        ),
        (
            {"method": "gce", "method_options": {"smoothing": 0.9}},
            "method.smoothing is no field of method 'gce' .it belongs to label_smoothing.",
        ),
        ({"method_options": {"name": "ce"}}, "method_options holds 'name'"),
        ({"method_options": [1]}, "method_options=.1. must be a dict"),
        ({"method": "focal", "method_options": {"gamma": 0.5}}, "method.gamma=0.5"),
        ({"model_options": {"width": 0}}, "model.width=0 is not allowed"),
        ({"crop_padding": 8}, "augment.crop_padding=8 is not allowed"),
        ({"epochs": 0}, "epochs=0 is not allowed"),
        ({"method": "spo"}, "method.name='spo' is unknown"),
        ({"model": "resnet"}, "model.name='resnet' is unknown"),
    ],
)
def test_parameters_that_cannot_be(parameters, message):
    with pytest.raises(UserError, match=message):
        SOPClassifier(**{"batch_size": 8} | parameters).fit(np.zeros((8, 8, 8)), [0, 1] * 4)


def test_nothing_is_told_before_fit():
    for call in (
        lambda c: c.predict(np.zeros((1, 8, 8))),
        lambda c: c.predict_proba(np.zeros((1, 8, 8))),
        lambda c: c.score(np.zeros((1, 8, 8)), [0]),
        lambda c: c.label_issues(),
    ):
        with pytest.raises(NotFittedError):
            call(SOPClassifier())


def test_images_to_predict_are_like_those_of_fit(fitted):
    with pytest.raises(UserError, match="images are 8x8x3, but those of fit were 8x8x1"):
        fitted.predict(np.zeros((2, 8, 8, 3)))
