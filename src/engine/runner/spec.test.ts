import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { FAMILIES } from './families.ts'
import type { AttentionSpec, DecoderSpec } from './decoder-spec.ts'
import { parseSpec } from './spec.ts'

const LLAMA = {
  architectures: ['LlamaForCausalLM'],
  vocab_size: 100,
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 6,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 512,
}
const parse = (fields: object, generation: Record<string, unknown> | null = null, served: number | null = null) =>
  parseSpec('m/config.json', { ...LLAMA, ...fields }, generation, { servedPositions: served })

const attentionOf = ({ layers }: DecoderSpec): AttentionSpec[] =>
  layers.flatMap(({ mixer }) => (mixer.kind === 'attention' ? [mixer] : []))

test('both dialects of rope and dtype give the same spec', () => {
  const scaling = {
    rope_type: 'llama3',
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 128,
  }
  const old = parse({ rope_theta: 5e5, rope_scaling: scaling, torch_dtype: 'bfloat16' })
  expect(parse({ rope_parameters: { ...scaling, rope_theta: 5e5 }, dtype: 'bfloat16' })).toEqual(old)
  expect(parse({ rope_theta: 5e5, rope_scaling: { ...scaling, rope_type: undefined, type: 'llama3' } })).toEqual(old)
  expect(parse({ rope_theta: 5e5 }).ropes).not.toEqual(old.ropes)
  const gemma = {
    architectures: ['Gemma3ForCausalLM'],
    head_dim: 8,
    sliding_window: 64,
    query_pre_attn_scalar: 16,
    hidden_activation: 'gelu_pytorch_tanh',
  }
  const linear = { rope_type: 'linear', factor: 8 }
  const nested = {
    full_attention: { ...linear, rope_theta: 1e6 },
    sliding_attention: { rope_type: 'default', rope_theta: 1e4 },
  }
  const gemmaOld = parse({
    ...gemma,
    rope_theta: 1e6,
    rope_local_base_freq: 1e4,
    rope_scaling: linear,
    sliding_window_pattern: 3,
  })
  const types = ['sliding_attention', 'sliding_attention', 'full_attention']
  expect(parse({ ...gemma, rope_parameters: nested, layer_types: [...types, ...types] })).toEqual(gemmaOld)
  expect(gemmaOld.layers.slice(0, 3)).toMatchObject([
    { mixer: { kind: 'attention', window: 64, rope: 1 } },
    { mixer: { kind: 'attention', window: 64, rope: 1 } },
    { mixer: { kind: 'attention', window: null, rope: 0 } },
  ])
  expect(gemmaOld.ropes[0]!.inverseFrequencies[0]).toBe(1 / 8)
})

test('end-of-sequence ids: one, a list, and generation_config.json before config.json', () => {
  expect(parse({ eos_token_id: 7 }).eosTokenIds).toEqual([7])
  expect(parse({ eos_token_id: [7, 8] }).eosTokenIds).toEqual([7, 8])
  expect(parse({ eos_token_id: 7 }, { eos_token_id: [9, 7] }).eosTokenIds).toEqual([7, 9])
  expect(parse({ eos_token_id: 7 }, {}).eosTokenIds).toEqual([7])
  expect(parse({}).eosTokenIds).toEqual([])
})

test('sliding windows follow each family and its switches', () => {
  const windows = (fields: object) => attentionOf(parse({ sliding_window: 16, ...fields })).map(({ window }) => window)
  expect(windows({})).toEqual([null, null, null, null, null, null])
  expect(windows({ architectures: ['MistralForCausalLM'] })).toEqual([16, 16, 16, 16, 16, 16])
  expect(windows({ architectures: ['MistralForCausalLM'], sliding_window: null })).toEqual([
    null,
    null,
    null,
    null,
    null,
    null,
  ])
  expect(windows({ architectures: ['Qwen2ForCausalLM'] })).toEqual([null, null, null, null, null, null])
  expect(windows({ architectures: ['Qwen2ForCausalLM'], use_sliding_window: true, max_window_layers: 4 })).toEqual([
    null,
    null,
    null,
    null,
    16,
    16,
  ])
  expect(windows({ architectures: ['Gemma2ForCausalLM'] })).toEqual([16, null, 16, null, 16, null])
  const smollm3 = { architectures: ['SmolLM3ForCausalLM'], no_rope_layers: [1, 0, 1, 1, 0, 1] }
  expect(attentionOf(parse(smollm3)).map(({ rope }) => rope)).toEqual([0, null, 0, 0, null, 0])
  expect(windows({ ...smollm3, use_sliding_window: true })).toEqual([null, 16, null, null, 16, null])
})

