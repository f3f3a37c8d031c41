#!/usr/bin/env node
/** The CLI: parses the command line and runs the command. Messages for people go to stderr, JSON log lines to stdout. */
import './parent-process.ts'
import { readFileSync } from 'node:fs'
import { type CommandLine, ConfigError, parseCommandLine, servesLocalModels } from './config.ts'
import { helpText } from './config-help.ts'
import { startAhead } from './engine/runner/runner-thread.ts'
import type { BuildInfo } from './serve.ts'

/** Runs a command; returns the exit code: 0 done, 1 failed, 2 wrong usage. Each command imports its own code, so a wrong flag is reported before the server loads. */
async function run(commandLine: CommandLine, build: BuildInfo): Promise<number> {
  const { command, positionals } = commandLine
  switch (command) {
    case 'help':
      process.stdout.write(helpText())
      return 0
    case 'version':
      process.stdout.write(`miniserve ${build.version}${build.revision ? ` (${build.revision})` : ''}\n`)
      return 0
    case 'serve':
      if (servesLocalModels(commandLine.config)) startAhead(commandLine.config.device)
      // The runner's thread loads its modules at the same time, and a module loader opens all files of a level of imports at once.
      // In two steps the start needs fewer than 140 open files instead of up to 180.
      await import('./observability/observability.ts')
      return (await import('./serve.ts')).serve(commandLine.config, build)
    case 'rag index':
      return (await import('./retrieval-setup.ts')).indexDocuments(commandLine, positionals)
    case 'eval perplexity':
    case 'eval choices':
      return (await import('./model-commands.ts')).evaluate(commandLine, oneFile(command, positionals))
    case 'bench':
      return (await import('./model-commands.ts')).benchmark(commandLine)
    case 'trace validate': {
      const file = oneFile(command, positionals)
      const { validateTraceFile } = await import('./observability/trace-files.ts')
      const { ok, breaches } = validateTraceFile(file, commandLine.level)
      process.stdout.write(breaches.map((breach) => `${breach}\n`).join(''))
      process.stderr.write(ok ? 'the trace is valid\n' : `${breaches.length} breaches\n`)
      return ok ? 0 : 1
    }
    case 'trace convert': {
      const file = oneFile(command, positionals)
      const { convertTraceFile } = await import('./observability/trace-files.ts')
      process.stdout.write(convertTraceFile(file, commandLine.to))
      return 0
    }
    default:
      throw new Error(`unknown command ${String(command satisfies never)}`)
  }
}

function oneFile(command: string, positionals: readonly string[]): string {
  const [file, ...rest] = positionals
  if (file !== undefined && rest.length === 0) return file
  throw new ConfigError(`${command}: expected one file, found ${positionals.length}`)
}

function readBuildInfo(): BuildInfo {
  const read = (path: string): unknown => JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8'))
  try {
    return read('./build-info.json') as BuildInfo
  } catch {
    return { version: (read('../package.json') as { version: string }).version, revision: null }
  }
}

/** How long handles that are still open after a command (a download, a collector that does not answer) may delay the exit. */
const LINGER_MS = 500

try {
  process.exitCode = await run(parseCommandLine(process.argv.slice(2), process.env), readBuildInfo())
} catch (error) {
  // Expected failures print one line. Anything else is a bug in this program and prints its stack.
  const isExpected =
    error instanceof Error &&
    [
      'ConfigError',
      'ModelError',
      'RagError',
      'TraceFormatError',
      'StartError',
      'PluginError',
      'EvaluationError',
      'KeyFileError',
    ].includes(error.name)
  process.stderr.write(
    `miniserve: ${isExpected ? error.message : error instanceof Error ? error.stack : String(error)}\n`,
  )
  process.exitCode = error instanceof ConfigError ? 2 : 1
}
setTimeout(() => process.exit(), LINGER_MS).unref()
