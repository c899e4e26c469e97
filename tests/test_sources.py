"""Sources: order by id, and every guard, on tiny files that the tests write themselves."""

import io
import itertools
import pathlib
import socket
import subprocess
import sys
import types

import numpy as np
import pytest

from sop_jax.data import sources, tfds
from sop_jax.errors import UserError

RANDOM = np.random.default_rng(0)


# ---- digits


def test_digits_split_is_the_documented_one():
    raw = sources.digits()
    order = np.random.default_rng(0).permutation(1797)
    np.testing.assert_array_equal(raw.train.ids, np.sort(order[:1297]))
    np.testing.assert_array_equal(raw.test.ids, np.sort(order[1297:]))
    assert raw.train.images.shape == (1297, 8, 8, 1) and raw.train.images.dtype == np.uint8
    assert raw.train.labels.dtype == np.int32 and raw.train.ids.dtype == np.int64
    from sklearn.datasets import load_digits

    bunch = load_digits()
    row = 17
    original = raw.train.ids[row]
    expected = np.floor(bunch.images[original] * 255 / 16 + 0.5)
    np.testing.assert_allclose(raw.train.images[row, ..., 0], expected, atol=1)
    assert raw.train.images.max() == 255 and raw.train.labels[row] == bunch.target[original]
    np.testing.assert_array_equal(raw.true_labels, raw.train.labels)


# ---- npz


def arrays(**changes):
    """A valid small npz as a dict; a change to None removes the key."""
    content = {
        "train_images": RANDOM.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": RANDOM.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8),
        "test_labels": np.array([0, 1, 2]),
    }
    return {k: v for k, v in (content | changes).items() if v is not None}


@pytest.fixture
def npz(tmp_path):
    def write(content):
        np.savez(tmp_path / "set.npz", **content)
        return str(tmp_path / "set.npz")

    return write


def test_npz_rows_are_ordered_by_id(npz):
    content = arrays(
        train_ids=np.array([50, 3, 20, 1, 40, 2]),
        test_ids=np.array([9, 8, 7]),
        train_true_labels=np.array([0, 0, 1, 1, 2, 2]),
        human_worse_label=np.array([2, 2, 2, 1, 1, 1]),
        class_names=np.array(["a", "b", "c"]),
    )
    raw = sources.from_npz(npz(content))
    order = [3, 5, 1, 2, 4, 0]
    assert raw.train.ids.tolist() == [1, 2, 3, 20, 40, 50] and raw.test.ids.tolist() == [7, 8, 9]
    np.testing.assert_array_equal(raw.train.images, content["train_images"][order])
    np.testing.assert_array_equal(raw.train.labels, content["train_labels"][order])
    np.testing.assert_array_equal(raw.true_labels, content["train_true_labels"][order])
    np.testing.assert_array_equal(raw.human["worse_label"], content["human_worse_label"][order])
    np.testing.assert_array_equal(raw.test.images, content["test_images"][::-1])
    assert raw.class_names == ("a", "b", "c") and raw.train.labels.dtype == np.int32


def test_npz_defaults(npz):
    content = arrays(
        train_images=np.zeros((6, 5, 4), np.uint8),
        test_images=np.zeros((3, 5, 4), np.uint8),
        train_labels=np.array([0, 1, 2, 0, 1, 7], np.uint8),
    )
    raw = sources.from_npz(npz(content))
    assert raw.train.images.shape == (6, 5, 4, 1)
    assert (
        raw.train.ids.tolist() == [0, 1, 2, 3, 4, 5] and raw.true_labels is None and raw.human == {}
    )
    assert raw.class_names == tuple("01234567")
    assert len(sources.from_npz(npz(content), num_classes=12).class_names) == 12


