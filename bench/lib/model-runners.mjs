// What bench/model.mjs compares: miniserve's runner in its worker thread, and node-llama-cpp in a process of its own. Both are measured alike:
// measure(batch) prefills `batch` prompts, decodes `tokens` tokens of each side by side, and gives tokens per second of either phase.
import { fork } from 'node:child_process'
import { existsSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { GREEDY } from '#dist/kernels/sampling.js'
import { createLocalRunner } from '#dist/engine/runner/local.js'
import { createWorkerRunner } from '#dist/engine/runner/worker-runner.js'
import { root } from './run.mjs'

const BLOCK_SIZE = 16
/** A peer that says nothing for so long hangs: its process is ended. */
const PEER_SECONDS = 300

/** Ours, loaded, with the plans of its steps. `prompt` and `tokens` are the longest that will be asked for. */
async function open(runner, { file, device, threads, prompt, tokens, mostSequences, traceKernels = false }) {
  const blocksPerSequence = Math.ceil((prompt + tokens + 2) / BLOCK_SIZE)
  const started = performance.now()
  const info = await runner.load({
    path: file,
    device,
    quantization: 'none',
    maxModelLen: blocksPerSequence * BLOCK_SIZE,
    maxNumSeqs: mostSequences,
    maxNumBatchedTokens: 512,
    blockSize: BLOCK_SIZE,
    numKvBlocks: blocksPerSequence * mostSequences,
    threads,
    traceKernels,
    cacheDir: null,
  })
  const loadMs = performance.now() - started
  let stepId = 0
  const blockTable = (sequence) =>
    Int32Array.from({ length: blocksPerSequence }, (_, i) => sequence * blocksPerSequence + i)
  const plan = (sequences) => ({ stepId: stepId++, blockCopies: [], sequences })

  /** The steps that prefill one sequence. */
  const prefillPlans = (sequence, length) =>
    Array.from({ length: Math.ceil(length / 512) }, (_, chunk) => {
      const at = chunk * 512
      const ids = Int32Array.from(
        { length: Math.min(512, length - at) },
        (_, i) => 300 + (((at + i) * 7 + sequence * 13) % 1000),
      )
      const sample = at + ids.length === length ? [GREEDY] : []
      return plan([{ tokenSource: { ids }, startPosition: at, blockTable: blockTable(sequence), sample, score: null }])
    })
  /** Decode step `i` after a prompt: each step's token is the one before's, which may still be on the device. */
  const decodePlan = (batch, promptLength, i) =>
    plan(
      Array.from({ length: batch }, (_, sequence) => ({
        tokenSource: i === 0 ? { ids: Int32Array.of(300) } : { fromPreviousStep: sequence },
        startPosition: promptLength + i,
        blockTable: blockTable(sequence),
        sample: [GREEDY],
        score: null,
      })),
    )
  return { info, loadMs, prefillPlans, decodePlan }
}

/** Ours in its worker thread. `measure` takes steps two in flight, as the engine does, unless told otherwise. */
export async function loadOurs(options) {
  const { device, prompt, tokens } = options
  const runner = createWorkerRunner()
  const { info, loadMs, prefillPlans, decodePlan } = await open(runner, options)

  async function measure(batch, lengths = { prompt, tokens }, inFlight = 2) {
    let started = performance.now()
    for (let sequence = 0; sequence < batch; sequence++) {
      for (const plan of prefillPlans(sequence, lengths.prompt)) await runner.execute(plan)
    }
    const prefillMs = performance.now() - started
    const steps = []
    started = performance.now()
    for (let i = 0; i < lengths.tokens; i++) {
      steps.push(runner.execute(decodePlan(batch, lengths.prompt, i)))
      if (steps.length === inFlight) await steps.shift()
    }
    await Promise.all(steps)
    const decodeMs = performance.now() - started
    return { prefill: (batch * lengths.prompt * 1000) / prefillMs, decode: (batch * lengths.tokens * 1000) / decodeMs }
  }
  return { name: `miniserve ${device}`, info, loadMs, measure, close: () => runner.close() }
}

const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length

/**
 * Where the time of a step goes, in this thread: of a whole prefill and of a decode step at batch 1, the host's part (from the plan to the
 * submit), the device's, the dispatches, and device time by kernel. Kernels are traced in a run of their own: a pass for each dispatch costs.
 */
export async function profileOurs(options) {
  const DECODE_STEPS = 8
  /** @type {Record<string, any>} */
  const profile = { prefill: {}, decode: {} }
  for (const traceKernels of [false, true]) {
    const runner = createLocalRunner()
    try {
      const tokens = DECODE_STEPS
      const { prefillPlans, decodePlan } = await open(runner, { ...options, tokens, mostSequences: 1, traceKernels })
      const execute = async (plan) => {
        const started = performance.now()
        // Everything up to the submit happens before the promise is returned.
        const pending = runner.execute(plan)
        const hostMs = performance.now() - started
        const { gpuMicros, kernels } = await pending
        return { hostMs, stepMs: performance.now() - started, gpuMs: (gpuMicros ?? NaN) / 1000, kernels }
      }
      /** @type {Record<'prefill' | 'decode', any[]>} */
      const phases = { prefill: [], decode: [] }
      for (const plan of prefillPlans(0, options.prompt)) phases.prefill.push(await execute(plan))
      for (let i = 0; i < DECODE_STEPS; i++) phases.decode.push(await execute(decodePlan(1, options.prompt, i)))
      for (const [phase, steps] of Object.entries(phases)) {
        if (!traceKernels) {
          const [hostMs, stepMs, gpuMs] = ['hostMs', 'stepMs', 'gpuMs'].map((key) => average(steps.map((s) => s[key])))
          Object.assign(profile[phase], { hostMs, stepMs, gpuMs, hostShare: hostMs / stepMs })
          continue
        }
        const kernels = new Map()
        for (const { kernel, micros, count } of steps.flatMap((step) => step.kernels ?? [])) {
          const sum = kernels.get(kernel) ?? { kernel, milliseconds: 0, dispatches: 0 }
          sum.milliseconds += micros / 1000 / steps.length
          sum.dispatches += count / steps.length
          kernels.set(kernel, sum)
        }
        profile[phase].kernels = [...kernels.values()].toSorted((a, b) => b.milliseconds - a.milliseconds)
        profile[phase].dispatches = profile[phase].kernels.reduce((sum, { dispatches }) => sum + dispatches, 0)
      }
    } finally {
      await runner.close()
    }
  }
  return profile
}

/** node-llama-cpp over the same file; gpu: false or 'vulkan'. Rejects when it cannot run here, or says nothing for PEER_SECONDS. */
export async function loadPeer({ file, gpu, threads, prompt, tokens, batches }) {
  if (!existsSync(join(root, 'bench', 'peers', 'node_modules')))
    throw new Error('it is not installed: npm ci in bench/peers')
  const child = fork(join(root, 'bench', 'peers', 'llama.mjs'), {
    stdio: ['ignore', 2, 2, 'ipc'],
    env:
      gpu === false
        ? // Its CPU build looks at Vulkan drivers all the same, and a software one can hang it.
          { ...process.env, VK_DRIVER_FILES: '/nonexistent' }
        : // It passes over software adapters unless a device is named.
          { GGML_VK_VISIBLE_DEVICES: '0', ...process.env },
  })
  const close = () => {
    child.kill('SIGKILL')
  }
  const ask = (message) =>
    new Promise((resolve, reject) => {
      const settle = (finish) => {
        clearTimeout(timer)
        child.off('exit', onExit)
        child.off('message', onMessage)
        finish()
      }
      const onExit = (code, signal) => settle(() => reject(new Error(`it ended with ${signal ?? `code ${code}`}`)))
      const onMessage = ({ value, error }) =>
        settle(() => (error === undefined ? resolve(value) : reject(new Error(error))))
      const timer = setTimeout(() => {
        settle(() => reject(new Error(`no answer within ${PEER_SECONDS} s`)))
        close()
      }, PEER_SECONDS * 1000)
      if (child.exitCode !== null || child.signalCode !== null) {
        settle(() => reject(new Error('it has ended')))
        return
      }
      child.once('exit', onExit)
      child.once('message', onMessage)
      child.send(message)
    })
  try {
    const info = await ask({
      file,
      gpu,
      threads: threads ?? Math.min(8, availableParallelism()),
      prompt,
      tokens,
      batches,
    })
    return {
      name: `node-llama-cpp ${gpu === false ? 'cpu' : gpu}`,
      info,
      measure: (batch) => ask({ batch }),
      close,
    }
  } catch (error) {
    close()
    throw error
  }
}
