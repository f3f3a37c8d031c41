/** A runner whose thread dies is replaced, or ends the process: never a server that fails every request behind a green probe. */
import { homedir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { hasAdapter } from '../../src/kernels/webgpu/device.ts'
import { ServerProcess } from './server-process.ts'

const isFull = (process.env['MINISERVE_TEST_LEVEL'] ?? 'default') !== 'default'
const fault = (name: string) => ({
  NODE_OPTIONS: `--import ${fileURLToPath(new URL(`./faults/${name}.mjs`, import.meta.url))}`,
})
const FAULT = fault('runner')

const complete = (server: ServerProcess, body: object, headers: Record<string, string> = {}) =>
  fetch(`${server.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify({ prompt: 'The river', max_tokens: 5, ...body }),
  })

it('a thread that dies fails what it ran, is named by /ready and the log, and is replaced', async () => {
  const server = await ServerProcess.start([], FAULT)
  try {
    const before = (await (await complete(server, { temperature: 0 })).json()) as { choices: { text: string }[] }
    const endless = { max_tokens: 2000, n: 16, ignore_eos: true, stream: true }
    const running = await complete(server, endless, { 'x-fault': 'runner' })
    expect(await running.text()).toContain('"error"')
    await server.waitForLog(({ msg, where }) => msg === 'engine.problem' && where === 'runner')
    await server.waitForLog(({ msg }) => msg === 'engine.recovered')
    expect((await fetch(`${server.url}/ready`)).status).toBe(200)
    const again = async () => ((await (await complete(server, { temperature: 0 })).json()) as typeof before).choices
    expect(await again()).toMatchObject([{ text: before.choices[0]?.text }])
    // Nothing runs this time: nobody has to notice.
    await fetch(`${server.url}/health`, { headers: { 'x-fault': 'runner' } })
    await server.waitForLog(
      ({ msg }) => msg === 'engine.recovered' && server.logs.filter((line) => line.msg === msg).length === 2,
    )
    expect(await again()).toMatchObject([{ text: before.choices[0]?.text }])
  } finally {
    server.signal('SIGTERM')
  }
  expect(await server.exited).toEqual({ code: 0, signal: null })
})

it('a thread that dies ends the process with --on-fatal exit', async () => {
  const server = await ServerProcess.start(['--on-fatal=exit'], FAULT)
  await complete(server, { max_tokens: 2000, ignore_eos: true, stream: true }, { 'x-fault': 'runner' })
  expect(await server.exited).toEqual({ code: 1, signal: null })
  expect(server.stderr).toContain('miniserve: the engine cannot go on: ')
})

/** Steps without a pause until all its tokens are there. */
const ENDLESS = { max_tokens: 2000, n: 16, ignore_eos: true, stream: true }

// Dawn aborts the process where a thread ends while it waits for a buffer.
it.runIf(isFull && (await hasAdapter()))(
  'on a GPU, a thread that dies in the middle of a step is replaced, and a crash or a stop there ends the process as elsewhere',
  { timeout: 300_000 },
  async () => {
    const start = async (name: string) => {
      const server = await ServerProcess.start(['--device=webgpu', '--shutdown-timeout=0'], {
        ...fault(name),
        MESA_SHADER_CACHE_DIR: join(homedir(), '.cache'),
      })
      const running = await complete(server, ENDLESS, name === 'runner' ? { 'x-fault': 'runner' } : {})
      return { server, text: running.text().catch(() => '') }
    }
    const dying = await start('runner')
    expect(await dying.text).toContain('"error"')
    await dying.server.waitForLog(({ msg }) => msg === 'engine.recovered')
    expect((await complete(dying.server, {})).status).toBe(200)
    const again = await complete(dying.server, ENDLESS)
    dying.server.signal('SIGTERM')
    await again.text().catch(() => '')
    expect(await dying.server.exited).toEqual({ code: 0, signal: null })

    const { server, text } = await start('requests')
    await complete(server, {}, { 'x-fault': 'crash' }).catch(() => {})
    await text
    expect(await server.exited).toEqual({ code: 1, signal: null })
  },
)
