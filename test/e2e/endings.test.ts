/**
 * The table of endings against the real server process, a real HTTP client and a real OTLP gRPC receiver. Its rows make the tests: each
 * way to a row, streamed or not, leaves exactly one root, ended once, with the row's status, event and tail, in a tree that holds the
 * contract; and at the end no server has anything left.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type EndingRow, ENDINGS, ERROR_CODE } from '../../src/observability/endings.ts'
import { formatBreach, validateTraces } from '../../src/observability/validate.ts'
import { hasAdapter } from '../../src/kernels/webgpu/device.ts'
import { OtlpReceiver, toOtlp } from './otlp-receiver.ts'
import { type Outcome, PROVOCATIONS, World } from './provocations.ts'
import { readFrames, ServerProcess } from './server-process.ts'
import { contradictions } from './trace-account.ts'

const isDefault = (process.env['MINISERVE_TEST_LEVEL'] ?? 'default') === 'default'
const isWebGpuRequired = (process.env['MINISERVE_REQUIRE'] ?? '').split(',').includes('webgpu')
const hasWebGpu = isWebGpuRequired || (await hasAdapter())

let receiver: OtlpReceiver
let world: World

beforeAll(async () => {
  receiver = await OtlpReceiver.start()
  world = new World(receiver.url)
  world.warm(hasWebGpu)
})

afterAll(async () => {
  await world?.stop()
  await receiver?.close()
})

it('has a way to provoke every row', () => {
  expect(Object.keys(PROVOCATIONS).sort()).toEqual(ENDINGS.map((row) => row.path).sort())
})

describe.each(ENDINGS)('$path', (row) => {
  const ways = (PROVOCATIONS[row.path] ?? []).flatMap((way) =>
    (isDefault && way.isCostly ? way.streams.slice(0, 1) : way.streams).map((stream) => ({
      ...way,
      stream,
      shape: stream ? 'streamed' : 'whole',
    })),
  )
  it.runIf(row.ending !== 'device_lost' || hasWebGpu).each(ways)('$how ($shape)', async ({ run, stream }) => {
    const outcome = await run(world, stream)
    expect(row.sent.length === 0 ? [null] : row.sent).toContain(outcome.sent)
    expectTail(row, outcome)
    await expectTrace(row, outcome)
  })
})

/** What the client got last. */
function expectTail(row: EndingRow, { frames, body, sent }: Outcome): void {
  switch (row.tail) {
    case 'body':
      expect(frames).toBeNull()
      if (sent !== 200) expect(body).toMatchObject({ error: { message: expect.any(String), type: expect.any(String) } })
      return
    case '[DONE]':
      expect(frames?.at(-1)).toBe('[DONE]')
      expect(frames?.at(-2)).not.toHaveProperty('error')
      return
    case 'error frame, [DONE]':
      expect(frames?.at(-1)).toBe('[DONE]')
      expect(frames?.at(-2)).toMatchObject({ error: { message: expect.any(String), type: expect.any(String) } })
      return
    case 'none':
      expect(frames ?? []).not.toContain('[DONE]')
  }
}

/** One root, ended once by its row, in a tree without a breach. */
async function expectTrace(row: EndingRow, { traceId, sent, body, frames }: Outcome): Promise<void> {
  const ofTrace = () => receiver.spans.filter((span) => span.traceId === traceId)
  await receiver.until(() => ofTrace().find((span) => span.name === 'http.handler') ?? null)
  const spans = ofTrace()
  const roots = spans.filter((span) => span.name === 'http.handler')
  expect(roots).toHaveLength(1)
  const [root] = roots
  const status = row.statusCode ?? sent
  expect(root?.attributes['http.status_code']?.intValue?.toString() ?? null).toBe(status?.toString() ?? null)
  expect(root?.status).toBe(row.spanStatus === 'error' ? 'STATUS_CODE_ERROR' : 'STATUS_CODE_UNSET')
  const errorType = root?.attributes['error.type']?.stringValue ?? null
  if (row.errorType === ERROR_CODE) expect(errorType).toMatch(/^[a-z_0-9]+$/)
  else expect(errorType).toBe(row.errorType)
  const ends = root?.events.filter(({ name }) => name === 'request.departed' || name === 'request.aborted')
  expect(ends?.map((event) => event.name)).toEqual([row.event])
  expect(ends?.[0]?.attributes['reason']?.stringValue ?? null).toBe(row.reason)
  expect(validateTraces(toOtlp(spans), 'contract').map(formatBreach)).toEqual([])
  const lines = await world.logLines(traceId)
  expect(contradictions({ spans, lines, status: sent, text: JSON.stringify(body ?? frames) })).toEqual([])
}

describe('a sequence that is preempted', () => {
  it.each([false, true])('goes on and departs (streamed: %s)', async (stream) => {
    const server = await world.crowded()
    const answers = await Promise.all(
      Array.from({ length: 4 }, async (_, i) => {
        const response = await server.post('/v1/completions', {
          prompt: `${i} and`,
          max_tokens: 200,
          ignore_eos: true,
          stream,
        })
        const body = stream ? (await readFrames(response)).at(-2) : await response.json()
        expect(body).toMatchObject({ usage: { completion_tokens: 200 } })
        return { traceId: response.headers.get('x-trace-id') ?? '', body }
      }),
    )
    let numPreempted = 0
    for (const { traceId, body } of answers) {
      const row = ENDINGS.find((ending) => ending.ending === 'success')
      if (row) await expectTrace(row, { traceId, sent: 200, body, frames: null })
      const root = receiver.spans.find((span) => span.traceId === traceId && span.name === 'http.handler')
      const story = root?.events.map((event) => event.attributes['kind']?.stringValue ?? event.name) ?? []
      const times = story.filter((name) => name === 'request.preempted').length
      // Each time it lost its blocks it came back, and there is one departure, last.
      expect(story.filter((name) => name === 'resume')).toHaveLength(times)
      expect(story.at(-1)).toBe('request.departed')
      numPreempted += times
    }
    expect(numPreempted).toBeGreaterThan(0)
  })
})

it('lets a running stream finish on SIGTERM, and exits with 0', async () => {
  // Nobody needs it any more.
  const own = await world.crowded()
  const body = { prompt: 'The river', max_tokens: 200, ignore_eos: true, stream: true }
  const response = await own.post('/v1/completions', body)
  own.signal('SIGTERM')
  const frames = await readFrames(response)
  expect(frames.at(-1)).toBe('[DONE]')
  expect(frames.at(-2)).toMatchObject({ usage: { completion_tokens: 200 } })
  expect(await own.exited).toEqual({ code: 0, signal: null })
})

it('leaves nothing open in any server, and accounts for every span', async () => {
  const servers: readonly ServerProcess[] = await world.stop()
  expect(servers.length).toBeGreaterThan(5)
  let numExported = 0
  for (const server of servers) {
    const counts = server.logs.find((line) => line.msg === 'telemetry.stopped')
    expect(counts).toMatchObject({ open_requests: 0, open_spans: 0, dropped: 0 })
    expect(counts?.['created']).toBe(Number(counts?.['exported']) + Number(counts?.['unsampled']))
    numExported += Number(counts?.['exported'])
  }
  expect(receiver.spans).toHaveLength(numExported)
})
