"""Traffic and products are counted as often as they happen, at the size that they take on the device."""

import pytest

from stvsr_jax.runtime import program_cost

LOOP = """HloModule jit_f, entry_computation_layout={()->f32[]}

%body (p.1: (s32[], f32[16,128])) -> (s32[], f32[16,128]) {
  %p.1 = (s32[]{:T(128)}, f32[16,128]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %x.1 = f32[16,128]{1,0:T(8,128)} get-tuple-element(%p.1), index=1
  %y.1 = f32[16,128]{1,0:T(8,128)} negate(%x.1)
  ROOT %t.1 = (s32[]{:T(128)}, f32[16,128]{1,0:T(8,128)}) tuple(%i.1, %y.1)
}

%condition (p.2: (s32[], f32[16,128])) -> pred[] {
  %p.2 = (s32[]{:T(128)}, f32[16,128]{1,0:T(8,128)}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  %n.2 = s32[]{:T(128)} constant(5)
  ROOT %less.2 = pred[]{:T(512)} compare(%i.2, %n.2), direction=LT
}

ENTRY %main (a: (s32[], f32[16,128])) -> (s32[], f32[16,128]) {
  %a = (s32[]{:T(128)}, f32[16,128]{1,0:T(8,128)}) parameter(0)
  ROOT %w = (s32[]{:T(128)}, f32[16,128]{1,0:T(8,128)}) while(%a), condition=%condition, body=%body
}
"""

BRANCHES = """HloModule jit_f

%cheap (p.1: f32[8,128]) -> f32[8,128] {
  %p.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %y.1 = f32[8,128]{1,0:T(8,128)} negate(%p.1)
}

%dear (p.2: f32[8,128]) -> f32[8,128] {
  %p.2 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %y.2 = f32[8,128]{1,0:T(8,128)} negate(%p.2)
  ROOT %z.2 = f32[8,128]{1,0:T(8,128)} negate(%y.2)
}

ENTRY %main (c: s32[], a: f32[8,128]) -> f32[8,128] {
  %c = s32[] parameter(0)
  %a = f32[8,128]{1,0:T(8,128)} parameter(1)
  ROOT %r = f32[8,128]{1,0:T(8,128)} conditional(%c, %a, %a), branch_computations={%dear, %cheap}
}
"""


def entry(*lines):
    """Returns the text of a program of these instructions."""
    return "\n".join(["HloModule f", "", "ENTRY %main (x: f32[1]) -> f32[1] {", *lines, "}"])


def test_a_loop_counts_every_turn():
    assert program_cost.count(LOOP).hbm_bytes == 5 * 2 * 16 * 128 * 4


def test_a_list_of_operations_counts_every_turn():
    assert program_cost.list_operations(LOOP) == [("negate", 5 * 2 * 16 * 128 * 4, 5)]


def test_of_branches_the_one_with_less_traffic_counts():
    assert program_cost.count(BRANCHES).hbm_bytes == 2 * 8 * 128 * 4


@pytest.mark.parametrize("space", [1, 3])
def test_padding_of_the_layout_counts_and_vmem_counts_apart(space):
    text = entry(
        "  %x = bf16[2,5,64]{2,1,0:T(8,128)(2,1)} parameter(0)",
        f"  ROOT %y = bf16[2,5,64]{{1,2,0:T(8,128)(2,1)S({space})}} copy(%x)",
    )
    cost = program_cost.count(text)
    assert cost.hbm_bytes == 2 * 8 * 128 * 2  # 5 rows of 64 lanes
    assert cost.vmem_bytes == 2 * 64 * 128 * 2  # 64 rows of 5 lanes


def test_a_slice_reads_what_it_returns():
    text = entry(
        "  %x = f32[800,128]{1,0:T(8,128)} parameter(0)",
        "  %i = s32[] constant(3)",
        "  ROOT %y = f32[8,128]{1,0:T(8,128)} dynamic-slice(%x, %i, %i), dynamic_slice_sizes={8,128}",
    )
    assert program_cost.count(text).hbm_bytes == 2 * 8 * 128 * 4


