"""Human label files: what is read, and what a hostile or misordered file runs into."""

import collections
import os
import pathlib
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest

from sop_jax.data.human import human_labels, read_label_sets, select
from sop_jax.errors import UserError

CLEAN = np.array([6, 9, 9, 4, 1, 1, 2, 7])
SETS = {
    "clean_label": CLEAN,
    "worse_label": (CLEAN + 1) % 10,
    "aggre_label": CLEAN,
    "random_label1": CLEAN,
}


def write_pt(path, content: bytes, member="archive/data.pkl", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(member, content)
        archive.writestr("archive/version", "3\n")
    return str(path)


def published_pickle(arrays, protocol=2) -> bytes:
    """What torch.save writes for a dict of numpy arrays; protocol 2 with numpy 1's module names."""
    content = pickle.dumps(arrays, protocol)
    if protocol == 2:
        content = content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
        assert b"numpy.core.multiarray" in content
    return content


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["int64", "uint8", ">i4"])
def test_pt_is_read_without_torch(tmp_path, protocol, dtype):
    arrays = {key: values.astype(dtype) for key, values in SETS.items()}
    path = write_pt(tmp_path / "CIFAR-10_human.pt", published_pickle(arrays, protocol))
    sets = read_label_sets(path)
    assert list(sets) == list(SETS)
    for key in SETS:
        assert sets[key].dtype == np.int32
        np.testing.assert_array_equal(sets[key], SETS[key])


def test_pt_of_cifar100_with_coarse_labels_as_lists(tmp_path):
    content = {"clean_label": CLEAN, "noisy_label": CLEAN, "clean_coarse_label": CLEAN.tolist()}
    path = write_pt(
        tmp_path / "CIFAR-100_human.pt", published_pickle(content), "CIFAR-100_human/data.pkl"
    )
    np.testing.assert_array_equal(read_label_sets(path)["clean_coarse_label"], CLEAN)


def test_npz_is_read(tmp_path):
    np.savez(tmp_path / "h.npz", **SETS)
    np.testing.assert_array_equal(
        read_label_sets(str(tmp_path / "h.npz"))["worse_label"], SETS["worse_label"]
    )


class _Runs:
    """A pickle of this runs `function(*args)` when it is loaded naively."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_malicious_pt_is_refused_and_does_not_run(tmp_path, protocol):
    witness = tmp_path / "ran"
    content = pickle.dumps({"clean_label": _Runs(os.system, f"touch {witness}")}, protocol)
    pickle.loads(content)  # the attack works where nobody looks
    assert witness.exists()
    witness.unlink()
    path = write_pt(tmp_path / "evil.pt", content)
    with pytest.raises(UserError, match=r"evil\.pt.*posix\.system.*refused"):
        read_label_sets(path)
    assert not witness.exists()


@pytest.mark.parametrize(
    "value, named",
    [
        (_Runs(eval, "1+1"), "eval"),
        (_Runs(getattr, "a", "upper"), "getattr"),
        (_Runs(np.load, "x.npy"), "load"),
        (_Runs(np.fromfile, "/etc/hostname"), "fromfile"),
        (collections.OrderedDict(), "collections.OrderedDict"),
        (np.int64(3), "scalar"),
        (pathlib.PurePosixPath("x"), "pathlib"),
    ],
)
def test_every_other_global_is_refused_by_name(tmp_path, value, named):
    path = write_pt(tmp_path / "x.pt", pickle.dumps({"clean_label": value}, 2))
    with pytest.raises(UserError) as error:
        read_label_sets(path)
    assert (
        named in str(error.value) and "x.pt" in str(error.value) and "refused" in str(error.value)
    )


class _Abuse:
    """Allowed names with arguments that numpy itself would not survive well."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


RECONSTRUCT = np.zeros(1).__reduce__()[0]


@pytest.mark.parametrize(
    "value",
    [
        _Abuse(np.ndarray, ((2**50,),)),
        _Abuse(RECONSTRUCT, (np.ndarray, (2**50,), b"b")),
        _Abuse(
            RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (2**50,), np.dtype("i8"), False, b"12345678")
        ),
        _Abuse(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1,), np.dtype("i8"), False, [1])),
        _Abuse(RECONSTRUCT, (np.ndarray, (0,), b"b"), "nonsense"),
        _Abuse(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1,), "i8", False, b"12345678")),
        _Abuse(np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)),
        _Abuse(np.dtype, ("i8", False, True), (3, "?", None, None, None, -1, -1, 0)),
        np.array([1, "a", None], object),
        np.array([1.5, 2.5]),
        np.array(["a"]),
        np.zeros((2, 2), int),
        np.array([2**40]),
        [1, [2]],
        ["a"],
        3,
    ],
)
def test_allowed_names_cannot_be_abused(tmp_path, value):
    path = write_pt(tmp_path / "x.pt", pickle.dumps({"clean_label": value}, 2))
    with pytest.raises(UserError, match="x.pt"):
        read_label_sets(path)


def test_memo_index_bomb_needs_no_memory(tmp_path):
    # LONG_BINPUT 2**31: 32 GB in the C unpickler
    content = b"\x80\x02}r" + struct.pack("<I", 2**31) + b"."
    assert read_label_sets(write_pt(tmp_path / "x.pt", content)) == {}


def test_nested_lists_do_not_explode(tmp_path):
    bomb = [1]
    for _ in range(60):
        bomb = [bomb, bomb]
    path = write_pt(tmp_path / "x.pt", pickle.dumps({"clean_label": bomb}, 2))
    with pytest.raises(UserError, match="whole numbers"):
        read_label_sets(path)


