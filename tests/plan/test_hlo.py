"""What a compiled program's text says of its communication."""

from kame_jax.plan.hlo import biggest_tensors, collectives

# As XLA prints it, shortened: a loop of 32 over a gather (in two pieces of one channel) and a sum that is cut; and one
# gather and one exchange outside it.
TEXT = """\
HloModule jit_step, is_scheduled=true

%piece (p: bf16[1,64,8]) -> bf16[1,64,512] {
  %p = bf16[1,64,8]{2,1,0} parameter(0)
  ROOT %gather.2 = bf16[1,64,512]{2,1,0:T(8,128)(2,1)} all-gather(%p), channel_id=1, REPLICAS, dimensions={2}
}

%body (t: (s32[], bf16[1,64,8])) -> (s32[], bf16[1,64,8]) {
  %t = (s32[]{:T(128)}, bf16[1,64,8]{2,1,0}) parameter(0)
  %x = bf16[1,64,8]{2,1,0} get-tuple-element(%t), index=1
  %gather.1 = bf16[1,64,512]{2,1,0} all-gather(%x), channel_id=1, REPLICAS, dimensions={2}, SOURCE
  %fused = bf16[1,64,512]{2,1,0} fusion(%x), kind=kCustom, calls=%piece
  %cut = f32[64,8]{1,0} reduce-scatter(%y), channel_id=2, replica_groups=[1,64]<=[64], dimensions={1}, to_apply=%add
  ROOT %r = (s32[], bf16[1,64,8]{2,1,0}) tuple(%i, %x)
}

%condition (t.1: (s32[], bf16[1,64,8])) -> pred[] {
  %bound = s32[]{:T(128)} constant(32)
  %t.1 = (s32[]{:T(128)}, bf16[1,64,8]{2,1,0}) parameter(0)
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (state: bf16[1,64,8]) -> bf16[1,64,8] {
  %state = bf16[1,64,8]{2,1,0} parameter(0)
  %loop = (s32[], bf16[1,64,8]{2,1,0}) while(%tuple), condition=%condition, body=%body
  %start = (bf16[125,8]{1,0}, bf16[1000,8]{1,0}) all-gather-start(%w), channel_id=3, EIGHT
  %swap = f32[16]{0} all-to-all(%v), channel_id=4, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
  %alone = f32[99]{0} all-reduce(%v), channel_id=5, replica_groups={{0},{1}}, to_apply=%add
  ROOT %out = bf16[1,64,8]{2,1,0} get-tuple-element(%loop), index=1
}
""".replace("REPLICAS", "replica_groups=mesh['a'=2,'b'=32] {'a','b'}")
EIGHT = "replica_groups=mesh['a'=4,'b'=16], device_ids=([8,8]T(1,0)) {'a':(2)2,'b':(4)4}, dimensions={0}"
TEXT = TEXT.replace("EIGHT", EIGHT)
TEXT = TEXT.replace("SOURCE", 'metadata={op_name="jit(step)/while/body/dot_general"}')


def test_collectives_are_counted_as_often_as_their_loop_runs():
    found = {(c.kind, c.shape): c for c in collectives(TEXT)}
    assert set(found) == {
        ("all-gather", "bf16[1,64,512]"),
        ("reduce-scatter", "f32[64,8]"),
        ("all-gather", "bf16[1000,8]"),
        ("all-to-all", "f32[16]"),
    }
    layer = found["all-gather", "bf16[1,64,512]"]
    assert (layer.times, layer.group, layer.size) == (32, 64, 65536)
    assert layer.source == "jit(step)/while/body/dot_general"
    assert found["all-gather", "bf16[1000,8]"].times == 1


# A product that gathers as it goes: two steps of the counter in one turn of the loop.
WINDOWED = """\
%turn (t: (bf16[8,4], u32[])) -> (bf16[8,4], u32[]) {
  %t = (bf16[8,4]{1,0}, u32[]{:T(128)}) parameter(0)
  %two = u32[]{:T(128)} constant(2)
  %three = u32[]{:T(128)} constant(3)
  %counter = u32[]{:T(128)} get-tuple-element(%t), index=1
  %once = (bf16[8,4]{1,0}, bf16[8,4]{1,0}) collective-permute-start(%a), channel_id=6, source_target_pairs={{0,1},{1,0}}
  %other = u32[]{:T(128)} add(%counter, %three)
  %next = u32[]{:T(128)} add(%counter, %two)
  ROOT %r = (bf16[8,4]{1,0}, u32[]{:T(128)}) tuple(%done, /*index=1*/%next)
}

%goes_on (t.1: (bf16[8,4], u32[])) -> pred[] {
  %bound = u32[]{:T(128)} constant(8)
  %t.1 = (bf16[8,4]{1,0}, u32[]{:T(128)}) parameter(0)
  %count = u32[]{:T(128)} get-tuple-element(%t.1), index=1
  ROOT %lt = pred[]{:T(512)} compare(%count, %bound), direction=LT
}

ENTRY %main (state: bf16[8,4]) -> bf16[8,4] {
  %loop = (bf16[8,4]{1,0}, u32[]) while(%tuple), condition=%goes_on, body=%turn
}
"""


def test_a_loop_that_counts_by_two_runs_half_as_often():
    (found,) = collectives(WINDOWED)
    assert (found.kind, found.times, found.sent) == ("collective-permute", 4, 4 * 64)


def test_bytes_are_those_that_a_device_sends():
    found = {c.shape: c.sent for c in collectives(TEXT)}
    assert found["bf16[1,64,512]"] == 32 * 65536 * 63 / 64
    assert found["f32[64,8]"] == 32 * 2048 * 63
    assert found["bf16[1000,8]"] == 16000 * 7 / 8


def test_the_biggest_tensors_are_those_that_are_made_here():
    shapes = [tensor.shape for tensor in biggest_tensors(TEXT, 2)]
    assert shapes == ["bf16[1,64,512]", "bf16[1000,8]"]
