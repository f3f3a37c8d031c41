/** How many KV blocks and state slots a model gets: as requested, or as many as the server can use and the device has room for. */
import { type KvCacheMemory, ModelError } from './runner.ts'

export interface PoolRequest {
  readonly numKvBlocks: number | null
  /** null: by default, as many bytes as the server can use. */
  readonly kvCacheMemory: KvCacheMemory | null
  /** Tokens of the longest sequence: as requested, or else the model's limit. */
  readonly maxModelLen: number
  readonly isModelLenAsked: boolean
  readonly maxNumSeqs: number
  readonly blockSize: number
  readonly blockBytes: number
  /** The most blocks that a pool can have on the device. */
  readonly maxBlocks: number
  /** Bytes of the states of one sequence; 0: the model keeps no states. */
  readonly stateSlotBytes: number
  readonly maxStateSlots: number
  /** Absent: as many as memory allows. */
  readonly numStateSlots?: number
}

interface PoolSize {
  readonly numBlocks: number
  readonly numStateSlots: number
  readonly maxModelLen: number
  /** Messages for the operator, where the context is shorter or fewer sequences run than the settings allow. */
  readonly notices: readonly string[]
}

/** Assumed tokens per sequence where many run. Servers with longer sequences set --kv-cache-memory. */
const USUAL_TOKENS = 4096
/** The shortest context that is of use, in tokens. */
const LEAST_TOKENS = 256

/** Blocks of the default pool: enough for one sequence of full length, and for all running sequences at the usual length. */
function defaultBlocks({ maxModelLen, maxNumSeqs, blockSize }: PoolRequest): number {
  const perSequence = Math.ceil(maxModelLen / blockSize)
  return Math.max(perSequence, maxNumSeqs * Math.min(perSequence, Math.ceil(USUAL_TOKENS / blockSize)))
}

/** State slots that a server can use: for each running sequence its state and a snapshot, and one slot to write the next state to. */
function usefulStateSlots({ stateSlotBytes, maxStateSlots, maxNumSeqs }: PoolRequest): number {
  return stateSlotBytes === 0 ? 0 : Math.min(maxStateSlots, 2 * maxNumSeqs + 1)
}

/** Bytes of the default pools, where memory allows. */
export function defaultBytes(request: PoolRequest): number {
  return defaultBlocks(request) * request.blockBytes + usefulStateSlots(request) * request.stateSlotBytes
}

/**
 * Sizes the pools of KV blocks and of states.
 * @param offeredBytes what the device can give to both
 * @throws ModelError that names what is needed, what there is, and the flags that change either
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
  const notice = `the context is ${numTokens} tokens, not the model's ${maxModelLen}: ${found}. Raise --kv-cache-memory or --num-kv-blocks for more, or set --max-model-len`
  return {
    numBlocks,
    numStateSlots,
    maxModelLen: numTokens,
    notices: numKvBlocks === null ? [...notices, notice] : notices,
  }
}

/** State slots take at most half of the memory, since a sequence needs both a slot and KV blocks. */
function sizeStates(request: PoolRequest, availableBytes: number): number {
  const { stateSlotBytes, numStateSlots } = request
  if (numStateSlots !== undefined) return numStateSlots
  const useful = usefulStateSlots(request)
  const affordable = stateSlotBytes === 0 ? 0 : Math.floor(availableBytes / 2 / stateSlotBytes)
  if (useful > 0 && affordable < 2) {
    throw new ModelError(
      `the model keeps a state of ${megabytes(stateSlotBytes)} per sequence, and there are ${megabytes(availableBytes)} for states and KV ` +
        `blocks together. Raise --kv-cache-memory, free memory, or choose a smaller model or another --device.`,
      { isOfDevice: true },
    )
  }
  return Math.min(useful, affordable)
}

function stateNotices({ maxNumSeqs, stateSlotBytes }: PoolRequest, numSlots: number): string[] {
  if (stateSlotBytes === 0 || numSlots > maxNumSeqs) return []
  return [
    `${numSlots} sequences run at once, not the ${maxNumSeqs} of --max-num-seqs: each keeps a state of ${megabytes(stateSlotBytes)}. Raise --kv-cache-memory for more`,
  ]
}

function megabytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MiB`
}