def test_damaged_files(tmp_path):
    good = published_pickle(SETS)
    damaged = {
        "not_zip.pt": b"hello",
        "empty.pt": b"",
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
    write_pt(tmp_path / "no_member.pt", good, "archive/other.pkl")
    write_pt(tmp_path / "short_pickle.pt", good[: len(good) // 2])
    write_pt(tmp_path / "empty_pickle.pt", b"")
    write_pt(tmp_path / "list.pt", pickle.dumps([CLEAN.tolist()], 2))
    write_pt(tmp_path / "persistent.pt", b"\x80\x02Pabc\n.")
    whole = pathlib.Path(write_pt(tmp_path / "whole.pt", good)).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[200] ^= 0xFF
    (tmp_path / "flipped.pt").write_bytes(flipped)
    with zipfile.ZipFile(tmp_path / "two.pt", "w") as archive:
        archive.writestr("a/data.pkl", good)
        archive.writestr("b/data.pkl", good)
    (tmp_path / "whole.pt").unlink()
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(UserError) as error:
            read_label_sets(str(path))
        assert path.name in str(error.value), path


def test_zip_bomb_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "bomb.pt"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a/data.pkl", "w") as stream,
    ):
        for _ in range(257):
            stream.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match="too many"):
        read_label_sets(str(path))


def test_refused_kinds_of_file(tmp_path):
    np.save(tmp_path / "CIFAR-10_human_ordered.npy", {"clean_label": CLEAN}, allow_pickle=True)
    with pytest.raises(UserError, match=r"TensorFlow order.*pickles.*\.pt"):
        read_label_sets(str(tmp_path / "CIFAR-10_human_ordered.npy"))
    (tmp_path / "labels.csv").write_text("1\n")
    with pytest.raises(UserError, match=r"\.npz or \.pt"):
        read_label_sets(str(tmp_path / "labels.csv"))
    with pytest.raises(UserError, match="no such file"):
        read_label_sets(str(tmp_path / "missing.pt"))
    np.savez(tmp_path / "objects.npz", clean_label=np.array([1, None], object))
    with pytest.raises(UserError, match=r"objects\.npz, clean_label.*pickled"):
        read_label_sets(str(tmp_path / "objects.npz"))
    np.savez(tmp_path / "floats.npz", clean_label=np.array([1.0]))
    with pytest.raises(UserError, match=r"floats\.npz.*float64"):
        read_label_sets(str(tmp_path / "floats.npz"))


@pytest.mark.parametrize(
    "name, keys, expected",
    [
        ("worst", SETS, "worse_label"),
        ("aggregate", SETS, "aggre_label"),
        ("random1", SETS, "random_label1"),
        ("worse_label", SETS, "worse_label"),
        ("clean", SETS, "clean_label"),
        (None, SETS, "worse_label"),
        (None, ("clean_label", "noisy_label"), "noisy_label"),
        (None, ("noise_label",), "noise_label"),
        ("noisy", ("clean_label", "noise_label"), "noise_label"),
        ("mine", ("mine",), "mine"),
    ],
)
def test_names_and_aliases(name, keys, expected):
    assert select(keys, name, "x") == expected


def test_human_labels_checks_rows():
    ids = np.arange(100, 108)
    np.testing.assert_array_equal(
        human_labels(SETS, "worst", CLEAN, ids, 10, "f.pt"), SETS["worse_label"]
    )
    shuffled = CLEAN[::-1]
    with pytest.raises(
        UserError, match=r"f\.pt.*disagrees.*100\.0%.*row id 100.*TensorFlow/TFDS order"
    ):
        human_labels({**SETS, "clean_label": shuffled}, "worst", CLEAN, ids, 10, "f.pt")
    one_off = CLEAN.copy()
    one_off[3] = 0
    with pytest.raises(UserError, match=r"12\.5%.*row id 103"):
        human_labels({**SETS, "clean_label": one_off}, "worst", CLEAN, ids, 10, "f.pt")
    with pytest.raises(UserError, match="7 labels for 8 training rows"):
        human_labels({**SETS, "worse_label": CLEAN[:7]}, "worst", CLEAN, ids, 10, "f.pt")
    with pytest.raises(UserError, match="clean_label: 7 labels for 8"):
        human_labels({**SETS, "clean_label": CLEAN[:7]}, "worst", CLEAN, ids, 10, "f.pt")
    with pytest.raises(UserError, match=r"worse_label: label -1 of row id 102"):
        human_labels(
            {**SETS, "worse_label": np.where(ids == 102, -1, 0)}, "worst", CLEAN, ids, 10, "f.pt"
        )
    with pytest.raises(UserError, match="'nobody' is not there: f.pt has clean_label"):
        human_labels(SETS, "nobody", CLEAN, ids, 10, "f.pt")
    with pytest.raises(UserError, match="noise.labels is not set: f.pt has mine"):
        human_labels({"mine": CLEAN}, None, CLEAN, ids, 10, "f.pt")


def test_what_is_no_regular_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    (tmp_path / "folder.pt").mkdir()
    for name in ("pipe.pt", "pipe.npz", "zero.npz"):
        with pytest.raises(UserError, match=rf"data\.labels=.*{name}: is a pipe, socket or dev"):
            read_label_sets(str(tmp_path / name))
    with pytest.raises(UserError, match=r"folder\.pt: is a folder"):
        read_label_sets(str(tmp_path / "folder.pt"))


def test_a_large_pickle_is_refused_before_it_is_read(tmp_path):
    path = write_pt(tmp_path / "large.pt", b"\x80\x02" + b"N0" * (5 * 2**20) + b"}.")
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"10,485,764 bytes, too many for labels \(at most 8,388,6"):
        read_label_sets(path)
    assert time.perf_counter() - start < 1
