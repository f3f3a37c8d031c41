// node-llama-cpp in a process of its own, measured on request: {file, gpu, threads, prompt, tokens, batches} first, then {batch}.
import { getLlama, LlamaLogLevel } from 'node-llama-cpp'

let run = null

async function load({ file, gpu, threads, prompt, tokens, batches }) {
  const llama = await getLlama({ gpu, build: 'never', logLevel: LlamaLogLevel.error, maxThreads: threads })
  const devices = llama.gpu === false ? [] : await llama.getGpuDeviceNames()
  // Without a device it would compute on the CPU, and say nothing.
  if (gpu !== false && devices.length === 0) throw new Error(`its ${gpu} build finds no device`)
  const model = await llama.loadModel({ modelPath: file, gpuLayers: gpu === false ? 0 : 'max' })
  const most = Math.max(...batches)
  const context = await model.createContext({
    contextSize: prompt + tokens + 8,
    sequences: most,
    batchSize: 512,
    threads,
    flashAttention: true,
  })
  const sequences = Array.from({ length: most }, () => context.getSequence())
  const ids = (seed) => Array.from({ length: prompt }, (_, i) => 300 + ((i * 7 + seed * 13) % 1000))
  run = async (batch) => {
    const used = sequences.slice(0, batch)
    let started = performance.now()
    await Promise.all(used.map((sequence, i) => sequence.evaluateWithoutGeneratingNewTokens(ids(i))))
    const prefillMs = performance.now() - started
    started = performance.now()
    let drawn = 0
    await Promise.all(
      used.map(async (sequence) => {
        let count = 0
        const stream = sequence.evaluate([300], { temperature: 0, yieldEogToken: true })
        while (count < tokens && !(await stream.next()).done) count++
        await stream.return()
        drawn += count
      }),
    )
    const decodeMs = performance.now() - started
    await Promise.all(used.map((sequence) => sequence.clearHistory()))
    return { prefill: (batch * prompt * 1000) / prefillMs, decode: (drawn * 1000) / decodeMs }
  }
  return { gpu: llama.gpu, devices, threads: context.currentThreads, systemInfo: llama.systemInfo }
}

process.on('message', (message) => {
  const answer = message.file === undefined ? run(message.batch) : load(message)
  answer.then(
    (value) => process.send({ value }),
    (error) => process.send({ error: String(error?.stack ?? error) }),
  )
})
