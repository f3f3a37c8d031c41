// How long a model takes to load and how much memory it needs, per gigabyte of its file: for the first time, and from the packed cache.
//   npm run bench -- load [--model FILE] [--shape smollm2-135m] [--type Q8_0] [--device cpu] [--peer PATH_OF_LLAMA_SERVER]
// Without --model a file of random weights in the shape is written. Results: bench/results/load.json
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import { SHAPES, writeGguf } from './lib/gguf.mjs'
import { run } from './lib/run.mjs'
import { startServer } from './lib/server.mjs'
import { round } from './lib/stats.mjs'

const { values: flags } = parseArgs({
  options: {
    model: { type: 'string' },
    shape: { type: 'string', default: 'smollm2-135m' },
    type: { type: 'string', default: 'Q8_0' },
    device: { type: 'string', default: 'cpu' },
    peer: { type: 'string' },
  },
})
const folder = mkdtempSync(join(tmpdir(), 'miniserve-load-'))

/** The most memory a process has had resident, in bytes; null where the system does not tell. */
function peakBytes(pid) {
  try {
    return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024
  } catch {
    return null
  }
}

/** llama-server on the same file: seconds until /health is 200, and its peak memory. */
async function measurePeer(peer, path) {
  const port = 20_000 + (process.pid % 10_000)
  const startedMs = performance.now()
  const server = spawn(peer, ['-m', path, '--port', String(port), '--host', '127.0.0.1'], { stdio: 'ignore' })
  const exited = new Promise((resolve) => server.once('exit', resolve))
  try {
    for (;;) {
      if (server.exitCode !== null) throw new Error(`${peer} exited with ${server.exitCode}`)
      const isReady = await fetch(`http://127.0.0.1:${port}/health`).then(
        ({ ok }) => ok,
        () => false,
      )
      if (isReady) break
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    return { seconds: (performance.now() - startedMs) / 1000, peakBytes: peakBytes(server.pid) }
  } finally {
    server.kill('SIGTERM')
    await exited
  }
}

await run('load', async (save) => {
  try {
    let path = flags.model
    if (path === undefined) {
      path = join(folder, 'model.gguf')
      writeGguf(path, SHAPES[flags.shape], flags.type)
    }
    const { size } = statSync(path)
    const rows = []
    const add = (name, seconds, peak) =>
      rows.push({
        name,
        seconds: round(seconds),
        secondsPerGigabyte: round(seconds / (size / 1e9)),
        peakBytes: peak,
        peakOverFile: peak === null ? null : round(peak / size),
      })
    for (const name of ['miniserve, first time', 'miniserve, from the packed cache']) {
      const cache = join(folder, 'cache')
      const args = ['--model', path, '--device', flags.device, '--cache-dir', cache, '--log-file', '']
      const server = await startServer(args)
      add(name, server.readyMs / 1000, peakBytes(server.pid))
      await server.stop()
    }
    if (flags.peer !== undefined) {
      const { seconds, peakBytes: peak } = await measurePeer(flags.peer, path)
      add('llama-server', seconds, peak)
    }
    console.table(rows)
    const file = flags.model === undefined ? `${flags.shape} ${flags.type}` : basename(path)
    save({ file, fileBytes: size, device: flags.device, rows })
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})
