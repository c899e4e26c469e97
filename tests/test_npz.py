"""Examples from `.npz` files: order by id, and every guard, on tiny files that the tests write."""

import numpy as np
import pytest

from sop_jax.data.npz import from_npz
from sop_jax.errors import UserError

RANDOM = np.random.default_rng(0)


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
    raw = from_npz(npz(content))
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
        train_labels=np.array([0, 1, 2, 0, 1, 3], np.uint8),
    )
    raw = from_npz(npz(content))
    assert raw.train.images.shape == (6, 5, 4, 1)
    assert (
        raw.train.ids.tolist() == [0, 1, 2, 3, 4, 5] and raw.true_labels is None and raw.human == {}
    )
    assert raw.class_names == tuple("0123")
    assert len(from_npz(npz(content), num_classes=6).class_names) == 6


def test_npz_string_ids(npz):
    raw = from_npz(npz(arrays(train_ids=np.array(["b.png", "a.png", "f", "e", "d", "c"]))))
    assert raw.train.ids.tolist() == ["a.png", "b.png", "c", "d", "e", "f"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"train_labels": None}, "key 'train_labels' is missing"),
        ({"test_images": None}, "key 'test_images' is missing"),
        (
            {"train_labels": np.array([0, None], object)},
            "train_labels: holds pickled objects, which are refused",
        ),
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
        (
            {"class_names": np.array([["a", "b", "c"]])},
            "class_names: expected strings or whole numbers of shape [K]",
        ),
        (
            {"test_images": np.zeros((0, 4, 4, 3), np.uint8), "test_labels": np.zeros(0, int)},
            "test split has no exam",
        ),
    ],
)
def test_npz_guards(npz, changes, words):
    path = npz(arrays(**changes))
    with pytest.raises(UserError) as error:
        from_npz(path)
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
            from_npz(str(tmp_path / name))
    with pytest.raises(UserError, match="data.path"):
        from_npz(None)


def saved(content, **fields):
    """The error of reading an npz file of these arrays."""
    path = content if isinstance(content, str) else None
    with pytest.raises(UserError) as error:
        from_npz(path, **fields)
    assert "\n" not in str(error.value)
    return str(error.value)


LONE_SURROGATE = np.array(["a", "b\ud800", "c"])
NO_CODE_POINT = np.array([ord("a"), 0x110000, ord("c")], np.uint32).view("<U1")


@pytest.mark.parametrize("texts", [LONE_SURROGATE, NO_CODE_POINT, LONE_SURROGATE.astype(">U2")])
def test_texts_that_are_no_text_are_refused_by_row(npz, texts):
    labels = np.array([0, 1, 2])
    images = np.zeros((3, 4, 4, 3), np.uint8)
    small = {"train_images": images, "train_labels": labels}
    assert "class_names: entry 1 is no text" in saved(npz(arrays(class_names=texts)))
    assert "train_ids: entry 1 is no text" in saved(npz(arrays(**small, train_ids=texts)))
    assert "test_ids: entry 1 is no text" in saved(npz(arrays(test_ids=texts)))


def test_names_and_ids_that_a_csv_file_cannot_hold_are_refused(npz):
    long = "x" * 131_073
    message = saved(npz(arrays(class_names=np.array(["a", long, "c"]))))
    assert "class 1: a text of 131,073 characters" in message and len(message) < 400
    message = saved(npz(arrays(test_ids=np.array(["a", "b", long]))))
    assert "test_ids, row 2: a text of 131,073 characters" in message
    at_limit = np.array(["a", "b", "x" * 131_072])
    assert from_npz(npz(arrays(class_names=at_limit))).class_names[2] == "x" * 131_072


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"class_names": np.array(["a", "b", "a"])}, "classes 0 and 2 are both named 'a'"),
        ({"class_names": np.array(["a"])}, "label 1 of row id 1 is outside [0, 0]"),
        ({"class_names": np.array([b"a", b"b", b"c"])}, "expected strings or whole numbers"),
        ({"test_ids": np.array([1, 2, 2**63], np.uint64)}, "id 9223372036854775808 is too large"),
        ({"train_labels": np.array([1, 2, 3] * 2), "test_labels": np.array([1, 2, 3])}, "from 1 t"),
        ({"train_labels": np.array([0, 1, 2, 0, 1, 10**6])}, "label 1000000 of row id 5 would"),
        ({"test_labels": np.array([0, 1, 2**40])}, "test_labels: label 1099511627776 of row id 2"),
        ({"train_true_labels": np.array([0, 1, 2, 0, 1, 9])}, "train_true_labels: label 9 of row"),
    ],
)
def test_classes_and_ids_that_were_accepted_in_silence(npz, changes, words):
    assert words in saved(npz(arrays(**changes)))


def test_labels_that_skip_classes_are_read_where_the_number_of_classes_is_given(npz):
    labels = {"train_labels": np.array([1, 2, 3] * 2), "test_labels": np.array([1, 2, 3])}
    message = saved(npz(arrays(**labels)))
    assert "subtract 1 from all labels" in message and "data.num_classes=4" in message
    assert len(from_npz(npz(arrays(**labels)), num_classes=4).class_names) == 4
    named = arrays(**labels, class_names=np.array(list("abcd")))
    assert from_npz(npz(named)).class_names == tuple("abcd")


@pytest.mark.parametrize("num_classes", [10**9, 7, 1, 0, -3])
def test_the_number_of_classes_is_bounded_by_the_rows(npz, num_classes):
    assert f"data.num_classes={num_classes}" in saved(npz(arrays()), num_classes=num_classes)


@pytest.mark.parametrize(
    "shape, words",
    [
        ((3, 8, 8), "looks like channels first, [N, C, H, W]"),
        ((1, 8, 8), "numpy.moveaxis(images, 1, -1)"),
        ((8, 8, 4), "images of 8x8 have 4 channels; 1 (grey) or 3"),
        ((8, 8, 2), "2 channels"),
        ((8, 8, 0), "0 channels"),
        ((0, 0, 3), "0x0 images"),
        ((0, 8, 3), "0x8 images"),
        ((0, 0), "0x0 images"),
    ],
)
def test_images_that_no_network_takes_are_refused(npz, shape, words):
    images = {
        "train_images": np.zeros((6, *shape), np.uint8),
        "test_images": np.zeros((3, *shape), np.uint8),
    }
    message = saved(npz(arrays(**images)))
    assert words in message and "learning rate" not in message
