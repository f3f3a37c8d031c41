/** Downloads files of a hub repository to the cache's blobs. Downloads resume and are verified, and no partial file becomes visible. */
import { createHash, type Hash, randomUUID } from 'node:crypto'
import { constants, createReadStream } from 'node:fs'
import { copyFile, open, rename, rm, stat, symlink } from 'node:fs/promises'
import { basename, dirname, join, relative } from 'node:path'
import { ModelError } from '../runner/runner.ts'
import { writeFully } from './write-behind.ts'

export interface HubClient {
  /** ORG/NAME. */
  readonly id: string
  /** Without a slash at the end. */
  readonly endpoint: string
  readonly token: string | null
}

export interface Blob {
  readonly url: string
  /** Content hash (SHA-256 for large files) without quotes, which is the blob's file name. */
  readonly etag: string
  readonly bytes: number
}

/** How often an interrupted download is continued before it fails. */
const ATTEMPTS = 4
/** A connection without data for this long is closed. */
const STALL_TIMEOUT_MS = 30_000

/** Sends a request with the token. `init.signal` replaces the timeout. @throws ModelError that says what to do */
export async function requestHub(
  { id, endpoint, token }: HubClient,
  url: string,
  init: RequestInit,
): Promise<Response> {
  const headers = new Headers(init.headers)
  // The token is sent to the hub only: fetch drops it when a redirect leads to another host.
  if (token !== null && url.startsWith(`${endpoint}/`)) headers.set('authorization', `Bearer ${token}`)
  let response: Response
  try {
    response = await fetch(url, { ...init, headers, signal: init.signal ?? AbortSignal.timeout(STALL_TIMEOUT_MS) })
  } catch (error) {
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error)
    throw new ModelError(
      `${endpoint} cannot be reached (${cause}). Check the network, or serve a local folder with --model DIR.`,
      { cause: error },
    )
  }
  if (response.ok || response.status === 416 || (response.status >= 300 && response.status < 400)) return response
  await response.body?.cancel()
  if (response.status === 401 || response.status === 403) {
    throw new ModelError(
      `${endpoint} refuses ${id} (${response.status}): it is private, gated or does not exist. ` +
        `Check the name, accept its terms at ${endpoint}/${id} and set HF_TOKEN${token === null ? '' : ' to a token that may read it'}.`,
    )
  }
  if (response.status === 404)
    throw new ModelError(`${endpoint} has no ${url.slice(endpoint.length + 1)} (404). Check the name ${id}.`)
  throw new ModelError(
    `${endpoint} answered ${response.status} for ${url.slice(endpoint.length + 1)}. Try again later.`,
  )
}

/** The content hash that the hub gives, without quotes; null: none. */
function etagOf({ headers }: Response): string | null {
  const etag = headers.get('x-linked-etag') ?? headers.get('etag')
  return etag === null ? null : etag.replace(/^W\//, '').replaceAll('"', '')
}

/** Name, size and hash of a file at a revision. */
export async function describeBlob(client: HubClient, sha: string, file: string): Promise<Blob> {
  const url = `${client.endpoint}/${client.id}/resolve/${sha}/${encodeURIComponent(file)}`
  const head = (at: string): Promise<Response> =>
    requestHub(client, at, { method: 'HEAD', redirect: 'manual', headers: { 'accept-encoding': 'identity' } })
  let response = await head(url)
  // Large files are redirected to a store on another host, and the hub's own answer has their hash and size. Redirects within the hub, for renamed
  // repositories and small files, are followed.
  for (let hops = 0; hops < 5 && response.status >= 300 && response.status < 400; hops++) {
    const next = new URL(response.headers.get('location') ?? '', response.url || url)
    if (next.origin !== new URL(client.endpoint).origin) break
    response = await head(next.href)
  }
  const etag = etagOf(response) ?? ''
  const bytes = Number(response.headers.get('x-linked-size') ?? response.headers.get('content-length') ?? NaN)
  if (!/^[\w-]+$/.test(etag) || !Number.isSafeInteger(bytes) || bytes < 0) {
    throw new ModelError(
      `${client.endpoint} sent no hash or size of ${client.id}/${file} (etag ${JSON.stringify(etag.slice(0, 80))}). Is HF_ENDPOINT a hub?`,
    )
  }
  return { url, etag, bytes }
}

async function sizeOf(path: string): Promise<number | null> {
  try {
    return (await stat(path)).size
  } catch {
    return null
  }
}

/** Whether an etag is the SHA-256 of the content, as for large files. Small files have git's hash, and only their size is verified. */
const isSha256 = (etag: string): boolean => /^[0-9a-f]{64}$/.test(etag)

/** Downloads a blob to `folder`/etag unless it is there, continuing an earlier download. @throws ModelError; what was downloaded is kept */
export async function fetchBlob(
  client: HubClient,
  blob: Blob,
  folder: string,
  onBytes: (done: number) => void,
): Promise<void> {
  const target = join(folder, blob.etag)
  if ((await sizeOf(target)) === blob.bytes) return
  const part = `${target}.incomplete`
  let reason: unknown = null
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    try {
      await continuePart(client, blob, part, onBytes)
      // Where another process completed the same download, or found it damaged, the file is no longer this one.
      if ((await sizeOf(part)) === blob.bytes) await rename(part, target)
      if ((await sizeOf(target)) !== blob.bytes) throw new Error('another process removed the file')
      return
    } catch (error) {
      if (error instanceof ModelError) throw error
      reason = error
    }
  }
  const done = (await sizeOf(part)) ?? 0
  throw new ModelError(
    `the download of ${client.id} stopped after ${done} of ${blob.bytes} bytes (${reason instanceof Error ? reason.message : String(reason)}). ` +
      'Start again to continue it.',
    { cause: reason },
  )
}

