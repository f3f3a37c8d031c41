/** Loads a model onto a device: spec, weights, KV pool. `local.ts` runs steps on the result. */
import { createHash } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { availableHostMemory, totalHostMemory } from '../../kernels/host-memory.ts'
import type { Backend } from '../../kernels/backend.ts'
import type { BackendLimits } from '../../kernels/ops.ts'
import { openGguf } from '../weights/gguf.ts'
import { unpackCheckpoint } from '../weights/quantized-checkpoint.ts'
import { openSafetensors } from '../weights/safetensors.ts'
import type { WeightSource } from '../weights/source.ts'
import { Adapters } from './adapters.ts'
import type { Decoder } from './decoder.ts'
import type { DecoderSpec } from './decoder-spec.ts'
import { chooseDevice, createBackend } from './device.ts'
import { kvLayout, stateLayout } from './memory-layout.ts'
import { expectHostRoom, loadWeights } from './model-weights.ts'
import { defaultBytes, type PoolRequest, sizePool } from './pool-size.ts'
import { maxSampleRows, ModelError, type ModelInfo, type ModelRequest, type ProgressListener } from './runner.ts'
import { readQuantization, readSpec } from './spec.ts'
import { specIdentity } from './spec-identity.ts'
import { StepLayout } from './step-input.ts'

export interface LoadedModel {
  readonly info: ModelInfo
  readonly backend: Backend
  readonly decoder: Decoder
  readonly layout: StepLayout
}

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
  // The config comes first, so that an unknown architecture is reported before missing weights are.
  await spec(null)
  const quantization = await readQuantization(path)
  const source = await openSafetensors(path, onProgress)
  try {
    return { source: quantization === null ? source : unpackCheckpoint(source, quantization), spec }
  } catch (error) {
    await source.close()
    throw error
  }
}

/** Identifies everything that the bytes of KV blocks depend on: the spec, the tensors' names, types, shapes and first values, the device, the KV layout. */
function fingerprintOf(
  source: WeightSource,
  spec: DecoderSpec,
  request: ModelRequest,
  backend: Backend,
  digest: string,
): string {
  const hash = createHash('sha256')
  hash.update(specIdentity(spec))
  for (const { name, dtype, shape } of source.tensors.values()) hash.update(`${name} ${dtype} ${shape.join('x')}\n`)
  hash.update(digest)
  const { kind, adapter, driver, kvFormat } = backend.info
  // Gate and up products that are computed apart may differ in the last bit.
  const isUnjoined = (request.adapters?.length ?? 0) > 0
  hash.update(JSON.stringify([request.quantization, request.blockSize, kind, adapter, driver, kvFormat, isUnjoined]))
  return hash.digest('hex').slice(0, 32)
}

/** Bytes that the device can give to the pools: as it reports, or else as a trial allocation succeeds, up to half of the host's free memory. */
async function offeredBytes(backend: Backend, atMostBytes: number): Promise<number> {
  const { memoryBudgetBytes } = backend.info
  if (memoryBudgetBytes !== null) return memoryBudgetBytes
  const ofHost = availableHostMemory() / 2
  const wanted = Math.min(atMostBytes, ofHost)
  return backend.tryAllocate === undefined ? ofHost : Math.min(ofHost, await backend.tryAllocate(wanted))
}

/** The limits of a step. @throws ModelError for settings that do not fit together */
function limitsOf(request: ModelRequest, spec: DecoderSpec, kind: Backend['info']['kind']): BackendLimits {
  const limits: BackendLimits = {
    maxRows: request.maxNumBatchedTokens ?? (kind === 'webgpu' ? 2048 : 512),
    maxSequences: request.maxNumSeqs,
    maxSampleRows: maxSampleRows(request.maxNumSeqs, (request.speculation ?? true) && stateLayout(spec, 1) === null),
    maxBlocksPerSequence: Math.ceil((request.maxModelLen ?? spec.maxPositions) / request.blockSize),
  }
  if (limits.maxRows < limits.maxSequences) {
    throw new ModelError(
      `--max-num-batched-tokens ${limits.maxRows} is below --max-num-seqs ${limits.maxSequences}: each running sequence needs a token per step`,
    )
  }
  return limits
}

