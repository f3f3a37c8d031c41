/** API keys: who may call, which traces a caller may see, and the salt that separates callers in the prefix cache. */
import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { makeFolder, readBytesSync } from '../regular-file.ts'
import { SERVER_ACCESS, type IndexAccess } from '../rag/access.ts'
import type { FileKey, KeyLimits } from './key-file.ts'

/** The caller of a request. `keyId` is a short digest, safe for metrics and logs. */
export interface Caller {
  readonly keyId: string
  readonly isAdmin: boolean
  /** Prefix-cache salt: callers with different keys never share blocks. */
  readonly cacheSalt: string
  /** Limits of the key file; null: no limits. */
  readonly limits: KeyLimits | null
  /** The document indexes that the caller may use. */
  readonly indexes: IndexAccess
}

export interface Keys {
  /** The caller whose key is in the headers; null if a key is required and none is valid. */
  authenticate(authorization: string | undefined, xApiKey: string | undefined): Caller | null
  /** Whether requests can come from more than one caller. */
  readonly hasSeveral: boolean
  /** Whether there is a key to sign in with. */
  readonly canSignIn: boolean
  /** The session that replaces this key in a browser until `expiresMs` (Date.now()); null if the key is not known. */
  openSession(key: string, expiresMs: number): string | null
  /** The caller of a session; null if it is forged or has expired, or its key is no longer known. */
  resumeSession(session: string): Caller | null
}

/** The admin may use the server's indexes and those of every key, other keys their own and shared ones. */
const indexAccess = (keyId: string, isAdmin: boolean, sharedAccess: IndexAccess['sharedAccess']): IndexAccess =>
  isAdmin ? { ...SERVER_ACCESS, isAdmin } : { tenant: keyId, isAdmin, sharedAccess }

const digest = (value: string): Buffer => createHash('sha256').update(value).digest()

interface KnownKey {
  readonly digest: Buffer
  readonly caller: Caller
}

/** Creates the keys. Without any, every caller is the same anonymous one. @param fileKeys the current keys of the key file */
export function createKeys(options: {
  readonly keys: readonly string[]
  readonly adminKey: string | null
  readonly secret: Buffer
  readonly fileKeys?: (() => readonly FileKey[]) | null
}): Keys {
  const { fileKeys = null } = options
  const numFixed = options.keys.length + (options.adminKey === null ? 0 : 1)
  const hasSeveral = fileKeys !== null || numFixed > (options.keys.length === 0 ? 0 : 1)
  const saltOf = (secret: string) => createHmac('sha256', options.secret).update(secret).digest('hex')
  const callerOf = (key: string, isAdmin: boolean): Caller => {
    const keyId = key === '' ? 'anonymous' : digest(key).toString('hex').slice(0, 12)
    const access = () => (hasSeveral ? 'read' : 'change')
    const indexes = key === '' ? SERVER_ACCESS : indexAccess(keyId, isAdmin, access)
    return { keyId, isAdmin, cacheSalt: saltOf(key), limits: null, indexes }
  }
  const tenantOf = ({ name, digest: hash, isAdmin, limits, indexes }: FileKey): Caller => ({
    keyId: name,
    isAdmin,
    cacheSalt: saltOf(`sha256:${hash.toString('hex')}`),
    limits,
    indexes: indexAccess(name, isAdmin, (index) => indexes.get(index) ?? null),
  })
  const knownKey = (key: string, isAdmin: boolean): KnownKey => ({
    digest: digest(key),
    caller: callerOf(key, isAdmin),
  })
  const fixed = [
    ...options.keys.map((key) => knownKey(key, false)),
    ...(options.adminKey === null ? [] : [knownKey(options.adminKey, true)]),
  ]
  let current: readonly FileKey[] = []
  let known: readonly KnownKey[] = fixed
  /** The current keys. Those of the key file may change. */
  function all(): readonly KnownKey[] {
    const inFile = fileKeys?.() ?? []
    if (inFile === current) return known
    current = inFile
    known = [...fixed, ...inFile.map((key) => ({ digest: key.digest, caller: tenantOf(key) }))]
    return known
  }
  const anonymous = callerOf('', options.adminKey === null)

  /** All digests have the same length and every key is compared, so the time reveals nothing about the keys. */
  function find(given: string): KnownKey | null {
    const offered = digest(given)
    let found: KnownKey | null = null
    for (const key of all()) if (timingSafeEqual(key.digest, offered)) found = key
    return found
  }

  /** Depends on the whole key, and is used for sessions only. */
  const seal = (key: KnownKey, expiresMs: number): Buffer =>
    createHmac('sha256', options.secret).update(`session\n${expiresMs}\n`).update(key.digest).digest()

  return {
    hasSeveral,
    canSignIn: fileKeys !== null || fixed.length > 0,
    authenticate(authorization, xApiKey) {
      const bearer = /^Bearer\s+(.+)$/i.exec(authorization ?? '')?.[1]
      // Some clients always send their own Bearer token in addition to the configured key.
      const found = (bearer === undefined ? null : find(bearer)) ?? (xApiKey === undefined ? null : find(xApiKey))
      return found?.caller ?? (options.keys.length === 0 && fileKeys === null ? anonymous : null)
    },
    openSession(given, expiresMs) {
      const key = find(given)
      return key && `${key.caller.keyId}.${expiresMs}.${seal(key, expiresMs).toString('base64url')}`
    },
    resumeSession(session) {
      const [, keyId, expires, mac] = /^([\w.-]{1,64})\.(\d{1,16})\.([\w-]{43})$/.exec(session) ?? []
      const expiresMs = Number(expires)
      if (mac === undefined || !(expiresMs > Date.now())) return null
      const offered = Buffer.from(mac, 'base64url')
      const found = all().find((key) => key.caller.keyId === keyId && timingSafeEqual(seal(key, expiresMs), offered))
      return found?.caller ?? null
    },
  }
}

/**
 * The secret for cache salts and sessions. It is created on first use and stored (mode 0600), so that KV blocks on disk are found again
 * after a restart. If the folder cannot be written, the secret lasts for this process only.
 */
export function loadSecret(cacheDir: string): Buffer {
  const path = join(cacheDir, 'cache-salt.secret')
  try {
    const secret = readBytesSync(path)
    if (secret.length === 32) return secret
  } catch {
    // Not there yet.
  }
  const secret = randomBytes(32)
  try {
    makeFolder(cacheDir)
    writeFileSync(path, secret, { mode: 0o600 })
  } catch {
    // A read-only folder: every start then has new salts.
  }
  return secret
}
