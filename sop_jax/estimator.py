"""A scikit-learn classifier for an array of images with doubtful labels, `sop_jax.SOPClassifier`.

It builds a config and a data set and hands them to the same experiment and the same loop as the
command line.
"""

import functools
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from sop_jax import models
from sop_jax.checkpoint import Checkpoints
from sop_jax.config import check, default, group_of
from sop_jax.crossfit import Stopped, cross_fit
from sop_jax.data import arrays
from sop_jax.errors import UserError
from sop_jax.evaluate import NoEvaluation, evaluation_params, make_predict
from sop_jax.evidence import Evidence, judge, read_evidence
from sop_jax.experiment import Experiment, build, resolve
from sop_jax.label_issues import worst_first
from sop_jax.loop import train
from sop_jax.mesh import fetch, make_mesh, put, replicated
from sop_jax.settings import complete
from sop_jax.state import TrainState, flat
from sop_jax.workdir import Session

_FIELDS = {  # parameter -> field of the config that it sets
    "method": "method.name",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "learning_rate": "optimizer.learning_rate",
    "model": "model.name",
    "crop_padding": "augment.crop_padding",
    "flip": "augment.flip",
    "crossfit_epochs": "crossfit_epochs",
    "seed": "seed",
}
_PREDICT_BATCH = 512


