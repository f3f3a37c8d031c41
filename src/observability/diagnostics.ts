/** Passes diagnostics of the OpenTelemetry SDK and its exporters to the log. */
import { diag, DiagLogLevel } from '@opentelemetry/api'

const DIAGNOSTIC_EVERY_MS = 30_000
/** Maximum number of distinct messages. Further ones share an entry. */
const MAX_COMPLAINTS = 16

/** Passes on each kind of message once in 30 s, with a count of the others: a missing collector would flood the log. */
export function limited(onDiagnostic: (message: string, suppressed: number) => void): (message: string) => void {
  const complaints = new Map<string, { nextMs: number; suppressed: number }>()
  return (message) => {
    const detail = summary(message)
    // The part after the colon differs from one try to the next.
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
 * Messages that are not passed on. The gRPC exporter writes the first one whenever a certificate authority is set, although no client
 * certificate is needed. The others are reported by this project itself.
 */
const FALSE_ALARMS = [
  'Client key and certificate must both be provided',
  'OTEL_TRACES_SAMPLER',
  'Attempted duplicate registration of API',
]

/** Passes warnings and errors of the SDK to `report`. */
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

/** The useful line of a message: the SDK may pass a JSON object with a message and a stack. */
function summary(message: string): string {
  try {
    const parsed: unknown = JSON.parse(message)
    if (typeof parsed === 'object' && parsed !== null && 'message' in parsed)
      return String(parsed.message).slice(0, 300)
  } catch {
    // Not JSON.
  }
  // The first line: a stack may follow.
  return (message.split('\n', 1)[0] ?? '').slice(0, 300)
}
