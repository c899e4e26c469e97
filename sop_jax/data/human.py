"""Human label sets (CIFAR-10N, CIFAR-100N; Wei et al., ICLR 2022), from `.npz` and published `.pt`.

A `.pt` file is a zip that holds a pickle, and a pickle can run any program. It is read here without
torch by an unpickler that knows four names and answers them with harmless stand-ins of its own:
even a pickle that abuses those names reaches neither numpy nor anything else.
"""

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping

import numpy as np

from sop_jax.data.checks import check_labels
from sop_jax.data.user_files import check_regular, load_npz
from sop_jax.errors import UserError

_ALIASES = {
    "aggregate": ("aggre_label",),
    "worst": ("worse_label",),
    "random1": ("random_label1",),
    "random2": ("random_label2",),
    "random3": ("random_label3",),
    "noisy": ("noisy_label", "noise_label"),
    "clean": ("clean_label",),
}
# The sets that papers use: CIFAR-10N 'worst', and the one of CIFAR-100N.
_DEFAULTS = ("worse_label", "noisy_label", "noise_label")
# The published files have 2.4 MB. A hostile pickle of this size takes seconds, of 250 MB for ever.
_MAX_PICKLE_BYTES = 8 * 2**20


def read_label_sets(path: str) -> dict[str, np.ndarray]:
    """Reads a file of human labels.

    Args:
        path: `.npz` of integer arrays, or a published `.pt`.

    Returns:
        Name of the label set -> int32 [N], rows in the set's original order (row i is id i).

    Raises:
        UserError: missing or damaged file, pickled objects, a `.pt` that asks for anything but
          plain arrays.
    """
    if path.endswith("_ordered.npy"):
        raise UserError(
            f"{path}: the *_ordered.npy files are refused: their rows are in the old TensorFlow "
            "order, not in the data set's own, and they are pickles; use the published .pt file"
        )
    check_regular(path, "data.labels")
    if path.endswith(".npz"):
        return {key: _label_set(array, path, key) for key, array in load_npz(path).items()}
    if path.endswith(".pt"):
        return _read_pt(path)
    raise UserError(f"data.labels: {path}: human labels are read from .npz or .pt files")


def select(label_sets: Iterable[str], name: str | None, where: str) -> str:
    """The key among these that `name` means: a key, an alias, or None for the usual set.

    Raises:
        UserError: no such key; `where` names the file or set.
    """
    candidates = _DEFAULTS if name is None else (name, *_ALIASES.get(name, ()))
    for key in candidates:
        if key in label_sets:
            return key
    if not label_sets:
        raise UserError(
            f"noise.kind='human': {where} has no human labels; give a file of them with "
            "--config.data.labels=FILE (.npz, or a published .pt)"
        )
    wanted = " is not set" if name is None else f"={name!r} is not there"
    raise UserError(
        f"noise.labels{wanted}: {where} has {', '.join(label_sets)}; "
        f"name one of them, or an alias ({', '.join(_ALIASES)})"
    )


def human_labels(
    label_sets: Mapping[str, np.ndarray],
    name: str | None,
    true_labels: np.ndarray,
    ids: np.ndarray,
    num_classes: int,
    where: str,
) -> np.ndarray:
    """Picks one label set and checks that its rows are the data set's.

    Args:
        label_sets: name -> integers [N].
        name: key or alias, see `select`.
        true_labels: those of the data set, integers [N], against which the file's own clean_label
            is held.
        ids: ids of the rows [N], for messages.
        num_classes: K.
        where: file or set, for messages.

    Returns:
        Given labels int32 [N].

    Raises:
        UserError: no such set, wrong length, labels out of range, clean labels that disagree.
    """
    key = select(label_sets, name, where)
    for checked in dict.fromkeys((key, "clean_label")):
        if checked in label_sets and len(label_sets[checked]) != len(true_labels):
            raise UserError(
                f"{where}, {checked}: {len(label_sets[checked])} labels for {len(true_labels)} "
                "training rows"
            )
    if "clean_label" in label_sets:
        differs = np.flatnonzero(np.asarray(label_sets["clean_label"]) != true_labels)
        if len(differs):
            raise UserError(
                f"{where}: clean_label disagrees with the data set's labels on "
                f"{len(differs) / len(true_labels):.1%} of the rows, first at row id "
                f"{ids[differs[0]]}: the file is in another order (the *_ordered files of CIFAR-N "
                "follow the old TensorFlow/TFDS order) or belongs to another set; use the "
                "published .pt"
            )
    return check_labels(label_sets[key], num_classes, f"{where}, {key}", ids)


