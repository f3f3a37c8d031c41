/** Serving: address, keys, bounds of requests. */
import { z } from 'zod'
import { field } from './field.ts'
import { integer, origin, seconds, secret, nonEmptyText } from './values.ts'

export const serverSettings = {
  host: field(nonEmptyText.default('127.0.0.1'), {
    flag: 'host',
    env: 'HOST',
    value: 'ADDRESS',
    help: 'address to listen on',
  }),
  port: field(integer(0, 65535).default(8000), {
    flag: 'port',
    env: 'PORT',
    value: 'N',
    help: 'port to listen on; 0 takes any free one',
  }),
  metricsPort: field(integer(0, 65535).nullable().default(null), {
    flag: 'metrics-port',
    value: 'N',
    help: 'port on which GET /metrics is served without a key, with the counts of all keys together; 0 takes any free one',
    defaultText: 'none',
  }),
  apiKeys: field(z.array(secret).default([]), {
    isSecret: true,
    flag: 'api-key',
    env: 'MINISERVE_API_KEY',
    value: 'KEY',
    help: 'API key that every request except /health and /ready needs; repeat the flag, or separate keys by commas in the variable, for several',
    defaultText: 'none: open',
  }),
  adminKey: field(secret.nullable().default(null), {
    isSecret: true,
    flag: 'admin-key',
    env: 'MINISERVE_ADMIN_KEY',
    value: 'KEY',
    help: 'key that also sees the traces and metrics of all other keys',
  }),
  keyFile: field(nonEmptyText.nullable().default(null), {
    flag: 'key-file',
    env: 'MINISERVE_KEY_FILE',
    value: 'FILE',
    help: 'file of keys with names, roles and limits; reloaded when it changes (docs/security.md)',
  }),
  insecure: field(z.boolean().default(false), {
    flag: 'insecure',
    help: 'serve without keys on an address that others can reach',
  }),
  corsOrigins: field(z.array(origin).default([]), {
    flag: 'cors-origin',
    value: 'ORIGIN',
    isUnquoted: true,
    help: 'origin allowed to call from a browser, or *; repeatable',
    defaultText: 'none',
  }),
  maxQueuedRequests: field(integer(1, 1_000_000).default(256), {
    flag: 'max-queued-requests',
    value: 'N',
    help: 'limit on waiting sequences; a request above it gets 429',
  }),
  maxQueuedTokens: field(integer(1, 1_000_000_000).default(65_536), {
    flag: 'max-queued-tokens',
    value: 'N',
    help: 'limit on the prompt tokens of all waiting sequences; a request above it gets 429',
  }),
  maxRequestBytes: field(integer(1024, 1 << 30).default(16 * 1024 * 1024), {
    flag: 'max-request-bytes',
    value: 'BYTES',
    help: 'limit on a request body; a larger one gets 413',
  }),
  requestTimeoutMs: field(seconds(86_400).default(600_000), {
    flag: 'request-timeout',
    value: 'SECONDS',
    help: 'time limit of a generation, which then ends with 504; 0: no limit',
    defaultText: '600',
  }),
  shutdownTimeoutMs: field(seconds(3600).default(25_000), {
    flag: 'shutdown-timeout',
    value: 'SECONDS',
    help: 'how long running requests may continue after SIGTERM',
    defaultText: '25',
  }),
}
