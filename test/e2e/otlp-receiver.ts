/** A real OTLP receiver (@elastic/mockotlpserver: grpc-js, HTTP, and the official protos) that keeps what arrives. */
import { createRequire } from 'node:module'
import type { OtlpTraces, OtlpValue } from '../../src/observability/otlp.ts'

/** Attribute value as it stood on the wire: exactly one member. */
export interface WireValue {
  readonly stringValue?: string
  readonly intValue?: number | string | { toString(): string }
  readonly doubleValue?: number
  readonly boolValue?: boolean
  readonly arrayValue?: { readonly values: readonly WireValue[] }
}

interface WireAttribute {
  readonly key: string
  readonly value: WireValue
}

interface WireSpan {
  readonly traceId: Uint8Array
  readonly spanId: Uint8Array
  readonly parentSpanId: Uint8Array
  readonly name: string
  readonly kind: unknown
  readonly startTimeUnixNano: { toString(): string }
  readonly endTimeUnixNano: { toString(): string }
  readonly attributes: readonly WireAttribute[]
  readonly events: readonly {
    readonly name: string
    readonly timeUnixNano: { toString(): string }
    readonly attributes: readonly WireAttribute[]
  }[]
  readonly links: readonly { readonly traceId: Uint8Array; readonly spanId: Uint8Array }[]
  readonly status?: { readonly code?: unknown; readonly message?: string }
}

interface WireTrace {
  readonly resourceSpans: readonly {
    readonly resource: { readonly attributes: readonly WireAttribute[] }
    readonly scopeSpans: readonly { readonly scope: { readonly name: string }; readonly spans: readonly WireSpan[] }[]
  }[]
}

/** A received span with hex ids and times in nanoseconds. */
export interface ReceivedSpan {
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId: string
  readonly name: string
  readonly kind: string
  readonly start: bigint
  readonly end: bigint
  readonly attributes: Readonly<Record<string, WireValue>>
  readonly events: readonly {
    readonly name: string
    readonly time: bigint
    readonly attributes: Readonly<Record<string, WireValue>>
  }[]
  readonly status: string
  readonly resource: Readonly<Record<string, WireValue>>
  readonly scope: string
}

interface WireLogs {
  readonly resourceLogs: readonly {
    readonly resource: { readonly attributes: readonly WireAttribute[] }
    readonly scopeLogs: readonly {
      readonly logRecords: readonly {
        readonly timeUnixNano: { toString(): string }
        readonly severityNumber: unknown
        readonly severityText: string
        readonly body: WireValue
        readonly attributes: readonly WireAttribute[]
        readonly traceId?: Uint8Array | string
        readonly spanId?: Uint8Array | string
        readonly eventName?: string
      }[]
    }[]
  }[]
}

interface WirePoint {
  readonly attributes: readonly WireAttribute[]
  readonly asDouble?: number | null
  readonly asInt?: unknown
  readonly count?: unknown
  readonly sum?: number | null
  readonly bucketCounts?: readonly unknown[]
  readonly explicitBounds?: readonly number[]
}

interface WireMetrics {
  readonly resourceMetrics: readonly {
    readonly resource: { readonly attributes: readonly WireAttribute[] }
    readonly scopeMetrics: readonly {
      readonly metrics: readonly {
        readonly name: string
        readonly unit?: string
        readonly description?: string
        readonly gauge?: { readonly dataPoints: readonly WirePoint[] } | null
        readonly sum?: { readonly dataPoints: readonly WirePoint[]; readonly isMonotonic?: boolean } | null
        readonly histogram?: { readonly dataPoints: readonly WirePoint[] } | null
      }[]
    }[]
  }[]
}

interface WireRequest {
  readonly path: string
  /** Of HTTP. */
  readonly headers?: Readonly<Record<string, unknown>>
  /** Of gRPC. */
  readonly metadata?: { getMap(): Readonly<Record<string, unknown>> }
}

/** A received log record. */
export interface ReceivedLog {
  readonly body: string
  readonly severity: string
  readonly time: bigint
  readonly traceId: string
  readonly spanId: string
  readonly attributes: Readonly<Record<string, WireValue>>
  readonly resource: Readonly<Record<string, WireValue>>
}

