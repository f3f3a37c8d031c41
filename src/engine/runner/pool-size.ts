/** How many KV blocks, and slots for states, a model gets: as asked, or what a server of this kind needs and the device has. */
import { type KvCacheMemory, ModelError } from './runner.ts'

export interface PoolRequest {
  readonly numKvBlocks: number | null
  /** null: a default. */
  readonly kvCacheMemory: KvCacheMemory | null
  /** Tokens of the longest sequence the model takes, or was asked to. */
  readonly maxModelLen: number
  readonly isModelLenAsked: boolean
  readonly maxNumSeqs: number
  readonly blockSize: number
  readonly blockBytes: number
  /** The most that one pool can have on the device. */
  readonly maxBlocks: number
  /** Of what the layers keep of a sequence beside K and V; 0: they keep nothing. */
  readonly stateSlotBytes: number
  readonly maxStateSlots: number
  /** Absent: by memory. */
  readonly numStateSlots?: number
}

interface PoolSize {
  readonly numBlocks: number
  readonly numStateSlots: number
  readonly maxModelLen: number
  /** For the operator, where a sequence may be shorter than the model allows, or fewer run than may. */
  readonly notices: readonly string[]
}

/** Tokens a sequence is taken to have where many run: servers whose sequences are longer say so by --kv-cache-memory. */
const USUAL_TOKENS = 4096
/** A context below which nothing useful runs. */
const LEAST_TOKENS = 256

/** Blocks that the default pool has where memory allows: one sequence of full length, and all that run at once of usual length. */
function defaultBlocks({ maxModelLen, maxNumSeqs, blockSize }: PoolRequest): number {
  const perSequence = Math.ceil(maxModelLen / blockSize)
  return Math.max(perSequence, maxNumSeqs * Math.min(perSequence, Math.ceil(USUAL_TOKENS / blockSize)))
}

/** Slots that a server has use for: one for each sequence that runs, a snapshot for each, and one to go on to. */
function usefulStateSlots({ stateSlotBytes, maxStateSlots, maxNumSeqs }: PoolRequest): number {
  return stateSlotBytes === 0 ? 0 : Math.min(maxStateSlots, 2 * maxNumSeqs + 1)
}

/** Bytes that the default pools have where memory allows. */
export function defaultBytes(request: PoolRequest): number {
  return defaultBlocks(request) * request.blockBytes + usefulStateSlots(request) * request.stateSlotBytes
}

/**
 * @param offeredBytes what the device can give the pools
 * @throws ModelError naming what is needed, what there is, and the flags that change either
 */
export function sizePool(request: PoolRequest, offeredBytes: number): PoolSize {
  const { numKvBlocks, kvCacheMemory, maxModelLen, isModelLenAsked, blockSize, blockBytes, maxBlocks } = request
  const perSequence = Math.ceil(maxModelLen / blockSize)
  const askedBytes =
    kvCacheMemory === null ? null : 'bytes' in kvCacheMemory ? kvCacheMemory.bytes : kvCacheMemory.share * offeredBytes
  const numStateSlots = sizeStates(request, askedBytes ?? offeredBytes)
  const stateBytes = numStateSlots * request.stateSlotBytes
  const asked = askedBytes === null ? defaultBlocks(request) : Math.floor((askedBytes - stateBytes) / blockBytes)
  const affordable = askedBytes === null ? Math.floor((offeredBytes - stateBytes) / blockBytes) : asked
  const numBlocks = numKvBlocks ?? Math.min(asked, affordable, maxBlocks)
  const notices = stateNotices(request, numStateSlots)
  if (numBlocks >= perSequence) return { numBlocks, numStateSlots, maxModelLen, notices }
  const numTokens = numBlocks * blockSize
  const beside = stateBytes === 0 ? '' : ` beside ${megabytes(stateBytes)} of states`
  const found =
    `${numBlocks} KV blocks of ${blockSize} tokens (${blockBytes} bytes each) hold ${numTokens} tokens; a sequence of ${maxModelLen} takes ` +
    `${megabytes(perSequence * blockBytes)}${beside}, and there are ${megabytes(numKvBlocks === null ? (askedBytes ?? offeredBytes) : numBlocks * blockBytes)}`
  if (isModelLenAsked) {
    throw new ModelError(
      `${found}: fewer than the ${maxModelLen} of --max-model-len. Raise --num-kv-blocks to ${perSequence} or --kv-cache-memory, or lower --max-model-len.`,
      { isOfDevice: true },
    )
  }
  if (numKvBlocks === null && numTokens < Math.min(LEAST_TOKENS, maxModelLen)) {
    throw new ModelError(
      `${found}. Free memory, raise --kv-cache-memory, or choose --quantization q8 or q4, a smaller model or another --device.`,
      { isOfDevice: true },
    )
  }
  const notice = `the context is ${numTokens} tokens, not the model's ${maxModelLen}: ${found}; --kv-cache-memory or --num-kv-blocks raise it, --max-model-len makes it exact`
  return {
    numBlocks,
    numStateSlots,
    maxModelLen: numTokens,
    notices: numKvBlocks === null ? [...notices, notice] : notices,
  }
}

/** States take half of the memory at most: a slot without blocks serves nobody, nor blocks without a slot. */
function sizeStates(request: PoolRequest, availableBytes: number): number {
  const { stateSlotBytes, numStateSlots } = request
  if (numStateSlots !== undefined) return numStateSlots
  const useful = usefulStateSlots(request)
  const affordable = stateSlotBytes === 0 ? 0 : Math.floor(availableBytes / 2 / stateSlotBytes)
  if (useful > 0 && affordable < 2) {
    throw new ModelError(
      `the model keeps a state of ${megabytes(stateSlotBytes)} for each sequence, and there are ${megabytes(availableBytes)} for states and KV ` +
        `blocks together. Raise --kv-cache-memory, free memory, or choose a smaller model or another --device.`,
      { isOfDevice: true },
    )
  }
  return Math.min(useful, affordable)
}

function stateNotices({ maxNumSeqs, stateSlotBytes }: PoolRequest, numSlots: number): string[] {
  if (stateSlotBytes === 0 || numSlots > maxNumSeqs) return []
  return [
    `${numSlots} sequences run at once, not the ${maxNumSeqs} of --max-num-seqs: each keeps a state of ${megabytes(stateSlotBytes)}; --kv-cache-memory raises it`,
  ]
}

function megabytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MiB`
}
