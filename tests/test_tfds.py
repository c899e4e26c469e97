"""TFDS folders: genuine ones in array_record format, written without TensorFlow; hostile ones."""

import io
import itertools
import json
import os
import pathlib
import socket
import subprocess
import sys
import types

import numpy as np
import pytest

from sop_jax.data import tfds
from sop_jax.data.tfds import from_tfds
from sop_jax.errors import UserError


def png(image):
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image.squeeze()).save(stream, "png")
    stream.seek(0)
    return stream


def prepare(
    root,
    name,
    splits,
    version="3.0.2",
    human=(),
    with_id=True,
    shape=(4, 4, 3),
    names=("a", "b", "c"),
):
    """Writes a TFDS folder; returns `root`.

    `splits` is {"train": [(id, label), ...]}; every human feature is label + 1 mod 3.
    """
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    features = {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(names=names),
        **{key: tfds.features.ClassLabel(num_classes=3) for key in human},
        **({"id": tfds.features.Text()} if with_id else {}),
    }
    random = np.random.default_rng(1)
    examples = {}
    for split, rows in splits.items():
        examples[split] = []
        for key, (identity, label) in enumerate(rows):
            image = random.integers(0, 256, shape, dtype=np.uint8)
            image[0, 0] = key
            example = {"image": png(image), "label": label}
            example |= dict.fromkeys(human, (label + 1) % 3 if split == "train" else -1)
            examples[split].append((key, example | ({"id": identity} if with_id else {})))

    with tfds.core.registered.skip_registration():

        class Tiny(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version(version)

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, _):
                return {split: iter(rows) for split, rows in examples.items()}

            def _generate_examples(self):
                """Abstract in TFDS, so it must be here; not called: splits bring their examples."""

    Tiny.name = name
    Tiny(data_dir=str(root), file_format="array_record").download_and_prepare()
    return str(root)


def rows(split, n):
    return [(f"{split}_{i:05d}", i % 3) for i in range(n)]


SPLITS = {"train": rows("train", 20), "test": rows("test", 6)}


@pytest.fixture
def no_socket(monkeypatch):
    class Refused(socket.socket):
        def __init__(self, *_, **__):
            raise AssertionError("a socket was opened")

    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(socket, "socket", Refused)
    monkeypatch.setattr(socket, "getaddrinfo", Refused)


def test_tfds_rows_are_ordered_by_id(tmp_path, no_socket):
    import tensorflow_datasets as tfds

    root = prepare(tmp_path, "cifar10", SPLITS)
    stored = [
        e["id"]
        for e in tfds.builder_from_directory(f"{root}/cifar10/3.0.2").as_data_source("train")
    ]
    # TFDS shuffles, so the test would notice a reader that trusts positions
    assert stored != sorted(stored)
    raw = from_tfds("cifar10", root)
    assert raw.train.ids.tolist() == list(range(20)) and raw.test.ids.tolist() == list(range(6))
    np.testing.assert_array_equal(raw.train.images[:, 0, 0, 0], np.arange(20))
    np.testing.assert_array_equal(raw.train.labels, np.arange(20) % 3)
    assert raw.train.images.dtype == np.uint8 and raw.train.labels.dtype == np.int32
    assert raw.class_names == ("a", "b", "c") and raw.human == {}
    assert "tensorflow" not in sys.modules


def test_tfds_human_features(tmp_path, no_socket):
    keys = ("aggre_label", "worse_label", "random_label1", "random_label2", "random_label3")
    raw = from_tfds("cifar10_n", prepare(tmp_path, "cifar10_n", SPLITS, "1.0.4", human=keys))
    assert set(raw.human) == set(keys)
    np.testing.assert_array_equal(raw.human["worse_label"], (np.arange(20) + 1) % 3)
    root = prepare(tmp_path, "cifar100_n", SPLITS, "1.0.1", human=("noise_label",))
    np.testing.assert_array_equal(
        from_tfds("cifar100_n", root).human["noise_label"], (np.arange(20) + 1) % 3
    )


def test_tfds_sets_without_ids_keep_the_stored_order(tmp_path, no_socket):
    root = prepare(tmp_path, "mnist", SPLITS, "3.0.1", with_id=False, shape=(4, 4, 1))
    raw, again = from_tfds("mnist", root), from_tfds("mnist", root)
    assert raw.train.images.shape == (20, 4, 4, 1) and raw.train.ids.tolist() == list(range(20))
    assert sorted(raw.train.images[:, 0, 0, 0]) == list(range(20))
    np.testing.assert_array_equal(raw.train.images, again.train.images)


