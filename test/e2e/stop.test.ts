/** A graceful stop waits for answers, never for connections that serve nothing. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { hasAdapter } from '../../src/kernels/webgpu/device.ts'
import { ServerProcess } from './server-process.ts'

const isFull = (process.env['MINISERVE_TEST_LEVEL'] ?? 'default') !== 'default'

/** Waiting for its deadline, the server would outlast the test. */
const PATIENT = ['--shutdown-timeout', '3600']

async function open(server: ServerProcess): Promise<Socket> {
  const { hostname, port } = new URL(server.url)
  const socket = connect(Number(port), hostname)
  await once(socket, 'connect')
  return socket
}

it('connections without a request, kept alive, or in the middle of a head do not hold a stop', async () => {
  const server = await ServerProcess.start(PATIENT)
  const fresh = await open(server)
  const kept = await open(server)
  kept.write('GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await once(kept, 'data')
  const half = await open(server)
  half.write('POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n')
  const ended = Promise.all([fresh, kept, half].map((socket) => once(socket.resume(), 'close')))
  server.signal('SIGTERM')
  expect(await server.exited).toEqual({ code: 0, signal: null })
  await ended
})

it('pipelined requests are all answered before their connection closes', async () => {
  const server = await ServerProcess.start(PATIENT)
  const socket = await open(server)
  const body = JSON.stringify({ prompt: 'The river', max_tokens: 100, ignore_eos: true })
  const request = `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`
  let text = ''
  socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
  socket.write(request + request)
  await server.waitForLog(({ msg }) => msg === 'request.received')
  const closed = once(socket, 'close')
  server.signal('SIGTERM')
  await closed
  expect(text.match(/HTTP\/1\.1 \d+/g)).toEqual(['HTTP/1.1 200', expect.stringMatching(/HTTP\/1\.1 (200|503)/)])
  expect(text.match(/"completion_tokens": ?100/g)?.length).toBeGreaterThanOrEqual(1)
  expect(await server.exited).toEqual({ code: 0, signal: null })
})

const FAULT = { NODE_OPTIONS: `--import ${fileURLToPath(new URL('./faults/compile.mjs', import.meta.url))}` }

it.runIf(isFull && (await hasAdapter()))(
  'a stop while a driver compiles kernels waits for those in hand and ends cleanly',
  { timeout: 120_000 },
  async () => {
    const server = new ServerProcess(['--device=webgpu'], { MESA_SHADER_CACHE_DISABLE: 'true', ...FAULT })
    await server.waitForStderr('compiling')
    server.signal('SIGTERM')
    expect(await server.exited).toEqual({ code: 0, signal: null })
  },
)
