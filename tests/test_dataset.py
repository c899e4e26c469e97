"""load(config): truth, noise, splits, statistics, and fields that do not go together."""

import hashlib
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sop_jax.config import default
from sop_jax.data import dataset, memory, sources, transitions
from sop_jax.data.dataset import load
from sop_jax.errors import UserError

N, TRUE = 60, np.arange(60) % 4
WORSE = np.where(np.arange(N) < 24, (TRUE + 1) % 4, TRUE)


def configured(**fields):
    """The default config with dotted fields set: configured(**{"noise.rate": 0.4})."""
    config = default()
    config.update_from_flattened_dict(fields)
    return config


def write_npz(path, **extra):
    random = np.random.default_rng(0)
    content = {
        "train_images": random.integers(0, 256, (N, 4, 4, 3), dtype=np.uint8),
        "train_labels": TRUE,
        "test_images": random.integers(0, 256, (8, 4, 4, 3), dtype=np.uint8),
        "test_labels": np.arange(8) % 4,
    }
    np.savez(path, **content | extra)
    return str(path)


@pytest.fixture
def npz(tmp_path):
    """A config for a small npz file: npz(extra_arrays, **fields)."""

    def make(extra=(), **fields):
        path = write_npz(tmp_path / "set.npz", **dict(extra))
        return configured(**{"data.name": "npz", "data.path": path} | fields)

    return make


def fails(config, *words):
    with pytest.raises(UserError) as error:
        load(config)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


# ---- digits: noise, truth, split


def test_digits_with_symmetric_noise():
    config = configured(
        **{"noise.kind": "symmetric_exclusive", "noise.rate": 0.4, "data.validation_fraction": 0.1}
    )
    data, true = load(config)
    assert data.name == "digits" and data.train.images.shape == (1297, 8, 8, 1)
    np.testing.assert_array_equal(true, sources.digits().train.labels)
    assert true.dtype == data.train.labels.dtype == np.int32
    assert abs(np.mean(data.train.labels != true) - 0.4) < 0.01
    report = data.noise
    assert (report.kind, report.nominal_rate) == ("symmetric_exclusive", 0.4)
    assert report.actual_rate == np.mean(data.train.labels != true)
    assert report.sha256 == hashlib.sha256(data.train.labels.astype("<i4").tobytes()).hexdigest()
    np.testing.assert_array_equal(data.test.labels, sources.digits().test.labels)
    assert data.mean.dtype == data.std.dtype == np.float32
    pixels = data.train.images / 255.0
    np.testing.assert_allclose(data.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data.std, pixels.std((0, 1, 2)), rtol=1e-6)


def test_inclusive_symmetric_noise_changes_fewer_labels():
    data, true = load(configured(**{"noise.kind": "symmetric", "noise.rate": 0.4}))
    assert abs(np.mean(data.train.labels != true) - 0.36) < 0.01


def test_clean_digits():
    data, true = load(default())
    np.testing.assert_array_equal(data.train.labels, true)
    assert data.noise.actual_rate == 0 and data.noise.kind == "none"
    np.testing.assert_array_equal(data.noise.transition, np.eye(10))
    assert len(data.validation_index) == 0
    np.testing.assert_array_equal(data.train_index, np.arange(1297))


def test_seeds():
    fields = {"noise.kind": "pairflip", "noise.rate": 0.3, "data.validation_fraction": 0.1}
    base, _ = load(configured(**fields))
    other, _ = load(configured(**fields, seed=1))
    same_noise, _ = load(configured(**fields, **{"seed": 1, "noise.seed": 0}))
    assert base.noise.sha256 != other.noise.sha256
    np.testing.assert_array_equal(base.train.ids, other.train.ids)
    assert base.noise.sha256 == same_noise.noise.sha256  # noise.seed stands in for seed ...
    # ... in the noise alone
    np.testing.assert_array_equal(other.validation_index, same_noise.validation_index)
    no_split, _ = load(configured(**fields | {"data.validation_fraction": 0.0}))
    np.testing.assert_array_equal(base.train.labels, no_split.train.labels)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 500), st.floats(0, 0.9), st.integers(0, 2**32))
