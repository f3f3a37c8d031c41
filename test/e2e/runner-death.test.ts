/** A runner whose thread dies is replaced, or ends the process: never a server that fails every request behind a green probe. */
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { ServerProcess } from './server-process.ts'

const FAULT = { NODE_OPTIONS: `--import ${fileURLToPath(new URL('./faults/runner.mjs', import.meta.url))}` }

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
