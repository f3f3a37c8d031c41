/** Borders of buckets from transformers 5.24 (relative_position_bucket, make_log_bucket_position), slopes from ALiBi's paper. */
import { expect, it } from 'vitest'
import { alibiSlopes, disentangledBucket, distanceBucket } from './relative.ts'
import { parseEncoderSpec } from './spec.ts'

/** Distances from 1 on that have another bucket than the distance before. */
const borders = (longest: number, bucket: (distance: number) => number): number[] =>
  Array.from({ length: longest }, (_, i) => i + 1).filter((distance) => bucket(distance) !== bucket(distance - 1))

it("has T5's buckets for both directions", () => {
  const found = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
  expect(borders(600, (distance) => distanceBucket(-distance, 32, 128))).toEqual(found)
  expect(borders(600, (distance) => distanceBucket(distance, 32, 128))).toEqual(found)
  expect([0, -600, 600].map((distance) => distanceBucket(distance, 32, 128))).toEqual([0, 15, 31])
})

it("has DeBERTa's logarithmic buckets, or one for each distance", () => {
  expect(borders(159, (distance) => disentangledBucket(distance, 24, 160))).toEqual([
    ...Array.from({ length: 13 }, (_, i) => i + 1),
    16,
    20,
    25,
    31,
    39,
    50,
    63,
    79,
    100,
    126,
  ])
  expect([0, 159, -159].map((distance) => disentangledBucket(distance, 24, 160))).toEqual([24, 47, 1])
  expect([0, 39, 90, -90].map((distance) => disentangledBucket(distance, 40, null))).toEqual([40, 79, 79, 0])
})

it('has slopes for numbers of heads that are not powers of two', () => {
  expect(alibiSlopes(4)).toEqual([2 ** -2, 2 ** -4, 2 ** -6, 2 ** -8])
  expect(alibiSlopes(6)).toEqual([2 ** -2, 2 ** -4, 2 ** -6, 2 ** -8, 2 ** -1, 2 ** -3])
})

const SIZES = { hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 48, vocab_size: 9 }

it.each([
  [{ model_type: 'deberta-v2', relative_attention: true, pos_att_type: 'c2p' }, /pos_att_type should be c2p and p2c/],
  [{ model_type: 'deberta-v2', pos_att_type: 'c2p|p2c' }, /relative_attention should be true/],
  [
    { model_type: 'deberta-v2', relative_attention: true, pos_att_type: 'c2p|p2c', conv_kernel_size: 3 },
    /conv_kernel_size should be 0/,
  ],
  [{ model_type: 'bert', embedding_size: 16 }, /embedding_size should be hidden_size \(32\)/],
  [
    { model_type: 'bert', position_embedding_type: 'relative_key' },
    /position_embedding_type should be absolute or rope/,
  ],
  [{ model_type: 'new', rope_scaling: { type: 'ntk', factor: 2, mixed_b: 0.6 } }, /mixed_b should be null/],
  [{ model_type: 'new', layer_norm_type: 'rms_norm' }, /layer_norm_type should be layer_norm/],
  [{ model_type: 'nomic_bert', moe_every_n_layers: 2 }, /num_experts should be a number/],
  [{ model_type: 'albert' }, /unknown model_type "albert"; known encoders: bert,/],
])('refuses by name what is not served: %j', (fields, message) => {
  expect(() => parseEncoderSpec('config.json', { ...SIZES, ...fields })).toThrow(message)
})

it("scales GTE's frequencies so that the slowest pair turns slower by the factor", () => {
  const of = (fields: object) => parseEncoderSpec('config.json', { ...SIZES, model_type: 'new', ...fields }).ropes[0]!
  const [plain, stretched] = [of({}), of({ rope_scaling: { type: 'ntk', factor: 8 } })]
  const last = plain.inverseFrequencies.length - 1
  expect(plain.inverseFrequencies[last]! / stretched.inverseFrequencies[last]!).toBeCloseTo(8, 6)
  expect(stretched.inverseFrequencies[0]).toBeCloseTo(8 ** (-2 / 8), 6)
})
