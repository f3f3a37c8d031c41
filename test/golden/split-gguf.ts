/** Splits a GGUF file as llama-gguf-split does: all metadata in the first part, each part with its own tensors. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseGgufHeader } from '../../src/engine/weights/gguf-header.ts'

const ALIGNMENT = 32
const U16 = 2

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}
const u64 = (value: number): Buffer => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}
const text = (value: string): Buffer => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)])
const entry = (key: string, value: number): Buffer => {
  const bytes = Buffer.alloc(2)
  bytes.writeUInt16LE(value)
  return Buffer.concat([text(key), u32(U16), bytes])
}
const padding = (length: number): Buffer => Buffer.alloc((ALIGNMENT - (length % ALIGNMENT)) % ALIGNMENT)

/** Writes NAME-00001-of-0000N.gguf … into a folder; the names, in order. */
export function splitGguf(path: string, folder: string, name: string, numParts: number): string[] {
  const bytes = readFileSync(path)
  const header = parseGgufHeader(path, bytes, bytes.length)
  if (header === null) throw new Error(`${path} has no header`)
  const { tensors, metadata } = header
  const metadataBytes = bytes.subarray(24, bytes.indexOf(text(tensors[0]?.name ?? '')))
  const ends = tensors.map(({ offset }) => offset).sort((a, b) => a - b)
  const dataOf = (offset: number) => bytes.subarray(offset, ends.find((end) => end > offset) ?? bytes.length)
  return Array.from({ length: numParts }, (_, part) => {
    const own = tensors.filter((__, i) => i % numParts === part)
    const data: Buffer[] = []
    let offset = 0
    const infos = own.map((tensor) => {
      const info = [text(tensor.name), u32(tensor.dimensions.length), ...tensor.dimensions.map(u64)]
      info.push(u32(tensor.type), u64(offset))
      const values = dataOf(tensor.offset)
      data.push(values, padding(values.length))
      offset += values.length + padding(values.length).length
      return Buffer.concat(info)
    })
    const split = [entry('split.no', part), entry('split.count', numParts)]
    const numEntries = split.length + (part === 0 ? metadata.size : 0)
    const head = Buffer.concat([
      bytes.subarray(0, 8),
      u64(own.length),
      u64(numEntries),
      ...(part === 0 ? [metadataBytes] : []),
      ...split,
      ...infos,
    ])
    const file = `${name}-${String(part + 1).padStart(5, '0')}-of-${String(numParts).padStart(5, '0')}.gguf`
    writeFileSync(join(folder, file), Buffer.concat([head, padding(head.length), ...data]))
    return file
  })
}
