/** How many KV blocks a pool gets: as asked, or what a server of this kind needs and the device has. */
import { ModelError } from './runner.ts'

/** Bytes, or a share of what the device offers. */
export type KvCacheMemory = { readonly bytes: number } | { readonly share: number }

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
}

export interface PoolSize {
  readonly numBlocks: number
  readonly maxModelLen: number
  /** For the operator, where a sequence may be shorter than the model allows. */
  readonly notice: string | null
}

/** Tokens a sequence is taken to have where many run: servers whose sequences are longer say so by --kv-cache-memory. */
const USUAL_TOKENS = 4096
/** A context below which nothing useful runs. */
const LEAST_TOKENS = 256

/** Blocks that the default pool has where memory allows: one sequence of full length, and all that run at once of usual length. */
export function defaultBlocks({ maxModelLen, maxNumSeqs, blockSize }: PoolRequest): number {
  const perSequence = Math.ceil(maxModelLen / blockSize)
  return Math.max(perSequence, maxNumSeqs * Math.min(perSequence, Math.ceil(USUAL_TOKENS / blockSize)))
}

/**
 * @param offeredBytes what the device can give the pool
 * @throws ModelError naming what is needed, what there is, and the flags that change either
 */
export function sizePool(request: PoolRequest, offeredBytes: number): PoolSize {
  const { numKvBlocks, kvCacheMemory, maxModelLen, isModelLenAsked, blockSize, blockBytes, maxBlocks } = request
  const perSequence = Math.ceil(maxModelLen / blockSize)
  const askedBytes =
    kvCacheMemory === null ? null : 'bytes' in kvCacheMemory ? kvCacheMemory.bytes : kvCacheMemory.share * offeredBytes
  const asked = askedBytes === null ? defaultBlocks(request) : Math.floor(askedBytes / blockBytes)
  const affordable = askedBytes === null ? Math.floor(offeredBytes / blockBytes) : asked
  const numBlocks = numKvBlocks ?? Math.min(asked, affordable, maxBlocks)
  if (numBlocks >= perSequence) return { numBlocks, maxModelLen, notice: null }
  const numTokens = numBlocks * blockSize
  const found =
    `${numBlocks} KV blocks of ${blockSize} tokens (${blockBytes} bytes each) hold ${numTokens} tokens; a sequence of ${maxModelLen} takes ` +
    `${megabytes(perSequence * blockBytes)}, and there are ${megabytes(numKvBlocks === null ? (askedBytes ?? offeredBytes) : numBlocks * blockBytes)}`
  if (isModelLenAsked) {
    throw new ModelError(
      `${found}: fewer than the ${maxModelLen} of --max-model-len. Raise --num-kv-blocks to ${perSequence} or --kv-cache-memory, or lower --max-model-len.`,
    )
  }
  if (numKvBlocks === null && numTokens < Math.min(LEAST_TOKENS, maxModelLen)) {
    throw new ModelError(
      `${found}. Free memory, raise --kv-cache-memory, or choose --quantization q8 or q4, a smaller model or another --device.`,
    )
  }
  const notice = `the context is ${numTokens} tokens, not the model's ${maxModelLen}: ${found}; --kv-cache-memory or --num-kv-blocks raise it, --max-model-len makes it exact`
  return { numBlocks, maxModelLen: numTokens, notice: numKvBlocks === null ? notice : null }
}

function megabytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MiB`
}
