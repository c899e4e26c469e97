"""Files from outside: none blocks, none takes more memory than its archive says, none unpickles."""

import io
import os
import pathlib
import struct
import zipfile

import numpy as np
import pytest

from sop_jax.data import memory
from sop_jax.data.user_files import check_regular, load_npz
from sop_jax.errors import UserError


def refused(path) -> str:
    with pytest.raises(UserError) as error:
        load_npz(str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def npy(array=None, *, header: str | None = None, data=b"") -> bytes:
    """The bytes of an .npy file: of an array, or of a header of one's own."""
    stream = io.BytesIO()
    if header is None:
        np.save(stream, array)
        return stream.getvalue()
    text = header.encode("latin-1")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def archive(path, **members: bytes) -> pathlib.Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def test_arrays_are_read(tmp_path):
    content = {"a": np.arange(6).reshape(2, 3), "b": np.array(["x", "yz"]), "c": np.zeros((0, 4))}
    np.savez(tmp_path / "plain.npz", **content)
    np.savez_compressed(tmp_path / "small.npz", **content)
    for name in ("plain.npz", "small.npz"):
        arrays = load_npz(str(tmp_path / name))
        assert list(arrays) == list(content)
        for key, array in content.items():
            np.testing.assert_array_equal(arrays[key], array)
            assert arrays[key].dtype == array.dtype


def test_what_is_no_regular_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "link.npz").symlink_to("/dev/zero")
    assert "is a pipe, socket or device" in refused(tmp_path / "pipe.npz")
    assert "is a pipe, socket or device" in refused(tmp_path / "link.npz")
    assert "is a folder" in refused(tmp_path / "folder.npz")
    assert "no such file" in refused(tmp_path / "missing.npz")
    with pytest.raises(UserError, match=r"data\.path=/dev/zero: is a pipe, socket or device"):
        load_npz("/dev/zero", "data.path")
    for odd in ("a\0b", "x" * 5000, str(tmp_path / "pipe.npz" / "inside")):
        with pytest.raises(UserError, match="cannot be opened|no such file"):
            check_regular(odd)


def test_members_that_are_no_arrays(tmp_path):
    assert "data: is no array" in refused(archive(tmp_path / "a.npz", data=b"hello"))
    assert "data: is no array" in refused(archive(tmp_path / "b.npz", data=b""))
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as file:
        file.writestr("readme.txt", "hello")
    assert "readme.txt: is no array" in refused(tmp_path / "c.npz")
    header = f"{{'descr': '<U0', 'fortran_order': False, 'shape': ({2**40},)}}"  # 0 bytes each
    assert "data: is no array" in refused(archive(tmp_path / "e.npz", data=npy(header=header)))
    objects = npy(np.array([1, None], object))
    assert "pickled objects, which are refused" in refused(
        archive(tmp_path / "d.npz", data=objects)
    )


@pytest.mark.parametrize(
    "shape, descr",
    [
        (f"({2**63},)", "|u1"),
        (f"({2**62}, 4, 4, 3)", "|u1"),
        (f"({2**32}, {2**32})", "<i8"),
        ("(10,)", "|u1"),
        ("(-1,)", "|u1"),
        ("(1,)", "<U1000"),
    ],
)
def test_a_header_that_claims_what_does_not_follow(tmp_path, shape, descr):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}"
    content = npy(header=header, data=bytes(9))
    message = refused(archive(tmp_path / "x.npz", train_images=content))
    assert "train_images" in message and "9 bytes follow it" in message


def test_an_archive_of_more_than_the_machine_has_is_not_read(tmp_path, monkeypatch):
    path = archive(tmp_path / "bomb.npz", a=npy(np.zeros(10**6, np.uint8)))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(memory, "machine_bytes", lambda: 900_000)
    assert "needs about 0.0 GB, the machine has 0.0 GB" in refused(path)
    monkeypatch.setattr(memory, "machine_bytes", lambda: 10**9)
    assert load_npz(str(path))["a"].shape == (10**6,)


def test_damaged_archives_are_called_that(tmp_path):
    np.savez(tmp_path / "whole.npz", a=np.arange(1000), b=np.arange(3))
    whole = (tmp_path / "whole.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[700] ^= 0xFF
    damaged = {
        "garbage.npz": b"garbage" + whole,
        "cut.npz": whole[: len(whole) // 2],
        "flipped.npz": bytes(flipped),
        "empty.npz": b"",
        "one.npz": npy(np.zeros(3)),
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        assert "pickled" not in refused(tmp_path / name)
    assert "does not begin as one" in refused(tmp_path / "garbage.npz")
    assert "damaged or cut short" in refused(tmp_path / "cut.npz")
    assert "a: not a whole .npz file" in refused(tmp_path / "flipped.npz")


def test_machine_memory_is_known_and_a_container_may_have_less(tmp_path, monkeypatch):
    whole = memory.machine_bytes()
    assert whole > 2**28
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CGROUP_LIMIT", limit)
    limit.write_text("1000\n")
    assert memory.machine_bytes() == 1000
    with pytest.raises(UserError, match=r"^images: this needs about 5\.0 GB, the machine has 0\.0"):
        memory.require(5 * 10**9, "images", "use fewer")
    limit.write_text("max\n")
    assert memory.machine_bytes() >= whole