def test_tfds_newest_version_is_read(tmp_path, no_socket):
    prepare(tmp_path, "cifar10", {"train": rows("train", 3), "test": rows("test", 3)}, "3.0.2")
    prepare(tmp_path, "cifar10", SPLITS, "3.0.10")
    assert len(from_tfds("cifar10", str(tmp_path)).train.labels) == 20


@pytest.mark.parametrize("name, version", [("cifar10_n", "1.0.3"), ("cifar100_n", "1.0.0")])
def test_tfds_versions_with_mixed_up_columns_are_refused(tmp_path, name, version):
    root = prepare(tmp_path, name, SPLITS, version, human=tfds.HUMAN_FEATURES[name])
    with pytest.raises(UserError, match=rf"{name} below 1\.0\..*mixed up"):
        from_tfds(name, root)


@pytest.mark.parametrize(
    "splits, words",
    [
        (
            {"train": rows("train", 4) + [("train_00002", 0)], "test": rows("test", 3)},
            "id 2 occurs more than once",
        ),
        ({"train": rows("train", 4)[1:], "test": rows("test", 3)}, "train: id 0 is missing"),
        (
            {"train": rows("train", 4), "test": rows("test", 5)[:2] + rows("test", 5)[3:]},
            "test: id 2 is missing",
        ),
        ({"train": rows("test", 4), "test": rows("test", 3)}, "id 'test_0000"),
        (
            {"train": [("train_x", 0)], "test": rows("test", 3)},
            "does not have the form train_01234",
        ),
        ({"train": rows("train", 4)}, "must hold the splits train and test"),
        ({"train": [("train_00000", -1)], "test": rows("test", 3)}, "label: label -1 of row id 0"),
    ],
)
def test_tfds_guards(tmp_path, splits, words):
    root = prepare(tmp_path, "cifar10", splits)
    with pytest.raises(UserError) as error:
        from_tfds("cifar10", root)
    assert (
        words in str(error.value)
        and "cifar10/3.0.2" in str(error.value)
        and "\n" not in str(error.value)
    )


def test_tfds_missing_features(tmp_path):
    with pytest.raises(UserError, match="feature 'worse_label' is missing"):
        from_tfds(
            "cifar10_n", prepare(tmp_path, "cifar10_n", SPLITS, "1.0.4", human=("aggre_label",))
        )
    with pytest.raises(UserError, match="feature 'id' is missing"):
        from_tfds("cifar10", prepare(tmp_path, "cifar10", SPLITS, with_id=False))


def test_tfds_folders_that_hold_nothing(tmp_path, no_socket):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "svhn").mkdir(parents=True)
    (tmp_path / "interrupted" / "cifar10" / "3.0.2").mkdir(parents=True)
    for folder, words in {
        "empty": "is empty",
        "missing": "does not exist",
        "other": "holds svhn",
        "interrupted": "holds cifar10",
    }.items():
        with pytest.raises(UserError, match=rf"data\.dir.*{words}.*tfds build cifar10"):
            from_tfds("cifar10", str(tmp_path / folder))


