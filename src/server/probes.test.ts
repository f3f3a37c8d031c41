import { Hono } from 'hono'
import { expect, it } from 'vitest'
import { openScriptedEngine } from '../../test/engine/scripted-engine.ts'
import { testObservability } from '../../test/observability/scenario.ts'
import type { AppEnv } from './env.ts'
import { requestTrace } from './middleware.ts'
import { probeHandlers } from './probes.ts'
import { registerRoutes } from './router.ts'
import { ServerState } from './state.ts'

it('/ready says that the server is not, and leaves no warning or error in the log', async () => {
  const observability = testObservability()
  const state = new ServerState(() => [])
  const app = new Hono<AppEnv>().use(requestTrace(observability))
  registerRoutes(
    app,
    probeHandlers({
      state,
      version: '0',
      revision: null,
      retrievalModels: [],
      describe: () => ({}),
      renderMetrics: () => Promise.resolve({ contentType: 'text/plain', body: '' }),
    }),
  )
  const answers = async () => {
    const response = await app.request('/ready')
    return [response.status, await response.json(), response.headers.get('retry-after')]
  }
  expect(await answers()).toEqual([503, { status: 'loading' }, '2'])
  const { engine, runner } = openScriptedEngine()
  state.models.add({ engine, samplingDefaults: {}, promptTemplate: null })
  state.ready()
  runner.say({ reason: 'unplugged', isFatal: false })
  expect(await answers()).toEqual([503, { status: 'unavailable', reason: 'unplugged' }, '2'])
  await engine.close()
  state.drain()
  expect(await answers()).toEqual([503, { status: 'draining' }, '2'])
  const lines = observability.lines.filter((line) => line.msg.startsWith('request.'))
  expect(lines.map(({ level, msg }) => [level, msg])).toEqual([
    ['debug', 'request.received'],
    ['debug', 'request.refused'],
    ['debug', 'request.received'],
    ['debug', 'request.refused'],
    ['debug', 'request.received'],
    ['debug', 'request.refused'],
  ])
  await observability.shutdown(100)
})
