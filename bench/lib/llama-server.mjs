// llama-server beside ours, on the same file, for comparisons in one run.
import { spawn } from 'node:child_process'

/**
 * Starts llama-server on a port of its own; resolves when /health is 200.
 * @param {string} program its path
 * @param {string} model a .gguf file
 * @param {readonly string[]} args further arguments
 * @returns `url`, `pid`, `readyMs` since the start, `stop()`
 */
export async function startLlamaServer(program, model, args = []) {
  const port = 20_000 + (process.pid % 10_000)
  const url = `http://127.0.0.1:${port}`
  const startedMs = performance.now()
  const server = spawn(program, ['-m', model, '--port', String(port), '--host', '127.0.0.1', ...args], {
    stdio: 'ignore',
  })
  const exited = new Promise((resolve) => server.once('exit', resolve))
  const stop = async () => {
    server.kill('SIGTERM')
    await exited
  }
  const isReady = () =>
    fetch(`${url}/health`).then(
      ({ ok }) => ok,
      () => false,
    )
  try {
    while (!(await isReady())) {
      if (server.exitCode !== null) throw new Error(`${program} exited with ${server.exitCode}`)
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    return { url, pid: server.pid, readyMs: performance.now() - startedMs, stop }
  } catch (error) {
    await stop()
    throw error
  }
}
