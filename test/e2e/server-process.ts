/** The real server: `node dist/main.js` in a process of its own, as a user runs it. */
import './described.ts'
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The program as it is built. */
export const MAIN = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'dist', 'main.js')

export interface LogLine {
  readonly msg: string
  readonly trace_id?: string
  readonly span_id?: string
  readonly [key: string]: unknown
}

/** How the process ended. */
export interface Exit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

export class ServerProcess {
  readonly exited: Promise<Exit>
  private readonly child: ChildProcess
  private readonly output = { stdout: '', stderr: '' }
  private readonly folder: string
  private address: string | null = null
  private hasExited = false
  private readonly parsed: LogLine[] = []
  /** Characters of stdout that are in `parsed`. */
  private numParsed = 0

  /** A server that may not be ready, on any free port; its address is known once it listens. */
  constructor(args: readonly string[], env: Readonly<Record<string, string>> = {}, entry = MAIN) {
    this.folder = mkdtempSync(join(tmpdir(), 'miniserve-e2e-'))
    this.child = spawn(process.execPath, [entry, '--port', '0', ...args], {
      cwd: this.folder,
      env: {
        PATH: process.env['PATH'],
        HOME: this.folder,
        VK_DRIVER_FILES: process.env['VK_DRIVER_FILES'],
        XDG_RUNTIME_DIR: this.folder,
        ...env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    // Each waitForLog is a listener.
    this.child.stdout?.setMaxListeners(0)
    this.exited = new Promise((resolve) =>
      this.child.once('close', (code, signal) => {
        this.hasExited = true
        resolve({ code, signal })
      }),
    )
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => (this.output.stdout += text))
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.output.stderr += text))
  }

  /** Starts the server on a free port and waits for its ready line. Fails with what it printed when it exits instead. */
  static async start(
    args: readonly string[] = [],
    env: Readonly<Record<string, string>> = {},
    entry = MAIN,
  ): Promise<ServerProcess> {
    const server = new ServerProcess(args, env, entry)
    try {
      await server.ready()
      return server
    } catch (error) {
      rmSync(server.folder, { recursive: true, force: true })
      throw error
    }
  }

  async ready(): Promise<void> {
    for (;;) {
      const ready = /ready on (http:\/\/\S+)/.exec(this.output.stderr)
      if (ready?.[1]) {
        this.address = ready[1]
        return
      }
      const more = new Promise<void>((resolve) => this.child.stderr?.once('data', () => resolve()))
      const ended = this.exited.then(({ code, signal }) => {
        throw new Error(
          `the server exited (code ${code}, signal ${signal}) before it was ready:\n${this.output.stderr}\n${this.output.stdout}`,
        )
      })
      await Promise.race([more, ended])
    }
  }

  /** Waits until the server listens. It may still load. */
  async listening(): Promise<void> {
    const { url } = await this.waitForLog(({ msg }) => msg === 'server.listening')
    this.address = String(url)
  }

  get url(): string {
    if (this.address === null) throw new Error('the server does not listen yet: its address is not known')
    return this.address
  }

  get stderr(): string {
    return this.output.stderr
  }

  get pid(): number {
    return this.child.pid ?? 0
  }

  /** Log lines on stdout so far. */
  get logs(): readonly LogLine[] {
    const { stdout } = this.output
    const end = stdout.lastIndexOf('\n') + 1
    if (end > this.numParsed) this.parsed.push(...parseLines(stdout.slice(this.numParsed, end)))
    this.numParsed = end
    return this.parsed
  }

  /** Whether the process runs, or its last lines have not been read. */
  get isOpen(): boolean {
    return !this.hasExited
  }

  /** Resolves when more has come on stdout, or the server has exited. */
  async moreLogs(): Promise<void> {
    const more = new Promise<void>((resolve) => this.child.stdout?.once('data', () => resolve()))
    await Promise.race([more, this.exited])
  }

  /** Lines of the log file so far. */
  get fileLogs(): LogLine[] {
    return parseLines(readFileSync(join(this.folder, 'logs', 'miniserve.log'), 'utf8'))
  }

  /** Waits until the log on stdout has a line that fits. */
  async waitForLog(fits: (line: LogLine) => boolean): Promise<LogLine> {
    for (;;) {
      const found = this.logs.find(fits)
      if (found) return found
      const more = new Promise<void>((resolve) => this.child.stdout?.once('data', () => resolve()))
      const ended = this.exited.then(() => {
        throw new Error('the server exited before the log line came')
      })
      await Promise.race([more, ended])
    }
  }

  /** Waits until stderr holds a text. */
  async waitForStderr(text: string): Promise<void> {
    while (!this.output.stderr.includes(text)) {
      const more = new Promise<void>((resolve) => this.child.stderr?.once('data', () => resolve()))
      const ended = this.exited.then(() => {
        throw new Error(`the server exited before it said ${text}`)
      })
      await Promise.race([more, ended])
    }
  }

  signal(name: NodeJS.Signals): void {
    this.child.kill(name)
  }

  /** SIGTERM, and how it ended. */
  async stop(): Promise<Exit> {
    this.signal('SIGTERM')
    const exit = await this.exited
    rmSync(this.folder, { recursive: true, force: true })
    return exit
  }

  async post(
    path: string,
    body: unknown,
    headers: Readonly<Record<string, string>> = {},
    signal?: AbortSignal,
  ): Promise<Response> {
    return fetch(this.url + path, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
      ...(signal ? { signal } : {}),
    })
  }

  async get(path: string, headers: Readonly<Record<string, string>> = {}): Promise<Response> {
    return fetch(this.url + path, { headers })
  }
}

const parseLines = (text: string): LogLine[] =>
  text
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as LogLine)

/** The data frames of an SSE body; `[DONE]` stays a string. */
export async function readFrames(response: Response): Promise<unknown[]> {
  const text = await response.text()
  return text
    .split('\n\n')
    .filter((frame) => frame.startsWith('data: '))
    .map((frame) => (frame === 'data: [DONE]' ? '[DONE]' : (JSON.parse(frame.slice(6)) as unknown)))
}
