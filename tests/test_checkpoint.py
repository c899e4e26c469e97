"""Real Orbax checkpoints: exact round trips, other device counts, damage noticed, the last two and
the best kept.
"""

import shutil
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sop_jax import checkpoint
from sop_jax import mesh as meshes


class State(NamedTuple):
    step: jax.Array
    params: dict
    table: dict
    key: jax.Array


def make_state(step, mesh=None):
    mesh = mesh or meshes.make_mesh()
    rng = np.random.default_rng(step)
    return State(
        jnp.int32(step),
        {"w": jnp.asarray(rng.normal(size=(30, 7)), jnp.float32)},
        {"v": meshes.put(rng.normal(size=(256, 10)).astype(np.float32), meshes.rows(mesh))},
        jax.random.key(5),
    )


def abstract(mesh):
    def shape(path, x):
        rows = "table" in jax.tree_util.keystr(path)
        sharding = meshes.rows(mesh) if rows else meshes.replicated(mesh)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(shape, jax.eval_shape(lambda: make_state(0)))


def save(workdir, steps, best=()):
    checkpoints = checkpoint.Checkpoints(workdir)
    for step in steps:
        checkpoints.save(make_state(step), {"epoch": step}, best=step in best)
    checkpoints.close()


def restore(workdir, devices=8):
    checkpoints = checkpoint.Checkpoints(workdir)
    restored = checkpoints.restore(abstract(meshes.make_mesh(jax.devices()[:devices])))
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


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


def damage_and_check(tmp_path, damage):
    """After damage to step 2, restore gives a whole state: step 1, or step 2 where the file did not
    matter.
    """
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


def test_a_flipped_bit_is_noticed(tmp_path):
    def flip(path):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    assert damage_and_check(tmp_path / "run", flip) >= 4  # every array file, the manifest, our hash


def test_a_truncated_file_is_noticed(tmp_path):
    assert (
        damage_and_check(
            tmp_path / "run", lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2])
        )
        >= 4
    )


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
