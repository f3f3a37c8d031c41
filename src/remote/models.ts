/** The models of a remote engine. */
import { readResponseJson } from './response-wire.ts'
import { ModelError } from '../engine/runner/runner.ts'

/** Assumed context length if the other engine does not report it. */
const UNKNOWN_MODEL_LEN = 1 << 20
const CONNECT_TIMEOUT_MS = 10_000

interface RemoteModel {
  readonly id: string
  readonly maxModelLen: number
}

/** Asks an engine for its models. @throws ModelError when it cannot be reached */
export async function listModels(url: string, headers: Record<string, string>): Promise<RemoteModel[]> {
  let body: unknown
  try {
    const response = await fetch(url, { headers, redirect: 'manual', signal: AbortSignal.timeout(CONNECT_TIMEOUT_MS) })
    if (!response.ok) throw new Error(`status ${response.status}`)
    body = await readResponseJson(response)
  } catch (cause) {
    throw new ModelError(
      `engine at ${url}: cannot be asked for its models (${reasonOf(cause)}); is it running, and is the key right?`,
      { cause },
    )
  }
  const entries: unknown[] =
    typeof body === 'object' && body !== null && 'data' in body && Array.isArray(body.data) ? body.data : []
  return entries.flatMap((entry) => {
    if (typeof entry !== 'object' || entry === null || !('id' in entry) || typeof entry.id !== 'string') return []
    const length = 'max_model_len' in entry ? entry.max_model_len : undefined
    return [{ id: entry.id, maxModelLen: typeof length === 'number' && length > 0 ? length : UNKNOWN_MODEL_LEN }]
  })
}

/** Why a call failed, without quoting any text. */
export function reasonOf(error: unknown): string {
  const cause = error instanceof Error ? error.cause : undefined
  if (cause instanceof Error) return 'code' in cause ? String(cause.code) : cause.message
  return error instanceof Error ? error.message : String(error)
}
