/** What the OpenTelemetry SDK and its exporters complain about, on its way into the log. */
import { diag, DiagLogLevel } from '@opentelemetry/api'

const DIAGNOSTIC_EVERY_MS = 30_000
/** Distinct complaints; further ones share an entry. */
const MAX_COMPLAINTS = 16

/** Each complaint once in 30 s with the count of the others like it: a collector that is away would flood the log. */
export function limited(onDiagnostic: (message: string, suppressed: number) => void): (message: string) => void {
  const complaints = new Map<string, { nextMs: number; suppressed: number }>()
  return (message) => {
    const detail = summary(message)
    // The reason behind the colon varies from one try to the next.
    const name = detail.split(':', 1)[0] ?? ''
    const kind = complaints.has(name) || complaints.size < MAX_COMPLAINTS ? name : ''
    const complaint = complaints.get(kind) ?? { nextMs: 0, suppressed: 0 }
    complaints.set(kind, complaint)
    const now = performance.now()
    if (now < complaint.nextMs) {
      complaint.suppressed += 1
      return
    }
    complaint.nextMs = now + DIAGNOSTIC_EVERY_MS
    onDiagnostic(detail, complaint.suppressed)
    complaint.suppressed = 0
  }
}

/**
 * What is not passed on. The exporter over gRPC says the first of every endpoint whose certificate authority is named, though no client
 * certificate is needed; a sampler that is unknown, and an application's SDK that was there first, are reported by this project itself.
 */
const FALSE_ALARMS = [
  'Client key and certificate must both be provided',
  'OTEL_TRACES_SAMPLER',
  'Attempted duplicate registration of API',
]

/** The SDK's own complaints. */
export function installDiagnostics(report: (message: string) => void): void {
  const ignore = () => {}
  const complain = (message: string) => {
    if (!FALSE_ALARMS.some((alarm) => message.includes(alarm))) report(message)
  }
  diag.setLogger(
    { error: complain, warn: complain, info: ignore, debug: ignore, verbose: ignore },
    { logLevel: DiagLogLevel.WARN, suppressOverrideMessage: true },
  )
}

/** The SDK passes errors as a JSON object with the stack; its message is the useful line. */
function summary(message: string): string {
  try {
    const parsed: unknown = JSON.parse(message)
    if (typeof parsed === 'object' && parsed !== null && 'message' in parsed)
      return String(parsed.message).slice(0, 300)
  } catch {
    // Plain words.
  }
  // The first line: a stack may follow.
  return (message.split('\n', 1)[0] ?? '').slice(0, 300)
}
