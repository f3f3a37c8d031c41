// One layer of the paged pool, as vec4<u32> of UNIT dims each: 8 f16 values or, with KV_Q8, 16 int8 codes.
//   K       [block][kv head][D / UNIT][token]: lanes with a token each read neighbouring vectors
//   V       [block][kv head][token][D / UNIT], from `v_base` on: lanes with some dims each read neighbouring vectors
//   scales  f32 [block][kv head][K, V][token], from `scale_base` on (KV_Q8)
fn k_at(block: u32, kv_head: u32, chunk: u32, token: u32) -> u32 {
  return ((block * params.num_kv_heads + kv_head) * $(D / UNIT)u + chunk) * $(BLOCK)u + token;
}

fn v_at(block: u32, kv_head: u32, token: u32, chunk: u32) -> u32 {
  return params.v_base + ((block * params.num_kv_heads + kv_head) * $(BLOCK)u + token) * $(D / UNIT)u + chunk;
}

#if KV_Q8
// Index of a scale, in words. `side`: 0 for K, 1 for V.
fn scale_at(block: u32, kv_head: u32, side: u32, token: u32) -> u32 {
  return params.scale_base * 4u + ((block * params.num_kv_heads + kv_head) * 2u + side) * $(BLOCK)u + token;
}
#endif