test('longrope uses one table for all positions, chosen by the positions served', () => {
  const factors = (value: number) => Array.from({ length: 4 }, () => value)
  const rope = {
    rope_type: 'longrope',
    short_factor: factors(1),
    long_factor: factors(4),
    original_max_position_embeddings: 128,
  }
  const short = parse({ rope_parameters: rope }, null, 128).ropes[0]!
  const long = parse({ rope_parameters: rope }, null, 129).ropes[0]!
  expect(short.inverseFrequencies[0]).toBe(1)
  expect(long.inverseFrequencies[0]).toBe(0.25)
  expect(long.attentionFactor).toBeCloseTo(Math.sqrt(1 + Math.log(4) / Math.log(128)), 12)
})

test('dynamic scaling without alpha changes nothing within the original context', () => {
  const plain = parse({}).ropes[0]!
  expect(parse({ rope_scaling: { type: 'dynamic', factor: 2 } }).ropes[0]).toEqual(plain)
  expect(parse({ rope_scaling: { type: 'dynamic', factor: 1, alpha: 1000 } }).ropes[0]).not.toEqual(plain)
})

test('a pattern of windows may be a string of letters', () => {
  const exaone = { architectures: ['Exaone4ForCausalLM'], sliding_window: 16 }
  const spelled = parse({ ...exaone, sliding_window_pattern: 'LLG' })
  expect(attentionOf(spelled).map(({ window }) => window)).toEqual([16, 16, null, 16, 16, null])
  expect(() => parse({ ...exaone, sliding_window_pattern: 'LLX' })).toThrow(/sliding_window_pattern should be a number/)
})

const REFUSED: [string, object, RegExp][] = [
  ['no architecture', { architectures: undefined }, /unknown architecture \(none\); known: LlamaForCausalLM/],
  [
    'a model that embeds',
    { architectures: ['BertModel'] },
    /unknown architecture "BertModel" \(models that embed or rank texts are --embedding-model or --reranker-model\); known/,
  ],
  [
    'a model that sees to both sides',
    { use_bidirectional_attention: true },
    /use_bidirectional_attention should be null or vision: a bidirectional model generates no text/,
  ],
  ['a name of the prototype', { architectures: ['toString'] }, /unknown architecture "toString"/],
  ['a size that is text', { hidden_size: '32' }, /m\/config.json: hidden_size should be a number, found "32"/],
  ['a negative size', { num_hidden_layers: -1 }, /num_hidden_layers should be a positive integer, found -1/],
  ['more layers than any model has', { num_hidden_layers: 1e7 }, /num_hidden_layers should be at most 4096, found/],
  ['a giant size', { vocab_size: 1e12 }, /vocab_size should be a positive integer/],
  [
    'heads that do not divide',
    { num_key_value_heads: 3 },
    /num_key_value_heads should be a divisor of num_attention_heads \(4\), found 3/,
  ],
  ['an unknown activation', { hidden_act: 'relu2' }, /hidden_act should be silu or gelu_pytorch_tanh, found "relu2"/],
  [
    'an unknown rope',
    { rope_scaling: { rope_type: 'spiral' } },
    /unknown rope scaling "spiral"; known: default, linear, llama3, yarn, longrope, proportional, ntk, dynamic/,
  ],
  [
    'a rope without its factor',
    { rope_scaling: { rope_type: 'linear' } },
    /rope parameter factor should be a number, found nothing/,
  ],
  [
    'biases of shared experts',
    {
      architectures: ['Ernie4_5_MoeForCausalLM'],
      use_bias: true,
      moe_num_experts: 4,
      moe_k: 2,
      moe_intermediate_size: 16,
      moe_num_shared_experts: 2,
    },
    /use_bias should be false, with shared experts, found true/,
  ],
  [
    'a list that is too short',
    { architectures: ['SmolLM3ForCausalLM'], no_rope_layers: [1] },
    /no_rope_layers should be a list of 6/,
  ],
]

test.each(REFUSED)('refused by name: %s', (_name, fields, message) => {
  expect(() => parse(fields)).toThrow(message)
})

test('docs/models.md names every architecture that can be served, and no other', () => {
  const text = readFileSync(new URL('../../../docs/models.md', import.meta.url), 'utf8')
  const named = [...text.matchAll(/`(\w+For(?:CausalLM|ConditionalGeneration))`/g)].map(([, name]) => name)
  expect(named.toSorted()).toEqual(Object.keys(FAMILIES).toSorted())
})

