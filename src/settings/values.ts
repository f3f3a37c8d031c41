/** Types of the values of flags and variables. Each parses a string, and its messages say what was expected. */
import { z } from 'zod'

export const integer = (min: number, max: number) =>
  z
    .string()
    .regex(/^-?\d+$/, 'a whole number')
    .transform(Number)
    .pipe(z.number().min(min, `at least ${min}`).max(max, `at most ${max}`))

/** Seconds on the command line, milliseconds in the Config. */
export const seconds = (max: number) =>
  z
    .string()
    .regex(/^\d+(\.\d+)?$/, 'a number of seconds')
    .transform(Number)
    .pipe(z.number().max(max, `at most ${max} seconds`))
    .transform((value) => value * 1000)

/** Bytes, with an optional unit. */
export const size = z
  .string()
  .regex(/^(\d+|\d+(\.\d+)?\s*(k|m|g|ki|mi|gi|kb|mb|gb|kib|mib|gib))$/i, 'a size such as 512M or 2G')
  .transform(parseSize)

export const share = z
  .string()
  .regex(/^(0(\.\d+)?|1(\.0+)?)$/, 'a share from 0 to 1')
  .transform(Number)

export const kvCacheMemory = z.union(
  [
    share.refine((value) => value > 0).transform((value) => ({ share: value })),
    size.refine((bytes) => bytes > 0).transform((bytes) => ({ bytes })),
  ],
  { error: 'a size such as 4G, or a share such as 0.8' },
)

const isScore = (name: string) =>
  name === 'vector' || name === 'text' || name === 'rerank' || name === 'document' || name === 'topic'

/** `vector=1,text=0.5`: what each signal of retrieval counts. */
export const fusionWeights = z
  .string()
  .regex(
    /^(vector|text|rerank|document|topic)=\d+(\.\d+)?(,(vector|text|rerank|document|topic)=\d+(\.\d+)?)*$/,
    'NAME=NUMBER,… with the names vector, text, rerank, document and topic',
  )
  .transform((value) => {
    const weights: { vector?: number; text?: number; rerank?: number; document?: number; topic?: number } = {}
    for (const pair of value.split(',')) {
      const [name, number] = pair.split('=')
      if (name !== undefined && isScore(name)) weights[name] = Number(number)
    }
    return weights
  })

export const truthy = z
  .string()
  .regex(/^(1|0|true|false|yes|no|on|off)$/i, 'true or false')
  .transform((value) => /^(1|true|yes|on)$/i.test(value))

/** One of these words, in any case, because other programs accept LOG_LEVEL=INFO. */
export const choiceOf = <const T extends readonly [string, ...string[]]>(values: T) =>
  z
    .string()
    .transform((value) => values.find((known) => known.toLowerCase() === value.toLowerCase()) ?? value)
    .pipe(z.enum(values, { error: `one of ${values.join(', ')}` }))

/** As pg takes them: a URL, or the folder of a Unix socket and perhaps a database (`/var/run/postgresql rag`, `socket:/run?db=rag`). */
export const postgresUrl = z
  .string()
  .regex(
    /^(?:postgres(?:ql)?:\/\/\S+|socket:\/?\/\S+|\/\S*(?: \S+)?)$/,
    'a URL that begins with postgres://, or a Unix socket such as "/var/run/postgresql DATABASE"',
  )
export const nonEmptyText = z.string().min(1, 'a value')
/** Of bytes that every client writes alike into a header. */
export const secret = z
  .string()
  .trim()
  .min(1, 'a key that is not blank')
  .regex(/^[\x20-\x7e]+$/, 'a key of ASCII characters')
/** The base URL of an API. Messages do not quote it, because it may contain a password. */
export const baseUrl = z.string().refine(
  (text) => {
    const isWeb = /^https?:\/\/\S+$/.test(text) && URL.canParse(text)
    return isWeb && new URL(text).search === '' && new URL(text).hash === ''
  },
  { message: 'a URL that begins with http:// or https://, without a query' },
)
export const url = z.string().regex(/^https?:\/\/\S+$/, 'a URL that begins with http:// or https://')

/** As OpenTelemetry's variables have it: with a scheme, or host and port alone. */
export const endpoint = z
  .string()
  .regex(
    /^(?:https?:\/\/\S+|[\w.-]+:\d+|\[[0-9a-f:]+\]:\d+)$/i,
    'a URL that begins with http:// or https://, or host:port',
  )

/** An origin as browsers send it, or *. A trailing slash is accepted; any other path would never match. */
export const origin = z.string().transform((value, ctx) => {
  if (value === '*') return value
  const parsed = URL.canParse(value) ? new URL(value) : null
  const isOrigin = parsed !== null && /^https?:$/.test(parsed.protocol) && `${parsed.origin}/` === parsed.href
  if (isOrigin) return parsed.origin
  ctx.addIssue({ code: 'custom', message: 'an origin such as http://localhost:3000, without a path, or *' })
  return z.NEVER
})

function parseSize(value: string): number {
  const [, amount = '0', unit = ''] = /^([\d.]+)\s*([a-z]*)$/i.exec(value.trim()) ?? []
  const factor = { '': 1, k: 1024, m: 1024 ** 2, g: 1024 ** 3 }[unit.toLowerCase().charAt(0)] ?? 1
  return Math.floor(Number(amount) * factor)
}
