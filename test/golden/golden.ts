/**
 * Runs a stored model (made by make_golden.py with Hugging Face transformers) on a device and compares: logits, prompt log-probabilities and greedy
 * tokens under forced decoding. One helper for every backend.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { type LoadedModel, loadModel } from '../../src/engine/runner/model.ts'
import type { ModelRequest } from '../../src/engine/runner/runner.ts'
import type { TokenLogprobs } from '../../src/kernels/sample-spec.ts'
import { GREEDY } from '../../src/kernels/sampling.ts'

const MODELS = fileURLToPath(new URL('./models/', import.meta.url))

/** Names of the stored models, one or more a family. */
export const GOLDEN_MODELS: readonly string[] = readdirSync(MODELS).sort()

/** Folder of a stored model, in Hugging Face layout. */
export function goldenPath(name: string): string {
  return `${MODELS}${name}`
}

export interface Golden {
  readonly prompt: readonly number[]
  /** Greedy continuation. */
  readonly tokens: readonly number[]
  /** Lead of each greedy token's logit over the runner-up. */
  readonly margins: readonly number[]
  /** Of prompt[i + 1] given prompt[0..i]. */
  readonly promptLogprobs: readonly number[]
  /** Full rows of logits by position. */
  readonly logits: Readonly<Record<string, readonly number[]>>
}

export function readGolden(name: string): Golden {
  return JSON.parse(readFileSync(`${goldenPath(name)}/golden.json`, 'utf8')) as Golden
}

/** A request with small pools, as tests want it. */
export function goldenRequest(name: string, overrides: Partial<ModelRequest> = {}): ModelRequest {
  return {
    path: goldenPath(name),
    device: 'reference',
    quantization: 'none',
    maxModelLen: null,
    maxNumSeqs: 8,
    maxNumBatchedTokens: 72,
    blockSize: 16,
    numKvBlocks: 64,
    threads: null,
    traceKernels: false,
    cacheDir: null,
    ...overrides,
  }
}

export interface ForcedOutput {
  /** A row a token: the logits after it. */
  readonly logits: readonly Float32Array[]
  /** A token a row: the greedy choice after it. */
  readonly greedy: readonly number[]
  /** Entry i: log-probability of ids[i + 1] after ids[0..i]. */
  readonly scores: readonly TokenLogprobs[]
}

/** Feeds `ids` as one sequence in chunks, sampling and scoring every row. `blocks`: the block table, in any order. */
export async function forcedDecode(
  model: LoadedModel,
  ids: readonly number[],
  chunkSize: number,
  blocks: readonly number[],
  adapter?: number,
): Promise<ForcedOutput> {
  const { vocabSize } = model.info
  const logits: Float32Array[] = []
  const greedy: number[] = []
  const scores: TokenLogprobs[] = []
  for (let start = 0; start < ids.length; start += chunkSize) {
    const chunk = ids.slice(start, start + chunkSize)
    const {
      input,
      samples,
      scores: scoreRows,
    } = model.layout.plan({
      stepId: start,
      blockCopies: [],
      sequences: [
        {
          tokenSource: { ids: Int32Array.from(chunk) },
          startPosition: start,
          blockTable: Int32Array.from(blocks),
          ...(adapter === undefined ? {} : { adapter }),
          ...(model.info.numStateSlots === 0 ? {} : { state: { read: start === 0 ? -1 : 1, write: 1 } }),
          sample: chunk.map(() => GREEDY),
          score: { targets: Int32Array.from(ids.slice(start + 1, start + 1 + chunk.length)), topN: 2 },
        },
      ],
    })
    model.backend.beginStep(input)
    model.decoder.layers(input)
    model.decoder.outputs(samples, scoreRows)
    const output = await model.backend.endStep({ logits: true })
    for (let i = 0; i < chunk.length; i++) logits.push(output.logits!.slice(i * vocabSize, (i + 1) * vocabSize))
    greedy.push(...output.sampled)
    scores.push(...output.scores)
  }
  return { logits, greedy, scores }
}

export interface GoldenReport {
  /** Normalised squared error of the stored rows of logits. */
  readonly logitsNmse: number
  /** Largest difference of a prompt log-probability. */
  readonly logprobError: number
  /** Positions with a clear margin where the greedy token differs. */
  readonly wrongTokens: readonly number[]
}

/** Lead below which rounding may decide a greedy token. */
const CLEAR_MARGIN = 1e-2

/** Compares a forced run over prompt + tokens with the golden values. */
export function compareGolden(golden: Golden, output: ForcedOutput): GoldenReport {
  let error = 0
  let power = 0
  for (const [position, expected] of Object.entries(golden.logits)) {
    const found = output.logits[Number(position)]!
    const mean = expected.reduce((sum, value) => sum + value, 0) / expected.length
    expected.forEach((value, i) => {
      error += (found[i]! - value) ** 2
      power += (value - mean) ** 2
    })
  }
  const logprobErrors = golden.promptLogprobs.map((expected, i) => Math.abs(output.scores[i]!.logprob - expected))
  const wrongTokens = golden.tokens.flatMap((token, i) =>
    golden.margins[i]! > CLEAR_MARGIN && output.greedy[golden.prompt.length - 1 + i] !== token ? [i] : [],
  )
  return { logitsNmse: error / power, logprobError: Math.max(...logprobErrors), wrongTokens }
}

/** Loads a stored model, runs prompt and continuation in chunks and compares. The caller holds the report against its backend's tolerances. */
export async function runGolden(
  name: string,
  overrides: Partial<ModelRequest> = {},
  chunkSize = 17,
): Promise<GoldenReport> {
  const golden = readGolden(name)
  // Every row is sampled, and models with states verify no drafts: as many sequences as a chunk has rows.
  const model = await loadModel(goldenRequest(name, { maxNumSeqs: chunkSize, ...overrides }))
  try {
    return compareGolden(
      golden,
      await forcedDecode(model, [...golden.prompt, ...golden.tokens], chunkSize, [5, 2, 7, 1, 3, 0]),
    )
  } finally {
    await model.backend.close()
  }
}
