/** The command line and the package, as a user meets them. */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { afterAll, describe, expect, it } from 'vitest'
import { ServerProcess } from './server-process.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const main = join(root, 'dist', 'main.js')
const folder = mkdtempSync(join(tmpdir(), 'miniserve-cli-'))

afterAll(() => rmSync(folder, { recursive: true, force: true }))

const run = (args: readonly string[], entry = main) =>
  spawnSync(process.execPath, [entry, ...args], {
    cwd: folder,
    encoding: 'utf8',
    timeout: 60_000,
    env: { ...process.env, HOME: folder },
  })

/** On a machine that is busy, loading takes long enough to be shown. */
const withoutProgress = (stderr: string) => stderr.replaceAll(/^loading weights: \d+ %\n/gm, '')

describe('usage', () => {
  it.each([['--help'], ['help']])('%s lists the flags on stdout', (command) => {
    const { status, stdout } = run([command])
    expect(status).toBe(0)
    expect(stdout).toContain('--max-num-batched-tokens')
  })

  it.each([['--version'], ['version']])('%s', (command) => {
    expect(run([command])).toMatchObject({ status: 0, stdout: expect.stringMatching(/^miniserve 0\.1\.0/) as string })
  })

  it.each([[['--prot', '1']], [['--port', 'x']], [['wat']], [['trace', 'validate']]])(
    '%j: one line on stderr and exit code 2',
    (args) => {
      const { status, stdout, stderr } = run(args)
      expect(status).toBe(2)
      expect(stdout).toBe('')
      expect(stderr.trim().split('\n')).toHaveLength(1)
    },
  )

  it.each([
    ['validate', './nowhere.json', 'miniserve: ./nowhere.json: expected a trace file, found no such file\n'],
    ['convert', './nowhere.json', 'miniserve: ./nowhere.json: expected a trace file, found no such file\n'],
    ['validate', '.', 'miniserve: .: expected a trace file, found a folder\n'],
  ])('trace %s %s: one line and exit code 1', (command, file, message) => {
    expect(run(['trace', command, file])).toMatchObject({ status: 1, stdout: '', stderr: message })
  })

  it.each([
    [['--embedding-model', './nope'], 'miniserve: --embedding-model ./nope: no such folder or file\n'],
    [
      ['--kv-cache-dir', '/dev/null/kv'],
      'miniserve: --kv-cache-dir /dev/null/kv: cannot be written (ENOTDIR); name a folder that this user may write\n',
    ],
  ])('%j: one line that says what to do, and exit code 1', (args, message) => {
    const { status, stderr } = run(['--port', '0', ...args])
    expect({ status, stderr: withoutProgress(stderr) }).toEqual({ status: 1, stderr: message })
  })
})

it('npm start: the server stops when npm and its shell are ended, even while it loads', async () => {
  // Its first module is evaluated, and nothing else yet.
  const first = pathToFileURL(join(root, 'dist', 'parent-process.js')).href
  const started = `data:text/javascript,import ${JSON.stringify(first)};process.stderr.write('started')`
  // A shell as npm has it, which waits for the server and passes no signal on.
  const shell = spawn('sh', ['-c', `"${process.execPath}" "${main}" --port 0 --device reference; true`], {
    cwd: folder,
    env: {
      PATH: process.env['PATH'],
      HOME: folder,
      npm_lifecycle_event: 'start',
      NODE_OPTIONS: `--import ${encodeURI(started).replaceAll("'", '%27')}`,
    },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let stderr = ''
  for await (const text of shell.stderr.setEncoding('utf8')) {
    stderr += String(text)
    if (stderr.includes('started')) shell.kill('SIGTERM')
  }
  // The pipe has ended: so has the server, which held the other end.
  expect(stderr).toContain('started')
})

it('a checkpoint that is not there: one clear message and exit code 1', () => {
  const { status, stdout, stderr } = run(['--port', '0', '--model', './nowhere'])
  // Probes are answered while the model loads, so the log has the address; nothing else.
  expect({ status, stdout }).toEqual({ status: 1, stdout: expect.stringMatching(/^.*"msg":"server.listening"\}\n$/) })
  expect(stderr).toMatch(/^miniserve: .*nowhere.*\n$/)
})

describe('the package', () => {
  it('packs everything it needs to serve, and nothing it does not; starts and stops in plain words', async () => {
    const listing = execFileSync('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder], {
      cwd: root,
      encoding: 'utf8',
    })
    const [packed] = JSON.parse(listing) as { filename: string; files: { path: string }[] }[]
    const paths = packed?.files.map((file) => file.path) ?? []
    expect(paths.filter((path) => /\.test\.|^src\/|^test\/|^bench\//.test(path))).toEqual([])
    const installed = join(folder, 'installed')
    mkdirSync(installed)
    execFileSync('tar', ['-xzf', join(folder, packed?.filename ?? ''), '-C', installed])
    symlinkSync(join(root, 'node_modules'), join(installed, 'package', 'node_modules'))
    const server = await ServerProcess.start([], {}, join(installed, 'package', 'dist', 'main.js'))
    // A good start says one line, a port that is taken another, and a stop that waits says for what.
    expect(withoutProgress(server.stderr).trim().split('\n')).toHaveLength(1)
    const { status, stdout, stderr } = run(['--port', new URL(server.url).port])
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' })
    expect(stderr).toMatch(/^miniserve: .*the port is taken.*\n$/)
    // An address of documentation (RFC 5737), which no machine has.
    expect(run(['--host', '203.0.113.1', '--insecure']).stderr).toMatch(/the address is not one of this machine\n$/)
    const long = { prompt: 'The river', max_tokens: 4000, ignore_eos: true, stream: true }
    const response = await server.post('/v1/completions', long)
    expect(response.status).toBe(200)
    await response.body?.getReader().read()
    server.signal('SIGINT')
    await server.waitForLog(({ msg }) => msg === 'server.draining')
    server.signal('SIGINT')
    expect(await server.exited).toEqual({ code: null, signal: 'SIGINT' })
    expect(server.stderr).toContain(
      'miniserve: stopping; 1 request runs for at most 25 s more. Ctrl-C again ends them now.',
    )
  })
})
