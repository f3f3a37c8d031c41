/**
 * Configuration: flags override the environment, which overrides defaults. One zod schema (settings/) describes all settings; they are parsed
 * once into a frozen object. Nothing else interprets the environment, except for the OTEL_* variables of the OpenTelemetry SDK.
 */
import { homedir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { z } from 'zod'
import { schema, type Setting, SETTINGS } from './settings/settings.ts'

type Fields = z.output<typeof schema>

/** The frozen configuration: every folder is resolved, every quantity has the unit that its name ends in (Ms, Bytes). */
export type Config = Readonly<Omit<Fields, 'cacheDir' | 'dataDir' | 'hfHubCache' | 'hfHome'>> & {
  readonly cacheDir: string
  readonly dataDir: string
  readonly hfHubCache: string
  /** Started by an npm script such as `npm start`: the parent process is npm's shell. */
  readonly isRunByNpm: boolean
}

/** A flag or variable with an unusable value. The CLI prints the message on one line and exits with code 2. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
}

/** The parsed command line. */
export interface CommandLine {
  readonly command: 'serve' | (typeof COMMANDS)[number] | 'help' | 'version'
  readonly positionals: readonly string[]
  readonly config: Config
  /** --level of trace validate; null: the level recorded in the file. */
  readonly level: 'contract' | 'steps' | 'kernels' | null
  /** --strict of rag index. */
  readonly isStrict: boolean
  /** --to of trace convert. */
  readonly to: 'otlp' | 'tempo' | 'grafana' | 'jaeger'
  /** --context of eval perplexity, in tokens; null: the command's default. */
  readonly context: number | null
  /** -p, -n, -r and --json of bench. */
  readonly bench: {
    readonly promptTokens: number
    readonly newTokens: number
    readonly repetitions: number
    readonly isJson: boolean
  }
}

const COMMANDS = ['rag index', 'trace validate', 'trace convert', 'eval perplexity', 'eval choices', 'bench'] as const

type Options = NonNullable<NonNullable<Parameters<typeof parseArgs>[0]>['options']>

/** Flags that belong to single commands and are not settings. */
export const COMMAND_OPTIONS = {
  help: { type: 'boolean', short: 'h' },
  version: { type: 'boolean', short: 'v' },
  level: { type: 'string' },
  strict: { type: 'boolean' },
  to: { type: 'string' },
  context: { type: 'string' },
  'prompt-tokens': { type: 'string', short: 'p' },
  'new-tokens': { type: 'string', short: 'n' },
  repetitions: { type: 'string', short: 'r' },
  json: { type: 'boolean' },
} as const satisfies Options

/** The commands that each flag of COMMAND_OPTIONS belongs to. With any other command the flag is an error. */
const COMMANDS_OF: Readonly<Partial<Record<keyof typeof COMMAND_OPTIONS, readonly CommandLine['command'][]>>> = {
  level: ['trace validate'],
  strict: ['rag index'],
  to: ['trace convert'],
  context: ['eval perplexity'],
  'prompt-tokens': ['bench'],
  'new-tokens': ['bench'],
  repetitions: ['bench'],
  json: ['bench', 'eval perplexity', 'eval choices'],
}

/**
 * Parses the command line over the environment over the defaults.
 * @throws ConfigError naming the flag or variable, what was expected and what was found.
 */
export function parseCommandLine(
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): CommandLine {
  const flags = SETTINGS.filter((setting) => setting.flag !== undefined)
  const options: Options = {
    ...COMMAND_OPTIONS,
  }
  for (const setting of flags) {
    options[setting.flag ?? ''] = { type: setting.isBoolean ? 'boolean' : 'string', multiple: setting.isList }
  }
  const parsed = readArguments(argv, options)
  const [first] = parsed.positionals
  const words =
    first === 'serve' || first === 'help' || first === 'version' ? parsed.positionals.slice(1) : parsed.positionals
  const named = COMMANDS.find((name) => name.split(' ').every((word, i) => words[i] === word))
  const positionals = named ? words.slice(named.split(' ').length) : words
  if (!named && positionals.length > 0) {
    const near = COMMANDS.filter((name) => name.startsWith(`${positionals[0]} `))
    const expected = near.length > 0 ? near : ['serve', ...COMMANDS]
    throw new ConfigError(
      `unknown command "${positionals.join(' ')}": expected ${near.length === 1 ? '' : 'one of '}${expected.join(', ')}`,
    )
  }

  const values: Record<string, unknown> = {}
  for (const setting of SETTINGS) {
    const value = rawValue(setting, parsed.values, env)
    if (value === undefined) continue
    const where = value.from === 'flag' ? `--${setting.flag}` : setting.env
    const result = setting.type.safeParse(value.raw)
    if (!result.success) {
      const expected = result.error.issues[0]?.message ?? 'another value'
      const found = setting.isSecret || setting.isUnquoted ? 'another' : JSON.stringify(value.raw)
      throw new ConfigError(`${where}: expected ${expected}, found ${found}`)
    }
    values[setting.key] = result.data
  }
  const command =
    parsed.values['help'] === true || first === 'help'
      ? 'help'
      : parsed.values['version'] === true || first === 'version'
        ? 'version'
        : (named ?? 'serve')
  requireFlagsOf(command, parsed.values)
  return {
    command,
    positionals,
    config: finish(values, env),
    isStrict: parsed.values['strict'] === true,
    level:
      parsed.values['level'] === undefined
        ? null
        : choice('--level', ['contract', 'steps', 'kernels'], parsed.values['level'], 'contract'),
    to: choice('--to', ['otlp', 'tempo', 'grafana', 'jaeger'], parsed.values['to'], 'otlp'),
    context: parsed.values['context'] === undefined ? null : count('--context', 2, parsed.values['context']),
    bench: {
      promptTokens: count('-p', 0, parsed.values['prompt-tokens'] ?? '512'),
      newTokens: count('-n', 0, parsed.values['new-tokens'] ?? '128'),
      repetitions: count('-r', 1, parsed.values['repetitions'] ?? '5'),
      isJson: parsed.values['json'] === true,
    },
  }
}

/** @throws ConfigError for a flag that belongs to another command */
function requireFlagsOf(command: CommandLine['command'], given: Readonly<Record<string, ParsedValue>>): void {
  if (command === 'help' || command === 'version') return
  for (const [name, commands] of Object.entries(COMMANDS_OF)) {
    if (given[name] === undefined || commands.includes(command)) continue
    const option = Object.entries(COMMAND_OPTIONS).find(([option]) => option === name)?.[1]
    const flag = option && 'short' in option ? `-${option.short}` : `--${name}`
    throw new ConfigError(`${flag}: expected with ${commands.join(' or ')}, found with ${command}`)
  }
}

type ParsedValue = string | boolean | (string | boolean)[] | undefined

function readArguments(
  argv: readonly string[],
  options: Options,
): { values: Readonly<Record<string, ParsedValue>>; positionals: readonly string[] } {
  try {
    return parseArgs({ args: withNumbersJoined(argv, options), options, allowPositionals: true, strict: true })
  } catch (error) {
    throw new ConfigError(argumentProblem(error, options), { cause: error })
  }
}

/** Rewrites `--seed -1` to `--seed=-1`, because parseArgs would take a negative number for a flag. */
function withNumbersJoined(argv: readonly string[], options: Options): string[] {
  const joined: string[] = []
  for (let i = 0; i < argv.length; i++) {
    const [word = '', next] = [argv[i], argv[i + 1]]
    const takesValue = word.startsWith('--') && options[word.slice(2)]?.type === 'string'
    if (takesValue && next !== undefined && /^-\d/.test(next)) {
      joined.push(`${word}=${next}`)
      i++
    } else joined.push(word)
  }
  return joined
}

/** Describes what is wrong with a command line. Node's own message adds advice that does not apply here. */
function argumentProblem(error: unknown, options: Options): string {
  const message = error instanceof Error ? error.message : String(error)
  const code = error instanceof Error && 'code' in error ? error.code : null
  const [, flag = ''] = /'(?:-\w, )?(--?[\w-]+)/.exec(message) ?? []
  if (code === 'ERR_PARSE_ARGS_UNKNOWN_OPTION') {
    const near = nearest(flag.replace(/^-+/, ''), Object.keys(options))
    return `unknown flag ${flag}${near === null ? '' : `; did you mean --${near}?`} (--help lists the flags)`
  }
  const name = flag.replace(/^-+/, '')
  if (code === 'ERR_PARSE_ARGS_INVALID_OPTION_VALUE')
    return options[name]?.type === 'boolean' ? `${flag}: takes no value` : `${flag}: expected a value, found none`
  return `${message.split('. ')[0]?.split('\n')[0]}; --help lists the flags`
}

/** The known flag with the smallest edit distance, if that is small for its length, else one with all words of the given flag; null: there is none. */
function nearest(flag: string, known: readonly string[]): string | null {
  const ranked = known.map((name) => ({ name, distance: editDistance(flag, name) }))
  const best = ranked.reduce((a, b) => (b.distance < a.distance ? b : a))
  // Two of four letters make another word, unless they changed places.
  const allowed = Math.max(best.name[0] === flag[0] ? 2 : 1, Math.floor(best.name.length / 3))
  if (best.distance <= allowed) return best.name
  const words = flag.split('-')
  return known.find((name) => words.every((word) => name.split('-').includes(word))) ?? null
}

/** The Levenshtein distance: the fewest insertions, deletions and substitutions. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const substituted = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      row.push(Math.min(substituted, (previous[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1))
    }
    previous = row
  }
  return previous[b.length] ?? 0
}

function rawValue(
  setting: Setting,
  given: Readonly<Record<string, ParsedValue>>,
  env: Readonly<Record<string, string | undefined>>,
): { raw: unknown; from: 'flag' | 'env' } | undefined {
  const flagged = setting.flag === undefined ? undefined : given[setting.flag]
  if (flagged !== undefined) {
    return { raw: setting.isBoolean ? !setting.flag?.startsWith('no-') : flagged, from: 'flag' }
  }
  const variable = setting.env === undefined ? undefined : env[setting.env]
  if (setting.isSecret && variable !== undefined && /^[\s,]*$/.test(variable)) {
    throw new ConfigError(`${setting.env}: expected a key, found a blank value; unset it to have none`)
  }
  if (variable === undefined || variable === '') return undefined
  return {
    raw: setting.isList
      ? variable
          .split(',')
          .map((part) => part.trim())
          .filter((part) => part !== '')
      : variable,
    from: 'env',
  }
}

function choice<const T extends string>(flag: string, allowed: readonly T[], value: ParsedValue, fallback: T): T {
  if (value === undefined) return fallback
  const found = allowed.find((candidate) => candidate === value)
  if (!found) throw new ConfigError(`${flag}: expected one of ${allowed.join(', ')}, found ${JSON.stringify(value)}`)
  return found
}

function count(flag: string, least: number, value: ParsedValue): number {
  const found = typeof value === 'string' && /^\d{1,7}$/.test(value) ? Number(value) : -1
  if (found < least) {
    throw new ConfigError(`${flag}: expected a whole number of at least ${least}, found ${JSON.stringify(value)}`)
  }
  return found
}

function finish(values: Readonly<Record<string, unknown>>, env: Readonly<Record<string, string | undefined>>): Config {
  // Every given value was parsed above, field by field; only defaults are missing.
  const fields = { ...defaults(), ...values } as Fields
  const home = env['HOME'] ?? homedir()
  const hfHome = fields.hfHome ?? join(env['XDG_CACHE_HOME'] ?? join(home, '.cache'), 'huggingface')
  const tracesOff = isSwitchedOff('MINISERVE_TRACES_ENABLED', env) || env['OTEL_SDK_DISABLED']?.toLowerCase() === 'true'
  const config: Config = {
    ...fields,
    cacheDir: fields.cacheDir ?? join(env['XDG_CACHE_HOME'] ?? join(home, '.cache'), 'miniserve'),
    dataDir: fields.dataDir ?? join(env['XDG_DATA_HOME'] ?? join(home, '.local', 'share'), 'miniserve'),
    hfHubCache: fields.hfHubCache ?? join(hfHome, 'hub'),
    otlpTracesEndpoint: fields.otlpTracesEndpoint ?? (env['OTEL_EXPORTER_OTLP_ENDPOINT'] || null),
    traceDetail: values['traceDetail'] === undefined && tracesOff ? 'off' : fields.traceDetail,
    isRunByNpm: env['npm_lifecycle_event'] === 'start',
  }
  return Object.freeze(config)
}

/** Whether a variable switches off something that is on by default. @throws ConfigError for a value that means neither yes nor no */
function isSwitchedOff(name: string, env: Readonly<Record<string, string | undefined>>): boolean {
  const word = env[name]?.trim().toLowerCase() ?? ''
  if (['false', '0', 'no', 'off'].includes(word)) return true
  if (['', 'true', '1', 'yes', 'on'].includes(word)) return false
  throw new ConfigError(`${name}: expected true or false, found ${JSON.stringify(env[name])}`)
}

function defaults(): Fields {
  return Object.fromEntries(SETTINGS.map((setting) => [setting.key, setting.type.parse(undefined)])) as Fields
}

/** Whether this process serves models of its own: the named or the bundled one, unless all are served by remote engines. */
export function servesLocalModels({ engineUrls, models }: Pick<Config, 'engineUrls' | 'models'>): boolean {
  return engineUrls.length === 0 || models.length > 0
}
