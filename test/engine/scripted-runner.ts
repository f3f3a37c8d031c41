/**
 * A Runner without a model: its KV pool holds token ids, and a row's logits are a hash of the tokens found in the pool through the
 * row's block table. A block shared wrongly, reused too early, copied short or never written gives another text, so tests of the
 * engine can compare texts alone. Sampling is the real one.
 */
import { resolvePending, Sampler, tokenLogprobs } from '../../src/kernels/sampling.ts'
import type {
  LateMasks,
  ModelInfo,
  Runner,
  RunnerProblem,
  SequencePlan,
  StepPlan,
  StepResult,
} from '../../src/engine/runner/runner.ts'
import { MAX_DRAFT_TOKENS, RunnerError } from '../../src/engine/runner/runner.ts'
import { StepLayout } from '../../src/engine/runner/step-input.ts'

export interface ScriptedRunnerOptions {
  readonly numBlocks: number
  readonly blockSize: number
  readonly vocabSize: number
  readonly maxNumBatchedTokens: number
  readonly maxModelLen?: number
  /** A state for each sequence, which is the tokens it stands behind: a step that is given another's fails. None by default. */
  readonly numStateSlots?: number
  readonly eosTokenIds?: readonly number[]
  /** Tokens before a position that its logits depend on; few make texts that repeat themselves. All by default. */
  readonly order?: number
  /** Resolves in a later macrotask, as a worker does: arrivals and aborts then fall between steps. */
  readonly isDeferred?: boolean
  /** Called with each plan before it runs; a throw fails the step. */
  readonly onPlan?: (plan: StepPlan) => void
}

const NEVER_WRITTEN = -1
/** More sequences than a test's steps have. */
const MAX_SEQUENCES = 64

function withMasks(plan: StepPlan, masks: LateMasks): StepPlan {
  let row = 0
  const sequences = plan.sequences.map((sequence) => ({
    ...sequence,
    sample: sequence.sample.map((spec) => ({ ...spec, mask: masks.get(row++) ?? spec.mask })),
  }))
  return { ...plan, sequences }
}

export class ScriptedRunner implements Runner {
  readonly modelInfo: ModelInfo
  readonly #options: ScriptedRunnerOptions
  readonly #pool: Int32Array // [numBlocks, blockSize] token ids
  readonly #states: (readonly number[])[] = []
  readonly #sampler: Sampler
  /** Refuses what a device would have no room for. */
  readonly #layout: StepLayout
  #sampled: number[] = []
  /** Until the last step that waits, for masks or for one before it, has run. */
  #turn: Promise<void> | null = null
  #isClosed = false
  numSteps = 0
  /** Tells the engine what keeps steps from running. */
  say: (problem: RunnerProblem | null) => void = () => {}
  /** Of the pool; `losePool` makes another. */
  poolId = 0