def test_tfds_damaged_files(tmp_path):
    folder = pathlib.Path(prepare(tmp_path, "cifar10", SPLITS)) / "cifar10" / "3.0.2"
    (shard,) = folder.glob("cifar10-train*")
    whole = shard.read_bytes()
    for damage in (lambda: shard.write_bytes(whole[: len(whole) // 2]), shard.unlink):
        damage()
        with pytest.raises(UserError, match=r"3\.0\.2: cannot be read"):
            from_tfds("cifar10", str(tmp_path))
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset_info\.json is damaged"):
        from_tfds("cifar10", str(tmp_path))


def test_tfds_image_of_another_shape_is_refused(tmp_path):
    features = types.SimpleNamespace(shape=(4, 4, 3)), types.SimpleNamespace(num_classes=3)
    example = {"image": np.zeros((4, 5, 3), np.uint8), "label": 0}
    builder = types.SimpleNamespace(
        info=types.SimpleNamespace(features=dict(zip(("image", "label"), features, strict=True))),
        as_data_source=lambda split: [example],
    )
    with pytest.raises(UserError, match=r"image of record 0 is uint8 \[4, 5, 3\]"):
        tfds._read_split(builder, "train", ("image", "label"), (), "folder")


def test_without_a_folder_the_default_one_is_used_and_a_failed_download_explained(
    tmp_path, monkeypatch
):
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", prepare(tmp_path, "cifar10", SPLITS))
    assert len(from_tfds("cifar10", None).train.labels) == 20
    asked = []

    def no_network(name, **_):
        asked.append(name)
        raise OSError("no route to host")

    monkeypatch.setattr(tfds, "data_source", no_network)
    with pytest.raises(UserError, match=r"no route to host.*tfds build mnist.*data\.dir"):
        from_tfds("mnist", None)
    assert asked == ["mnist"]


def test_without_tfds_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="pip install tensorflow-datasets"):
        from_tfds("cifar10", "/nowhere")


@pytest.mark.slow
def test_genuine_cifar10n_folder(tmp_path):
    """The stock TFDS builders over a copy of CIFAR-10 give the published ids, labels and rates."""
    tool = pathlib.Path(__file__).resolve().parents[2] / "shared" / "tools" / "real_data.py"
    if not tool.exists():
        pytest.skip("needs shared/tools/real_data.py")
    subprocess.run(
        [sys.executable, str(tool), "tfds", str(tmp_path)], check=True, capture_output=True
    )
    raw = from_tfds("cifar10_n", str(tmp_path))
    assert raw.train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    rates = {
        "aggre_label": 0.0901,
        "worse_label": 0.40208,
        "random_label1": 0.17234,
        "random_label2": 0.18122,
    }
    for key, rate in rates.items():
        assert abs(np.mean(raw.human[key] != raw.train.labels) - rate) < 5e-5
    plain = from_tfds("cifar10", str(tmp_path))
    for split, same in itertools.product(("train", "test"), ("images", "labels", "ids")):
        np.testing.assert_array_equal(
            getattr(getattr(raw, split), same), getattr(getattr(plain, split), same)
        )


# ---- what a hostile or damaged folder says about itself


def hostile(root, change, name="features.json") -> pathlib.Path:
    """A genuine folder of which one JSON description is changed in place by `change`."""
    folder = pathlib.Path(prepare(root, "cifar10", SPLITS)) / "cifar10" / "3.0.2"
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))
    return folder


def features(content):
    return content["featuresDict"]["features"]


def evil_module(folder: pathlib.Path) -> pathlib.Path:
    """A module data.evil in this folder, and the file it writes when it is imported."""
    witness = folder / "ran"
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "evil.py").write_text(f"open({str(witness)!r}, 'w').close()\n")
    return witness


