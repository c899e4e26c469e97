"""SOP as a scikit-learn classifier, for an array of images with doubtful labels: `from sop_jax
import SOPClassifier`.

It builds a config and a data set and hands them to the same experiment and the same loop as the
command line.
"""

import functools
import pathlib
import tempfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from sop_jax import config as configs
from sop_jax import models
from sop_jax.checkpoint import Checkpoints
from sop_jax.data import arrays
from sop_jax.errors import UserError
from sop_jax.evaluate import evaluation_params, make_predict
from sop_jax.evidence import judge, read_evidence
from sop_jax.experiment import Experiment, build, resolve
from sop_jax.label_issues import worst_first
from sop_jax.loop import train
from sop_jax.mesh import fetch, make_mesh, put, replicated
from sop_jax.state import TrainState
from sop_jax.workdir import Session

_FIELDS = {  # parameter -> field of the config that it sets
    "method": "method.name",
    "variant": "method.variant",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "learning_rate": "optimizer.learning_rate",
    "learning_rate_u": "method.learning_rate_u",
    "learning_rate_v": "method.learning_rate_v",
    "model": "model.name",
    "width": "model.width",
    "crop_padding": "augment.crop_padding",
    "flip": "augment.flip",
    "seed": "seed",
}
_PREDICT_BATCH = 512


