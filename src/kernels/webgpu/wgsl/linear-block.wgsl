// Multiplies STEP_UNITS units of inputs into the accumulators: acc<m>_<i> += sum over k of x[m][k] * w[i][k], ascending k, by fma. This is
// the innermost part of every reduction tree.
// A unit is a vec4<u32> for an output row: 128 / FORMAT inputs. The kernel provides:
//   b, tile_units                index into codes of the step's first unit for output row i = 0; units a tile
//   block, s, tile_scales        block of 32 inputs; index into scales of the output row's first word; words a tile
//   x<m>_<k>                     the step's inputs
//   codes<i>_<u>                 with AHEAD: the step's units, read before
// A quantised step is one block. Its group sums are scaled once, and what codes leave out (q4's -8, mins) is added for the whole group.
#repeat i R
  {
#if FORMAT < 16
#repeat m TM
#repeat h 32 / GROUP
    var group$(m)_$(h) = 0.0;
#end
#end
#endif
#repeat u STEP_UNITS
    {
#if AHEAD
      let v = codes$(i)_$(u);
#else
      let v = codes[b + $(i * LANES / 32)u * tile_units + $(u * 32 + i * LANES % 32)u];
#endif
#repeat e 128 / FORMAT
#if FORMAT == 32
      let w$(e) = bitcast<f32>(v[$(e)]);
#endif
#if FORMAT == 16
      let w$(e) = unpack2x16float(v[$(e / 2)])[$(e % 2)];
#endif
#if FORMAT == 8
      let w$(e) = f32(bitcast<i32>(v[$(e / 4)] << $(24 - 8 * (e % 4))u) >> 24u);
#endif
#if FORMAT == 4
      let w$(e) = f32((v[$(e / 8)] >> $(4 * (e % 8))u) & 15u);
#endif
#repeat m TM
#if FORMAT >= 16
      acc$(m)_$(i) = fma(w$(e), x$(m)_$(u * 128 / FORMAT + e), acc$(m)_$(i));
#else
      group$(m)_$((u * 128 / FORMAT + e) / GROUP) = fma(w$(e), x$(m)_$(u * 128 / FORMAT + e), group$(m)_$((u * 128 / FORMAT + e) / GROUP));
#endif
#end
#end
    }
#end
#if FORMAT < 16
#if MINS
#repeat h 32 / GROUP
    let pair$(h) = unpack2x16float(scales[s + $(i * LANES / 32)u * tile_scales + (block * $(32 / GROUP)u + $(h)u) * 32u + $(i * LANES % 32)u]);
    let scale$(h) = pair$(h).x;
#end
#else
#if GROUP == 16
    let pair = unpack2x16float(scales[s + $(i * LANES / 32)u * tile_scales + block * 32u + $(i * LANES % 32)u]);
    let scale0 = pair.x;
    let scale1 = pair.y;
#else
    let pair = unpack2x16float(scales[s + $(i * LANES / 32)u * tile_scales + (block >> 1u) * 32u + $(i * LANES % 32)u]);
    let scale0 = select(pair.x, pair.y, (block & 1u) == 1u);
#endif
#endif
#repeat m TM
#repeat h 32 / GROUP
#if MINS
    acc$(m)_$(i) = fma(pair$(h).y, xsum$(m)_$(h), fma(scale$(h), group$(m)_$(h), acc$(m)_$(i)));
#else
#if FORMAT == 4
    acc$(m)_$(i) = fma(scale$(h), fma(-8.0, xsum$(m)_$(h), group$(m)_$(h)), acc$(m)_$(i));
#else
    acc$(m)_$(i) = fma(scale$(h), group$(m)_$(h), acc$(m)_$(i));
#endif
#endif
#end
#end
#endif
  }
#end