  constructor(options: ScriptedRunnerOptions) {
    this.#options = options
    this.#pool = new Int32Array(options.numBlocks * options.blockSize).fill(NEVER_WRITTEN)
    this.#sampler = new Sampler(options.vocabSize)
    const { numBlocks, blockSize, vocabSize, maxNumBatchedTokens: maxRows } = options
    this.#layout = new StepLayout({
      maxRows,
      maxSequences: MAX_SEQUENCES,
      maxSampleRows: MAX_SEQUENCES * (1 + MAX_DRAFT_TOKENS),
      maxBlocksPerSequence: Math.ceil((options.maxModelLen ?? numBlocks * blockSize) / blockSize),
      blockSize,
      numBlocks,
      numStateSlots: options.numStateSlots ?? 0,
      numAdapters: 0,
      vocabSize,
    })
    this.modelInfo = {
      architecture: 'scripted',
      vocabSize: options.vocabSize,
      hiddenSize: 1,
      numLayers: 1,
      maxModelLen: options.maxModelLen ?? options.numBlocks * options.blockSize,
      eosTokenIds: options.eosTokenIds ?? [],
      bosTokenId: null,
      blockSize: options.blockSize,
      numKvBlocks: options.numBlocks,
      blockBytes: options.blockSize * 4,
      numStateSlots: options.numStateSlots ?? 0,
      stateSlotBytes: options.numStateSlots === undefined ? 0 : 4,
      maxNumBatchedTokens: options.maxNumBatchedTokens,
      weightBytes: 0,
      memory: { weightBytes: 0, kvCacheBytes: 0, scratchBytes: 0 },
      quantization: 'none',
      device: {
        kind: 'reference',
        adapter: 'scripted',
        driver: '',
        isSoftware: true,
        kvFormat: 'f32',
        hasTimestamps: false,
      },
      fingerprint: `scripted-${options.vocabSize}-${options.blockSize}`,
      adapters: [],
      notices: [],
    }
  }

  onProblem(listener: (problem: RunnerProblem | null) => void): void {
    this.say = listener
  }

  load(): Promise<ModelInfo> {
    return Promise.resolve(this.modelInfo)
  }

  async execute(plan: StepPlan, masks?: Promise<LateMasks>): Promise<StepResult> {
    if (plan.poolId !== undefined && plan.poolId !== this.poolId) throw new RunnerError('pool_replaced', 'another pool')
    const copy = structuredClone(plan)
    // In the order of calls, also where one waits for masks.
    const isFree = masks === undefined && this.#turn === null
    const result = isFree ? this.#run(copy) : await this.#runInTurn(copy, masks)
    if (this.#options.isDeferred === true) await new Promise((resolve) => setImmediate(resolve))
    if (this.#isClosed) throw new RunnerError('closed', 'the runner is closed')
    return result
  }

  async #runInTurn(plan: StepPlan, masks: Promise<LateMasks> | undefined): Promise<StepResult> {
    const before = this.#turn
    let end = (): void => {}
    const turn = new Promise<void>((resolve) => (end = resolve))
    this.#turn = turn
    try {
      await before
      return this.#run(masks === undefined ? plan : withMasks(plan, await masks))
    } finally {
      if (this.#turn === turn) this.#turn = null
      end()
    }
  }

  /** A device that was lost: what the pool held is gone. */
  losePool(): void {
    this.poolId++
    this.#pool.fill(0)
    this.#states.length = 0
  }

  readBlocks(blocks: readonly number[], poolId = this.poolId): Promise<Uint8Array> {
    if (poolId !== this.poolId) return Promise.reject(new RunnerError('pool_replaced', 'another pool'))
    const { blockSize } = this.#options
    const tokens = blocks.flatMap((block) => [...this.#pool.subarray(block * blockSize, (block + 1) * blockSize)])
    return Promise.resolve(new Uint8Array(Int32Array.from(tokens).buffer))
  }

  writeBlocks(blocks: readonly number[], bytes: Uint8Array, poolId = this.poolId): Promise<void> {
    if (poolId !== this.poolId) return Promise.reject(new RunnerError('pool_replaced', 'another pool'))
    const { blockSize } = this.#options
    const tokens = new Int32Array(bytes.slice().buffer)
    for (const [i, block] of blocks.entries()) {
      this.#pool.set(tokens.subarray(i * blockSize, (i + 1) * blockSize), block * blockSize)
    }
    return Promise.resolve()
  }

  close(): Promise<void> {
    this.#isClosed = true
    return Promise.resolve()
  }

  #run(plan: StepPlan): StepResult {
    this.#options.onPlan?.(plan)
    this.#layout.plan(plan)
    this.numSteps++
    const { blockSize } = this.#options
    for (const { source, destination, numTokens } of plan.blockCopies) {
      this.#pool.copyWithin(destination * blockSize, source * blockSize, source * blockSize + numTokens)
    }
    const inputs = plan.sequences.map((sequence) => this.#inputTokens(sequence))
    // As on a device: every row of the step stores before any row attends.
    for (const [i, sequence] of plan.sequences.entries()) {
      inputs[i]?.forEach((token, j) => (this.#pool[this.#slot(sequence, sequence.startPosition + j)] = token))
    }
    this.#advanceStates(plan, inputs)
    const sequences = plan.sequences.map((sequence, i) => this.#outputs(sequence, inputs[i]?.length ?? 0))
    this.#sampled = sequences.flatMap((sequence) => sequence.tokens)
    return { stepId: plan.stepId, poolId: this.poolId, sequences, gpuMicros: null, kernels: null, computeMs: 0 }
  }

  /** As on a device: a slot that is written and read by two sequences of a step holds either state, or a mixture. */
  #advanceStates({ sequences, stepId }: StepPlan, inputs: readonly (readonly number[])[]): void {
    const written = new Map<number, readonly number[]>()
    for (const [i, sequence] of sequences.entries()) {
      const { state, startPosition } = sequence
      if (state === undefined) continue
      const before = state.read < 0 ? [] : this.#states[state.read]
      const expected = Array.from({ length: startPosition }, (_, p) => this.#pool[this.#slot(sequence, p)])
      if (JSON.stringify(before) !== JSON.stringify(expected))
        throw new Error(`step ${stepId}: slot ${state.read} is not the state after ${startPosition} tokens`)
      if (
        sequences.some((other) => other !== sequence && other.state?.read === state.write) ||
        written.has(state.write)
      )
        throw new Error(`step ${stepId}: slot ${state.write} is used twice`)
      written.set(state.write, [...(before ?? []), ...(inputs[i] ?? [])])
    }
    for (const [slot, tokens] of written) this.#states[slot] = tokens
  }

  #inputTokens({ tokenSource }: SequencePlan): number[] {
    if ('ids' in tokenSource) return [...tokenSource.ids]
    const token = this.#sampled[tokenSource.fromPreviousStep]
    if (token === undefined) throw new Error(`the previous step has no sample row ${tokenSource.fromPreviousStep}`)
    return [token]
  }

  #outputs(sequence: SequencePlan, numInputs: number): StepResult['sequences'][number] {
    const first = sequence.startPosition + numInputs - sequence.sample.length
    const rows = sequence.sample.map((spec, i) => {
      const logits = this.#logits(sequence, first + i)
      const token = this.#sampler.sample(logits, resolvePending(spec, this.#sampled), first + i + 1)
      return { token, logprobs: spec.logprobs < 0 ? null : tokenLogprobs(logits, token, spec.logprobs) }
    })
    const { score } = sequence
    const scores = [...(score?.targets ?? [])].map((target, i) =>
      tokenLogprobs(this.#logits(sequence, sequence.startPosition + i), target, score?.topN ?? 0),
    )
    return { tokens: rows.map((row) => row.token), logprobs: rows.map((row) => row.logprobs), scores }
  }

  /** Logits after the token at `position`: a hash of the context read from the pool. */
  #logits(sequence: SequencePlan, position: number): Float32Array {
    let hash = 0x811c9dc5
    for (let p = Math.max(0, position + 1 - (this.#options.order ?? Infinity)); p <= position; p++) {
      const token = this.#pool[this.#slot(sequence, p)] ?? NEVER_WRITTEN
      if (token === NEVER_WRITTEN) throw new Error(`position ${p} was never written`)
      hash = Math.imul(hash ^ (token + 1), 0x01000193) >>> 0
      hash = (hash ^ (hash >>> 13)) >>> 0
    }
    return Float32Array.from({ length: this.#options.vocabSize }, (_, token) => {
      const mixed = Math.imul((hash ^ Math.imul(token + 1, 0x9e3779b1)) >>> 0, 0x85ebca6b) >>> 0
      return ((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 29
    })
  }

  #slot(sequence: SequencePlan, position: number): number {
    const { blockSize } = this.#options
    const block = sequence.blockTable[Math.floor(position / blockSize)]
    if (block === undefined) throw new Error(`position ${position} is past the block table`)
    return block * blockSize + (position % blockSize)
  }
}