/** One series of a received metric. */
export interface ReceivedPoint {
  readonly name: string
  readonly kind: 'gauge' | 'sum' | 'histogram'
  readonly isMonotonic: boolean
  readonly labels: Readonly<Record<string, string>>
  /** Of a histogram the number of values. */
  readonly value: number
  readonly sum: number | null
  readonly bucketCounts: readonly number[]
  readonly explicitBounds: readonly number[]
  readonly resource: Readonly<Record<string, WireValue>>
}

interface MockOtlpServer {
  readonly grpcUrl: string
  readonly httpUrl: string
  start(): Promise<void>
  close(): Promise<void>
}

const { MockOtlpServer } = createRequire(import.meta.url)('@elastic/mockotlpserver') as {
  MockOtlpServer: new (options: object) => MockOtlpServer
}

/** JSON has ids in hexadecimal digits already. */
const hex = (bytes: Uint8Array | string | undefined): string =>
  typeof bytes === 'string' ? bytes : Buffer.from(bytes ?? []).toString('hex')
const record = (attributes: readonly WireAttribute[] | undefined): Record<string, WireValue> =>
  Object.fromEntries((attributes ?? []).map(({ key, value }) => [key, value]))

const KINDS = ['SPAN_KIND_UNSPECIFIED', 'SPAN_KIND_INTERNAL', 'SPAN_KIND_SERVER', 'SPAN_KIND_CLIENT']
const STATUSES = ['STATUS_CODE_UNSET', 'STATUS_CODE_OK', 'STATUS_CODE_ERROR']
/** The protobuf decoder gives enums as names or as numbers, by version. */
const enumName = (value: unknown, names: readonly string[]): string =>
  typeof value === 'number' ? (names[value] ?? String(value)) : String(value ?? names[0])

export class OtlpReceiver {
  readonly spans: ReceivedSpan[] = []
  readonly logs: ReceivedLog[] = []
  /** Every export as it came. */
  readonly requests: { readonly path: string; readonly headers: Readonly<Record<string, unknown>> }[] = []
  /** The series of the latest metrics; each export has them all. */
  points: ReceivedPoint[] = []
  private readonly server: MockOtlpServer
  private readonly waiting: (() => void)[] = []

  private constructor() {
    this.server = new MockOtlpServer({
      services: ['grpc', 'http'],
      grpcHostname: '127.0.0.1',
      grpcPort: 0,
      httpHostname: '127.0.0.1',
      httpPort: 0,
      logLevel: 'fatal',
      onTrace: (trace: WireTrace) => this.receive(trace),
      onLogs: (logs: WireLogs) => this.receiveLogs(logs),
      onRequest: ({ path, headers, metadata }: WireRequest) =>
        this.requests.push({ path, headers: headers ?? metadata?.getMap() ?? {} }),
      onMetrics: (metrics: WireMetrics) => this.receiveMetrics(metrics),
    })
  }

  static async start(): Promise<OtlpReceiver> {
    const receiver = new OtlpReceiver()
    await receiver.server.start()
    return receiver
  }

  /** Over gRPC. */
  get url(): string {
    return String(this.server.grpcUrl)
  }

  /** Over HTTP, the base of all signals. */
  get httpUrl(): string {
    return String(this.server.httpUrl).replace(/\/$/, '')
  }

  /** The spans of a trace, once `count` of them have come. */
  async trace(traceId: string, count: number): Promise<ReceivedSpan[]> {
    return this.until(() => {
      const found = this.spans.filter((span) => span.traceId === traceId)
      return found.length >= count ? found : null
    })
  }

  /** Waits until `ready` gives a value; asked again whenever spans arrive. */
  async until<T>(ready: () => T | null): Promise<T> {
    for (;;) {
      const value = ready()
      if (value !== null) return value
      await new Promise<void>((resolve) => this.waiting.push(resolve))
    }
  }

  async close(): Promise<void> {
    await this.server.close()
  }