def test_validation_split_is_disjoint_and_complete(n, fraction, seed):
    assume(round(fraction * n) < n and (fraction == 0 or round(fraction * n)))
    train, held_out = dataset._split_rows(n, fraction, seed)
    assert train.dtype == held_out.dtype == np.int32
    assert len(held_out) == round(fraction * n)
    assert (np.diff(train) > 0).all() and (np.diff(held_out) > 0).all()
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(n))


def test_a_split_without_rows_is_refused():
    for fraction, message in ((0.001, "holds out none"), (0.999, "leaves no training rows")):
        with pytest.raises(UserError, match=message):
            dataset._split_rows(100, fraction, seed=0)


def test_train_limit_keeps_the_first_ids():
    data, true = load(
        configured(
            **{"data.train_limit": 100, "noise.kind": "symmetric_exclusive", "noise.rate": 0.5}
        )
    )
    full = sources.digits()
    np.testing.assert_array_equal(data.train.ids, full.train.ids[:100])
    np.testing.assert_array_equal(true, full.train.labels[:100])
    assert len(data.train.labels) == len(data.train.images) == 100 and len(data.test.labels) == 500


@pytest.mark.parametrize("kind", ["pairflip", "instance"])
def test_other_kinds_on_digits(kind):
    data, _ = load(configured(**{"noise.kind": kind, "noise.rate": 0.3}))
    assert 0.05 < data.noise.actual_rate < 0.35 and data.noise.nominal_rate == 0.3


def test_a_set_without_a_published_map_is_refused():
    fails(configured(**{"noise.kind": "asymmetric", "noise.rate": 0.3}), "digits", "pairflip")


@pytest.mark.parametrize("kind", ["block_cyclic", "block_swap", "superclass_cyclic"])
def test_cifar100_maps_elsewhere_are_refused(kind):
    fails(configured(**{"noise.kind": kind, "noise.rate": 0.3}), kind, "CIFAR-100", "pairflip")


def fake_set(monkeypatch, name, num_classes, human=()):
    labels = (np.arange(400) % num_classes).astype(np.int32)
    images = np.zeros((400, 4, 4, 3), np.uint8)
    split = sources.Split(images, labels, np.arange(400))
    sets = dict.fromkeys(human, (labels + 1) % num_classes)
    raw = sources.RawData(name, split, split, labels, tuple(map(str, range(num_classes))), sets)
    monkeypatch.setattr(sources, "read", lambda data: raw)
    return raw


def test_cifar100_maps(monkeypatch):
    fake_set(monkeypatch, "cifar100", 100)
    drawn = {}
    for kind in ("asymmetric", "block_cyclic", "block_swap", "superclass_cyclic"):
        data, true = load(
            configured(**{"data.name": "cifar100", "noise.kind": kind, "noise.rate": 1.0})
        )
        drawn[kind] = data.train.labels
        flips = transitions.FLIPS["block_cyclic" if kind == "asymmetric" else kind][1]
        np.testing.assert_array_equal(data.train.labels, [flips.get(t, t) for t in true])
    np.testing.assert_array_equal(drawn["asymmetric"], drawn["block_cyclic"])


def test_a_map_needs_its_number_of_classes(monkeypatch):
    fake_set(monkeypatch, "cifar10", 10)
    fields = {
        "data.name": "cifar10",
        "noise.kind": "asymmetric",
        "noise.rate": 0.4,
        "data.num_classes": 12,
    }
    fails(configured(**fields), "10 classes", "data.num_classes=12")


