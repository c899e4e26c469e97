"""Files come whole or not at all, replace links instead of following them, say what is wrong."""

import io
import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from sop_jax import files
from sop_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
WRITERS = {
    "bytes": lambda path: files.write_bytes(path, b"new"),
    "text": lambda path: files.write_text(path, "new"),
    "json": lambda path: files.write_json(path, {"new": 1}),
    "arrays": lambda path: files.write_arrays(path, new=np.arange(3)),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path, write):
    (tmp_path / "theirs").write_text("theirs")
    for link in ("out", "out.tmp"):  # the temporary name may be a link as well
        (tmp_path / link).symlink_to(tmp_path / "theirs")
    write(tmp_path / "out")
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert not (tmp_path / "out").is_symlink() and b"new" in (tmp_path / "out").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "theirs"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as file:
        file.write(b"half of")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_text_is_utf8_whatever_the_locale(tmp_path):
    program = (
        "import pathlib, sys; from sop_jax.files import write_text; "
        "write_text(pathlib.Path(sys.argv[1]), 'Stra\\xdfe\\n')"
    )
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", program, str(tmp_path / "out")]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **locale}, check=True)
    assert (tmp_path / "out").read_bytes() == "Straße\n".encode()


def test_arrays_have_the_same_bytes_each_time(tmp_path):
    for name in ("one.npz", "two.npz"):
        files.write_arrays(tmp_path / name, x=np.arange(9), name=np.array("a"))
    assert files.sha256(tmp_path / "one.npz") == files.sha256(tmp_path / "two.npz")
    with np.load(tmp_path / "one.npz") as arrays:
        np.testing.assert_array_equal(arrays["x"], np.arange(9))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00", b'{"a":' * 100_000])
def test_damaged_json_is_one_clear_line(tmp_path, content):
    assert files.read_json(tmp_path / "a.json", "mend it") is None
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json is damaged .*; mend it"):
        files.read_json(tmp_path / "a.json", "mend it")


def test_setting_aside_overwrites_nothing(tmp_path):
    for content in ("one", "two", "three"):
        (tmp_path / "list.csv").write_text(content)
        files.set_aside(tmp_path / "list.csv")
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {"list.csv.old": "one", "list.csv.old2": "two", "list.csv.old3": "three"}


def test_arrays_are_read_by_name_and_beginning(tmp_path):
    path = tmp_path / "a.npz"
    files.write_arrays(
        path, id=np.arange(2), more_b=np.ones(2), more_a=np.zeros(2), other=np.ones(1)
    )
    read = files.read_arrays(path, ("id",), ("more_*", "absent"), "mend it")
    assert sorted(read) == ["id", "more_a", "more_b"]
    with pytest.raises(UserError, match=r"a\.npz is damaged \(no array 'label' in it\); mend it"):
        files.read_arrays(path, ("label",), (), "mend it")


def _zip(name, content):
    """An .npz with one member, which numpy takes for an array or not."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr(name, content)
    return packed.getvalue()


def _header(shape):
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def _single_array():
    packed = io.BytesIO()
    np.save(packed, np.arange(3))
    return packed.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"no archive", id="text"),
        pytest.param(_single_array(), id="one array, no archive"),
        pytest.param(_zip("id", b"no array"), id="a member that is no array"),
        pytest.param(_zip("id.npy", _header(f"({2**63},)")), id="2^63 entries claimed"),
        pytest.param(_zip("id.npy", _header("(3,)")), id="entries missing"),
        pytest.param(_zip("id.npy", _header("(" * 500)), id="a header that does not close"),
    ],
)
def test_damaged_arrays_are_one_clear_line(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz is damaged .*; mend it"):
        files.read_arrays(path, ("id",), (), "mend it")