  private receive(trace: WireTrace): void {
    for (const { resource, scopeSpans } of trace.resourceSpans) {
      for (const { scope, spans } of scopeSpans) {
        for (const span of spans) {
          this.spans.push({
            traceId: hex(span.traceId),
            spanId: hex(span.spanId),
            parentSpanId: span.parentSpanId ? hex(span.parentSpanId) : '',
            name: span.name,
            kind: enumName(span.kind, KINDS),
            start: BigInt(span.startTimeUnixNano.toString()),
            end: BigInt(span.endTimeUnixNano.toString()),
            attributes: record(span.attributes),
            events: (span.events ?? []).map((event) => ({
              name: event.name,
              time: BigInt(event.timeUnixNano.toString()),
              attributes: record(event.attributes),
            })),
            status: enumName(span.status?.code, STATUSES),
            resource: record(resource.attributes),
            scope: scope.name,
          })
        }
      }
    }
    this.wake()
  }

  private receiveLogs({ resourceLogs }: WireLogs): void {
    for (const { resource, scopeLogs } of resourceLogs) {
      for (const line of scopeLogs.flatMap(({ logRecords }) => logRecords)) {
        this.logs.push({
          body: line.body.stringValue ?? '',
          severity: line.severityText,
          time: BigInt(line.timeUnixNano.toString()),
          traceId: hex(line.traceId),
          spanId: hex(line.spanId),
          attributes: record(line.attributes),
          resource: record(resource.attributes),
        })
      }
    }
    this.wake()
  }

  private receiveMetrics({ resourceMetrics }: WireMetrics): void {
    this.points = resourceMetrics.flatMap(({ resource, scopeMetrics }) =>
      scopeMetrics.flatMap(({ metrics }) =>
        metrics.flatMap(({ name, gauge, sum, histogram }) => {
          const kind = histogram ? 'histogram' : sum ? 'sum' : 'gauge'
          return ((histogram ?? sum ?? gauge)?.dataPoints ?? []).map((point) => ({
            name,
            kind,
            isMonotonic: sum?.isMonotonic ?? false,
            labels: Object.fromEntries(
              (point.attributes ?? []).map(({ key, value }) => [key, value.stringValue ?? '']),
            ),
            value: Number(point.count ?? point.asDouble ?? point.asInt),
            sum: point.sum ?? null,
            bucketCounts: (point.bucketCounts ?? []).map(Number),
            explicitBounds: point.explicitBounds ?? [],
            resource: record(resource.attributes),
          }))
        }),
      ),
    )
    this.wake()
  }

  private wake(): void {
    for (const wake of this.waiting.splice(0)) wake()
  }
}

/** Received spans as OTLP JSON, for the contract's validator: what is judged is what was on the wire. */
export function toOtlp(spans: readonly ReceivedSpan[]): OtlpTraces {
  return {
    resourceSpans: spans.map((span) => ({
      resource: { attributes: attributesOf(span.resource) },
      scopeSpans: [
        {
          scope: { name: span.scope },
          spans: [
            {
              traceId: span.traceId,
              spanId: span.spanId,
              parentSpanId: span.parentSpanId,
              name: span.name,
              kind: KINDS.indexOf(span.kind),
              startTimeUnixNano: String(span.start),
              endTimeUnixNano: String(span.end),
              attributes: attributesOf(span.attributes),
              events: span.events.map((event) => ({
                timeUnixNano: String(event.time),
                name: event.name,
                attributes: attributesOf(event.attributes),
              })),
              links: [],
              status: { code: STATUSES.indexOf(span.status) },
            },
          ],
        },
      ],
    })),
  }
}

const attributesOf = (attributes: Readonly<Record<string, WireValue>>) =>
  Object.entries(attributes).map(([key, value]) => ({ key, value: otlpValue(value) }))

/** The protobuf decoder gives absent members as null, or leaves them out, by version. */
function otlpValue(value: WireValue): OtlpValue {
  const { stringValue = null, intValue = null, doubleValue = null, boolValue = null, arrayValue = null } = value
  if (stringValue !== null) return { stringValue }
  if (intValue !== null) return { intValue: String(intValue) }
  if (doubleValue !== null) return { doubleValue }
  if (boolValue !== null) return { boolValue }
  return { arrayValue: { values: (arrayValue?.values ?? []).map(otlpValue) } }
}
