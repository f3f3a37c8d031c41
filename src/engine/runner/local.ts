/** The runner in this thread: a StepPlan becomes ops, the ops' numbers a StepResult. */
import { type Backend, DeviceLostError } from '../../kernels/backend.ts'
import type { StepInput, StepOutput } from '../../kernels/ops.ts'
import { GREEDY } from '../../kernels/sampling.ts'
import { type LoadedModel, loadModel } from './model.ts'
import {
  type LateMasks,
  type ModelInfo,
  type ModelRequest,
  type ProgressListener,
  type Runner,
  RunnerError,
  type StepPlan,
  type StepResult,
} from './runner.ts'
import { type MortalRunner, superviseRunner } from './supervisor.ts'

/** Steps in a row that fail for whatever reason before the device is opened again: one that fails all of them serves nobody. */
const MAX_FAILED_STEPS = 3

class LocalRunner implements MortalRunner {
  readonly broken: Promise<Error>
  readonly #loadModel: typeof loadModel
  #poolId = 0
  #break: (error: Error) => void = () => {}
  #loading: Promise<LoadedModel> | null = null
  #warmed: Promise<void> | null = null
  /** Aborted by `close`: what is being loaded is for nothing. */
  readonly #abandoned = new AbortController()
  #model: LoadedModel | null = null
  #numFailedSteps = 0
  /** Until the last call that waits for masks, or for one that does, is issued; null: there is none. */
  #issuing: Promise<void> | null = null
  /** Why no step can run any more. */
  #ended: RunnerError | null = null
  #closing: Promise<void> | null = null

