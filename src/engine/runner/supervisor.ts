/**
 * Keeps a runner running. A runner that cannot go on, because its device was lost or its thread died, is replaced by one with pools of the same size.
 * Attempts are repeated with growing pauses until one succeeds. Calls wait for the first attempt; after it has failed they are rejected at once.
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

/** A runner that does not recover when it breaks. */
export interface MortalRunner extends Runner {
  /** Resolves with the reason when no further step can run. */
  readonly broken: Promise<Error>
}

const FIRST_PAUSE_MS = 50
/** A driver that resets refuses for seconds, a removed card for ever. Neither should be tried all the time. */
const LONGEST_PAUSE_MS = 30_000

class SupervisedRunner implements Runner {
  readonly #create: () => MortalRunner
  readonly #poolIdStep: number
  /** The request that a replacement is loaded with; null: nothing is loaded yet. */
  #request: ModelRequest | null = null
  /** Identity of the model that sequences and stored KV blocks belong to. */
  #identity = ''
  /** The runner that takes calls; null: none is loaded, or it is broken. */
  #alive: MortalRunner | null = null
  /** The newest runner, loading or running, which `close` closes. */
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
    // Queued sequences were admitted to a pool of this size, and steps are planned for this many rows. The context length is not fixed unless it was
    // requested: it follows from the pool, and a request for a shorter one changes what some models compute.
    const { numKvBlocks, numStateSlots, maxNumBatchedTokens, device } = info
    // The same device, too: on another one, such as a software adapter, all weights would be read only to have another fingerprint.
    const { kind, adapter } = device
    this.#request = { ...request, numKvBlocks, numStateSlots, maxNumBatchedTokens, device: kind, adapter }
    this.#identity = identityOf(info)
    this.#adopt(runner)
    return info
  }

  onProblem(listener: (problem: RunnerProblem | null) => void): void {
    this.#listener = listener
  }

  // Does not await while a runner is there, so that two calls begin their steps in call order.
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

  /** The runner that takes calls. Reads and writes of blocks do not wait for a replacement, whose empty pool would answer with zeros. */
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
    // The broken runner may still hold the device's memory.
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
        `${this.#request.path} is not the model that the server started with: its files, an adapter's files or the driver changed. Restart the server to serve it`,
      )
    }
    return runner
  }

  /** Makes calls wait for this attempt, or reject with its error. */
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

/** Identifies weights, layouts and adapters. A replacement with another identity would continue texts and find KV blocks of a different model. */
function identityOf({ fingerprint, adapters }: ModelInfo): string {
  return [fingerprint, ...adapters.map(({ name, digest }) => `${name} ${digest}`)].join('\n')
}

function closedError(): RunnerError {
  return new RunnerError('closed', 'the runner is closed')
}

/**
 * A runner that outlives the runners that `create` makes. `load` opens the first one, and fails if that fails.
 * @param poolIdStep added to the pool's number for each replacement; above 1 where the runners themselves replace pools and need numbers in between
 */
export function superviseRunner(create: () => MortalRunner, poolIdStep = 1): Runner {
  return new SupervisedRunner(create, poolIdStep)
}