class SOPClassifier(ClassifierMixin, BaseEstimator):
    """Trains an image classifier on labels some of which are wrong, and says which (SOP, Liu et
    al., ICML 2022).

        classifier = SOPClassifier(epochs=60).fit(images, labels)
        pandas.DataFrame(classifier.label_issues()).head(20)

    Every parameter sets the field of `sop_jax/config.py` that is commented there, and has its
    default. The same seed gives the same predictions (on a GPU up to rounding).

    Args:
      method, variant: 'sop' or 'ce' and the like (`sop_jax.methods`); 'paper' or 'official'.
      epochs, batch_size: a batch must split evenly over the devices and be no larger than the data.
      learning_rate: of the network. learning_rate_u, learning_rate_v: of SOP's rows, at a batch of
        128; None: the published ones.
      model, width: network, and the first stage's channels of 'small_resnet'.
      crop_padding, flip: augmentation; switch flip off where a mirrored image means something else
        (digits, text).
      seed: initialisation, order of the examples, augmentation.
      verbose: whether each epoch prints a line.

    Attributes (after `fit`):
      classes_: [K], the distinct labels, sorted where they can be.
      noise_rate_: estimated share of wrong labels.
    """

    def __init__(
        self,
        *,
        method: str = "sop",
        variant: str = "paper",
        epochs: int = 60,
        batch_size: int = 128,
        learning_rate: float = 0.02,
        learning_rate_u: float | None = None,
        learning_rate_v: float | None = None,
        model: str = "small_resnet",
        width: int = 16,
        crop_padding: int = 4,
        flip: bool = True,
        seed: int = 0,
        verbose: bool = False,
    ):
        self.method = method
        self.variant = variant
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_u = learning_rate_u
        self.learning_rate_v = learning_rate_v
        self.model = model
        self.width = width
        self.crop_padding = crop_padding
        self.flip = flip
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
                f"images has {len(images)} rows but labels has {len(labels)}; there must be one label each"
            )
        classes = arrays.find_classes(labels)
        given = arrays.encode(labels, classes)
        config = self._config(images.shape[1:])
        if config.batch_size > len(images):
            raise UserError(
                f"batch_size={config.batch_size} exceeds the {len(images)} images; lower batch_size"
            )
        dataset = arrays.make_dataset(images, given, classes)
        config, notes = resolve(config, dataset)
        for note in notes if self.verbose else []:
            print(note)
        experiment = build(config, dataset, make_mesh())
        state = _train(experiment, quiet=not self.verbose)

        self.classes_ = classes
        self._given = given
        self._issues, _ = judge(experiment, state, read_evidence(experiment, state))
        self.noise_rate_ = float(self._issues.is_issue.mean())
        self._image_shape = images.shape[1:]
        self._statistics = experiment.dataset.mean, experiment.dataset.std
        self._network = config.model.name, config.dtype, config.model.width
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
                f"images are {_size(images.shape[1:])}, but those of fit were {_size(self._image_shape)}; "
                "resize them"
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
        """Share of images whose label is predicted; scikit-learn's own does not take labels of
        every kind.
        """
        predicted = self.predict_proba(images).argmax(axis=1)
        given = arrays.encode(arrays.as_labels(labels), self.classes_)
        return float(np.average(predicted == given, weights=sample_weight))

    def label_issues(self) -> dict[str, np.ndarray]:
        """The verdict on every training label, worst first, in cleanlab's columns; give it to
        pandas.DataFrame.

        Returns:
          id: int [N], row number in the arrays given to `fit`. given_label, predicted_label: [N],
            the label and the
          suggestion. label_quality: float [N], 0 bad .. 1 good. is_label_issue: bool [N].

        Raises:
          sklearn.exceptions.NotFittedError: before `fit`.
        """
        check_is_fitted(self, "classes_")
        order = worst_first(self._issues)
        return {
            "id": order,
            "given_label": self.classes_[self._given[order]],
            "predicted_label": self.classes_[self._issues.suggested[order]],
            "label_quality": self._issues.quality[order],
            "is_label_issue": self._issues.is_issue[order],
        }

    def __getstate__(self) -> dict:
        """What is pickled: host arrays only; the compiled function is built again when it is
        needed.
        """
        state = super().__getstate__()
        return state | {"_predict": None} if "_predict" in state else state

    def _config(self, image_shape: tuple[int, int, int]) -> ConfigDict:
        config = configs.default()
        for parameter, field in _FIELDS.items():
            _set(config, field, parameter, getattr(self, parameter))
        height, width, channels = image_shape
        # its policy is one for colours
        config.augment.strong = "autoaugment" if channels == 3 else "weak"
        config.augment.cutout = min(height, width) // 2  # 16 of 32 pixels, as published
        # nobody can resume from a folder that goes with the call
        config.checkpoint_every = config.epochs
        configs.check(config)
        return config

    def _build_predict(self) -> Callable[[np.ndarray], np.ndarray]:
        """(images uint8 [n, H, W, C], n <= _PREDICT_BATCH) -> probs [n, K], compiled once for all
        n.
        """
        mesh = make_mesh()
        place = functools.partial(put, sharding=replicated(mesh))
        params, model_state = jax.tree.map(place, self._variables)
        name, dtype, width = self._network
        model = models.api.find(name, len(self.classes_), jnp.dtype(dtype), width)
        batch = -(-_PREDICT_BATCH // mesh.devices.size) * mesh.devices.size
        predict = make_predict(model, *self._statistics, mesh, batch)

        def predict_some(images: np.ndarray) -> np.ndarray:
            padded = np.resize(images, (_PREDICT_BATCH, *images.shape[1:]))
            return predict(params, model_state, place(padded), np.arange(len(images)))

        return predict_some


class _NoEvaluation:
    """For `loop.train`: there are no test images."""

    keys: tuple[str, ...] = ()

    def __call__(self, state: TrainState) -> dict:
        return {}


def _train(experiment: Experiment, quiet: bool) -> TrainState:
    with tempfile.TemporaryDirectory(prefix="sop_jax_") as folder:
        session = Session(pathlib.Path(folder), experiment.config)
        checkpoints = Checkpoints(session.workdir)
        try:
            outcome = train(
                experiment, experiment.resident(), session, checkpoints, _NoEvaluation(), quiet
            )
        finally:
            checkpoints.close()
    if not outcome.finished:
        raise SystemExit(
            143
        )  # SIGTERM, which the loop turned into a checkpoint nobody can use here
    return outcome.state


def _set(config: ConfigDict, field: str, parameter: str, value: object) -> None:
    """Sets a field, or raises UserError that names the parameter where the value is of the wrong
    type.
    """
    if isinstance(value, np.generic):  # a search over np.arange(...) hands these over
        value = value.item()
    *parents, name = field.split(".")
    for parent in parents:
        config = config[parent]
    kind = config.get_type(name)
    unset = value is None and config[name] is None
    if not unset and type(value) not in ((float, int) if kind is float else (kind,)):
        raise UserError(
            f"{parameter}={value!r} is of type {type(value).__name__}; it must be {kind.__name__}"
        )
    config[name] = value


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