  constructor(load: typeof loadModel) {
    this.#loadModel = load
    this.broken = new Promise((resolve) => (this.#break = resolve))
  }

  async load(request: ModelRequest, onProgress?: ProgressListener): Promise<ModelInfo> {
    this.#poolId = request.poolId ?? 0
    this.#loading = this.#loadModel(request, onProgress, this.#abandoned.signal)
    this.#warmed = this.#loading.then((model) => warmUp(model, this.#abandoned.signal))
    try {
      await this.#warmed
    } catch (error) {
      throw this.#ended ?? error
    }
    const model = await this.#loading
    this.#model = model
    // The first steps make the buffers of logits and samples.
    return { ...model.info, memory: model.backend.memoryUse() }
  }

  async execute(plan: StepPlan, masks?: Promise<LateMasks>): Promise<StepResult> {
    const model = this.#current(plan.poolId)
    const started = performance.now()
    try {
      // Steps begin in the order of calls: at once, where none before is waiting for masks.
      const isFree = masks === undefined && this.#issuing === null
      const output = await (isFree
        ? this.#run(model, plan)
        : this.#runInTurn(model, plan, masks).then((step) => step.output))
      if (this.#ended !== null) throw this.#ended
      this.#numFailedSteps = 0
      return toResult(plan, output, performance.now() - started, this.#poolId)
    } catch (error) {
      const failure = this.#translate(error)
      // A plan that was refused says nothing about the device.
      if (!(error instanceof RunnerError) && ++this.#numFailedSteps >= MAX_FAILED_STEPS) this.#fail(failure)
      throw failure
    }
  }

  async readBlocks(blocks: readonly number[], poolId?: number): Promise<Uint8Array> {
    return this.#transfer(poolId, (backend) => backend.readBlocks(blocks))
  }

  async writeBlocks(blocks: readonly number[], bytes: Uint8Array, poolId?: number): Promise<void> {
    await this.#transfer(poolId, (backend) => backend.writeBlocks(blocks, bytes))
  }

  /** Blocks to or from the pool, after the steps that were called before and before those that are called later. */
  async #transfer<T>(poolId: number | undefined, issued: (backend: Backend) => Promise<T>): Promise<T> {
    const { backend } = this.#current(poolId)
    try {
      if (this.#issuing === null) return await issued(backend)
      const transfer = await this.#inTurn(poolId, () => ({ output: issued(backend) }))
      return await transfer.output
    } catch (error) {
      throw this.#translate(error)
    }
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    this.#ended ??= new RunnerError('closed', 'the runner is closed')
    this.#abandoned.abort(this.#ended)
    try {
      // A device that is destroyed, or a process that ends, while a driver compiles for it takes the process down.
      await this.#warmed?.catch(() => {})
      await (await this.#loading)?.backend.close()
    } catch {
      // A load that failed has closed what it opened and told its caller; what is left of a lost device may refuse to be closed.
    }
  }

  #current(poolId = this.#poolId): LoadedModel {
    if (this.#ended !== null) throw this.#ended
    if (this.#model === null) throw new RunnerError('engine_error', 'no model is loaded')
    if (poolId !== this.#poolId) throw new RunnerError('pool_replaced', 'the KV pool of this step was lost')
    return this.#model
  }

  /** Issues the whole step before the first await: the order of steps is the order of calls. */
  #run(model: LoadedModel, plan: StepPlan): Promise<StepOutput> {
    const planned = model.layout.plan(plan)
    return this.#whole(() => issue(model, plan, planned))
  }

  /** Issues a call after those before that wait for masks, and before those that follow. What is awaited later is inside an object. */
  async #inTurn<T extends object>(poolId: number | undefined, issued: () => T | Promise<T>): Promise<T> {
    const before = this.#issuing
    let end = (): void => {}
    const turn = new Promise<void>((resolve) => (end = resolve))
    this.#issuing = turn
    try {
      if (before !== null) {
        await before
        // What the call before it gave is passed on first: a step on the cpu keeps this thread busy to its end.
        await new Promise((resolve) => setImmediate(resolve))
        this.#current(poolId)
      }
      return await issued()
    } finally {
      if (this.#issuing === turn) this.#issuing = null
      end()
    }
  }

  /** A step in turn, waiting for its own masks after its layers. */
  #runInTurn(
    model: LoadedModel,
    plan: StepPlan,
    masks: Promise<LateMasks> | undefined,
  ): Promise<{ readonly output: Promise<StepOutput> }> {
    return this.#inTurn(plan.poolId, async () => {
      if (masks === undefined) return { output: this.#run(model, plan) }
      const { input, samples, scores } = model.layout.plan(plan)
      this.#whole(() => {
        begin(model, plan, input)
        model.decoder.layers(input)
        model.backend.flush?.()
      })
      const found = await masks
      this.#current(plan.poolId)
      const masked = samples.map((sample, row) => {
        const mask = found.get(row)
        return mask === undefined ? sample : { ...sample, spec: { ...sample.spec, mask } }
      })
      return this.#whole(() => {
        model.decoder.outputs(masked, scores)
        return { output: model.backend.endStep() }
      })
    })
  }

  /** Where it throws, half a step is noted in the backend, copies of blocks among it, and nobody knows which: not another one may follow it. */
  #whole<T>(issued: () => T): T {
    try {
      return issued()
    } catch (error) {
      this.#fail(error)
      throw error
    }
  }

  /** The RunnerError of a failed call; a lost device ends this runner. */
  #translate(cause: unknown): RunnerError {
    if (this.#ended?.code === 'closed') return this.#ended
    if (cause instanceof RunnerError) return cause
    if (cause instanceof DeviceLostError) return this.#fail(cause)
    return new RunnerError('engine_error', messageOf(cause), { cause })
  }

  /** No further step. */
  #fail(cause: unknown): RunnerError {
    this.#ended ??= new RunnerError('device_lost', `the device was lost: ${messageOf(cause)}`, { cause })
    this.#break(this.#ended)
    return this.#ended
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

function begin({ backend }: LoadedModel, plan: StepPlan, input: StepInput): void {
  for (const { source, destination, numTokens } of plan.blockCopies) backend.copyBlock(source, destination, numTokens)
  backend.beginStep(input)
}

function issue(
  model: LoadedModel,
  plan: StepPlan,
  { input, samples, scores }: ReturnType<LoadedModel['layout']['plan']>,
): Promise<StepOutput> {
  begin(model, plan, input)
  model.decoder.layers(input)
  model.decoder.outputs(samples, scores)
  return model.backend.endStep()
}

/** Row counts of the warm-up: a decode row, a few, as many as one decode tile takes, and a chunk, which take different kernels. */
const WARM_UP_ROWS = [1, 3, 8, 40]

/**
 * Runs the shapes that requests will run, so that none of them waits for a pipeline to compile. Writes into the first blocks of a pool that
 * nobody uses yet.
 */
async function warmUp(model: LoadedModel, signal: AbortSignal): Promise<void> {
  if (model.info.device.kind !== 'webgpu') return
  const { blockSize, numKvBlocks, numStateSlots, maxNumBatchedTokens, maxModelLen } = model.info
  const mostRows = Math.min(numKvBlocks * blockSize, maxNumBatchedTokens, maxModelLen)
  for (const rows of WARM_UP_ROWS) {
    const numRows = Math.min(rows, mostRows)
    const blockTable = Int32Array.from({ length: Math.ceil(numRows / blockSize) }, (_, i) => i)
    for (const temperature of [0, 1]) {
      const sequences = [
        {
          tokenSource: { ids: new Int32Array(numRows) },
          startPosition: 0,
          blockTable,
          ...(numStateSlots === 0 ? {} : { state: { read: -1, write: 0 } }),
          sample: [{ ...GREEDY, temperature, topP: temperature === 0 ? 1 : 0.9 }],
          score: null,
        },
      ]
      const plan = { stepId: 0, blockCopies: [], sequences }
      signal.throwIfAborted()
      await issue(model, plan, model.layout.plan(plan))
    }
  }
}

function toResult(plan: StepPlan, output: StepOutput, computeMs: number, poolId: number): StepResult {
  let sampleAt = 0
  let scoreAt = 0
  const sequences = plan.sequences.map(({ sample, score }) => {
    const numScores = score?.targets.length ?? 0
    const result = {
      tokens: [...output.sampled.subarray(sampleAt, sampleAt + sample.length)],
      logprobs: output.sampledLogprobs.slice(sampleAt, sampleAt + sample.length),
      scores: output.scores.slice(scoreAt, scoreAt + numScores),
    }
    sampleAt += sample.length
    scoreAt += numScores
    return result
  })
  return { stepId: plan.stepId, poolId, sequences, gpuMicros: output.gpuMicros, kernels: output.kernels, computeMs }
}

/** A runner in the calling thread, for tests and inside the worker; a lost device is replaced. `load` is for tests. */
export function createLocalRunner(load: typeof loadModel = loadModel): Runner {
  return superviseRunner(() => new LocalRunner(load))
}
