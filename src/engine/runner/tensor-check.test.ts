import { expect, test } from 'vitest'
import { goldenPath } from '../../../test/golden/golden.ts'
import { createReferenceBackend } from '../../kernels/reference/backend.ts'
import { unpackCheckpoint } from '../weights/quantized-checkpoint.ts'
import { openSafetensors } from '../weights/safetensors.ts'
import type { TensorInfo, WeightSource } from '../weights/source.ts'
import { decoderTensors, loadDecoder } from './decoder.ts'
import { ModelError } from './runner.ts'
import { readQuantization, readSpec } from './spec.ts'

/** Models with every kind of mixer, of MLP and of tensor: fused, stacked, with biases, with parameters of their own. */
const MODELS = [
  'apertus',
  'ernie4_5-moe',
  'gemma3n',
  'gemma4-moe',
  'glm4',
  'gpt-oss',
  'gpt-oss-mxfp4',
  'granite4-moe',
  'lfm2-bias',
  'llama',
  'minimax-m2',
  'qwen3-next',
]

const backend = () =>
  createReferenceBackend({
    limits: { maxRows: 1, maxSequences: 1, maxSampleRows: 1, maxBlocksPerSequence: 1 },
    traceKernels: false,
  })

async function open(name: string) {
  const folder = goldenPath(name)
  const quantization = await readQuantization(folder)
  const stored = await openSafetensors(folder)
  const source = quantization === null ? stored : unpackCheckpoint(stored, quantization)
  return { spec: await readSpec(folder), source }
}

/** The source without one tensor, and the names of the tensors that were read. */
function watched(
  source: WeightSource,
  missing?: string,
): { readonly source: WeightSource; readonly read: Set<string> } {
  const read = new Set<string>()
  const tensors = new Map<string, TensorInfo>([...source.tensors].filter(([name]) => name !== missing))
  return {
    read,
    source: {
      ...source,
      tensors,
      read: (name) => source.read((read.add(name), name)),
      rows: (name) => source.rows((read.add(name), name)),
      slice: (name, index) => source.slice((read.add(name), name), index),
    },
  }
}

test.each(MODELS)('the check of %s covers exactly the tensors that its load reads', async (name) => {
  const { spec, source } = await open(name)
  const { source: counted, read } = watched(source)
  await loadDecoder(backend(), spec, counted)
  const checked = [...(await decoderTensors(spec, source))].map((info) => info.name)
  await source.close()
  expect(read.size).toBeGreaterThan(10)
  expect(checked.sort()).toEqual([...read].sort())
})

test.each(MODELS)('%s without any one of its tensors is refused before anything is read', async (name) => {
  const { spec, source } = await open(name)
  for (const { name: missing } of await decoderTensors(spec, source)) {
    const { source: incomplete, read } = watched(source, missing)
    await expect(loadDecoder(backend(), spec, incomplete), missing).rejects.toThrow(ModelError)
    expect([...read], missing).toEqual([])
  }
  await source.close()
})

/** The source with one tensor's dimensions in the opposite order: as many values, in another order. */
function turned(source: WeightSource, { name, shape, ...info }: TensorInfo): WeightSource {
  const tensors = new Map<string, TensorInfo>(source.tensors)
  return { ...source, tensors: tensors.set(name, { ...info, name, shape: [...shape].reverse() }) }
}

test.each(MODELS)('a tensor of %s with its dimensions in another order is refused', async (name) => {
  const { spec, source } = await open(name)
  for (const info of await decoderTensors(spec, source)) {
    const sizes = info.shape.filter((size) => size !== 1)
    if (sizes.join() === [...sizes].reverse().join()) continue
    await expect(loadDecoder(backend(), spec, turned(source, info)), info.name).rejects.toThrow(
      `tensor ${info.name} should be [`,
    )
  }
  await source.close()
})
