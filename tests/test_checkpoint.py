"""Real Orbax checkpoints: exact round trips, other devices, old ones, damage noticed, two kept."""

import shutil
import sys
import time
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sop_jax import checkpoint
from sop_jax.errors import UserError
from sop_jax.mesh import by_rows, make_mesh, put, replicated


class State(NamedTuple):
    step: jax.Array
    params: dict
    table: dict
    key: jax.Array


def make_state(step, mesh=None):
    mesh = mesh or make_mesh()
    rng = np.random.default_rng(step)
    return State(
        jnp.int32(step),
        {"w": jnp.asarray(rng.normal(size=(30, 7)), jnp.float32)},
        {"v": put(rng.normal(size=(256, 10)).astype(np.float32), by_rows(mesh))},
        jax.random.key(5),
    )


def abstract(mesh):
    def shape(path, x):
        rows = "table" in jax.tree_util.keystr(path)
        sharding = by_rows(mesh) if rows else replicated(mesh)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(shape, jax.eval_shape(lambda: make_state(0)))


def save(workdir, steps, best=()):
    checkpoints = checkpoint.Checkpoints(workdir)
    for step in steps:
        checkpoints.save(make_state(step), {"epoch": step}, best=step in best)
    checkpoints.close()


def restore(workdir, devices=8):
    checkpoints = checkpoint.Checkpoints(workdir)
    restored = checkpoints.restore(abstract(make_mesh(jax.devices()[:devices])))
    checkpoints.close()
    return restored


def same(a, b):
    plain = lambda s: s._replace(key=jax.random.key_data(s.key))  # noqa: E731
    chex.assert_trees_all_equal(
        jax.tree.map(np.asarray, plain(a)), jax.tree.map(np.asarray, plain(b))
    )


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_round_trip_is_exact_on_any_number_of_devices(tmp_path, devices):
    save(tmp_path, [3])
    state, meta = restore(tmp_path, devices)
    same(state, make_state(3))
    assert meta == {"epoch": 3}
    assert {s.data.shape[0] for s in state.table["v"].addressable_shards} == {256 // devices}


def test_last_two_and_the_best_are_kept(tmp_path):
    save(tmp_path, [1, 2, 3, 4, 5], best={2})
    save(tmp_path, [6, 7])  # a resumed run keeps the best of the run before
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["6", "7", "best"]
    assert [p.name for p in (tmp_path / "checkpoints" / "best").iterdir()] == ["2"]


def test_saving_survives_donation(tmp_path):
    """The caller's next step may reuse the buffers while the files are still being written."""
    checkpoints = checkpoint.Checkpoints(tmp_path)
    state = make_state(1)
    update = jax.jit(
        lambda s: s._replace(params=jax.tree.map(lambda x: x * 0 - 1, s.params)), donate_argnums=0
    )
    checkpoints.save(state, {})
    for _ in range(20):
        state = update(state)
    checkpoints.close()
    same(restore(tmp_path)[0], make_state(1))


class LaterState(NamedTuple):
    """State as a later version has it: the same arrays, and places for some that may come."""

    step: jax.Array
    params: dict
    table: dict
    metrics: dict
    key: jax.Array
    plan: tuple


def test_a_checkpoint_from_before_an_empty_field_was_added_is_whole(tmp_path):
    save(tmp_path, [3])
    old = abstract(make_mesh())
    checkpoints = checkpoint.Checkpoints(tmp_path)
    state, meta = checkpoints.restore(LaterState(**old._asdict(), metrics={}, plan=()))
    checkpoints.save(state._replace(step=jnp.int32(4)), meta)
    checkpoints.close()
    assert state.metrics == {} and state.plan == () and meta == {"epoch": 3}
    same(State(*(getattr(state, name) for name in State._fields)), make_state(3))
    assert not (tmp_path / "bad_checkpoints").exists()
    assert int(restore(tmp_path)[0].step) == 4  # and the other way round


def test_without_its_array_metadatas_a_checkpoint_is_whole(tmp_path):
    """They hold the type of the key, which then came back as two integers."""
    save(tmp_path, [1, 2])
    shutil.rmtree(tmp_path / "checkpoints" / "2" / "state" / "array_metadatas")
    state, _ = restore(tmp_path)
    same(state, make_state(2))
    assert state.key.dtype == make_state(2).key.dtype


def test_arrays_of_another_run_are_passed_over(tmp_path):
    save(tmp_path, [1])
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(make_state(2)._replace(params={"other": jnp.zeros(2)}), {})
    checkpoints.close()
    assert int(restore(tmp_path)[0].step) == 1


def test_a_clock_that_jumps_during_a_save_is_not_called_a_disk_that_fails(tmp_path, monkeypatch):
    genuine, ahead = time.time, 0
    monkeypatch.setattr(time, "time", lambda: genuine() + ahead)
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(make_state(1), {})
    ahead = 7200
    with pytest.raises(UserError, match="longer than Orbax waits, or this machine's clock"):
        checkpoints.close()


def test_late_answers_are_dropped_and_other_unraisable_errors_reported(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: reported.append(str(it.exc_value)))
    for _ in range(3):  # as often as there are restores
        checkpoint._drop_late_answers()

    class Unraisable(NamedTuple):
        exc_value: Exception

    for text in (
        "Event loop is closed",
        "Encountered error while reading array index: 3",
        "another",
    ):
        sys.unraisablehook(Unraisable(RuntimeError(text)))
    assert reported == ["another"]


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


@pytest.fixture
def unraisable(monkeypatch):
    """Texts of the errors that Python could only print."""
    texts = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: texts.append(str(it.exc_value)))
    return texts


