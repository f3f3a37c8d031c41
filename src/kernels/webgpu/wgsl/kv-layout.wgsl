// One layer of the paged pool, f16, as vec4<u32> of 8 dims. K: [block][kv head][D / 8][token], so that a lane a token reads neighbouring
// vectors; V: [block][kv head][token][D / 8], so that a lane a dim does. V begins at `v_base`.
fn k_at(block: u32, kv_head: u32, chunk: u32, token: u32) -> u32 {
  return ((block * params.num_kv_heads + kv_head) * $(D / 8)u + chunk) * $(BLOCK)u + token;
}

fn v_at(block: u32, kv_head: u32, token: u32, chunk: u32) -> u32 {
  return params.v_base + ((block * params.num_kv_heads + kv_head) * $(BLOCK)u + token) * $(D / 8)u + chunk;
}
