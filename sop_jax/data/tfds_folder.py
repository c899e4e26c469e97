"""A prepared TFDS folder is read before TFDS sees it: it may name code, which TFDS would run.

TFDS imports the module of every class that `features.json` names, and the folder a program is
started in is on Python's path. So only the few feature classes that image sets are made of go on.
"""

import pathlib

from sop_jax.data.checks import check_num_classes
from sop_jax.data.user_files import check_regular
from sop_jax.errors import UserError
from sop_jax.files import read_json

_FEATURES = "tensorflow_datasets.core.features."
_DICT_CLASS, _DICT_CONTENT = f"{_FEATURES}features_dict.FeaturesDict", "featuresDict"
# Class of a feature -> the key of its content in features.json.
_KNOWN_CLASSES = {
    f"{_FEATURES}class_label_feature.ClassLabel": "classLabel",
    f"{_FEATURES}image_feature.Image": "image",
    f"{_FEATURES}scalar.Scalar": "tensor",
    f"{_FEATURES}tensor_feature.Tensor": "tensor",
    f"{_FEATURES}text_feature.Text": "text",
}
_DOCUMENTATION = {"description", "valueRange"}  # plain text beside a feature's class and content
_MAX_DESCRIPTION_BYTES = 2**20  # genuine ones have 1 to 20 kB
_AGAIN = "prepare it again with `tfds build --file_format=array_record --overwrite`"


def check_folder(folder: pathlib.Path) -> None:
    """Raises UserError where a prepared set is no array_record, or names a class it may not."""
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            check_regular(path)
    info = _description(folder / "dataset_info.json")
    if info.get("fileFormat") != "array_record":
        raise UserError(
            f"{folder}/dataset_info.json: fileFormat is {info.get('fileFormat')!r:.80}, but only "
            f"'array_record' is read; {_AGAIN}"
        )
    _check_features(_description(folder / "features.json"), folder / "features.json")


def class_names(
    folder: pathlib.Path, feature: str, num_classes: int, num_rows: int
) -> tuple[str, ...]:
    """Names of the K classes of a feature, from its labels.txt or else their numbers.

    Raises:
        UserError: not as many names as classes, a file that is no UTF-8, or more classes than
            the N training rows where no file names them.
    """
    path = folder / f"{feature}.labels.txt"
    if not path.exists():
        check_num_classes(num_classes, num_rows, str(folder))
        return tuple(map(str, range(num_classes)))
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no UTF-8 text ({error}); {_AGAIN}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != num_classes:
        raise UserError(
            f"{path}: names {len(names)} classes, but features.json says {num_classes}; {_AGAIN}"
        )
    return names


def _description(path: pathlib.Path) -> dict:
    """A JSON description of the folder."""
    check_regular(path)
    size = path.stat().st_size
    if size > _MAX_DESCRIPTION_BYTES:
        raise UserError(f"{path}: has {size:,} bytes, too many for a description; {_AGAIN}")
    return read_json(path, _AGAIN)


def _check_features(features: dict, path: pathlib.Path) -> None:
    """Raises UserError where the top is no plain dict of features of known classes."""
    _check_keys(features, _DICT_CLASS, _DICT_CONTENT, f"{path}")
    content = features[_DICT_CONTENT]
    members = content.get("features") if isinstance(content, dict) else None
    if not isinstance(members, dict) or set(content) != {"features"}:
        raise UserError(f"{path}: {_DICT_CONTENT} must hold 'features' alone; {_AGAIN}")
    for name, feature in members.items():
        where = f"{path}, feature {name!r:.80}"
        if not isinstance(feature, dict):
            raise UserError(f"{where}: is no description of a feature; {_AGAIN}")
        class_name = feature.get("pythonClassName")
        if not isinstance(class_name, str) or class_name not in _KNOWN_CLASSES:
            known = ", ".join(known.rpartition(".")[2] for known in _KNOWN_CLASSES)
            raise UserError(
                f"{where}: names the class {class_name!r:.120}, which TFDS would import; refused, "
                f"and nothing was run: known are TFDS's own {known}"
            )
        _check_keys(feature, class_name, _KNOWN_CLASSES[class_name], where)


def _check_keys(feature: dict, class_name: str, content: str, where: str) -> None:
    """Raises UserError where a feature is not exactly of this class, with this content."""
    found = feature.get("pythonClassName")
    if found != class_name:
        raise UserError(
            f"{where}: names the class {found!r:.120} instead of {class_name}; refused, and "
            "nothing was run"
        )
    others = sorted(set(feature) - {"pythonClassName", content} - _DOCUMENTATION)
    if others or content not in feature:
        raise UserError(
            f"{where}: must hold {content!r} beside its class, but holds "
            f"{', '.join(others) or 'nothing'}; {_AGAIN}"
        )