/**
 * Downloads the rest of a partial file and verifies the whole. Processes that download the same blob share the file: each writes its bytes at their
 * own place, so that the file is complete up to its size whoever ends first.
 * @throws ModelError where a retry is of no use, and other errors where it may help
 */
async function continuePart(
  client: HubClient,
  blob: Blob,
  part: string,
  onBytes: (done: number) => void,
): Promise<void> {
  let done = (await sizeOf(part)) ?? 0
  if (done > blob.bytes) {
    await rm(part, { force: true })
    done = 0
  }
  let hash = await hashOf(part, done)
  if (done < blob.bytes || done === 0) {
    const stall = new AbortController()
    let timer = setTimeout(() => stall.abort(new Error('no data for 30 s')), STALL_TIMEOUT_MS)
    const file = await open(part, constants.O_WRONLY | constants.O_CREAT)
    try {
      const range: Record<string, string> = done > 0 ? { range: `bytes=${done}-` } : {}
      const response = await requestHub(client, blob.url, {
        headers: { 'accept-encoding': 'identity', ...range },
        signal: stall.signal,
      })
      const etag = etagOf(response)
      // After a redirect the etag is the store's own. Only one of the same kind can be compared.
      if (etag !== null && etag !== blob.etag && etag.length === blob.etag.length) {
        await response.body?.cancel()
        throw new ModelError(
          `${client.id} changed on ${client.endpoint} while it was downloaded (${blob.etag} became ${etag}). Start again.`,
        )
      }
      if (done > 0 && response.status !== 206) {
        // The server does not continue the download: start again.
        done = 0
        hash = await hashOf(part, 0)
        if (response.status === 416) {
          await response.body?.cancel()
          throw new Error('the server refused to continue')
        }
      }
      for await (const chunk of response.body ?? []) {
        clearTimeout(timer)
        timer = setTimeout(() => stall.abort(new Error('no data for 30 s')), STALL_TIMEOUT_MS)
        await writeFully(file, chunk, done)
        hash.update(chunk)
        done += chunk.byteLength
        onBytes(done)
      }
    } finally {
      clearTimeout(timer)
      await file.close()
    }
  }
  if (done < blob.bytes) throw new Error('the connection ended early')
  const digest = hash.digest('hex')
  if (done !== blob.bytes || (isSha256(blob.etag) && digest !== blob.etag)) {
    await rm(part, { force: true })
    const found = done !== blob.bytes ? `${done} bytes` : `sha256 ${digest}`
    const expected = done !== blob.bytes ? `${blob.bytes} bytes` : blob.etag
    throw new ModelError(
      `${client.id}: ${basename(new URL(blob.url).pathname)} arrived damaged: expected ${expected}, found ${found}. Start again.`,
    )
  }
}

/** The hash state after the first `bytes` bytes of a file. */
async function hashOf(path: string, bytes: number): Promise<Hash> {
  const hash = createHash('sha256')
  if (bytes > 0) for await (const chunk of createReadStream(path, { end: bytes - 1 })) hash.update(chunk as Buffer)
  return hash
}

/** Makes `link` a relative link to a blob, as other tools do in the cache, or a copy where links are not allowed. */
export async function linkBlob(blob: string, link: string): Promise<void> {
  // Renamed into place: another process may make the same link, or read through it.
  const made = `${link}.${randomUUID()}`
  try {
    await symlink(relative(dirname(link), blob), made)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') throw error
    await copyFile(blob, made)
  }
  await rename(made, link)
}
