import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { goldenRequest } from '../../../test/golden/golden.ts'
import { totalHostMemory } from '../../kernels/host-memory.ts'
import { loadModel } from './model.ts'

const HIDDEN = 512
const INNER = 1536
const LAYERS = 16
const VOCAB = 512
const MIB = 2 ** 20

let folder = ''
beforeEach(() => (folder = mkdtempSync(join(tmpdir(), 'miniserve-memory-'))))
afterEach(() => rmSync(folder, { recursive: true }))

/**
 * Writes a checkpoint of zeros that takes no room on disk: a header, and a hole for the values. Returns the bytes of its matrices, without those of
 * `extra`, which no decoder loads.
 */
function writeZeros(inner = INNER, extra: [name: string, shape: number[]][] = []): number {
  const shapes: [name: string, shape: number[]][] = [
    ['model.embed_tokens.weight', [VOCAB, HIDDEN]],
    ['model.norm.weight', [HIDDEN]],
  ]
  for (let layer = 0; layer < LAYERS; layer++) {
    const base = `model.layers.${layer}.`
    for (const name of ['q_proj', 'k_proj', 'v_proj', 'o_proj']) {
      shapes.push([`${base}self_attn.${name}.weight`, [HIDDEN, HIDDEN]])
    }
    for (const name of ['gate_proj', 'up_proj']) shapes.push([`${base}mlp.${name}.weight`, [inner, HIDDEN]])
    shapes.push([`${base}mlp.down_proj.weight`, [HIDDEN, inner]])
    for (const name of ['input_layernorm', 'post_attention_layernorm']) shapes.push([`${base}${name}.weight`, [HIDDEN]])
  }
  let end = 0
  let matrixBytes = 0
  const header: Record<string, unknown> = {}
  for (const [name, shape] of [...shapes, ...extra]) {
    const start = end
    end += 2 * shape.reduce((product, size) => product * size, 1)
    if (shape.length > 1 && !extra.some(([other]) => other === name)) matrixBytes += end - start
    header[name] = { dtype: 'F16', shape, data_offsets: [start, end] }
  }
  const json = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  const path = join(folder, 'model.safetensors')
  writeFileSync(path, Buffer.concat([length, json]))
  truncateSync(path, 8 + json.length + end)
  const config = {
    architectures: ['LlamaForCausalLM'],
    hidden_size: HIDDEN,
    intermediate_size: inner,
    num_hidden_layers: LAYERS,
    num_attention_heads: 8,
    num_key_value_heads: 8,
    vocab_size: VOCAB,
    max_position_embeddings: 256,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    tie_word_embeddings: true,
    eos_token_id: 1,
  }
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  return matrixBytes
}

test('loading takes memory for the weights and a few tensors, and not for the weights twice', async () => {
  const bytes = writeZeros()
  expect(bytes).toBeGreaterThan(100 * MIB)
  const before = process.memoryUsage().rss
  let peak = 0
  const request = goldenRequest('', { path: folder, device: 'cpu', threads: 1, numKvBlocks: 16 })
  const model = await loadModel(request, () => (peak = Math.max(peak, process.memoryUsage().rss - before)))
  await model.backend.close()
  // The weights themselves. Less would mean that the measurement failed.
  expect(peak).toBeGreaterThan(0.9 * bytes)
  // Weights that are held twice would give 2. Newer garbage collectors free file buffers later.
  expect(peak).toBeLessThan(1.75 * bytes)
})

test('weights that the machine cannot hold are refused before they are read, with the bytes needed, the bytes there are, and the flags', async () => {
  const bytes = writeZeros(Math.ceil((1.5 * totalHostMemory()) / (LAYERS * 3 * 2 * HIDDEN)), [
    ['vision_tower.patch_embedding.weight', [MIB, 512]],
    [`model.layers.${LAYERS}.mlp.down_proj.weight`, [HIDDEN, MIB]],
  ])
  const request = goldenRequest('', { path: folder, device: 'cpu', threads: 1 })
  const mebibytes = (count: number): number => Math.round(count / MIB)
  await expect(loadModel(request)).rejects.toThrow(
    `the weights take at least ${mebibytes(bytes)} MiB, and the machine has ${mebibytes(totalHostMemory())} MiB of memory. ` +
      'Choose --quantization q8 or q4, a smaller model or another --device.',
  )
})
