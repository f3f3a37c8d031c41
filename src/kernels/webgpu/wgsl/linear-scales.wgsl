// Where an output row's codes and scales begin; `packed` is the packed row of R index 0.
  let tile_units = params.num_blocks * $(FORMAT * 8)u;
#if FORMAT < 16
#if MINS
  let tile_scales = params.num_blocks * $(32 / GROUP * 32)u;
#else
#if GROUP == 16
  let tile_scales = params.num_blocks * 32u;
#else
  let tile_scales = ((params.num_blocks + 1u) >> 1u) * 32u;
#endif
#endif
  let s = (packed / TILE) * tile_scales + packed % TILE;
#endif
