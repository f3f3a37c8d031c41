/**
 * Storage of KV blocks outside the pool: host memory, and a directory that survives the process. Both are bounded and drop the least recently used
 * blocks first. A block is named by its chained, salted hash. A file also records its model and layout and has a checksum; a file that is damaged,
 * or belongs to something else, is ignored with a log line.
 */
import { createHash, randomUUID } from 'node:crypto'
import { readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { makeFolder } from '../../regular-file.ts'
import type { BlockHash } from '../schedule/prefix-cache.ts'

/** A full block with its place in the chain. */
export interface StoredBlock {
  readonly hash: BlockHash
  readonly parent: BlockHash
  readonly tokens: Int32Array // [blockSize]
  readonly bytes: Uint8Array // [blockBytes]
}

export interface KvTiersOptions {
  /** 0: no host memory tier. */
  readonly hostMemoryBytes: number
  /** null: no disk tier. Created if absent, readable by its owner only. */
  readonly directory: string | null
  readonly maxDiskBytes: number
  /** ModelInfo.fingerprint. */
  readonly fingerprint: string
  readonly blockSize: number
  readonly blockBytes: number
  readonly onLog: (message: string, fields: Readonly<Record<string, string | number>>) => void
}

const MAGIC = 'miniserve-kv-1\n'
const NAME = /^([\w-]{43})\.kv$/
/** Another process with the same directory may be writing a file that is younger. A process number would not tell: containers share them. */
const ABANDONED_AFTER_MS = 3_600_000
/** Limit on blocks that wait to be written. A disk that cannot keep up loses blocks instead of using memory. */
const MAX_PENDING_WRITES = 1024

/** Opens the tiers and lists the blocks in the directory. Null if both are off. @throws if the directory cannot be used */
export async function openKvTiers(options: KvTiersOptions): Promise<KvTiers | null> {
  if (options.hostMemoryBytes <= 0 && options.directory === null) return null
  const tiers = new KvTiers(options)
  await tiers.scan()
  return tiers
}

/** Blocks by hash in host memory and on disk, each tier with a limit in bytes. */
export class KvTiers {
  readonly #options: KvTiersOptions
  /** Blocks of one model and layout. */
  readonly #folder: string | null
  readonly #identity: string
  /** Least recently used first. */
  readonly #host = new Map<BlockHash, StoredBlock>()
  /** Name -> file size, least recently used first. */
  readonly #disk = new Map<BlockHash, number>()
  #diskBytes = 0
  #numPendingWrites = 0
  /** Writes and deletions, one after another. */
  #writes: Promise<void> = Promise.resolve()
  #isClosed = false

  constructor(options: KvTiersOptions) {
    this.#options = options
    const { fingerprint, blockSize, blockBytes } = options
    this.#identity = digest(`${fingerprint.length}:${fingerprint}:${blockSize}:${blockBytes}`)
    this.#folder = options.directory === null ? null : join(options.directory, this.#identity)
  }

  /** Lists the blocks in the directory. */
  async scan(): Promise<void> {
    const folder = this.#folder
    if (folder === null) return
    makeFolder(folder, 0o700)
    const files = await Promise.all(
      (await readdir(folder)).map(async (name) => {
        const [, hash] = NAME.exec(name) ?? []
        const path = join(folder, name)
        const isTemporary = name.endsWith('.tmp')
        if (hash === undefined && !isTemporary) return null
        // Another process with the same directory may have dropped the block meanwhile.
        const found = await stat(path).catch(() => null)
        if (isTemporary || hash === undefined) {
          if (found !== null && Date.now() - found.mtimeMs > ABANDONED_AFTER_MS) await rm(path, { force: true })
          return null
        }
        return found?.isFile() === true ? { hash, size: found.size, mtimeMs: found.mtimeMs } : null
      }),
    )
    const known = files.filter((file) => file !== null).sort((a, b) => a.mtimeMs - b.mtimeMs)
    for (const { hash, size } of known) this.#addToDisk(hash, size)
    this.#trimDisk()
  }

  /** Whether one of the tiers has a block with this name. */
  has(hash: BlockHash): boolean {
    return this.#host.has(hash) || this.#disk.has(hash)
  }

  isInHostMemory(hash: BlockHash): boolean {
    return this.#host.has(hash)
  }

  /**
   * Stores a block in host memory at once, and on disk, if there is a disk tier, by the time the promise resolves. Returns null, or a short code if
   * the block could not be stored.
   */
  put(block: StoredBlock): Promise<string | null> | string | null {
    this.#putInHost(block)
    if (this.#folder === null || this.#disk.has(block.hash)) return null
    if (this.#isClosed) return 'closed'
    if (this.#numPendingWrites >= MAX_PENDING_WRITES) return 'too_many_writes'
    this.#numPendingWrites++
    return this.#enqueue(async () => {
      this.#numPendingWrites--
      await this.#write(block)
    })
  }

  /** The bytes of a block in host memory with this name, parent and tokens. */
  getFromHost(hash: BlockHash, parent: BlockHash, tokens: Int32Array): Uint8Array | null {
    return this.#use(this.#host.get(hash) ?? null, parent, tokens)
  }

  /** The bytes of an intact block on disk with this name, parent and tokens. */
  async getFromDisk(hash: BlockHash, parent: BlockHash, tokens: Int32Array): Promise<Uint8Array | null> {
    return this.#use(await this.#read(hash), parent, tokens)
  }

  /** Marks a block as the most recently used of both tiers; null if its content is not the expected one. */
  #use(block: StoredBlock | null, parent: BlockHash, tokens: Int32Array): Uint8Array | null {
    if (block === null || block.parent !== parent || !isEqual(block.tokens, tokens)) return null
    this.#putInHost(block)
    const size = this.#disk.get(block.hash)
    if (size !== undefined) {
      this.#disk.delete(block.hash)
      this.#disk.set(block.hash, size)
    }
    return block.bytes
  }

  /** Completes all pending writes. */
  async flush(): Promise<void> {
    // A write may enqueue deletions.
    for (let last: Promise<void> | null = null; last !== this.#writes;) {
      last = this.#writes
      await last
    }
  }

  /** Idempotent. */
  async close(): Promise<void> {
    this.#isClosed = true
    await this.flush()
    this.#host.clear()
  }

  #putInHost(block: StoredBlock): void {
    const maxBlocks = Math.floor(this.#options.hostMemoryBytes / this.#options.blockBytes)
    this.#host.delete(block.hash)
    if (maxBlocks === 0) return
    this.#host.set(block.hash, block)
    const [oldest] = this.#host.keys()
    if (this.#host.size > maxBlocks && oldest !== undefined) this.#host.delete(oldest)
  }

  #addToDisk(hash: BlockHash, size: number): void {
    this.#diskBytes += size - (this.#disk.get(hash) ?? 0)
    this.#disk.delete(hash)
    this.#disk.set(hash, size)
  }

  #trimDisk(): void {
    for (const hash of this.#disk.keys()) {
      if (this.#diskBytes <= this.#options.maxDiskBytes) return
      this.#discard(hash)
    }
  }

  #discard(hash: BlockHash): void {
    this.#diskBytes -= this.#disk.get(hash) ?? 0
    this.#disk.delete(hash)
    void this.#enqueue(() => rm(this.#path(hash), { force: true }))
  }

  /** Runs work after what was enqueued before. Resolves with null, or with the reason of a failure; never rejects. */
  #enqueue(work: () => Promise<void>): Promise<string | null> {
    const done = this.#writes.then(work).then(
      () => null,
      (error: unknown) => {
        const reason = reasonOf(error)
        this.#options.onLog('kv_tier.disk_failed', { reason })
        return reason
      },
    )
    this.#writes = done.then(() => {})
    return done
  }

  async #write(block: StoredBlock): Promise<void> {
    const path = this.#path(block.hash)
    const content = encode(this.#identity, block)
    const temporary = `${path}.${randomUUID()}.tmp`
    try {
      await writeFile(temporary, content, { mode: 0o600 })
      await rename(temporary, path)
    } catch (error) {
      // What a full disk took of it counts towards no limit.
      await rm(temporary, { force: true })
      throw error
    }
    this.#addToDisk(block.hash, content.length)
    this.#trimDisk()
  }

  async #read(hash: BlockHash): Promise<StoredBlock | null> {
    if (!this.#disk.has(hash)) return null
    let problem: string
    try {
      const block = decode(await readFile(this.#path(hash)), this.#identity, this.#options)
      if (typeof block !== 'string' && block.hash === hash) return block
      problem = typeof block === 'string' ? block : 'another block’s name'
    } catch (error) {
      problem = reasonOf(error)
    }
    this.#options.onLog('kv_tier.file_ignored', { reason: problem })
    this.#discard(hash)
    return null
  }

  #path(hash: BlockHash): string {
    return join(this.#folder ?? '', `${hash}.kv`)
  }
}

/** magic, checksum of the rest, identity, hash, parent (32 bytes of base64url text each 43), tokens i32, bytes. */
function encode(identity: string, block: StoredBlock): Buffer {
  const tokens = Buffer.from(block.tokens.buffer, block.tokens.byteOffset, block.tokens.byteLength)
  const body = Buffer.concat([Buffer.from(identity + block.hash + block.parent, 'latin1'), tokens, block.bytes])
  return Buffer.concat([Buffer.from(MAGIC + digest(body), 'latin1'), body])
}

/** The block, or a description of what is wrong with it. */
function decode(content: Buffer, identity: string, { blockSize, blockBytes }: KvTiersOptions): StoredBlock | string {
  const digestLength = identity.length
  const bodyStart = MAGIC.length + digestLength
  const expected = bodyStart + 3 * digestLength + blockSize * 4 + blockBytes
  if (content.length !== expected) return `expected ${expected} bytes, found ${content.length}`
  if (content.toString('latin1', 0, MAGIC.length) !== MAGIC) return 'another kind of file'
  const body = content.subarray(bodyStart)
  if (content.toString('latin1', MAGIC.length, bodyStart) !== digest(body)) return 'checksum differs'
  const text = (i: number) => body.toString('latin1', i * digestLength, (i + 1) * digestLength)
  if (text(0) !== identity) return 'of another model or layout'
  const tokensStart = 3 * digestLength
  const payload = body.subarray(tokensStart)
  const tokens = new Int32Array(payload.buffer.slice(payload.byteOffset, payload.byteOffset + blockSize * 4))
  return { hash: text(1), parent: text(2), tokens, bytes: Uint8Array.from(payload.subarray(blockSize * 4)) }
}

function digest(data: string | Uint8Array): string {
  return createHash('sha256').update(data).digest('base64url')
}

function isEqual(a: Int32Array, b: Int32Array): boolean {
  return a.length === b.length && a.every((token, i) => token === b[i])
}

function reasonOf(error: unknown): string {
  return error instanceof Error && 'code' in error
    ? String(error.code)
    : error instanceof Error
      ? error.message
      : String(error)
}