const GRANITE = {
  architectures: ['GraniteMoeHybridForCausalLM'],
  hidden_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  max_position_embeddings: 64,
  vocab_size: 96,
  shared_intermediate_size: 48,
}
const MAMBA = { layer_types: ['mamba', 'attention'], mamba_n_heads: 8, mamba_d_head: 8, mamba_d_state: 16 }

test.each([
  [
    'experts',
    { ...LLAMA, num_local_experts: 4 },
    /num_local_experts should be 0: this family is not served with experts, found 4/,
  ],
  ['unknown layers', { layer_types: ['rwkv', 'attention'] }, /layer_types should be a list of names among attention/],
  ['too few layers', { layer_types: ['mamba'] }, /layer_types should be a list of 2/],
  ['bounded steps', { ...MAMBA, time_step_limit: [0, 0.1] }, /time_step_limit should be from 0 to infinity/],
  ['heads that do not fit', { ...MAMBA, mamba_n_heads: 6 }, /mamba_n_heads should be heads of 8 that are 64 wide/],
  ['a long kernel', { ...MAMBA, mamba_d_conv: 99 }, /mamba_d_conv should be from 2 to 16, found 99/],
  ['an odd state', { ...MAMBA, mamba_d_state: 6 }, /mamba_d_state should be a multiple of 4/],
  ['a state in a Llama', { ...LLAMA, layer_types: Array(6).fill('mamba') }, /layer_types should be attention in every/],
])('%s are refused by name', (_, fields, message) => {
  expect(() => parseSpec('config.json', { ...GRANITE, ...fields }, null)).toThrow(message)
})

test('layer_types says which layers have no attention; without it, the family does', () => {
  const kinds = (fields: object) =>
    parseSpec('config.json', { ...GRANITE, ...fields }, null).layers.map(({ mixer }) => mixer.kind)
  expect(kinds(MAMBA)).toEqual(['mamba2', 'attention'])
  expect(kinds({ ...MAMBA, layer_types: undefined, layers_block_type: ['attention', 'mamba'] })).toEqual([
    'attention',
    'mamba2',
  ])
  // A model without such layers needs none of their fields.
  expect(kinds({ layer_types: ['attention', 'attention'] })).toEqual(['attention', 'attention'])
  const lfm2 = { ...LLAMA, architectures: ['Lfm2ForCausalLM'], full_attn_idxs: [1, 4], block_ff_dim: 12_288 }
  // Two thirds of the width, rounded up to a multiple of 256.
  expect(parseSpec('config.json', lfm2, null).layers[0]!.mlp).toMatchObject({ width: 8192 })
  expect(kinds(lfm2)).toEqual([
    'shortConvolution',
    'attention',
    'shortConvolution',
    'shortConvolution',
    'attention',
    'shortConvolution',
  ])
})

test("Qwen3.5's text part is nested, its rotary embedding partial, and its attention gated unless the config says otherwise", () => {
  const text = {
    ...LLAMA,
    architectures: undefined,
    head_dim: 16,
    full_attention_interval: 3,
    rope_parameters: { rope_type: 'default', rope_theta: 1e7, partial_rotary_factor: 0.25, mrope_section: [1, 1, 0] },
    linear_num_key_heads: 2,
    linear_num_value_heads: 4,
    linear_key_head_dim: 8,
    linear_value_head_dim: 16,
    linear_conv_kernel_dim: 4,
    eos_token_id: 9,
  }
  const config = { architectures: ['Qwen3_5ForConditionalGeneration'], text_config: text, tie_word_embeddings: true }
  const spec = parseSpec('config.json', config, null)
  const delta = { kind: 'gatedDelta', kernel: 4, numKeyHeads: 2, numValueHeads: 4, keyDim: 8, valueDim: 16 }
  expect(spec.layers.map(({ mixer }) => mixer)).toMatchObject([delta, delta, { isGated: true }, delta, delta, {}])
  expect(spec.ropes[0]!.inverseFrequencies).toHaveLength(2)
  expect(spec).toMatchObject({ normAddsOne: true, qkNorm: 'head', eosTokenIds: [9], tiesEmbeddings: true })
  const plain = parseSpec('config.json', { ...config, text_config: { ...text, attn_output_gate: false } }, null)
  expect(attentionOf(plain).map(({ isGated }) => isGated)).toEqual([false, false])
})
