// Multiplies one block of 32 inputs into the accumulators: acc<m>_<i> += sum over k of x[m][k] * w[i][k], ascending k, by fma. This is the
// innermost part of every reduction tree: all linear kernels share it, so that they agree to the last bit.
// A block is UNITS units of vec4<u32> for an output row: f32 8, f16 4, q8 2, q4 1. The kernel provides:
//   block, b, tile_units         block number; index into codes of its first unit for output row i = 0; units a tile
//   s, tile_scales               index into scales of the output row's first word; words a tile
//   xsum<m>_<h>                  sums of x over group h of the block, where the format needs them (q4, mins)
//   X = 0: xv<m>_<r>             registers whose lanes hold the block of x row m, spread by subgroupBroadcast
//   X = 1: xs, x_at<m>           x in workgroup memory as vec4, row m of the block at xs[x_at<m> ..]
//   X = 2: x, x_at<m>            x in memory as vec4, row m at x[x_at<m> ..]; times norm_weight where the norm is fused
#repeat u UNITS
{
#repeat m TM
#if X == 0
#repeat e 32 / UNITS
  let x$(m)_$(e) = subgroupBroadcast(xv$(m)_$((u * 32 / UNITS + e) / (LANES * X_WIDTH))[$((u * 32 / UNITS + e) % X_WIDTH)], $((u * 32 / UNITS + e) / X_WIDTH % LANES)u);
#end
#else
#repeat q 8 / UNITS
#if X == 1
  let xq$(m)_$(q) = xs[x_at$(m) + $(u * 8 / UNITS + q)u];
#else
#if NORM
  let xq$(m)_$(q) = x[x_at$(m) + block * 8u + $(u * 8 / UNITS + q)u] * norm_weight[block * 8u + $(u * 8 / UNITS + q)u];
#else
  let xq$(m)_$(q) = x[x_at$(m) + block * 8u + $(u * 8 / UNITS + q)u];
#endif
#endif
#repeat c 4
  let x$(m)_$(4 * q + c) = xq$(m)_$(q)[$(c)];
#end
#end
#endif
#end
#repeat i R
  {
    let v = codes[b + $(i * LANES / 32)u * tile_units + $(u * 32 + i * LANES % 32)u];
#if FORMAT == 32
#repeat e 4
    let w$(e) = bitcast<f32>(v[$(e)]);
#end
#endif
#if FORMAT == 16
#repeat e 4
    let h$(e) = unpack2x16float(v[$(e)]);
    let w$(2 * e) = h$(e).x;
    let w$(2 * e + 1) = h$(e).y;
#end
#endif
#if FORMAT == 8
#repeat e 16
    let w$(e) = f32(bitcast<i32>(v[$(e / 4)] << $(24 - 8 * (e % 4))u) >> 24u);
#end
#endif
#if FORMAT == 4
#repeat e 32
    let w$(e) = f32((v[$(e / 8)] >> $(4 * (e % 8))u) & 15u);
#end
#endif
#if FORMAT >= 16
#repeat m TM
#repeat e 32 / UNITS
    acc$(m)_$(i) = fma(w$(e), x$(m)_$(e), acc$(m)_$(i));
#end
#end
#else
#repeat m TM
#if u == 0 || GROUP == 16
    group$(m)_$(i) = 0.0;
#endif
#repeat e 32 / UNITS
    group$(m)_$(i) = fma(w$(e), x$(m)_$(e), group$(m)_$(i));
#end
#end
#if u == UNITS - 1 || GROUP == 16
#if MINS
    let pair = unpack2x16float(scales[s + $(i * LANES / 32)u * tile_scales + (block * $(32 / GROUP)u + $(u * 16 / GROUP)u) * 32u + $(i * LANES % 32)u]);
    let scale = pair.x;
#else
#if GROUP == 16
    let scale = unpack2x16float(scales[s + $(i * LANES / 32)u * tile_scales + block * 32u + $(i * LANES % 32)u])[$(u)];
#else
    let pair = unpack2x16float(scales[s + $(i * LANES / 32)u * tile_scales + (block >> 1u) * 32u + $(i * LANES % 32)u]);
    let scale = select(pair.x, pair.y, (block & 1u) == 1u);
#endif
#endif
#repeat m TM
#if MINS
    acc$(m)_$(i) = fma(pair.y, xsum$(m)_$(u * 16 / GROUP), fma(scale, group$(m)_$(i), acc$(m)_$(i)));
#else
#if FORMAT == 4
    acc$(m)_$(i) = fma(scale, fma(-8.0, xsum$(m)_0, group$(m)_$(i)), acc$(m)_$(i));
#else
    acc$(m)_$(i) = fma(scale, group$(m)_$(i), acc$(m)_$(i));
#endif
#endif
#end
#endif
#endif
  }
#end
}
#end