def test_npz_string_ids(npz):
    raw = sources.from_npz(npz(arrays(train_ids=np.array(["b.png", "a.png", "f", "e", "d", "c"]))))
    assert raw.train.ids.tolist() == ["a.png", "b.png", "c", "d", "e", "f"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"train_labels": None}, "key 'train_labels' is missing"),
        ({"test_images": None}, "key 'test_images' is missing"),
        ({"train_labels": np.array([0, None], object)}, "train_labels: holds pickled objects"),
        ({"class_names": np.array(["a", "b", "c"], object)}, "class_names: holds pickled objects"),
        (
            {"train_images": np.zeros((6, 4, 4, 3))},
            "train_images: expected uint8 [N,H,W,C] or [N,H,W], got float64",
        ),
        ({"train_images": np.zeros((6, 16), np.uint8)}, "got uint8 [6, 16]"),
        (
            {"test_images": np.zeros((3, 2, 2, 3), np.uint8)},
            "training images are [4, 4, 3], test images [2, 2, 3]",
        ),
        ({"train_labels": np.zeros(6)}, "train_labels: expected whole numbers"),
        (
            {"train_labels": np.zeros(5, int)},
            "train_labels: shape [5], but train_images has 6 rows",
        ),
        ({"train_labels": np.zeros((6, 1), int)}, "train_labels: shape [6, 1]"),
        ({"train_labels": np.array([0, 1, -1, 0, 1, 2])}, "train_labels: label -1 of row id 2"),
        (
            {"test_labels": np.array([0, 1, 3]), "class_names": np.array(["a", "b", "c"])},
            "label 3 of row id 2",
        ),
        ({"train_ids": np.array([5, 6, 7, 5, 8, 9])}, "train_ids: id 5 occurs more than once"),
        ({"train_ids": np.arange(5)}, "train_ids: shape [5]"),
        (
            {"train_ids": np.arange(6) / 2},
            "train_ids: expected whole numbers or strings, got float64",
        ),
        (
            {"train_ids": np.array(["a", "b", "", "d", "e", "f"])},
            "train_ids: the id of row 2 is missing",
        ),
        (
            {"train_ids": np.arange(6), "test_ids": np.array([10, 4, 11])},
            "id 4 is in train_ids and test_ids",
        ),
        (
            {"train_true_labels": np.zeros(4, int)},
            "train_true_labels: shape [4] for 6 training rows",
        ),
        (
            {"train_true_labels": np.full(6, 9), "class_names": np.array(["a", "b", "c"])},
            "train_true_labels: label 9",
        ),
        ({"human_worse_label": np.full(6, -1)}, "human_worse_label: label -1 of row id 0"),
        ({"class_names": np.array([["a", "b", "c"]])}, "class_names: expected shape [K]"),
        (
            {"test_images": np.zeros((0, 4, 4, 3), np.uint8), "test_labels": np.zeros(0, int)},
            "test split has no exam",
        ),
    ],
)
def test_npz_guards(npz, changes, words):
    path = npz(arrays(**changes))
    with pytest.raises(UserError) as error:
        sources.from_npz(path)
    assert words in str(error.value) and path in str(error.value) and "\n" not in str(error.value)


def test_npz_files_that_are_none(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "whole.npz", **arrays())
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    for name in ("text.npz", "empty.npz", "cut.npz", "one.npz", "missing.npz"):
        with pytest.raises(UserError, match=name):
            sources.from_npz(str(tmp_path / name))
    with pytest.raises(UserError, match="data.path"):
        sources.from_npz(None)


# ---- TFDS: genuine folders in array_record format, written without TensorFlow


def png(image):
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image.squeeze()).save(stream, "png")
    stream.seek(0)
    return stream


