// One layer of the paged pool as vec4<u32> of UNIT dims: 8 in f16 or, with KV_Q8, 16 int8 codes. K: [block][kv head][D / UNIT][token], so that a
// lane a token reads neighbouring vectors; V: [block][kv head][token][D / UNIT], so that a lane a dim does. V begins at `v_base`, and with KV_Q8
// at `scale_base` the scales, f32 [block][kv head][K, V][token].
fn k_at(block: u32, kv_head: u32, chunk: u32, token: u32) -> u32 {
  return ((block * params.num_kv_heads + kv_head) * $(D / UNIT)u + chunk) * $(BLOCK)u + token;
}

fn v_at(block: u32, kv_head: u32, token: u32, chunk: u32) -> u32 {
  return params.v_base + ((block * params.num_kv_heads + kv_head) * $(BLOCK)u + token) * $(D / UNIT)u + chunk;
}

#if KV_Q8
// Word of a scale. `side`: 0 of K, 1 of V.
fn scale_at(block: u32, kv_head: u32, side: u32, token: u32) -> u32 {
  return params.scale_base * 4u + ((block * params.num_kv_heads + kv_head) * 2u + side) * $(BLOCK)u + token;
}
#endif
