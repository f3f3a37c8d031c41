/** Loads a model onto a device: spec, weights, KV pool. What local.ts runs steps on. */
import { createHash } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { freemem } from 'node:os'
import type { Backend, BackendLimits, KvLayout } from '../../kernels/ops.ts'
import { openGguf } from '../weights/gguf.ts'
import { openSafetensors } from '../weights/safetensors.ts'
import type { WeightSource } from '../weights/source.ts'
import { Decoder, kvLayout } from './decoder.ts'
import { chooseDevice, createBackend } from './device.ts'
import { loadWeights } from './model-weights.ts'
import { MAX_DRAFT_TOKENS, ModelError, type ModelInfo, type ModelRequest, type ProgressListener } from './runner.ts'
import { type DecoderSpec, readSpec } from './spec.ts'
import { StepLayout } from './step-input.ts'

export interface LoadedModel {
  readonly info: ModelInfo
  readonly backend: Backend
  readonly decoder: Decoder
  readonly layout: StepLayout
}

/** Without a word from the device, the KV pool takes at most this, and at most half of the free memory. */
const DEFAULT_KV_BYTES = 1 << 30

interface Checkpoint {
  readonly source: WeightSource
  spec(servedPositions: number | null): Promise<DecoderSpec>
}

async function openCheckpoint(path: string, onProgress?: ProgressListener): Promise<Checkpoint> {
  let isFolder: boolean
  try {
    isFolder = (await stat(path)).isDirectory()
  } catch (error) {
    throw new ModelError(`${path} does not exist. Expected a folder in Hugging Face layout or a .gguf file.`, {
      cause: error,
    })
  }
  if (!isFolder) {
    const { source, spec } = await openGguf(path, onProgress)
    return { source, spec: async (servedPositions) => spec({ servedPositions }) }
  }
  const spec = (servedPositions: number | null): Promise<DecoderSpec> => readSpec(path, { servedPositions })
  // The config first: an unknown architecture should be named before missing weights are.
  await spec(null)
  return { source: await openSafetensors(path, onProgress), spec }
}

/** Identifies weights and KV layout: everything that KV bytes depend on, the tensors by name, type, shape and place. */
function fingerprintOf(
  source: WeightSource,
  spec: DecoderSpec,
  request: ModelRequest,
  backend: Backend,
  digest: string,
): string {
  const hash = createHash('sha256')
  hash.update(JSON.stringify(spec, (_, value: unknown) => (value instanceof Float64Array ? [...value] : value)))
  for (const { name, dtype, shape } of source.tensors.values()) hash.update(`${name} ${dtype} ${shape.join('x')}\n`)
  hash.update(digest)
  const { kind, adapter, driver, kvFormat } = backend.info
  hash.update(JSON.stringify([request.quantization, request.blockSize, kind, adapter, driver, kvFormat]))
  return hash.digest('hex').slice(0, 32)
}

interface PoolSize {
  readonly numBlocks: number
  readonly maxModelLen: number
}

/**
 * Blocks of the KV pool: as asked, else what the memory at hand holds, at most what maxNumSeqs sequences of full length need. A model length that was
 * not asked for shrinks to the pool.
 */
function sizePool(request: ModelRequest, maxModelLen: number, layout: KvLayout, backend: Backend): PoolSize {
  const { blockSize, maxNumSeqs } = request
  const perSequence = Math.ceil(maxModelLen / blockSize)
  const budget = backend.info.memoryBudgetBytes ?? Math.min(DEFAULT_KV_BYTES, freemem() / 2)
  const blockBytes = backend.kvBlockBytes(layout)
  const affordable = Math.min(Math.floor(budget / blockBytes), backend.maxKvBlocks(layout))
  const numBlocks = request.numKvBlocks ?? Math.max(1, Math.min(affordable, perSequence * maxNumSeqs))
  if (numBlocks >= perSequence) return { numBlocks, maxModelLen }
  if (request.maxModelLen !== null) {
    throw new ModelError(
      `${numBlocks} KV blocks of ${blockSize} tokens (${blockBytes} bytes each) hold ${numBlocks * blockSize} tokens, fewer than the ${maxModelLen} of --max-model-len. ` +
        `Raise --num-kv-blocks to ${perSequence}, or lower --max-model-len.`,
    )
  }
  return { numBlocks, maxModelLen: numBlocks * blockSize }
}

