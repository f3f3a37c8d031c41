// Vectors of documents kept in a folder, so that a yardstick with an encoder takes minutes once: keys.txt has the SHA-256 of a text on each
// line, vectors.f32 the vectors in the same order. Questions are always embedded by the model.
import { createHash } from 'node:crypto'
import { appendFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const keyOf = (text) => createHash('sha256').update(text).digest('hex')

/** The embedder with its documents' vectors in a folder; as it is without a folder. */
export function withCache(embedder, folder) {
  if (!folder) return embedder
  mkdirSync(folder, { recursive: true })
  const [keys, vectors] = ['keys.txt', 'vectors.f32'].map((name) => join(folder, name))
  /** @type {Map<string, Float32Array>} */
  const known = new Map()
  let dimensions = 0
  if (existsSync(keys)) {
    const names = readFileSync(keys, 'utf8').trim().split('\n')
    const values = new Float32Array(Uint8Array.from(readFileSync(vectors)).buffer)
    dimensions = values.length / names.length
    names.forEach((name, i) => known.set(name, values.subarray(i * dimensions, (i + 1) * dimensions)))
  }
  return {
    ...embedder,
    async embed(texts, options) {
      if (options.role !== 'document') return embedder.embed(texts, options)
      const absent = [...new Set(texts.filter((text) => !known.has(keyOf(text))))]
      if (absent.length > 0) {
        const { vectors: made } = await embedder.embed(absent, options)
        dimensions = made.length / absent.length
        absent.forEach((text, i) => known.set(keyOf(text), made.slice(i * dimensions, (i + 1) * dimensions)))
        appendFileSync(vectors, new Uint8Array(made.buffer, made.byteOffset, made.byteLength))
        appendFileSync(keys, absent.map((text) => `${keyOf(text)}\n`).join(''))
      }
      const all = new Float32Array(texts.length * dimensions)
      texts.forEach((text, i) => all.set(known.get(keyOf(text)) ?? [], i * dimensions))
      return { vectors: all, numTokens: texts.map(() => 0) }
    },
  }
}
