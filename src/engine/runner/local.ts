/** The runner in this thread: turns a StepPlan into ops, and their results into a StepResult. */
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

/** After this many failed steps in a row, whatever the reason, the device is opened again. */
const MAX_FAILED_STEPS = 3

class LocalRunner implements MortalRunner {
  readonly broken: Promise<Error>
  readonly #loadModel: typeof loadModel
  #poolId = 0
  #break: (error: Error) => void = () => {}
  #loading: Promise<LoadedModel> | null = null
  #warmed: Promise<void> | null = null
  /** Aborted by `close`, which ends a load under way. */
  readonly #abandoned = new AbortController()
  #model: LoadedModel | null = null
  #numFailedSteps = 0
  /** Resolves when the last call is issued that waits for masks, or for such a call; null: no call waits. */
  #issuing: Promise<void> | null = null
  /** Why no step can run any more; null: steps can run. */
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
    // The warm-up's steps allocate the buffers of logits and samples, which count too.
    return { ...model.info, memory: model.backend.memoryUse() }
  }

  async execute(plan: StepPlan, masks?: Promise<LateMasks>): Promise<StepResult> {
    const model = this.#current(plan.poolId)
    const started = performance.now()
    try {
      // Steps begin in call order: at once, if no earlier call waits for masks.
      const isFree = masks === undefined && this.#issuing === null
      const output = await (isFree
        ? this.#run(model, plan)
        : this.#runInTurn(model, plan, masks).then((step) => step.output))
      if (this.#ended !== null) throw this.#ended
      this.#numFailedSteps = 0
      return toResult(plan, output, performance.now() - started, this.#poolId)
    } catch (error) {
      const failure = this.#translate(error)
      // An invalid plan says nothing about the device.
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

  /** Reads or writes blocks after all steps of earlier calls, and before those of later calls. */
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
      // Destroying a device, or ending the process, while a driver compiles for it crashes the process.
      await this.#warmed?.catch(() => {})
      await (await this.#loading)?.backend.close()
    } catch {
      // A failed load has closed what it opened and rejected its call. A lost device may refuse to be closed.
    }
  }

  #current(poolId = this.#poolId): LoadedModel {
    if (this.#ended !== null) throw this.#ended
    if (this.#model === null) throw new RunnerError('engine_error', 'no model is loaded')
    if (poolId !== this.#poolId) throw new RunnerError('pool_replaced', 'the KV pool of this step was lost')
    return this.#model
  }

  /** Issues the whole step before the first await, so that steps run in call order. */
  #run(model: LoadedModel, plan: StepPlan): Promise<StepOutput> {
    const planned = model.layout.plan(plan)
    return this.#whole(() => issue(model, plan, planned))
  }

  /**
   * Issues a call after earlier calls that wait for masks, and before later calls. `issued` returns an object, so that a promise inside it is not awaited
   * here.
   */
  async #inTurn<T extends object>(poolId: number | undefined, issued: () => T | Promise<T>): Promise<T> {
    const before = this.#issuing
    let end = (): void => {}
    const turn = new Promise<void>((resolve) => (end = resolve))
    this.#issuing = turn
    try {
      if (before !== null) {
        await before
        // The earlier call's result is delivered first, since a step on the cpu blocks this thread until it ends.
        await new Promise((resolve) => setImmediate(resolve))
        this.#current(poolId)
      }
      return await issued()
    } finally {
      if (this.#issuing === turn) this.#issuing = null
      end()
    }
  }

  /** Runs a step after the calls before it, and waits for its masks after its layers. */
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

  /** Calls `issued`. If it throws, the backend may hold part of a step, such as copies of blocks, so that no step may follow. */
  #whole<T>(issued: () => T): T {
    try {
      return issued()
    } catch (error) {
      this.#fail(error)
      throw error
    }
  }

  /** The RunnerError for a failed call. A lost device ends this runner. */
  #translate(cause: unknown): RunnerError {
    if (this.#ended?.code === 'closed') return this.#ended
    if (cause instanceof RunnerError) return cause
    if (cause instanceof DeviceLostError) return this.#fail(cause)
    return new RunnerError('engine_error', messageOf(cause), { cause })
  }

  /** Ends this runner: no further step runs. */
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

/** Row counts of the warm-up, each of which uses other kernels: one decode row, a few, a whole decode tile, a chunk of a prompt. */
const WARM_UP_ROWS = [1, 3, 8, 40]

/**
 * Runs steps of the shapes that requests will have, so that no request waits for a pipeline to compile. Writes to the first blocks of the pool, which is
 * not in use yet.
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

/** A runner in the calling thread, for tests and inside the worker. A lost device is replaced. @param load replaced by tests only */
export function createLocalRunner(load: typeof loadModel = loadModel): Runner {
  return superviseRunner(() => new LocalRunner(load))
}
