/** The runner in this thread: a StepPlan becomes ops, the ops' numbers a StepResult. */
import { DeviceLostError, type StepOutput } from '../../kernels/ops.ts'
import { GREEDY } from '../../kernels/sampling.ts'
import { type LoadedModel, loadModel } from './model.ts'
import {
  type ModelInfo,
  type ModelRequest,
  type ProgressListener,
  type Runner,
  RunnerError,
  type StepPlan,
  type StepResult,
} from './runner.ts'

class LocalRunner implements Runner {
  readonly #loadModel: typeof loadModel
  #request: ModelRequest | null = null
  /** Settles when the current device is usable; replaced when a lost one is being replaced. */
  #model: Promise<LoadedModel> | null = null
  #loaded: LoadedModel | null = null
  #closed = false

  constructor(load: typeof loadModel) {
    this.#loadModel = load
  }

  async load(request: ModelRequest, onProgress?: ProgressListener): Promise<ModelInfo> {
    if (this.#request !== null) throw new Error('load was called twice')
    this.#request = request
    this.#model = this.#loadModel(request, onProgress)
    const model = await this.#model
    if (this.#closed) {
      await model.backend.close()
      throw closedError()
    }
    if (model.info.device.kind === 'webgpu') await warmUp(model)
    this.#loaded = model
    // The first steps make the buffers of logits and samples.
    return { ...model.info, memory: model.backend.memoryUse() }
  }

  async execute(plan: StepPlan): Promise<StepResult> {
    // Without a wait when the device is there: two calls in a row begin their steps in call order.
    const model = this.#loaded ?? (await this.#current())
    const started = performance.now()
    try {
      const output = await run(model, plan)
      if (this.#closed) throw closedError()
      return toResult(plan, output, performance.now() - started)
    } catch (error) {
      throw this.#translate(error, model)
    }
  }

  async readBlocks(blocks: readonly number[]): Promise<Uint8Array> {
    const model = this.#loaded ?? (await this.#current())
    try {
      return await model.backend.readBlocks(blocks)
    } catch (error) {
      throw this.#translate(error, model)
    }
  }

  async writeBlocks(blocks: readonly number[], bytes: Uint8Array): Promise<void> {
    const model = this.#loaded ?? (await this.#current())
    try {
      await model.backend.writeBlocks(blocks, bytes)
    } catch (error) {
      throw this.#translate(error, model)
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    const loading = this.#model
    this.#loaded = null
    if (loading === null) return
    try {
      const { backend } = await loading
      await backend.close()
    } catch {
      // A load that failed has closed what it opened and told its caller.
    }
  }

  async #current(): Promise<LoadedModel> {
    if (this.#closed) throw closedError()
    if (this.#model === null) throw new RunnerError('engine_error', 'no model is loaded')
    const model = await this.#model
    if (this.#closed) throw closedError()
    return model
  }

  /** The same model on a new device, with an empty KV pool. */
  async #replace(lost: LoadedModel, request: ModelRequest): Promise<LoadedModel> {
    try {
      await lost.backend.close()
    } catch {
      // What is left of a lost device may refuse to be closed.
    }
    const model = await this.#loadModel(request)
    if (!this.#closed) this.#loaded = model
    return model
  }

  /** The RunnerError of a failed step; a lost device is being replaced when this returns. */
  #translate(cause: unknown, lost: LoadedModel): RunnerError {
    if (this.#closed) return closedError()
    if (cause instanceof RunnerError) return cause
    const message = cause instanceof Error ? cause.message : String(cause)
    if (!(cause instanceof DeviceLostError)) return new RunnerError('engine_error', message, { cause })
    // Several steps may report the same loss; the first begins the replacement.
    if (this.#loaded === lost && this.#request !== null) {
      this.#loaded = null
      const replacement = this.#replace(lost, {
        ...this.#request,
        numKvBlocks: lost.info.numKvBlocks,
        maxModelLen: lost.info.maxModelLen,
      })
      this.#model = replacement
      // Handled here so that it is not "unhandled" until the next call finds the rejected promise and reports it.
      void replacement.then(undefined, () => {})
    }
    return new RunnerError('device_lost', `the device was lost: ${message}`, { cause })
  }
}

function closedError(): RunnerError {
  return new RunnerError('closed', 'the runner is closed')
}

/** Issues the whole step before the first await: the order of steps is the order of calls. */
function run({ backend, decoder, layout }: LoadedModel, plan: StepPlan): Promise<StepOutput> {
  const { input, samples, scores } = layout.plan(plan)
  for (const { source, destination, numTokens } of plan.blockCopies) backend.copyBlock(source, destination, numTokens)
  backend.beginStep(input)
  decoder.forward(samples, scores)
  return backend.endStep()
}

/** Row counts of the warm-up: a decode row, a few, and a chunk, which take different kernels. */
const WARM_UP_ROWS = [1, 3, 40]

/**
 * Runs the shapes that requests will run, so that none of them waits for a pipeline to compile. Writes into the first blocks of a pool that
 * nobody uses yet.
 */
async function warmUp(model: LoadedModel): Promise<void> {
  const { blockSize, numKvBlocks, maxNumBatchedTokens, maxModelLen } = model.info
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
          sample: [{ ...GREEDY, temperature, topP: temperature === 0 ? 1 : 0.9 }],
          score: null,
        },
      ]
      await run(model, { stepId: 0, blockCopies: [], sequences })
    }
  }
}

function toResult(plan: StepPlan, output: StepOutput, computeMs: number): StepResult {
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
  return { stepId: plan.stepId, sequences, gpuMicros: output.gpuMicros, kernels: output.kernels, computeMs }
}

/** A runner in the calling thread, for tests and inside the worker. `load` is for tests. */
export function createLocalRunner(load: typeof loadModel = loadModel): Runner {
  return new LocalRunner(load)
}
