/**
 * Keeps a runner running: one that cannot go on (its device was lost, its thread died) is replaced by another with a pool of the same size,
 * with growing pauses until one opens. Calls wait for the first attempt; once that has failed they are rejected at once until a later one succeeds.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type ModelInfo,
  type ModelRequest,
  type ProgressListener,
  type Runner,
  RunnerError,
  type RunnerProblem,
  type StepPlan,
  type StepResult,
  type LateMasks,
} from './runner.ts'

/** A runner that ends for good when it breaks. */
export interface MortalRunner extends Runner {
  /** Resolves with the reason when it cannot run any further step; never after `close`. */
  readonly broken: Promise<Error>
}

const FIRST_PAUSE_MS = 50
/** Drivers that reset refuse for seconds, a card that is gone for good: neither should be asked all the time. */
const LONGEST_PAUSE_MS = 30_000

class SupervisedRunner implements Runner {
  readonly #create: () => MortalRunner
  readonly #poolIdStep: number
  /** What a replacement is loaded with; null: nothing is loaded yet. */
  #request: ModelRequest | null = null
  /** Of the model that sequences and KV blocks elsewhere belong to. */
  #identity = ''
  /** null: nothing is loaded, or what was loaded is broken. */
  #alive: MortalRunner | null = null
  /** The one that is being opened or runs: closed with this. */
  #latest: MortalRunner | null = null
  #opening: Promise<MortalRunner> = Promise.reject(new RunnerError('engine_error', 'no model is loaded'))
  #recovery: Promise<void> = Promise.resolve()
  readonly #closed = new AbortController()
  #problem: RunnerProblem | null = null
  #listener: (problem: RunnerProblem | null) => void = () => {}

  constructor(create: () => MortalRunner, poolIdStep: number) {
    this.#create = create
    this.#poolIdStep = poolIdStep
    this.#opening.catch(() => {})
  }

  async load(request: ModelRequest, onProgress?: ProgressListener): Promise<ModelInfo> {
    if (this.#latest !== null) throw new Error('load was called twice')
    const runner = this.#create()
    this.#latest = runner
    const info = await runner.load(request, onProgress)
    if (this.#closed.signal.aborted) throw closedError()
    // Sequences in the queue were admitted to this pool, and steps are planned for this many rows. A context that nobody asked for stays so: it
    // follows from the pool, and some models compute otherwise where they are asked for a shorter one.
    const { numKvBlocks, numStateSlots, maxNumBatchedTokens, device } = info
    // Another device, or a software adapter, taken while this one is away, would read all weights only to be another model.
    const { kind, adapter } = device
    this.#request = { ...request, numKvBlocks, numStateSlots, maxNumBatchedTokens, device: kind, adapter }
    this.#identity = identityOf(info)
    this.#adopt(runner)
    return info
  }

  onProblem(listener: (problem: RunnerProblem | null) => void): void {
    this.#listener = listener
  }

  // No wait where a runner is there: two calls in a row begin their steps in call order.
  async execute(plan: StepPlan, masks?: Promise<LateMasks>): Promise<StepResult> {
    return (this.#alive ?? (await this.#current())).execute(plan, masks)
  }

  async readBlocks(blocks: readonly number[], poolId?: number): Promise<Uint8Array> {
    return this.#present().readBlocks(blocks, poolId)
  }

  async writeBlocks(blocks: readonly number[], bytes: Uint8Array, poolId?: number): Promise<void> {
    return this.#present().writeBlocks(blocks, bytes, poolId)
  }

  async close(): Promise<void> {
    this.#closed.abort()
    this.#alive = null
    await this.#latest?.close()
    await this.#recovery
  }

  /** The runner that is there. Blocks are asked of the pool that holds them: another one that takes its place would answer with zeros. */
  #present(): MortalRunner {
    if (this.#closed.signal.aborted) throw closedError()
    if (this.#alive !== null) return this.#alive
    if (this.#request === null) throw new RunnerError('engine_error', 'no model is loaded')
    throw new RunnerError('pool_replaced', 'the KV pool of this step was lost')
  }

  async #current(): Promise<MortalRunner> {
    if (this.#closed.signal.aborted) throw closedError()
    const runner = await this.#opening
    if (this.#closed.signal.aborted) throw closedError()
    return runner
  }

  #adopt(runner: MortalRunner): void {
    this.#alive = runner
    this.#opening = Promise.resolve(runner)
    this.#tell(null)
    runner.onProblem?.((problem) => this.#tell(problem))
    void runner.broken.then((error) => {
      if (this.#closed.signal.aborted || this.#alive !== runner) return
      this.#alive = null
      this.#recovery = this.#recover(runner, error)
    })
  }

  /** Opens replacements until one runs. Never rejects. */
  async #recover(broken: MortalRunner, error: Error): Promise<void> {
    const { signal } = this.#closed
    this.#tell({ reason: `${error.message}; it is being restarted`, isFatal: false })
    let last = broken
    for (let numFailures = 0; !signal.aborted; numFailures++) {
      const attempt = this.#reopen(last)
      if (numFailures === 0) this.#hold(attempt)
      try {
        this.#adopt(await attempt)
        return
      } catch (cause) {
        if (signal.aborted) return
        const message = cause instanceof Error ? cause.message : String(cause)
        const reason = `${error.message}; it could not be restarted (attempt ${numFailures + 1}): ${message}`
        this.#hold(Promise.reject(new RunnerError('device_lost', reason, { cause })))
        this.#tell({ reason, isFatal: true })
        last = this.#latest ?? broken
        const pauseMs = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** numFailures)
        await sleep(pauseMs, undefined, { signal, ref: false }).catch(() => {})
      }
    }
  }

  async #reopen(last: MortalRunner): Promise<MortalRunner> {
    // What is left of it may hold the device's memory.
    await last.close().catch(() => {})
    if (this.#closed.signal.aborted || this.#request === null) throw closedError()
    const runner = this.#create()
    this.#latest = runner
    this.#request = { ...this.#request, poolId: (this.#request.poolId ?? 0) + this.#poolIdStep }
    const info = await runner.load(this.#request)
    if (this.#closed.signal.aborted) throw closedError()
    if (identityOf(info) !== this.#identity) {
      await runner.close()
      throw new RunnerError(
        'engine_error',
        `${this.#request.path} is not what was loaded at the start: its files, an adapter's or the driver changed. Restart the server to serve it`,
      )
    }
    return runner
  }

  /** Calls wait for this, or learn from it. */
  #hold(opening: Promise<MortalRunner>): void {
    this.#opening = opening
    opening.catch(() => {})
  }

  #tell(problem: RunnerProblem | null): void {
    if (problem === this.#problem) return
    this.#problem = problem
    this.#listener(problem)
  }
}

/** Weights, layouts and adapters: a replacement with others would continue texts, and find KV blocks, of a model that is gone. */
function identityOf({ fingerprint, adapters }: ModelInfo): string {
  return [fingerprint, ...adapters.map(({ name, digest }) => `${name} ${digest}`)].join('\n')
}

function closedError(): RunnerError {
  return new RunnerError('closed', 'the runner is closed')
}

/**
 * A runner that outlives those that `create` makes. `load` opens the first and fails as that one does. Each replacement's pool gets a number of
 * its own, `poolIdStep` after the last one's: larger where those that `create` makes replace pools themselves.
 */
export function superviseRunner(create: () => MortalRunner, poolIdStep = 1): Runner {
  return new SupervisedRunner(create, poolIdStep)
}