@pytest.mark.parametrize(
    "window, out, pairs",
    [
        ("size=3x3 pad=1_1x1_1", 8, 22),  # of the eight places six have three taps, two have two
        ("size=3x3 stride=2x2 pad=1_1x1_1", 4, 11),
        ("size=3x3 pad=1_2x1_2 lhs_dilate=2x2", 16, 23),  # its gradient: no products with zeros between
    ],
)
def test_products_with_padding_do_not_count(window, out, pairs):
    text = entry(
        "  %x = bf16[2,8,8,64]{3,2,1,0:T(8,128)(2,1)} parameter(0)",
        "  %k = bf16[3,3,64,32]{3,2,1,0:T(8,128)(2,1)} parameter(1)",
        f"  ROOT %y = bf16[2,{out},{out},32]{{3,2,1,0:T(8,128)(2,1)}} convolution(%x, %k), "
        f"window={{{window}}}, dim_labels=b01f_01io->b01f",
    )
    cost = program_cost.count(text)
    assert cost.flops == 2 * 2 * pairs**2 * 64 * 32
    assert cost.padded_flops == 2 * 2 * pairs**2 * 128 * 128


def test_a_fusion_reads_of_an_operand_what_it_slices_and_may_read_nothing():
    text = entry(
        "  %x = f32[800,128]{1,0:T(8,128)} parameter(0)",
        "  %i = s32[] constant(3)",
        "  %z = f32[8,128]{1,0:T(8,128)} fusion(), kind=kLoop, calls=%zeros",
        "  ROOT %y = f32[8,128]{1,0:T(8,128)} fusion(%x, %i), kind=kLoop, calls=%rows",
    )
    text += """
%zeros () -> f32[8,128] {
  ROOT %n = f32[8,128]{1,0:T(8,128)} iota(), iota_dimension=0
}

%rows (p: f32[800,128], q: s32[]) -> f32[8,128] {
  %p = f32[800,128]{1,0:T(8,128)} parameter(0)
  %q = s32[] parameter(1)
  %s = f32[8,128]{1,0:T(8,128)} dynamic-slice(%p, %q, %q), dynamic_slice_sizes={8,128}
  ROOT %m = f32[8,128]{1,0:T(8,128)} negate(%s)
}
"""
    assert program_cost.count(text).hbm_bytes == pytest.approx(3 * 8 * 128 * 4, abs=4)  # and the index


def test_a_fusion_in_a_fusion_reads_what_it_slices_and_its_kernel_counts():
    whole, row, index = "f32[100,8,128]{2,1,0:T(8,128)}", "f32[8,128]{1,0:T(8,128)}", "s32[]"
    text = entry(
        f"  %x = {whole} parameter(0)",
        f"  %i = {index} constant(3)",
        f"  ROOT %y = {row} fusion(%x, %i), kind=kLoop, calls=%outer",
    )
    estimate = (
        '{"custom_call_config": {"cost_estimate": {\n"bytes_accessed":99,\n"flops":1000\n}, "other": 1}}'
    )
    text += f"""
%rows (p: {whole}, q: s32[]) -> {row} {{
  %p.1 = {whole} parameter(0)
  %q.1 = {index} parameter(1)
  %f.1 = f32[800,128]{{1,0:T(8,128)}} bitcast(%p.1)
  ROOT %s.1 = {row} dynamic-slice(%f.1, %q.1, %q.1), dynamic_slice_sizes={{8,128}}
}}

%outer (p: {whole}, q: s32[]) -> {row} {{
  %p.2 = {whole} parameter(0)
  %q.2 = {index} parameter(1)
  %s.2 = {row} fusion(%p.2, %q.2), kind=kLoop, calls=%rows
  ROOT %k.2 = {row} custom-call(%s.2), custom_call_target="tpu_custom_call", backend_config={estimate}
}}
"""
    cost = program_cost.count(text)
    assert cost.hbm_bytes == pytest.approx(2 * 8 * 128 * 4, abs=4)
    assert cost.flops == cost.padded_flops == 1000


def test_an_array_of_which_a_fusion_reads_more_than_slices_counts_whole():
    whole, row = "f32[800,128]{1,0:T(8,128)}", "f32[8,128]{1,0:T(8,128)}"
    text = entry(f"  %x = {whole} parameter(0)", f"  ROOT %y = {row} fusion(%x), kind=kLoop, calls=%both")
    text += f"""
%both (p: {whole}) -> {row} {{
  %p = {whole} parameter(0)
  %s = {row} slice(%p), slice={{[0:8], [0:128]}}
  %r = f32[128]{{0:T(128)}} reduce(%p), dimensions={{0}}
  ROOT %m = {row} add(%s, %r)
}}
"""
    assert program_cost.count(text).hbm_bytes == (800 + 8) * 128 * 4


