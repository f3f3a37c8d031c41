/**
 * `--key-file`: keys with a name, a role and limits. The file contains only digests, so it reveals no key. It is read again when it
 * changes; an invalid file leaves the keys unchanged.
 */
import { unwatchFile, watchFile } from 'node:fs'
import { foundInstead, readTextSync } from '../regular-file.ts'
import { z } from 'zod'
import type { SharedAccess } from '../rag/access.ts'
import { INDEX_NAME } from '../rag/vector-index.ts'

export interface KeyLimits {
  readonly requestsPerMinute: number | null
  /** Prompt and generated tokens together. */
  readonly tokensPerMinute: number | null
  /** Concurrent requests. */
  readonly concurrency: number | null
}

export interface FileKey {
  /** Name of the key, for logs and metrics. */
  readonly name: string
  /** SHA-256 of the key. */
  readonly digest: Buffer
  readonly isAdmin: boolean
  readonly limits: KeyLimits
  /** Indexes of the server that the key may use, by name. */
  readonly indexes: ReadonlyMap<string, SharedAccess>
}

/** An invalid key file. The message names the entry, what was expected and what was found. */
class KeyFileError extends Error {
  override readonly name = 'KeyFileError'
}

const matching = (form: RegExp, expected: string) => z.string(expected).regex(form, expected)
const limit = z.int('a whole number of at least 1').min(1, 'a whole number of at least 1').optional()

const keyFile = z.strictObject({
  keys: z
    .array(
      z.strictObject({
        name: matching(/^[A-Za-z0-9._-]{1,64}$/, 'a name of at most 64 of A-Za-z0-9._-'),
        sha256: matching(/^[0-9a-f]{64}$/i, 'the SHA-256 of the key, 64 hex digits').toLowerCase(),
        role: z.enum(['user', 'admin'], 'user or admin').default('user'),
        indexes: z
          .record(matching(INDEX_NAME, 'the name of an index'), z.enum(['read', 'write'], 'read or write'))
          .default({}),
        limits: z
          .strictObject({ requests_per_minute: limit, tokens_per_minute: limit, concurrency: limit })
          .default({}),
      }),
      'a list of keys',
    )
    .min(1, 'at least one key')
    .max(10_000, 'at most 10,000 keys'),
})

/** What was expected, in words that follow "expected". */
function expectedBy(issue: z.core.$ZodIssue | undefined): string {
  if (issue?.code === 'unrecognized_keys') return `known fields, found ${issue.keys[0]}`
  if (issue?.code === 'invalid_key') return 'the name of an index'
  if (issue?.code === 'invalid_type' && (issue.expected === 'object' || issue.expected === 'record')) return 'an object'
  return issue?.message ?? 'another form'
}

/** The keys of a file's text. @throws KeyFileError */
export function parseKeyFile(path: string, text: string): FileKey[] {
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (error) {
    throw new KeyFileError(`${path}: expected JSON, found something else`, { cause: error })
  }
  const parsed = keyFile.safeParse(json)
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    throw new KeyFileError(`${path}: ${issue?.path.join('.') || 'the file'}: expected ${expectedBy(issue)}`)
  }
  const keys = parsed.data.keys.map(({ name, sha256, role, limits, indexes }) => ({
    name,
    digest: Buffer.from(sha256, 'hex'),
    isAdmin: role === 'admin',
    limits: {
      requestsPerMinute: limits.requests_per_minute ?? null,
      tokensPerMinute: limits.tokens_per_minute ?? null,
      concurrency: limits.concurrency ?? null,
    },
    indexes: new Map(
      Object.entries(indexes).map(([index, access]) => [index, access === 'write' ? ('make' as const) : access]),
    ),
  }))
  for (const field of ['name', 'sha256'] as const) {
    const seen = new Set<string>()
    for (const [i, { [field]: value }] of parsed.data.keys.entries()) {
      if (seen.has(value))
        throw new KeyFileError(`${path}: keys.${i}.${field}: expected a unique value, found that of another key`)
      seen.add(value)
    }
  }
  return keys
}

const POLL_MS = 1000

/**
 * Reads a key file now and whenever it changes.
 * @returns the current keys, and an end to the watch
 * @param onChange called with the number of keys, or with the reason why the new file cannot be used.
 * @throws KeyFileError for a file that cannot be used at the start.
 */
export function watchKeyFile(path: string, onChange: (change: number | KeyFileError) => void) {
  const read = (): FileKey[] => {
    let text: string
    try {
      text = readTextSync(path)
    } catch (error) {
      throw new KeyFileError(`${path}: expected a key file, found ${foundInstead(error)}`, { cause: error })
    }
    return parseKeyFile(path, text)
  }
  let keys = read()
  const onStat = (): void => {
    try {
      keys = read()
      onChange(keys.length)
    } catch (error) {
      if (error instanceof KeyFileError) onChange(error)
      else throw error
    }
  }
  // Polling: editors, ConfigMaps and secrets replace files by renaming, which a watch on the file would not notice.
  watchFile(path, { interval: POLL_MS, persistent: false }, onStat)
  return { keys: () => keys, close: () => unwatchFile(path, onStat) }
}