@pytest.mark.parametrize(
    "name, mean, std",
    [
        ("cifar10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ("cifar10_n", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ("cifar100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        ("cifar100_n", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        # an all-black set: the smallest std, not a division by zero
        ("mnist", (0, 0, 0), (1 / 255,) * 3),
    ],
)
def test_statistics(monkeypatch, name, mean, std):
    fake_set(monkeypatch, name, 10)
    data, _ = load(configured(**{"data.name": name}))
    np.testing.assert_array_equal(data.mean, np.float32(mean))
    np.testing.assert_array_equal(data.std, np.float32(std))


@pytest.mark.parametrize("name, key", [("cifar10_n", "worse_label"), ("cifar100_n", "noise_label")])
def test_human_sets_of_tfds_have_their_published_default(monkeypatch, name, key):
    raw = fake_set(monkeypatch, name, 10, human=("aggre_label", key))
    data, true = load(configured(**{"data.name": name, "noise.kind": "human"}))
    np.testing.assert_array_equal(data.train.labels, raw.human[key])
    np.testing.assert_array_equal(true, raw.train.labels)
    assert data.noise.actual_rate == 1.0


# ---- npz: where truth comes from


def test_npz_truth(npz):
    data, true = load(npz())
    assert true is None and data.noise.actual_rate is None and data.noise.transition is None
    np.testing.assert_array_equal(data.train.labels, TRUE)

    data, true = load(npz({"train_labels": WORSE, "train_true_labels": TRUE}))
    np.testing.assert_array_equal(true, TRUE)
    np.testing.assert_array_equal(data.train.labels, WORSE)
    assert data.noise.actual_rate == 0.4

    data, true = load(npz(**{"noise.kind": "pairflip", "noise.rate": 1.0}))
    np.testing.assert_array_equal(true, TRUE)
    np.testing.assert_array_equal(data.train.labels, (TRUE + 1) % 4)

    data, true = load(
        npz({"human_clean_label": TRUE, "human_worse_label": WORSE}, **{"noise.kind": "human"})
    )
    np.testing.assert_array_equal(true, TRUE)
    np.testing.assert_array_equal(data.train.labels, WORSE)
    assert (
        data.noise.actual_rate == 0.4
        and data.noise.nominal_rate is None
        and "human" in data.noise.describe()
    )


def test_number_of_classes(npz):
    data, _ = load(npz(**{"data.num_classes": 6}))
    assert data.class_names == ("0", "1", "2", "3", "4", "5")
    fails(
        npz({"train_labels": np.where(np.arange(N) == 7, 9, TRUE)}, **{"data.num_classes": 4}),
        "label 9 of row id 7",
    )
    fails(
        npz({"train_true_labels": np.where(np.arange(N) == 7, 9, TRUE)}, **{"data.num_classes": 4}),
        "label 9",
    )
    fails(configured(**{"data.num_classes": 7}), "data.num_classes=7", "10 classes")
    names = {"class_names": np.array(list("abcd"))}
    data, _ = load(npz(names, **{"data.num_classes": 5}))
    assert data.class_names == ("a", "b", "c", "d", "4")
    fails(npz(names, **{"data.num_classes": 3}), "data.num_classes=3", "4 classes")


def test_downsample_averages_blocks(npz):
    images = np.zeros((N, 4, 4, 3), np.uint8)
    images[0, :2, :2, 0] = [[1, 2], [3, 4]]  # 2.5 rounds up
    images[0, 2:, 2:, 1] = 255
    data, _ = load(npz({"train_images": images}, **{"data.downsample": 2}))
    assert data.train.images.shape == (N, 2, 2, 3) and data.test.images.shape == (8, 2, 2, 3)
    assert data.train.images.dtype == np.uint8
    assert data.train.images[0, 0, 0].tolist() == [3, 0, 0] and data.train.images[
        0, 1, 1
    ].tolist() == [0, 255, 0]
    fails(npz(**{"data.downsample": 3}), "data.downsample=3", "4x4")


# ---- files of human labels


@pytest.fixture
def label_files(tmp_path):
    sets = {"clean_label": TRUE, "worse_label": WORSE, "aggre_label": TRUE}
    np.savez(tmp_path / "h.npz", **sets)
    with zipfile.ZipFile(tmp_path / "h.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(sets, 2))
    return {suffix: str(tmp_path / f"h.{suffix}") for suffix in ("npz", "pt")}


@pytest.mark.parametrize("suffix", ["npz", "pt"])
def test_labels_from_a_file_in_both_spellings(npz, label_files, suffix):
    path, base = label_files[suffix], {"noise.kind": "human", "data.train_limit": 40}
    for fields in (
        {"data.labels": path, "noise.labels": "worst"},
        {"data.labels": "worst", "noise.labels": path},
        {"noise.labels": path},
        {"data.labels": path},
    ):
        data, true = load(npz(**base | fields))
        np.testing.assert_array_equal(data.train.labels, WORSE[:40])
        np.testing.assert_array_equal(true, TRUE[:40])
    data, _ = load(npz(**base | {"data.labels": path, "noise.labels": "aggregate"}))
    assert data.noise.actual_rate == 0


def test_human_label_guards(npz, label_files, tmp_path):
    human = {"noise.kind": "human"}
    fails(npz(**human), "noise.kind='human'", "no human labels", "--config.data.labels=FILE")
    fails(npz({"human_mine": WORSE}, **human), "has mine")
    absent = {"data.labels": label_files["pt"], "noise.labels": "random2"}
    fails(npz(**human | absent), "'random2' is not there", "h.pt")
    fails(npz(**{"data.labels": label_files["pt"]}), "noise.kind='human'", "'none'")
    fails(
        npz(**{"data.labels": label_files["pt"], "noise.kind": "pairflip"}),
        "noise.kind='human'",
        "'pairflip'",
    )
    fails(
        npz({"human_clean_label": TRUE[::-1], "human_worse_label": WORSE}, **human),
        "disagrees",
        "row id 0",
        "TFDS",
    )
    np.savez(tmp_path / "short.npz", clean_label=TRUE[:9], worse_label=WORSE[:9])
    fails(
        npz(**human | {"data.labels": str(tmp_path / "short.npz")}), "9 labels for 60 training rows"
    )
    np.savez(tmp_path / "only.npz", worse_label=WORSE)
    fails(npz(**human | {"data.labels": str(tmp_path / "only.npz")}), "no clean_label", "order")
    np.savez(tmp_path / "high.npz", clean_label=TRUE, worse_label=WORSE + 10)
    fails(
        npz(**human | {"data.labels": str(tmp_path / "high.npz")}),
        "worse_label",
        "label 11 of row id 0",
    )


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"noise.kind": "symmetric", "noise.rate": 1.5}, "noise.rate"),
        ({"noise.kind": "asymmetric", "noise.rate": 0.4}, "pairflip"),
        ({"data.train_limit": 61}, "data.train_limit=61"),
        ({"data.train_limit": 0}, "data.train_limit=0"),
        ({"data.train_limit": -1}, "data.train_limit=-1"),
        ({"data.validation_fraction": 1.0}, "data.validation_fraction"),
        ({"data.validation_fraction": -0.1}, "data.validation_fraction"),
        ({"data.downsample": 0}, "data.downsample"),
        ({"data.path": "/nowhere/x.npz"}, "/nowhere/x.npz"),
        ({"noise.kind": "pairflip", "seed": -1}, "seed"),
    ],
)
def test_fields_out_of_range(npz, fields, words):
    fails(npz(**fields), words)


