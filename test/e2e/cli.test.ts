/** The command line and the package, as a user meets them. */
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, it } from 'vitest'
import { ServerProcess } from './server-process.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const main = join(root, 'dist', 'main.js')
const folder = mkdtempSync(join(tmpdir(), 'miniserve-cli-'))
const bundled =
  /BUNDLED_MODEL = join\(MODELS, '([^']+)'\)/.exec(readFileSync(join(root, 'src', 'model-loading.ts'), 'utf8'))?.[1] ??
  ''

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
  it('--help lists the flags on stdout', () => {
    const { status, stdout } = run(['--help'])
    expect(status).toBe(0)
    expect(stdout).toContain('--max-num-batched-tokens')
  })

  it('--version', () => {
    expect(run(['--version']).stdout).toMatch(/^miniserve 0\.1\.0/)
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
    [['help'], /^usage: miniserve/],
    [['version'], /^miniserve 0\.1\.0/],
  ])('%j is a command, too', (args, expected) => {
    expect(run(args)).toMatchObject({ status: 0, stdout: expect.stringMatching(expected) as string })
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

  it('a good start says one line, and a stop that waits says for what', async () => {
    const server = await ServerProcess.start()
    expect(withoutProgress(server.stderr).trim().split('\n')).toHaveLength(1)
    const response = await server.post('/v1/completions', {
      prompt: 'x',
      max_tokens: 4000,
      ignore_eos: true,
      stream: true,
    })
    const reader = response.body?.getReader()
    await reader?.read()
    server.signal('SIGINT')
    await server.waitForLog(({ msg }) => msg === 'server.draining')
    server.signal('SIGINT')
    expect(await server.exited).toMatchObject({ code: 130 })
    expect(server.stderr).toContain(
      'miniserve: stopping; 1 request runs for at most 25 s more. Ctrl-C again ends them now.',
    )
  })

  it('a port that is taken: one line and exit code 1', async () => {
    const server = await ServerProcess.start()
    try {
      const { status, stdout, stderr } = run(['--port', new URL(server.url).port])
      expect({ status, stdout }).toEqual({ status: 1, stdout: '' })
      expect(stderr).toMatch(/^miniserve: .*the port is taken.*\n$/)
    } finally {
      await server.stop()
    }
  })
})

describe('a checkpoint that cannot be served', () => {
  const broken = (name: string, damage: (path: string) => void): string => {
    const path = join(folder, name)
    cpSync(join(root, 'models', bundled), path, { recursive: true })
    damage(path)
    return path
  }
  const edit = (path: string, change: (config: Record<string, unknown>) => void) => {
    const file = join(path, 'config.json')
    const config = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>
    change(config)
    writeFileSync(file, JSON.stringify(config))
  }

  it.each<[string, (path: string) => void, RegExp]>([
    ['truncated weights', (path) => truncateSync(join(path, 'model.safetensors'), 100_000), /model\.safetensors/],
    [
      'a header of nonsense',
      (path) => writeFileSync(join(path, 'model.safetensors'), Buffer.alloc(64, 0xff)),
      /model\.safetensors/,
    ],
    ['no config', (path) => rmSync(join(path, 'config.json')), /config\.json/],
    ['a config that is not JSON', (path) => writeFileSync(join(path, 'config.json'), '{'), /config\.json/],
    ['another hidden size', (path) => edit(path, (config) => (config['hidden_size'] = 256)), /found \[/],
    [
      'more layers than weights',
      (path) => edit(path, (config) => (config['num_hidden_layers'] = 60)),
      /expected|missing/,
    ],
    [
      'an unknown architecture',
      (path) =>
        edit(path, (config) => Object.assign(config, { architectures: ['MambaForCausalLM'], model_type: 'mamba' })),
      /[Mm]amba/,
    ],
    ['no tokenizer', (path) => rmSync(join(path, 'tokenizer.json')), /tokenizer\.json/],
  ])('%s: one clear message and exit code 1', (name, damage, message) => {
    const { status, stderr } = run([
      '--port',
      '0',
      '--device',
      'reference',
      '--model',
      broken(name.replaceAll(' ', '-'), damage),
    ])
    expect(status).toBe(1)
    expect(stderr).toMatch(message)
    expect(stderr).not.toMatch(/^\s+at /m)
  })

  it('nothing there', () => {
    const { status, stdout, stderr } = run(['--port', '0', '--model', './nowhere'])
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' })
    expect(stderr).toMatch(/^miniserve: .*nowhere.*\n$/)
  })
})

describe('the package', () => {
  it('packs everything it needs to serve, and nothing it does not', async () => {
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
    try {
      const response = await server.post('/v1/completions', { prompt: 'The river', max_tokens: 4 })
      expect(response.status).toBe(200)
    } finally {
      expect(await server.stop()).toEqual({ code: 0, signal: null })
    }
  })
})
