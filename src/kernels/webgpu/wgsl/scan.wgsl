// Updates a recurrent state [heads, V, D] token by token along a sequence, from the state in the sequence's slot on, and stores the new state: the
// gated delta rule (https://arxiv.org/abs/2412.06464) or Mamba-2's selective scan (https://arxiv.org/abs/2405.21060).
//
//   x        f32 [rows, x_stride], with q, k [key heads, D] and v [heads, V] at their offsets
//   scalars  f32 [rows, heads] of (decay, rate), from scan-prepare.wgsl
//   states   f32 [slots, slot_quads * 4]; a slot holds its recurrent state, [heads, V, D], from quad state_quad on
//   out      f32 [rows, out_stride]: [heads, V]
//   launch   x = heads times blocks of ROWS values, y = sequences; workgroup = WS = ROWS LANES threads. The row of the state of one value is in the
//            registers of LANES threads, QUADS vectors each, so the slot written may be the slot read
//
// With S the state before the token, the new state is decay S + change k^T. Its product with q is decay (S q) + change (k q), so S k, S q and k q are
// summed together, with one barrier per token.
#include "state-run.wgsl"

struct ScanParams {
  heads: u32,
  key_heads: u32,
  is_tiled: u32, // 1: head h has the keys of key head h % key_heads; 0: neighbouring heads share a key head
  x_quads: u32, // vec4s per row of x
  q_quad: u32, // offset of the first head's q in a row, in vec4s; likewise k_quad and v_quad
  k_quad: u32,
  v_quad: u32,
  out_stride: u32,
  slot_quads: u32,
  state_quad: u32, // of the first head in a slot
}

@group(0) @binding(1) var<uniform> params: ScanParams;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> scalars: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> skip: array<f32>;
@group(0) @binding(5) var<storage, read_write> states: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

// Each lane's part of (S k, S q, k q). Two copies, used by tokens in turn, so that one barrier per token is enough.
var<workgroup> parts: array<vec4<f32>, $(2 * WS)>;

@compute @workgroup_size($(WS))
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = group.x / $((V + ROWS - 1) / ROWS)u;
  let own = lane / $(LANES)u;
  let v = group.x % $((V + ROWS - 1) / ROWS)u * $(ROWS)u + own;
  let part = lane % $(LANES)u;
  let is_real = v < $(V)u;
  let run = load_run(group.y);
  let in_slot = params.state_quad + (head * $(V)u + min(v, $(V - 1)u)) * $(D / 4)u + part;
#repeat i QUADS
  var s$(i) = vec4<f32>(0.0);
#end
  if (run.read >= 0) {
    let before = u32(run.read) * params.slot_quads + in_slot;
#repeat i QUADS
    s$(i) = states[before + $(i * LANES)u];
#end
  }
  let key_head = select(head / (params.heads / params.key_heads), head % params.key_heads, params.is_tiled == 1u);
  let key = key_head * $(D / 4)u + part;
  let value_at = head * $(V)u + min(v, $(V - 1)u);
  var turn = 0u;
  for (var row = run.first_row; row < run.end_row; row++) {
    let base = row * params.x_quads;
    var known = 0.0;
    var seen = 0.0;
    var overlap = 0.0;
#repeat i QUADS
    let k$(i) = x[base + params.k_quad + key + $(i * LANES)u];
    {
      let q = x[base + params.q_quad + key + $(i * LANES)u];
      known += dot(s$(i), k$(i));
      seen += dot(s$(i), q);
      overlap += dot(k$(i), q);
    }
#end
    let scalar = scalars[row * params.heads + head];
    let value = x[base + params.v_quad + value_at / 4u][value_at % 4u];
    parts[turn + lane] = vec4<f32>(known, seen, overlap, 0.0);
    workgroupBarrier();
    var total = parts[turn + own * $(LANES)u];
    for (var i = 1u; i < $(LANES)u; i++) {
      total += parts[turn + own * $(LANES)u + i];
    }
#if DELTA
    let change = scalar.y * (value - scalar.x * total.x);
    let result = fma(scalar.x, total.y, change * total.z);
#else
    let change = scalar.y * value;
    let result = fma(scalar.x, total.y, fma(change, total.z, skip[head] * value));
#endif
#repeat i QUADS
    s$(i) = fma(s$(i), vec4<f32>(scalar.x), change * k$(i));
#end
    if (part == 0u && is_real) {
      out[row * params.out_stride + head * $(V)u + v] = result;
    }
    turn = $(WS)u - turn;
  }
  if (is_real) {
    let to = run.write * params.slot_quads + in_slot;
#repeat i QUADS
    states[to + $(i * LANES)u] = s$(i);
#end
  }
}
