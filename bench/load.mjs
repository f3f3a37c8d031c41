// How long a model takes to load and how much memory it needs, per gigabyte of its file: for the first time, and from the packed cache.
//   npm run bench -- load [--model FILE] [--shape smollm2-135m] [--type Q8_0] [--device cpu] [--peer PATH_OF_LLAMA_SERVER]
// Without --model a file of random weights in the shape is written. Results: bench/results/load.json
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, tmpdir, totalmem } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { SHAPES, writeGguf } from './_gguf.mjs'
import { startServer } from './_server.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const flag = (name, fallback) => {
  const at = process.argv.indexOf(`--${name}`)
  return at < 0 ? fallback : process.argv[at + 1]
}
const device = flag('device', 'cpu')
const peer = flag('peer', null)
const folder = mkdtempSync(join(tmpdir(), 'miniserve-load-'))

/** The most memory a process has had resident, in bytes; null where the system does not tell. */
function peakBytes(pid) {
  try {
    return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) * 1024
  } catch {
    return null
  }
}

/** llama-server on the same file: seconds until /health is 200, and its peak memory. */
async function measurePeer(path) {
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

try {
  let path = flag('model', null)
  if (path === null) {
    path = join(folder, 'model.gguf')
    writeGguf(path, SHAPES[flag('shape', 'smollm2-135m')], flag('type', 'Q8_0'))
  }
  const { size } = statSync(path)
  const gigabytes = size / 1e9
  const rows = []
  const row = (name, seconds, peak) =>
    rows.push({
      name,
      seconds,
      secondsPerGigabyte: seconds / gigabytes,
      peakBytes: peak,
      peakOverFile: peak === null ? null : peak / size,
    })
  for (const name of ['miniserve, first time', 'miniserve, from the packed cache']) {
    const cache = join(folder, 'cache')
    const server = await startServer(['--model', path, '--device', device, '--cache-dir', cache, '--log-file', ''])
    row(name, server.readyMs / 1000, peakBytes(server.pid))
    await server.stop()
  }
  if (peer !== null) {
    const { seconds, peakBytes: peak } = await measurePeer(path)
    row('llama-server', seconds, peak)
  }
  const report = {
    date: new Date().toISOString(),
    hardware: {
      cpu: cpus()[0]?.model,
      cores: cpus().length,
      memoryGiB: Math.round(totalmem() / 1024 ** 3),
      loadAverage: loadavg()[0],
    },
    node: process.version,
    file: flag('model', null) === null ? `${flag('shape', 'smollm2-135m')} ${flag('type', 'Q8_0')}` : basename(path),
    fileBytes: size,
    device,
    rows,
  }
  mkdirSync(join(root, 'bench', 'results'), { recursive: true })
  writeFileSync(join(root, 'bench', 'results', 'load.json'), `${JSON.stringify(report, null, 2)}\n`)
  console.table(
    rows.map(({ name, seconds, secondsPerGigabyte, peakOverFile }) => ({
      name,
      seconds: Number(seconds.toFixed(2)),
      'seconds per GB': Number(secondsPerGigabyte.toFixed(2)),
      'peak memory over file': peakOverFile === null ? null : Number(peakOverFile.toFixed(2)),
    })),
  )
} finally {
  rmSync(folder, { recursive: true, force: true })
}
