"""The parsed text of programs that XLA compiles here: shapes, loops, sources and FLOPs by hand."""

import jax
import jax.numpy as jnp
import pytest

from sop_jax import accounts, hlo
from sop_jax.chips import CHIPS
from sop_jax.data import one_hot
from sop_jax.models import api

IMAGES = jax.ShapeDtypeStruct((4, 8, 8, 5), jnp.float32)
KERNEL = jax.ShapeDtypeStruct((3, 3, 5, 7), jnp.float32)


def convolved(images, kernel, stride=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        images, kernel, (stride, stride), "SAME", dimension_numbers=numbers
    )


def before(function, *arguments):
    lowered = jax.jit(function).lower(*arguments)
    return hlo.Program(lowered.as_text(dialect="hlo", debug_info=True))


def total_flops(program):
    return sum(times * hlo.flops(program, i) for i, times, _ in program.run())


def pairs(size, stride):
    """Products along one axis of a 3-wide kernel that meet a value and not padding."""
    outputs = -(-size // stride)
    low = max((outputs - 1) * stride + 3 - size, 0) // 2
    return sum(0 <= o * stride + t - low < size for o in range(outputs) for t in range(3))


@pytest.mark.parametrize("stride", [1, 2])
def test_flops_of_a_convolution_leave_out_padding(stride):
    program = before(lambda x, k: convolved(x, k, stride), IMAGES, KERNEL)
    assert total_flops(program) == 2 * 4 * pairs(8, stride) ** 2 * 5 * 7


@pytest.mark.parametrize("stride", [1, 2])
def test_both_gradients_of_a_convolution_cost_what_it_costs(stride):
    def loss(x, k):
        return jnp.sum(convolved(x, k, stride) ** 2)

    program = before(jax.grad(loss, (0, 1)), IMAGES, KERNEL)
    assert total_flops(program) == 3 * 2 * 4 * pairs(8, stride) ** 2 * 5 * 7


def test_a_loops_body_counts_as_often_as_it_runs():
    def run(x):
        return jax.lax.scan(lambda y, _: (jnp.tanh(y @ y), None), x, length=6)[0]

    square = jax.ShapeDtypeStruct((16, 16), jnp.float32)
    assert total_flops(before(run, square)) == 6 * 2 * 16**3
    optimised = hlo.Program(jax.jit(run).lower(square).compile().as_text())
    loops = [i for i, _, _ in optimised.run() if i.op == "while"]
    assert [optimised.trips(loop) for loop in loops] == [6]


def test_instructions_know_their_part_of_the_step():
    model = api.find("small_resnet", 10, width=4)
    shapes = jax.eval_shape(lambda key: model.init(key, (8, 8, 3)), jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    program = before(lambda v, x: model.apply(*v, x, True)[0], shapes, images)
    of_network = [i for i, _, _ in program.run() if i.op == "convolution"]
    assert of_network and all(accounts.part_of(program, i) == "network" for i in of_network)
    assert accounts.network_flops(program) > 0
    image = jax.ShapeDtypeStruct((3, 64), jnp.uint8)
    program = before(one_hot.histogram, image)
    parts = {accounts.part_of(program, i) for i, _, _ in program.run() if i.op == "scatter"}
    assert parts == {"augmentation"} and accounts.network_flops(program) == 0


TEXT = """HloModule jit_step, is_scheduled=true

%fused (p.0: f32[1000,8], p.1: s32[16]) -> f32[16,8] {
  %p.0 = f32[1000,8]{1,0} parameter(0)
  %p.1 = s32[16]{0} parameter(1)
  ROOT %gather.1 = f32[16,8]{1,0} gather(%p.0, %p.1), offset_dims={1}, slice_sizes={1,8}
}

ENTRY %main (a: f32[1000,8], b: s32[16]) -> f32[16,8] {
  %a = f32[1000,8]{1,0} parameter(0)
  %b = s32[16]{0} parameter(1)
  %rows = f32[16,8]{1,0} fusion(%a, %b), kind=kCustom, calls=%fused
  %near = f32[16,8]{1,0:T(8,128)S(1)} add(%rows, %rows), backend_config={"estimated_cycles":"640"}
  ROOT %sum = (f32[16,8]{1,0}, f32[2]{0}) all-reduce(%near, %b), channel_id=3, to_apply=%add
}
"""


def test_an_account_by_hand():
    """A look-up reads what it looks up; arrays in the chip's own memory do not count as moved."""
    program = hlo.Program(TEXT)
    assert program.entry == "main" and program.by_name["near"].cycles == 640
    rows, near = program.by_name["rows"], program.by_name["near"]
    assert accounts.traffic(program, rows) == 16 * 8 * 4 + 16 * 4 + 16 * 8 * 4
    assert accounts.traffic(program, near) == 2 * 16 * 8 * 4
    assert accounts.places(program, program.by_name["gather.1"]) == 16
    costs = {cost.instruction.name: cost for cost in accounts.costs(program, CHIPS["v5e"], 2)}
    assert costs["near"].cycles == 320 and costs["near"].seconds == 320 / 1.5e9
    assert costs["rows"].blind and costs["rows"].cycles == 16 * accounts.BUNDLES_PER_ELEMENT / 2
    [travels] = accounts.collectives(program)
    assert travels.kind == "all-reduce" and travels.num_bytes == 16 * 8 * 4 + 2 * 4
    of_gpu = {cost.instruction.name: cost for cost in accounts.costs(program, CHIPS["h100"], 1)}
    needed = accounts.traffic(program, rows) / CHIPS["h100"].bandwidth
    assert of_gpu["rows"].seconds == pytest.approx(needed + accounts.LAUNCH_SECONDS)