/** Allocates the pools of KV blocks and of states, and returns their sizes. @throws ModelError */
async function createPools(backend: Backend, spec: DecoderSpec, request: ModelRequest) {
  const layout = kvLayout(spec, 1, request.blockSize)
  const states = stateLayout(spec, 1)
  const blockBytes = backend.kvBlockBytes(layout)
  const stateSlotBytes = states === null ? 0 : backend.stateSlotBytes(states)
  const pool: PoolRequest = {
    ...request,
    kvCacheMemory: request.kvCacheMemory ?? null,
    maxModelLen: request.maxModelLen ?? spec.maxPositions,
    isModelLenAsked: request.maxModelLen !== null,
    blockBytes,
    maxBlocks: backend.maxKvBlocks(layout),
    stateSlotBytes,
    maxStateSlots: states === null ? 0 : backend.maxStateSlots(states),
  }
  const isShare = pool.kvCacheMemory !== null && 'share' in pool.kvCacheMemory
  const size = sizePool(pool, await offeredBytes(backend, isShare ? Infinity : defaultBytes(pool)))
  backend.createKvCache({ ...layout, numBlocks: size.numBlocks })
  if (states !== null) backend.createStatePool({ ...states, numSlots: size.numStateSlots })
  return { ...size, blockBytes, stateSlotBytes }
}

/** Loads everything that a model needs to run steps. After a failure nothing stays open. @throws ModelError, also when the signal is aborted */
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
  let adapters: Adapters | null = null
  try {
    const spec = await checkpoint.spec(request.maxModelLen)
    if (request.maxModelLen !== null && request.maxModelLen > spec.maxPositions) {
      throw new ModelError(
        `--max-model-len ${request.maxModelLen} is more than the model's ${spec.maxPositions} (max_position_embeddings in config.json)`,
      )
    }
    const kind = await chooseDevice(request.device)
    if (kind !== 'webgpu') await expectHostRoom(spec, source, request.quantization, totalHostMemory())
    const limits = limitsOf(request, spec, kind)
    const { traceKernels, kvCacheDtype = 'auto' } = request
    const options = { limits, traceKernels, ...(kvCacheDtype === 'auto' ? {} : { kvFormat: kvCacheDtype }) }
    adapters = await Adapters.open(request.adapters ?? [], spec)
    const create = (): Promise<Backend> => createBackend(kind, options, request)
    const loaded = await loadWeights(create, spec, source, request, adapters, onProgress)
    backend = loaded.backend
    adapters?.requireAllUsed()
    const { decoder, facts, notices } = loaded
    const pools = await createPools(backend, spec, request)
    await backend.ready(signal)
    const { kind: device, adapter, driver, isSoftware, kvFormat, hasTimestamps } = backend.info
    const info: ModelInfo = {
      architecture: spec.architecture,
      vocabSize: spec.vocabSize,
      hiddenSize: spec.hiddenSize,
      numLayers: spec.layers.length,
      maxModelLen: pools.maxModelLen,
      eosTokenIds: spec.eosTokenIds,
      bosTokenId: spec.bosTokenId,
      blockSize: request.blockSize,
      numKvBlocks: pools.numBlocks,
      blockBytes: pools.blockBytes,
      numStateSlots: pools.numStateSlots,
      stateSlotBytes: pools.stateSlotBytes,
      maxNumBatchedTokens: limits.maxRows,
      weightBytes: facts.weightBytes,
      memory: backend.memoryUse(),
      quantization: request.quantization,
      device: { kind: device, adapter, driver, isSoftware, kvFormat, hasTimestamps },
      fingerprint: fingerprintOf(source, spec, request, backend, facts.digest),
      adapters: adapters?.infos ?? [],
      notices: [...notices, ...pools.notices],
    }
    const { numBlocks, numStateSlots } = pools
    const { blockSize } = request
    const numAdapters = info.adapters.length
    const bounds = { ...limits, blockSize, numBlocks, numStateSlots, numAdapters, vocabSize: spec.vocabSize }
    return { info, backend, decoder, layout: new StepLayout(bounds) }
  } catch (error) {
    await backend?.close()
    if (error instanceof ModelError || !(error instanceof Error)) throw error
    // A backend's own errors mean that this device cannot serve the model: too much for 4 GiB of cpu memory, say, or an odd head size.
    throw new ModelError(
      `${request.path} on this device: ${error.message}. Try --quantization q8 or q4, or another --device.`,
      { cause: error, isOfDevice: true },
    )
  } finally {
    await adapters?.close()
    await source.close()
  }
}
