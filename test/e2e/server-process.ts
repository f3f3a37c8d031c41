/** The real server: `node dist/main.js` in a process of its own, as a user runs it. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')

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
  readonly url: string
  readonly exited: Promise<Exit>
  private readonly child: ChildProcess
  private readonly output: { stdout: string; stderr: string }
  private readonly folder: string

  private constructor(
    url: string,
    child: ChildProcess,
    output: { stdout: string; stderr: string },
    exited: Promise<Exit>,
    folder: string,
  ) {
    this.url = url
    this.child = child
    this.output = output
    this.exited = exited
    this.folder = folder
  }

  /** Starts the server on a free port and waits for its ready line. Fails with what it printed when it exits instead. */
  static async start(
    args: readonly string[] = [],
    env: Readonly<Record<string, string>> = {},
    entry = join(root, 'dist', 'main.js'),
  ): Promise<ServerProcess> {
    const folder = mkdtempSync(join(tmpdir(), 'miniserve-e2e-'))
    const child = spawn(process.execPath, [entry, '--port', '0', ...args], {
      cwd: folder,
      env: {
        PATH: process.env['PATH'],
        HOME: folder,
        VK_DRIVER_FILES: process.env['VK_DRIVER_FILES'],
        XDG_RUNTIME_DIR: folder,
        ...env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const output = { stdout: '', stderr: '' }
    const exited = new Promise<Exit>((resolve) => child.once('close', (code, signal) => resolve({ code, signal })))
    child.stdout.setEncoding('utf8').on('data', (text: string) => (output.stdout += text))
    const url = await new Promise<string>((resolve, reject) => {
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        output.stderr += text
        const ready = /ready on (http:\/\/\S+)/.exec(output.stderr)
        if (ready?.[1]) resolve(ready[1])
      })
      void exited.then(({ code, signal }) => {
        reject(
          new Error(
            `the server exited (code ${code}, signal ${signal}) before it was ready:\n${output.stderr}\n${output.stdout}`,
          ),
        )
      })
    }).catch((error: unknown) => {
      rmSync(folder, { recursive: true, force: true })
      throw error
    })
    return new ServerProcess(url, child, output, exited, folder)
  }

  get stderr(): string {
    return this.output.stderr
  }

  get pid(): number {
    return this.child.pid ?? 0
  }

  /** Log lines on stdout so far. */
  get logs(): LogLine[] {
    return parseLines(this.output.stdout)
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