def prepare(root, name, splits, version="3.0.2", human=(), with_id=True, shape=(4, 4, 3)):
    """Writes a TFDS folder. `splits`: {"train": [(id, label), ...]}; every human feature is label +
    1 mod 3.
    """
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    features = {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
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
                """Abstract in TFDS, so it must be here; not called, as each split comes with its
                examples.
                """

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
    raw = sources.from_tfds("cifar10", root)
    assert raw.train.ids.tolist() == list(range(20)) and raw.test.ids.tolist() == list(range(6))
    np.testing.assert_array_equal(raw.train.images[:, 0, 0, 0], np.arange(20))
    np.testing.assert_array_equal(raw.train.labels, np.arange(20) % 3)
    assert raw.train.images.dtype == np.uint8 and raw.train.labels.dtype == np.int32
    assert raw.class_names == ("a", "b", "c") and raw.human == {}
    assert "tensorflow" not in sys.modules


def test_tfds_human_features(tmp_path, no_socket):
    keys = ("aggre_label", "worse_label", "random_label1", "random_label2", "random_label3")
    raw = sources.from_tfds(
        "cifar10_n", prepare(tmp_path, "cifar10_n", SPLITS, "1.0.4", human=keys)
    )
    assert set(raw.human) == set(keys)
    np.testing.assert_array_equal(raw.human["worse_label"], (np.arange(20) + 1) % 3)
    root = prepare(tmp_path, "cifar100_n", SPLITS, "1.0.1", human=("noise_label",))
    np.testing.assert_array_equal(
        sources.from_tfds("cifar100_n", root).human["noise_label"], (np.arange(20) + 1) % 3
    )


def test_tfds_sets_without_ids_keep_the_stored_order(tmp_path, no_socket):
    root = prepare(tmp_path, "mnist", SPLITS, "3.0.1", with_id=False, shape=(4, 4, 1))
    raw, again = sources.from_tfds("mnist", root), sources.from_tfds("mnist", root)
    assert raw.train.images.shape == (20, 4, 4, 1) and raw.train.ids.tolist() == list(range(20))
    assert sorted(raw.train.images[:, 0, 0, 0]) == list(range(20))
    np.testing.assert_array_equal(raw.train.images, again.train.images)


def test_tfds_newest_version_is_read(tmp_path, no_socket):
    prepare(tmp_path, "cifar10", {"train": rows("train", 3), "test": rows("test", 3)}, "3.0.2")
    prepare(tmp_path, "cifar10", SPLITS, "3.0.10")
    assert len(sources.from_tfds("cifar10", str(tmp_path)).train.labels) == 20


@pytest.mark.parametrize("name, version", [("cifar10_n", "1.0.3"), ("cifar100_n", "1.0.0")])
def test_tfds_versions_with_mixed_up_columns_are_refused(tmp_path, name, version):
    root = prepare(tmp_path, name, SPLITS, version, human=tfds.HUMAN_FEATURES[name])
    with pytest.raises(UserError, match=rf"{name} below 1\.0\..*mixed up"):
        sources.from_tfds(name, root)


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
        sources.from_tfds("cifar10", root)
    assert (
        words in str(error.value)
        and "cifar10/3.0.2" in str(error.value)
        and "\n" not in str(error.value)
    )


def test_tfds_missing_features(tmp_path):
    with pytest.raises(UserError, match="feature 'worse_label' is missing"):
        sources.from_tfds(
            "cifar10_n", prepare(tmp_path, "cifar10_n", SPLITS, "1.0.4", human=("aggre_label",))
        )
    with pytest.raises(UserError, match="feature 'id' is missing"):
        sources.from_tfds("cifar10", prepare(tmp_path, "cifar10", SPLITS, with_id=False))


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
            sources.from_tfds("cifar10", str(tmp_path / folder))


def test_tfds_damaged_files(tmp_path):
    folder = pathlib.Path(prepare(tmp_path, "cifar10", SPLITS)) / "cifar10" / "3.0.2"
    (shard,) = folder.glob("cifar10-train*")
    whole = shard.read_bytes()
    for damage in (lambda: shard.write_bytes(whole[: len(whole) // 2]), shard.unlink):
        damage()
        with pytest.raises(UserError, match=r"3\.0\.2: cannot be read"):
            sources.from_tfds("cifar10", str(tmp_path))
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match=r"3\.0\.2: cannot be read"):
        sources.from_tfds("cifar10", str(tmp_path))


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
    assert len(sources.from_tfds("cifar10", None).train.labels) == 20
    asked = []

    def no_network(name, **_):
        asked.append(name)
        raise OSError("no route to host")

    monkeypatch.setattr(tfds, "data_source", no_network)
    with pytest.raises(UserError, match=r"no route to host.*tfds build mnist.*data\.dir"):
        sources.from_tfds("mnist", None)
    assert asked == ["mnist"]


def test_without_tfds_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="pip install tensorflow-datasets"):
        sources.from_tfds("cifar10", "/nowhere")


def test_importing_the_package_needs_neither_tfds_nor_sklearn():
    code = "import sys, sop_jax.data; print([m for m in ('tensorflow_datasets', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_set_is_refused():
    data = types.SimpleNamespace(name="svhn", dir=None, path=None, num_classes=None)
    with pytest.raises(UserError, match=r"data\.name='svhn'.*digits, npz, cifar10"):
        sources.read(data)


# ---- the real thing


@pytest.mark.slow
def test_genuine_cifar10n_folder(tmp_path):
    """The stock TFDS builders over the shared copy of CIFAR-10: ids, labels and human rates are the
    published ones.
    """
    tool = pathlib.Path(__file__).resolve().parents[2] / "shared" / "tools" / "real_data.py"
    if not tool.exists():
        pytest.skip("needs shared/tools/real_data.py")
    subprocess.run(
        [sys.executable, str(tool), "tfds", str(tmp_path)], check=True, capture_output=True
    )
    raw = sources.from_tfds("cifar10_n", str(tmp_path))
    assert raw.train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    rates = {
        "aggre_label": 0.0901,
        "worse_label": 0.40208,
        "random_label1": 0.17234,
        "random_label2": 0.18122,
    }
    for key, rate in rates.items():
        assert abs(np.mean(raw.human[key] != raw.train.labels) - rate) < 5e-5
    plain = sources.from_tfds("cifar10", str(tmp_path))
    for split, same in itertools.product(("train", "test"), ("images", "labels", "ids")):
        np.testing.assert_array_equal(
            getattr(getattr(raw, split), same), getattr(getattr(plain, split), same)
        )
