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

  return {
    authenticate(authorization, xApiKey) {
      const bearer = /^Bearer\s+(.+)$/i.exec(authorization ?? '')?.[1]
      const given = bearer ?? xApiKey
      let found: Caller | null = null
      if (given !== undefined) {
        // Digests have one length, and every key is compared: the time tells neither which key came close nor how long it is.
        const offered = digest(given)
        for (const key of known) if (timingSafeEqual(key.digest, offered)) found = key.caller
      }
      return found ?? (options.keys.length === 0 ? anonymous : null)
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