@pytest.mark.parametrize("count", [1, 2])
def test_a_fusion_writes_of_an_array_what_it_updates(count):
    whole, row, index = "f32[800,128]{1,0:T(8,128)}", "f32[8,128]{1,0:T(8,128)}", "s32[]"
    result = whole if count == 1 else f"({whole}, {whole})"
    root = "ROOT " if count == 1 else ""
    text = entry(
        f"  %x = {whole} parameter(0)",
        f"  %r = {row} parameter(1)",
        f"  %i = {index} constant(3)",
        f"  ROOT %y = {result} fusion(%x, %r, %i), kind=kLoop, calls=%update",
    )
    text += f"""
%update (p: f32[800,128], q: f32[8,128], j: s32[]) -> {result} {{
  %p = {whole} parameter(0)
  %q = {row} parameter(1)
  %j = {index} parameter(2)
  %u = {whole} dynamic-update-slice(%p, %q, %j, %j)
  {root}%v = {whole} bitcast(%u)
  {"" if count == 1 else f"ROOT %t = {result} tuple(%u, %v)"}
}}
"""
    assert program_cost.count(text).hbm_bytes == pytest.approx((1 + count) * 8 * 128 * 4, abs=4)


def test_collectives_are_listed_with_their_bytes():
    text = entry(
        "  %x = f32[1024]{0:T(1024)} parameter(0)",
        "  %s = f32[1024]{0:T(1024)} all-reduce-start(%x), replica_groups={{0,1}}, to_apply=%add",
        "  ROOT %y = f32[1024]{0:T(1024)} all-reduce-done(%s)",
    )
    cost = program_cost.count(text)
    assert cost.collective_bytes == {"all-reduce": 4096} and cost.collective_counts == {"all-reduce": 1}


def test_collectives_that_are_fused_or_asynchronous_count_once():
    result = "f32[32,128]{1,0:T(8,128)}"
    text = entry(
        "  %x = f32[8,128]{1,0:T(8,128)} parameter(0)",
        "  %collective-permute-start.1 = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) "
        "collective-permute-start(%x), channel_id=3",
        "  %p = f32[8,128]{1,0:T(8,128)} collective-permute-done(%collective-permute-start.1)",
        f"  %async-collective-start.2 = (f32[8,128]{{1,0:T(8,128)}}, {result}, u32[]{{:S(2)}}) fusion(%p), "
        "kind=kCustom, calls=%start",
        f"  %async-collective-done.2 = {result} fusion(%async-collective-start.2), kind=kCustom, calls=%done",
        "  ROOT %y = f32[8,128]{1,0:T(8,128)} fusion(%async-collective-done.2), kind=kCustom, "
        "calls=%all-reduce-scatter.1",
    )
    for name in ("start", "done"):
        text += f"""
%{name} (p: f32[8,128]) -> f32[32,128] {{
  %p = f32[8,128]{{1,0:T(8,128)}} parameter(0)
  ROOT %g = {result} all-gather(%p), channel_id=1, dimensions={{0}}
}}
"""
    text += f"""
%all-reduce-scatter.1 (p: f32[32,128]) -> f32[8,128] {{
  %p = {result} parameter(0)
  %zero = s32[] constant(0)
  %r = {result} all-reduce(%p), channel_id=2, to_apply=%add
  ROOT %s = f32[8,128]{{1,0:T(8,128)}} dynamic-slice(%r, %zero, %zero), dynamic_slice_sizes={{8,128}}
}}
"""
    cost = program_cost.count(text)
    assert cost.collective_counts == {"collective-permute": 1, "all-gather": 1, "reduce-scatter": 1}
    assert cost.collective_bytes == {"collective-permute": 4096, "all-gather": 16384, "reduce-scatter": 4096}


def test_a_kernel_says_itself_what_it_does():
    text = entry(
        "  %x = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)",
        "  ROOT %deform_conv.3 = bf16[64,128]{1,0:T(8,128)(2,1)} custom-call(%x, %x, %x), "
        'custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"body":"x",'
        '"cost_estimate":{"flops":"77","transcendentals":"0","bytes_accessed":"40000"}}}',
    )
    cost = program_cost.count(text)
    assert (cost.flops, cost.hbm_bytes) == (77, 40000)
    ((name, size, runs),) = program_cost.list_operations(text)
    assert name.startswith("deform_conv") and (size, runs) == (40000, 1)
