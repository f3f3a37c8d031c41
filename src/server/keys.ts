/** API keys: who may call, which traces they may see, and the salt of their share of the prefix cache. */
import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** The caller of a request. `keyId` is a short digest, safe for metrics and logs. */
export interface Caller {
  readonly keyId: string
  readonly isAdmin: boolean
  /** Prefix-cache salt: callers with different keys never share blocks. */
  readonly cacheSalt: string
}

export interface Keys {
  /** The caller whose key the headers carry, or null when a key is needed and none fits. */
  authenticate(authorization: string | undefined, xApiKey: string | undefined): Caller | null
  /** Whether requests can come from more than one. */
  readonly hasSeveral: boolean
  /** Whether there is any key that a person could sign in with. */
  readonly canSignIn: boolean
  /** What a browser shows instead of this key until `expiresMs` (of Date.now()); null: nobody's key. */
  openSession(key: string, expiresMs: number): string | null
  /** The caller whose key opened the session; null when it is forged, has expired or its key is no longer known. */
  resumeSession(session: string): Caller | null
}

const digest = (value: string): Buffer => createHash('sha256').update(value).digest()

/** `keys` empty: every caller is the same anonymous one. */
export function createKeys(options: {
  readonly keys: readonly string[]
  readonly adminKey: string | null
  readonly secret: Buffer
}): Keys {
  const caller = (key: string, isAdmin: boolean): Caller => ({
    keyId: key === '' ? 'anonymous' : digest(key).toString('hex').slice(0, 12),
    isAdmin,
    cacheSalt: createHmac('sha256', options.secret).update(key).digest('hex'),
  })
  const known = options.keys.map((key) => ({ digest: digest(key), caller: caller(key, false) }))
  if (options.adminKey !== null)
    known.push({ digest: digest(options.adminKey), caller: caller(options.adminKey, true) })
  const anonymous = caller('', options.adminKey === null)

  /** Digests have one length, and every key is compared: the time tells neither which key came close nor how long it is. */
  function find(given: string): (typeof known)[number] | null {
    const offered = digest(given)
    let found: (typeof known)[number] | null = null
    for (const key of known) if (timingSafeEqual(key.digest, offered)) found = key
    return found
  }

  /** Bound to the whole key and to this use of the secret. */
  const seal = (key: (typeof known)[number], expiresMs: number): Buffer =>
    createHmac('sha256', options.secret).update(`session\n${expiresMs}\n`).update(key.digest).digest()

  return {
    hasSeveral: known.length > (options.keys.length === 0 ? 0 : 1),
    canSignIn: known.length > 0,
    authenticate(authorization, xApiKey) {
      const bearer = /^Bearer\s+(.+)$/i.exec(authorization ?? '')?.[1]
      // Some clients always send a Bearer of their own beside the key that they were given.
      const found = (bearer === undefined ? null : find(bearer)) ?? (xApiKey === undefined ? null : find(xApiKey))
      return found?.caller ?? (options.keys.length === 0 ? anonymous : null)
    },
    openSession(given, expiresMs) {
      const key = find(given)
      return key && `${key.caller.keyId}.${expiresMs}.${seal(key, expiresMs).toString('base64url')}`
    },
    resumeSession(session) {
      const [, keyId, expires, mac] = /^([0-9a-f]{12})\.(\d{1,16})\.([\w-]{43})$/.exec(session) ?? []
      const expiresMs = Number(expires)
      if (mac === undefined || !(expiresMs > Date.now())) return null
      const offered = Buffer.from(mac, 'base64url')
      const found = known.find((key) => key.caller.keyId === keyId && timingSafeEqual(seal(key, expiresMs), offered))
      return found?.caller ?? null
    },
  }
}

/**
 * The secret behind cache salts, made on first use and kept (mode 0600), so that KV blocks on disk are found again after a restart.
 * A folder that cannot be written gives a secret for this process only.
 */
export function loadSecret(cacheDir: string): Buffer {
  const path = join(cacheDir, 'cache-salt.secret')
  try {
    const secret = readFileSync(path)
    if (secret.length === 32) return secret
  } catch {
    // Not there yet.
  }
  const secret = randomBytes(32)
  try {
    mkdirSync(cacheDir, { recursive: true })
    writeFileSync(path, secret, { mode: 0o600 })
  } catch {
    // A read-only home directory: salts are then new each start.
  }
  return secret
}
