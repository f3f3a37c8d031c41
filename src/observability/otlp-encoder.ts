/**
 * Spans as OTLP's protobuf message (opentelemetry-proto v1: ExportTraceServiceRequest). The SDK's own serializer sends whole doubles as
 * integers, and Tempo stores the two in different columns. Here the contract decides the type.
 */
import type { HrTime } from '@opentelemetry/api'
import type { ReadableSpan } from '@opentelemetry/sdk-trace-base'
import { groupSpans, isDouble } from './otlp.ts'

const VARINT = 0
const FIXED64 = 1
const BYTES = 2
const FIXED32 = 5

/** Appends protobuf fields to a buffer that grows. */
class Writer {
  #buffer = Buffer.allocUnsafe(64 * 1024)
  #at = 0

  finish(): Uint8Array {
    return this.#buffer.subarray(0, this.#at)
  }

  #reserve(numBytes: number): void {
    if (this.#at + numBytes <= this.#buffer.length) return
    const grown = Buffer.allocUnsafe(Math.max(this.#buffer.length * 2, this.#at + numBytes))
    this.#buffer.copy(grown, 0, 0, this.#at)
    this.#buffer = grown
  }

  #rawVarint(value: number): void {
    this.#reserve(10)
    while (value > 127) {
      this.#buffer[this.#at++] = (value % 128) | 128
      value = Math.floor(value / 128)
    }
    this.#buffer[this.#at++] = value
  }

  #tag(field: number, wire: number): void {
    this.#rawVarint(field * 8 + wire)
  }

  uint(field: number, value: number): void {
    this.#tag(field, VARINT)
    this.#rawVarint(value)
  }

  /** int64 in two's complement. */
  int(field: number, value: number): void {
    if (value >= 0) return this.uint(field, value)
    this.#tag(field, VARINT)
    let rest = BigInt.asUintN(64, BigInt(value))
    this.#reserve(10)
    for (; rest > 127n; rest >>= 7n) this.#buffer[this.#at++] = Number(rest & 127n) | 128
    this.#buffer[this.#at++] = Number(rest)
  }

  double(field: number, value: number): void {
    this.#tag(field, FIXED64)
    this.#reserve(8)
    this.#at = this.#buffer.writeDoubleLE(value, this.#at)
  }

  fixed32(field: number, value: number): void {
    this.#tag(field, FIXED32)
    this.#reserve(4)
    this.#at = this.#buffer.writeUInt32LE(value, this.#at)
  }

  /** Nanoseconds since 1970 as fixed64. */
  time(field: number, [seconds, nanos]: HrTime): void {
    this.#tag(field, FIXED64)
    this.#reserve(8)
    this.#at = this.#buffer.writeBigUInt64LE(BigInt(seconds) * 1_000_000_000n + BigInt(nanos), this.#at)
  }

  string(field: number, value: string): void {
    this.#tag(field, BYTES)
    const numBytes = Buffer.byteLength(value)
    this.#rawVarint(numBytes)
    this.#reserve(numBytes)
    this.#at += this.#buffer.write(value, this.#at)
  }

  /** A hexadecimal id as bytes. */
  hex(field: number, value: string): void {
    this.#tag(field, BYTES)
    this.#rawVarint(value.length / 2)
    this.#reserve(value.length / 2)
    this.#at += this.#buffer.write(value, this.#at, 'hex')
  }

  /** A nested message. Its length is known only after it is written, so it moves if the length needs more than one byte. */
  message(field: number, write: () => void): void {
    this.#tag(field, BYTES)
    this.#reserve(1)
    const lengthAt = this.#at++
    write()
    const numBytes = this.#at - lengthAt - 1
    let numLengthBytes = 1
    for (let rest = numBytes; rest > 127; rest = Math.floor(rest / 128)) numLengthBytes += 1
    if (numLengthBytes > 1) {
      this.#reserve(numLengthBytes)
      this.#buffer.copyWithin(lengthAt + numLengthBytes, lengthAt + 1, this.#at)
    }
    this.#at = lengthAt
    this.#rawVarint(numBytes)
    this.#at += numBytes
  }
}