# ---- what no training should start with


def test_one_class_is_refused_whatever_leaves_only_one(npz):
    zeros = np.zeros(N, int)
    fails(npz({"train_labels": zeros}, **{"data.num_classes": 4}), "all 60 labels are 0")
    names = {"train_labels": zeros, "class_names": np.array(list("abcd"))}
    fails(npz(names), "all 60 labels are 0", "at least 2 classes")
    fails(npz(**{"data.train_limit": 1}), "all 1 labels are 0")
    fails(npz({"class_names": np.array(["a"])}), "outside [0, 0]")
    only = {"train_labels": zeros, "test_labels": np.zeros(8, int), "class_names": np.array(["a"])}
    fails(npz(only), "names 1 class, 'a'; a classifier takes at least 2")


@pytest.mark.parametrize("num_classes", [10**9, 1298, 2**31 - 1])
def test_more_classes_than_rows_are_refused_at_once(num_classes):
    fails(
        configured(**{"data.num_classes": num_classes}), f"{num_classes}: more classes than the 1"
    )


def test_numbered_classes_must_not_take_a_name_that_is_there(npz):
    names = {"class_names": np.array(["a", "b", "c", "4"])}
    fails(npz(names, **{"data.num_classes": 5}), "classes 3 and 4 are both named '4'")


def test_noise_matrices_that_memory_cannot_hold_are_refused(monkeypatch):
    monkeypatch.setattr(memory, "machine_bytes", lambda: 10**6)
    fields = {"data.num_classes": 1000, "noise.kind": "pairflip", "noise.rate": 0.2}
    fails(configured(**fields), "label noise of 1,000 classes", "needs about 0.0 GB, the machine")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev", "/dev/null"])
def test_a_path_that_is_no_file_is_refused(path):
    fails(configured(**{"data.name": "npz", "data.path": path}), f"data.path={path}: is a ")