def _label_set(values: object, path: str, key: str) -> np.ndarray:
    """One entry of a file as int32 [N]."""
    where = f"{path}, {key!r}"
    if type(values) is list and all(type(v) is int and abs(v) < 2**31 for v in values):
        values = np.array(values, np.int64)
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iu":
        got = type(values).__name__
        if isinstance(values, np.ndarray):
            got = f"{values.dtype} {list(values.shape)}"
        raise UserError(f"{where}: expected whole numbers of shape [N], got {got}")
    if values.size and (values.min() < -(2**31) or values.max() >= 2**31):
        raise UserError(f"{where}: holds numbers too large for labels")
    return values.astype(np.int32)


def _read_pt(path: str) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith("/data.pkl")]
            if len(members) != 1:
                raise UserError(
                    f"expected one member */data.pkl, found {len(members)}: not a CIFAR-N .pt file"
                )
            if members[0].file_size > _MAX_PICKLE_BYTES:
                raise UserError(
                    f"{members[0].filename} has {members[0].file_size:,} bytes, too many for "
                    f"labels (at most {_MAX_PICKLE_BYTES:,}); save the labels as .npz"
                )
            with archive.open(members[0]) as stream:
                content = _LabelUnpickler(stream).load()
        if type(content) is not dict or not all(type(key) is str for key in content):
            raise UserError(f"expected a dict of label arrays, got {type(content).__name__}")
        arrays = {k: v.array() if type(v) is _Array else v for k, v in content.items()}
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    # a hostile or damaged file can make zipfile and pickle raise nearly anything
    except Exception as error:
        raise UserError(
            f"{path}: not a readable .pt file ({type(error).__name__}: {error})"
        ) from error
    return {key: _label_set(values, path, key) for key, values in arrays.items()}


class _Dtype:
    """Stands in for numpy.dtype: remembers which integer type is meant."""

    def __init__(self, code, *_):
        if not (type(code) is str and re.fullmatch("[iu][1248]", code)):
            raise UserError(
                f"holds an array of dtype {str(code)[:20]!r} (objects, or no whole numbers): "
                "refused"
            )
        self.code, self.byteorder = code, "="

    def __setstate__(self, state):
        if state[1] not in ("<", ">", "|", "="):
            raise UserError("holds a damaged dtype")
        self.byteorder = state[1]


class _Array:
    """Stands in for numpy.ndarray: remembers shape, dtype and bytes."""

    def __init__(self):
        self.state = None

    def __setstate__(self, state):
        self.state = state

    def array(self) -> np.ndarray:
        _, shape, dtype, _, raw = self.state
        if type(dtype) is not _Dtype or type(raw) is not bytes:
            raise UserError("holds an array of objects: refused")
        return np.frombuffer(raw, np.dtype(dtype.byteorder + dtype.code)).reshape(shape)


def _reconstruct(*_):
    return _Array()


def _encode(text, encoding="latin1"):
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise UserError("holds text in an unexpected encoding")
    return text.encode("latin-1")


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _LabelUnpickler(pickle._Unpickler):
    """Unpickles with the stand-ins alone.

    The Python implementation, since the C one sizes its memo by numbers in the file: a few bytes
    can ask for 32 GB.
    """

    def find_class(self, module, name):
        if (module, name) not in _STAND_INS:
            raise UserError(
                f"its pickle asks for {module}.{name}, which a label file has no use for: refused, "
                "and nothing was run; get the file from its publisher, or save the labels as .npz"
            )
        return _STAND_INS[module, name]

    def persistent_load(self, pid):
        raise UserError(
            "holds a torch tensor or another outside reference; label files hold numpy arrays"
        )