/** Everything a model needs to run steps. Throws ModelError, also when the signal is aborted; on failure nothing stays open. */
export async function loadModel(
  request: ModelRequest,
  onLoaded?: ProgressListener,
  signal?: AbortSignal,
): Promise<LoadedModel> {
  const onProgress: ProgressListener = (doneBytes, totalBytes) => {
    signal?.throwIfAborted()
    onLoaded?.(doneBytes, totalBytes)
  }
  const checkpoint = await openCheckpoint(request.path, onProgress)
  const { source } = checkpoint
  let backend: Backend | null = null
  try {
    const spec = await checkpoint.spec(request.maxModelLen)
    if (request.maxModelLen !== null && request.maxModelLen > spec.maxPositions) {
      throw new ModelError(
        `--max-model-len ${request.maxModelLen} is more than the model's ${spec.maxPositions} (max_position_embeddings in config.json)`,
      )
    }
    const kind = await chooseDevice(request.device)
    const modelLen = request.maxModelLen ?? spec.maxPositions
    const limits: BackendLimits = {
      maxRows: request.maxNumBatchedTokens ?? (kind === 'webgpu' ? 2048 : 512),
      maxSequences: request.maxNumSeqs,
      maxSampleRows: request.maxNumSeqs * (1 + MAX_DRAFT_TOKENS),
      maxBlocksPerSequence: Math.ceil(modelLen / request.blockSize),
    }
    if (limits.maxRows < limits.maxSequences) {
      throw new ModelError(
        `--max-num-batched-tokens ${limits.maxRows} is below --max-num-seqs ${limits.maxSequences}: each running sequence needs a token a step`,
      )
    }
    const options = { limits, traceKernels: request.traceKernels }
    const loaded = await loadWeights(() => createBackend(kind, options, request), spec, source, request, onProgress)
    backend = loaded.backend
    const { decoder, facts, notices } = loaded
    const layout = kvLayout(spec, 1, request.blockSize)
    const { numBlocks, maxModelLen } = sizePool(request, modelLen, layout, backend)
    backend.createKvCache({ ...layout, numBlocks })
    await backend.ready(signal)
    const { kind: device, adapter, driver, isSoftware, kvFormat, hasTimestamps } = backend.info
    const info: ModelInfo = {
      architecture: spec.architecture,
      vocabSize: spec.vocabSize,
      hiddenSize: spec.hiddenSize,
      numLayers: spec.layers.length,
      maxModelLen,
      eosTokenIds: spec.eosTokenIds,
      bosTokenId: spec.bosTokenId,
      blockSize: request.blockSize,
      numKvBlocks: numBlocks,
      blockBytes: backend.kvBlockBytes(layout),
      maxNumBatchedTokens: limits.maxRows,
      weightBytes: facts.weightBytes,
      memory: backend.memoryUse(),
      quantization: request.quantization,
      device: { kind: device, adapter, driver, isSoftware, kvFormat, hasTimestamps },
      fingerprint: fingerprintOf(source, spec, request, backend, facts.digest),
      notices,
    }
    const steps = new StepLayout({ ...limits, blockSize: request.blockSize, numBlocks, vocabSize: spec.vocabSize })
    return { info, backend, decoder, layout: steps }
  } catch (error) {
    await backend?.close()
    if (error instanceof ModelError || !(error instanceof Error)) throw error
    // What a device cannot hold (4 GiB of the cpu backend, an odd head size) is as much a model that cannot be served.
    throw new ModelError(
      `${request.path} on this device: ${error.message}. Try --quantization q8 or q4, or another --device.`,
      { cause: error },
    )
  } finally {
    await source.close()
  }
}
