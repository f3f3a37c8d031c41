// The activation functions, selected by `params.flags`. The including file declares `params` with flags, alpha_p, alpha_n and beta.
const FLAG_SILU = 8u;
const FLAG_GELU = 16u;
const FLAG_GELU_EXACT = 32u;
const FLAG_GATED = 64u;
const FLAG_CLAMPED = 128u;
const FLAG_RELU2 = 256u;
const FLAG_XIELU = 512u;
const FLAGS_ACTIVATED = FLAG_SILU | FLAG_GELU | FLAG_GELU_EXACT | FLAG_RELU2 | FLAG_XIELU;

fn is_gated() -> bool {
  return (params.flags & FLAG_GATED) != 0u;
}

// xIELU (https://arxiv.org/abs/2411.13010): alpha_p x^2 + beta x for x > 0, else alpha_n (e^x - 1 - x) + beta x.
// Above -0.5 a series replaces e^x - 1 - x, which would lose digits by cancellation.
fn xielu(x: f32) -> f32 {
  let below = min(x, 0.0);
  let series = fma(fma(fma(fma(below, 1.3888889e-3, 8.3333333e-3), below, 4.1666667e-2), below, 1.6666667e-1), below, 0.5);
  let rest = select(exp(below) - 1.0 - below, series * below * below, below > -0.5);
  return fma(params.beta, x, select(params.alpha_n * rest, params.alpha_p * x * x, x > 0.0));
}

fn activate(gate: f32) -> f32 {
  if ((params.flags & FLAG_SILU) != 0u) {
    return gate / (1.0 + exp(-gate));
  }
  if ((params.flags & FLAG_RELU2) != 0u) {
    let positive = max(gate, 0.0);
    return positive * positive;
  }
  if ((params.flags & FLAG_XIELU) != 0u) {
    return xielu(gate);
  }
  if ((params.flags & FLAG_GELU_EXACT) != 0u) {
    // The complementary error function by formula 7.1.26 of Abramowitz and Stegun, as in cpu/assembly/simd.ts.
    let z = abs(gate) * 0.7071067811865476;
    let t = 1.0 / fma(z, 0.3275911, 1.0);
    let p = fma(fma(fma(fma(1.061405429, t, -1.453152027), t, 1.421413741), t, -0.284496736), t, 0.254829592);
    let half = 0.5 * gate * p * t * exp(-z * z);
    return select(half, gate - half, gate > 0.0);
  }
  // Implementations of tanh that use exp overflow for large arguments. From 10 on, tanh rounds to 1 in f32.
  let inner = clamp(0.7978845608028654 * fma(0.044715 * gate * gate, gate, gate), -10.0, 10.0);
  return 0.5 * gate * (1.0 + tanh(inner));
}

// The output of a gated layer, from its gate sum and its up sum.
fn join(gate: f32, up: f32) -> f32 {
  if ((params.flags & FLAG_CLAMPED) != 0u) {
    let g = min(gate, 7.0);
    return g / (1.0 + exp(-1.702 * g)) * (clamp(up, -7.0, 7.0) + 1.0);
  }
  return activate(gate) * up;
}
