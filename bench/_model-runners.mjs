// What bench/model.mjs compares: miniserve's runner in its worker thread, and node-llama-cpp in a process of its own. Both are measured alike:
// measure(batch) prefills `batch` prompts, decodes `tokens` tokens of each side by side, and gives tokens per second of either phase.
import { fork } from 'node:child_process'
import { existsSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { GREEDY } from '../dist/kernels/sampling.js'
import { createWorkerRunner } from '../dist/engine/runner/worker-runner.js'

const here = dirname(fileURLToPath(import.meta.url))
const BLOCK_SIZE = 16
/** A peer that says nothing for so long hangs: its process is ended. */
const PEER_SECONDS = 300

/** Ours. `prompt` and `tokens` are the longest that `measure` will be asked for. */
export async function loadOurs({ file, device, threads, prompt, tokens, mostSequences }) {
  const blocksPerSequence = Math.ceil((prompt + tokens + 2) / BLOCK_SIZE)
  const runner = createWorkerRunner()
  const started = performance.now()
  const info = await runner.load({
    path: file,
    device,
    quantization: 'none',
    kernelSet: 'invariant',
    retune: false,
    maxModelLen: blocksPerSequence * BLOCK_SIZE,
    maxNumSeqs: mostSequences,
    maxNumBatchedTokens: 512,
    blockSize: BLOCK_SIZE,
    numKvBlocks: blocksPerSequence * mostSequences,
    threads,
    traceKernels: false,
    cacheDir: null,
  })
  const loadMs = performance.now() - started
  let stepId = 0
  const blockTable = (sequence) =>
    Int32Array.from({ length: blocksPerSequence }, (_, i) => sequence * blocksPerSequence + i)
  const plan = (sequences) => ({ stepId: stepId++, blockCopies: [], sequences })

  async function measure(batch, lengths = { prompt, tokens }) {
    let started = performance.now()
    for (let sequence = 0; sequence < batch; sequence++) {
      for (let at = 0; at < lengths.prompt; at += 512) {
        const ids = Int32Array.from(
          { length: Math.min(512, lengths.prompt - at) },
          (_, i) => 300 + (((at + i) * 7 + sequence * 13) % 1000),
        )
        const sample = at + ids.length === lengths.prompt ? [GREEDY] : []
        const one = { tokenSource: { ids }, startPosition: at, blockTable: blockTable(sequence), sample, score: null }
        await runner.execute(plan([one]))
      }
    }
    const prefillMs = performance.now() - started
    const step = (i) =>
      runner.execute(
        plan(
          Array.from({ length: batch }, (_, sequence) => ({
            tokenSource: i === 0 ? { ids: Int32Array.of(300) } : { fromPreviousStep: sequence },
            startPosition: lengths.prompt + i,
            blockTable: blockTable(sequence),
            sample: [GREEDY],
            score: null,
          })),
        ),
      )
    // Two steps in flight, as the engine runs them.
    started = performance.now()
    let previous = step(0)
    for (let i = 1; i < lengths.tokens; i++) {
      const next = step(i)
      await previous
      previous = next
    }
    await previous
    const decodeMs = performance.now() - started
    return { prefill: (batch * lengths.prompt * 1000) / prefillMs, decode: (batch * lengths.tokens * 1000) / decodeMs }
  }
  return { name: `miniserve ${device}`, info, loadMs, measure, close: () => runner.close() }
}

/** node-llama-cpp over the same file; gpu: false or 'vulkan'. Rejects when it cannot run here, or says nothing for PEER_SECONDS. */
export async function loadPeer({ file, gpu, threads, prompt, tokens, batches }) {
  if (!existsSync(join(here, 'peers', 'node_modules'))) throw new Error('it is not installed: npm ci in bench/peers')
  const child = fork(join(here, 'peers', 'llama.mjs'), {
    stdio: ['ignore', 2, 2, 'ipc'],
    // Its CPU build looks at Vulkan drivers all the same, and a software one can hang it.
    env: gpu === false ? { ...process.env, VK_DRIVER_FILES: '/nonexistent' } : process.env,
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