EVIL = "data.evil.Image"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda f: features(f)["image"].update(pythonClassName=EVIL), "names the class 'data.evil"),
        (lambda f: f.update(pythonClassName=EVIL), "names the class 'data.evil.Image'"),
        (
            lambda f: features(f).update(more={"pythonClassName": EVIL, "text": {}}),
            "feature 'more': names the class 'data.evil.Image'",
        ),
        (
            lambda f: features(f).update(
                more={"python_class_name": EVIL, "text": {}},
            ),
            "names the class None",
        ),
        (
            lambda f: features(f)["image"].update(
                featuresDict={"features": {"x": {"pythonClassName": EVIL, "text": {}}}}
            ),
            "must hold 'image' beside its class, but holds featuresDict",
        ),
        (
            lambda f: features(f).update(more={"type": EVIL, "content": {}}),
            "names the class None",
        ),
        (lambda f: f.update(type=EVIL, content={}), "but holds content, type"),
        (lambda f: features(f).update(image=[EVIL]), "is no description of a feature"),
        (lambda f: features(f)["image"].update(pythonClassName=[EVIL]), "names the class ['data."),
        (lambda f: f["featuresDict"].update(other={}), "must hold 'features' alone"),
        (lambda f: f.update(featuresDict=[]), "must hold 'features' alone"),
        (lambda f: f.clear(), "names the class None"),
    ],
)
def test_a_folder_cannot_name_code(tmp_path, monkeypatch, change, words):
    hostile(tmp_path, change)
    witness = evil_module(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as error:
        from_tfds("cifar10", str(tmp_path))
    assert words in str(error.value) and "features.json" in str(error.value)
    assert "\n" not in str(error.value)
    assert not witness.exists() and "data.evil" not in sys.modules


def test_the_module_that_made_a_set_is_not_imported(tmp_path, monkeypatch):
    hostile(tmp_path, lambda info: info.update(moduleName="data.evil"), "dataset_info.json")
    witness = evil_module(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert len(from_tfds("cifar10", str(tmp_path)).train.labels) == 20
    assert not witness.exists() and "data.evil" not in sys.modules


def test_a_dry_run_beside_hostile_data_imports_nothing_of_it(tmp_path):
    root = tmp_path / "data"
    folder = hostile(root, lambda f: features(f)["image"].update(pythonClassName=EVIL))
    witness = evil_module(tmp_path)
    # the attack works where TFDS reads the folder itself
    code = f"import tensorflow_datasets as t; t.builder_from_directory({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert witness.exists()
    witness.unlink()
    repository = pathlib.Path(__file__).resolve().parents[1]
    config = repository / "configs" / "digits_sop.py"
    command = [
        sys.executable,
        "-m",
        "sop_jax.main",
        f"--config={config}",
        "--config.data.name=cifar10",
    ]
    done = subprocess.run(
        [*command, f"--config.data.dir={root}", "--dry_run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "names the class 'data.evil.Image'" in line
    assert not witness.exists()


@pytest.mark.parametrize("names", ["a\nb\n", "a\nb\nc\nd\n", ""])
def test_names_that_are_not_as_many_as_the_classes(tmp_path, names):
    folder = hostile(tmp_path, lambda f: None)
    (folder / "label.labels.txt").write_text(names)
    count = len(names.split())
    with pytest.raises(UserError, match=rf"label\.labels\.txt: names {count} classes.*says 3"):
        from_tfds("cifar10", str(tmp_path))


def test_names_are_utf8_and_unique(tmp_path):
    folder = hostile(tmp_path, lambda f: None)
    (folder / "label.labels.txt").write_text("ä\n狗\nc\n", encoding="utf-8")
    assert from_tfds("cifar10", str(tmp_path)).class_names == ("ä", "狗", "c")
    (folder / "label.labels.txt").write_text("ä\nb\nc\n", encoding="latin-1")
    with pytest.raises(UserError, match=r"label\.labels\.txt: is no UTF-8 text"):
        from_tfds("cifar10", str(tmp_path))
    (folder / "label.labels.txt").write_text("a\nb\na\n")
    with pytest.raises(UserError, match="classes 0 and 2 are both named 'a'"):
        from_tfds("cifar10", str(tmp_path))


def test_a_set_without_names_has_numbers_for_them(tmp_path):
    folder = hostile(tmp_path, lambda f: None)
    (folder / "label.labels.txt").unlink()
    assert from_tfds("cifar10", str(tmp_path)).class_names == ("0", "1", "2")


def test_sizes_that_a_description_claims_are_bounded(tmp_path):
    def many_classes(content):
        features(content)["label"]["classLabel"]["numClasses"] = str(10**9)

    folder = hostile(tmp_path / "classes", many_classes)
    (folder / "label.labels.txt").unlink()
    with pytest.raises(UserError, match="1000000000: more classes than the 20 training rows"):
        from_tfds("cifar10", str(tmp_path / "classes"))

    def large_images(content):
        features(content)["image"]["image"]["shape"]["dimensions"] = ["1000000", "1000000", "3"]

    hostile(tmp_path / "images", large_images)
    with pytest.raises(UserError, match=r"images of shape .* needs about 60,000\.0 GB"):
        from_tfds("cifar10", str(tmp_path / "images"))
    hostile(tmp_path / "format", lambda i: i.update(fileFormat="tfrecord"), "dataset_info.json")
    with pytest.raises(UserError, match="fileFormat is 'tfrecord', but only 'array_record'"):
        from_tfds("cifar10", str(tmp_path / "format"))


def test_descriptions_that_no_reader_survives(tmp_path):
    folder = hostile(tmp_path, lambda f: None)
    path = folder / "features.json"
    for content in ("[" * 20_000, '{"a":' * 20_000, "null", b"\xff"):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError, match=r"features\.json"):
            from_tfds("cifar10", str(tmp_path))
    path.write_text(" " * (2**20 + 1))
    with pytest.raises(UserError, match=r"features\.json: has 1,048,577 bytes, too many"):
        from_tfds("cifar10", str(tmp_path))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"features\.json: is a pipe"):
        from_tfds("cifar10", str(tmp_path))
    path.unlink()
    with pytest.raises(UserError, match=r"features\.json: no such file"):
        from_tfds("cifar10", str(tmp_path))