def damage_and_check(tmp_path, damage):
    """After damage to step 2 a whole state is restored: step 1, or 2 if the file did not matter."""
    save(tmp_path, [1, 2])
    pristine = tmp_path.with_name(tmp_path.name + "_pristine")
    shutil.copytree(tmp_path, pristine)
    passed_over = 0
    for name in [p.relative_to(tmp_path) for p in files(tmp_path / "checkpoints" / "2")]:
        shutil.rmtree(tmp_path)
        shutil.copytree(pristine, tmp_path)
        damage(tmp_path / name)
        state, _ = restore(tmp_path)
        same(state, make_state(int(state.step)))
        if int(state.step) == 1:
            passed_over += 1
            assert (tmp_path / "bad_checkpoints" / "2").is_dir()
            save(tmp_path, [2])  # the step can be saved again
            assert int(restore(tmp_path)[0].step) == 2
    return passed_over


def test_a_flipped_bit_is_noticed(tmp_path, unraisable):
    def flip(path):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    assert damage_and_check(tmp_path / "run", flip) >= 4  # every array file, the manifest, our hash
    assert unraisable == []


def test_a_truncated_file_is_noticed(tmp_path, unraisable):
    def cut(path):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    assert damage_and_check(tmp_path / "run", cut) >= 4
    assert unraisable == []


def test_a_changed_value_that_restores_silently_is_noticed(tmp_path, monkeypatch):
    save(tmp_path, [1])
    genuine = checkpoint.digest
    monkeypatch.setattr(
        checkpoint, "digest", lambda state, meta: genuine(state._replace(step=jnp.int32(9)), meta)
    )
    save(tmp_path, [2])
    monkeypatch.setattr(checkpoint, "digest", genuine)
    assert int(restore(tmp_path)[0].step) == 1


def test_nothing_saved_restores_nothing(tmp_path):
    assert restore(tmp_path) is None


def test_digest_and_finiteness():
    state = make_state(1)
    assert checkpoint.digest(state, {"a": 1}) == checkpoint.digest(make_state(1), {"a": 1})
    assert checkpoint.digest(state, {"a": 1}) != checkpoint.digest(state, {"a": 2})
    assert checkpoint.digest(state, {}) != checkpoint.digest(make_state(2), {})
    assert checkpoint.all_finite(state)
    assert not checkpoint.all_finite(state._replace(params={"w": jnp.array([1.0, jnp.nan])}))
