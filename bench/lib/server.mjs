// A server to measure: `miniserve` in a process and a folder of its own.
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const main = fileURLToPath(new URL('../../dist/main.js', import.meta.url))

/**
 * Starts a server on a free port; resolves when it is ready.
 * @param {readonly string[]} args further arguments
 * @param {string | null} keptFolder where it runs; without one a new folder, gone with the server
 * @returns `url`, `pid`, `readyMs` since the start, `stop()`
 */
export async function startServer(args = [], keptFolder = null) {
  const folder = keptFolder ?? mkdtempSync(join(tmpdir(), 'miniserve-bench-'))
  const startedMs = performance.now()
  const server = spawn(process.execPath, [main, '--port', '0', ...args], {
    cwd: folder,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const exited = new Promise((resolve) => server.once('exit', resolve))
  const stop = async () => {
    server.kill('SIGTERM')
    await exited
    if (keptFolder === null) rmSync(folder, { recursive: true, force: true })
  }
  try {
    const url = await new Promise((resolve, reject) => {
      let text = ''
      server.stderr.on('data', (chunk) => {
        text += chunk
        const ready = /ready on (\S+)/.exec(text)
        if (ready) resolve(ready[1])
      })
      server.once('exit', (code) => reject(new Error(`the server exited with ${code}: ${text}`)))
    })
    return { url, pid: server.pid, readyMs: performance.now() - startedMs, stop }
  } catch (error) {
    await stop()
    throw error
  }
}