class SOPClassifier(ClassifierMixin, BaseEstimator):
    """Trains an image classifier on labels some of which are wrong, and says which they are.

        classifier = SOPClassifier(epochs=60).fit(images, labels)
        pandas.DataFrame(classifier.label_issues()).head(20)

    Every parameter sets a field of the config, with its default (`sop_jax.general.FIELDS`), so that
    with none given this is the run of configs/own_data.py, number for number. The same seed gives
    the same predictions (on a GPU up to rounding). Source of the default method: SOP, Liu et al.,
    ICML 2022.

    Args:
      method: 'sop', 'ce' and the like, a module of `sop_jax.methods`.
      method_options: fields of the method by name, such as {"gamma": 2} for 'focal'; the others
        keep their defaults. `python -m sop_jax.main --help` lists them.
      epochs: passes over the images.
      batch_size: splits evenly over the devices and is no larger than the data; None: 128, less
        where an epoch had fewer than 20 steps.
      learning_rate: of the network.
      model: network, a key of `sop_jax.models.api.NETWORKS`.
      model_options: fields of the network by name, such as {"width": 32} for 'small_resnet'.
      crop_padding: pixels of zeros around an image before a random crop; None: an eighth of its
        shorter side.
      flip: whether images are mirrored at random; None: colour images are, grey ones (digits, text,
        scans) are not, since there a mirrored one can mean something else.
      crossfit_epochs: of the two half networks that the verdict on the labels rests on; None: a
        fifth of `epochs`, or what 250 steps take; 0: none.
      seed: initialisation, order of the examples, augmentation.
      verbose: whether each epoch prints a line.

    Attributes (after `fit`):
      classes_: [K], the distinct labels, sorted where they can be.
      noise_rate_: estimated share of wrong labels; noise_rate_interval_: (low, high).
      warnings_: sentences that say why the verdict should not be trusted, if anything does.
      evidence_: what the verdict rests on, a `sop_jax.evidence.Evidence`.
    """

    def __init__(
        self,
        *,
        method: str = "sop",
        method_options: Mapping[str, Any] | None = None,
        epochs: int = 60,
        batch_size: int | None = None,
        learning_rate: float = 0.02,
        model: str = "small_resnet",
        model_options: Mapping[str, Any] | None = None,
        crop_padding: int | None = None,
        flip: bool | None = None,
        crossfit_epochs: int | None = None,
        seed: int = 0,
        verbose: bool = False,
    ):
        self.method = method
        self.method_options = method_options
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.model = model
        self.model_options = model_options
        self.crop_padding = crop_padding
        self.flip = flip
        self.crossfit_epochs = crossfit_epochs
        self.seed = seed
        self.verbose = verbose

    def fit(self, images, labels) -> "SOPClassifier":
        """Trains from scratch.

        Args:
          images: [N, H, W] or [N, H, W, C], uint8, or floats in [0, 1], which are rounded to 256
            levels.
          labels: [N], of any hashable kind.

        Returns:
          Itself.

        Raises:
          UserError: images or labels that cannot be trained on, or a parameter that cannot be.
        """
        images, labels = arrays.as_images(images), arrays.as_labels(labels)
        if len(images) != len(labels):
            raise UserError(
                f"images has {len(images)} rows but labels has {len(labels)}; there must be one "
                "label each"
            )
        classes = arrays.find_classes(labels)
        label = arrays.encode(labels, classes)
        config = self._config()
        if config.batch_size is not None and config.batch_size > len(images):
            raise UserError(
                f"batch_size={config.batch_size} exceeds the {len(images)} images; lower batch_size"
            )
        dataset = arrays.make_dataset(images, label, classes)
        config, notes = resolve(config, dataset)
        for note in notes if self.verbose else []:
            print(note)
        experiment = build(config, dataset, make_mesh())
        state, self.evidence_ = _train(experiment, quiet=not self.verbose)
        verdict = judge(experiment, self.evidence_)

        self.classes_ = classes
        self._label = label
        self._issues = verdict.issues
        self.noise_rate_ = verdict.noise_rate
        self.noise_rate_interval_ = verdict.noise_rate_low, verdict.noise_rate_high
        self.warnings_ = verdict.warnings
        self._image_shape = images.shape[1:]
        self._statistics = experiment.dataset.mean, experiment.dataset.std
        self._network = config.model.to_dict(), config.dtype
        self._variables = fetch((evaluation_params(state), state.model_state))
        self._predict = None
        return self

    def predict_proba(self, images) -> np.ndarray:
        """Class probabilities float32 [M, K], columns in the order of `classes_`.

        Raises:
          sklearn.exceptions.NotFittedError: before `fit`. UserError: images not like those of
            `fit`.
        """
        check_is_fitted(self, "classes_")
        images = arrays.as_images(images)
        if images.shape[1:] != self._image_shape:
            raise UserError(
                f"images are {_size(images.shape[1:])}, but those of fit were "
                f"{_size(self._image_shape)}; resize them"
            )
        if self._predict is None:
            self._predict = self._build_predict()
        return np.concatenate(
            [
                self._predict(images[start : start + _PREDICT_BATCH])
                for start in range(0, len(images), _PREDICT_BATCH)
            ]
        )

    def predict(self, images) -> np.ndarray:
        """The most probable class of each image, [M]."""
        probs = self.predict_proba(images)  # first: it is what says that `fit` is missing
        return self.classes_[probs.argmax(axis=1)]

    def score(self, images, labels, sample_weight=None) -> float:
        """Share of images whose label is predicted, of every kind of label (unlike sklearn's)."""
        predicted = self.predict_proba(images).argmax(axis=1)
        label = arrays.encode(arrays.as_labels(labels), self.classes_)
        return float(np.average(predicted == label, weights=sample_weight))

    def label_issues(self) -> dict[str, np.ndarray]:
        """The verdict on every training label, worst first, in cleanlab's columns.

        Give it to pandas.DataFrame.

        Returns:
          id: int [N], row number in the arrays given to `fit`.
          given_label, predicted_label: [N], the label and the suggestion.
          label_quality: float [N], probability that the given label is right.
          is_label_issue: bool [N], label_quality below 1/2.
          suggestion_confidence: float [N], probability that predicted_label is right.
          apply_suggestion: bool [N], whether the suggestion is likely enough to be taken unseen.

        Raises:
          sklearn.exceptions.NotFittedError: before `fit`.
        """
        check_is_fitted(self, "classes_")
        order = worst_first(self._issues)
        return {
            "id": order,
            "given_label": self.classes_[self._label[order]],
            "predicted_label": self.classes_[self._issues.suggested_label[order]],
            "label_quality": self._issues.quality[order],
            "is_label_issue": self._issues.is_issue[order],
            "suggestion_confidence": self._issues.suggestion_confidence[order],
            "apply_suggestion": self._issues.apply_suggestion[order],
        }

    def __getstate__(self) -> dict:
        """What is pickled: host arrays only; the compiled function is built again when needed."""
        state = super().__getstate__()
        return state | {"_predict": None} if "_predict" in state else state

    def _config(self) -> ConfigDict:
        config = default()
        for parameter, field in _FIELDS.items():
            _set(config, field, parameter, getattr(self, parameter))
        for group in ("method", "model"):
            options = getattr(self, f"{group}_options")
            for name, value in _checked_options(f"{group}_options", options).items():
                config[group][name] = value
        # nobody can resume from a folder that goes with the call
        config.checkpoint_every = config.epochs
        check(config)
        return complete(config)

    def _build_predict(self) -> Callable[[np.ndarray], np.ndarray]:
        """(images uint8 [n, H, W, C], n <= _PREDICT_BATCH) -> probs [n, K], compiled once."""
        mesh = make_mesh()
        place = functools.partial(put, sharding=replicated(mesh))
        params, model_state = jax.tree.map(place, self._variables)
        network, dtype = self._network
        model = models.from_config(ConfigDict(network), len(self.classes_), jnp.dtype(dtype))
        batch = -(-_PREDICT_BATCH // mesh.devices.size) * mesh.devices.size
        predict = make_predict(model, self._image_shape, *self._statistics, mesh, batch)

        def predict_some(images: np.ndarray) -> np.ndarray:
            padded = flat(np.resize(images, (_PREDICT_BATCH, *images.shape[1:])))
            return predict(params, model_state, place(padded), np.arange(len(images)))

        return predict_some


def _train(experiment: Experiment, quiet: bool) -> tuple[TrainState, Evidence]:
    resident = experiment.resident()
    with tempfile.TemporaryDirectory(prefix="sop_jax_") as folder:
        session = Session(pathlib.Path(folder), experiment.config)
        checkpoints = Checkpoints(session.workdir)
        # SIGTERM: the loop makes of it a checkpoint that nobody can use here
        try:
            outcome = train(experiment, resident, session, checkpoints, NoEvaluation(), quiet)
            if not outcome.finished:
                raise SystemExit(143)
            held_out = cross_fit(experiment, resident, session.workdir)
        except Stopped:
            raise SystemExit(143) from None
        finally:
            checkpoints.close()
    return outcome.state, read_evidence(experiment, outcome.state, resident, held_out)


def _plain(value: object) -> object:
    """A Python number: a search over np.arange(...) hands over NumPy's."""
    return value.item() if isinstance(value, np.generic) else value


def _set(config: ConfigDict, field: str, parameter: str, value: object) -> None:
    """Sets a field; UserError naming the parameter where the value is of the wrong type."""
    value = _plain(value)
    group, name = group_of(config, field)
    kind = group.get_type(name)
    if value is None and group[name] is None:
        return
    if type(value) not in ((float, int) if kind is float else (kind,)):
        raise UserError(
            f"{parameter}={value!r} is of type {type(value).__name__}; it must be {kind.__name__}"
        )
    group[name] = value


def _checked_options(parameter: str, options: object) -> dict[str, object]:
    """The options with plain numbers; UserError unless they map names of fields to values."""
    if options is None:
        return {}
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise UserError(
            f"{parameter}={options!r} must be a dict of field names and values, such as "
            '{"gamma": 2}'
        )
    if "name" in options:
        raise UserError(f"{parameter} holds 'name'; the parameter {parameter[:-8]} says it")
    return {name: _plain(value) for name, value in options.items()}


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