type Attributes = ReadableSpan['attributes']

/** Encodes spans, by resource and scope. */
export function encodeTraceRequest(spans: readonly ReadableSpan[]): Uint8Array {
  const writer = new Writer()
  for (const [resource, scopes] of groupSpans(spans)) {
    writer.message(1, () => {
      writer.message(1, () => writeAttributes(writer, 1, resource.attributes))
      for (const [scope, members] of scopes) {
        writer.message(2, () => {
          writer.message(1, () => {
            writer.string(1, scope.name)
            if (scope.version) writer.string(2, scope.version)
          })
          for (const span of members) writer.message(2, () => writeSpan(writer, span))
          if (scope.schemaUrl) writer.string(3, scope.schemaUrl)
        })
      }
      if (resource.schemaUrl) writer.string(3, resource.schemaUrl)
    })
  }
  return writer.finish()
}

const CONTEXT_HAS_IS_REMOTE = 0x100
const CONTEXT_IS_REMOTE = 0x200
const flagsOf = (traceFlags: number, isRemote: boolean | undefined): number =>
  traceFlags | CONTEXT_HAS_IS_REMOTE | (isRemote ? CONTEXT_IS_REMOTE : 0)

function writeSpan(writer: Writer, span: ReadableSpan): void {
  const context = span.spanContext()
  writer.hex(1, context.traceId)
  writer.hex(2, context.spanId)
  const state = context.traceState?.serialize()
  if (state) writer.string(3, state)
  if (span.parentSpanContext) writer.hex(4, span.parentSpanContext.spanId)
  writer.string(5, span.name)
  writer.uint(6, span.kind + 1)
  writer.time(7, span.startTime)
  writer.time(8, span.endTime)
  writeAttributes(writer, 9, span.attributes)
  if (span.droppedAttributesCount > 0) writer.uint(10, span.droppedAttributesCount)
  for (const event of span.events) {
    writer.message(11, () => {
      writer.time(1, event.time)
      writer.string(2, event.name)
      if (event.attributes) writeAttributes(writer, 3, event.attributes)
      if (event.droppedAttributesCount) writer.uint(4, event.droppedAttributesCount)
    })
  }
  if (span.droppedEventsCount > 0) writer.uint(12, span.droppedEventsCount)
  for (const link of span.links) {
    writer.message(13, () => {
      writer.hex(1, link.context.traceId)
      writer.hex(2, link.context.spanId)
      if (link.attributes) writeAttributes(writer, 4, link.attributes)
      if (link.droppedAttributesCount) writer.uint(5, link.droppedAttributesCount)
      writer.fixed32(6, flagsOf(link.context.traceFlags, link.context.isRemote))
    })
  }
  if (span.droppedLinksCount > 0) writer.uint(14, span.droppedLinksCount)
  writer.message(15, () => {
    if (span.status.message) writer.string(2, span.status.message)
    writer.uint(3, span.status.code)
  })
  writer.fixed32(16, flagsOf(context.traceFlags, span.parentSpanContext?.isRemote))
}

function writeAttributes(writer: Writer, field: number, attributes: Attributes): void {
  for (const key in attributes) {
    const value = attributes[key]
    if (value === undefined || value === null) continue
    writer.message(field, () => {
      writer.string(1, key)
      writer.message(2, () => writeValue(writer, value, isDouble(key)))
    })
  }
}

function writeValue(writer: Writer, value: unknown, asDouble: boolean): void {
  if (typeof value === 'string') writer.string(1, value)
  else if (typeof value === 'boolean') writer.uint(2, value ? 1 : 0)
  else if (typeof value === 'number') {
    if (!asDouble && Number.isSafeInteger(value)) writer.int(3, value)
    else writer.double(4, value)
  } else if (Array.isArray(value)) {
    writer.message(5, () => {
      for (const item of value) writer.message(1, () => writeValue(writer, item, asDouble))
    })
  }
}
