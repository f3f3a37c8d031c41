/** /health, /ready, /version, /openapi.json, /metrics and the model list. */
import { ApiError, modelNotFound } from './errors.ts'
import type { Caller } from './keys.ts'
import { handlersOf } from './router.ts'
import type { ServerState } from './state.ts'

interface ProbeParts {
  readonly state: ServerState
  readonly version: string
  readonly revision: string | null
  /** Models of the retrieval routes. */
  readonly retrievalModels: readonly { readonly name: string; readonly kind: 'embedding' | 'reranking' }[]
  /** The content of /openapi.json. */
  readonly describe: () => object
  /** Prometheus text, or OpenMetrics if the Accept header asks for it. Only the admin sees the use of other keys. */
  readonly renderMetrics: (
    accept: string | undefined,
    caller: Caller,
  ) => Promise<{ readonly contentType: string; readonly body: string }>
}

/** Handlers of health, readiness, version, OpenAPI, metrics and the list of models. */
export function probeHandlers(parts: ProbeParts) {
  const startedSeconds = Math.floor(Date.now() / 1000)
  const model = (id: string, kind: string, state: string, more: object = {}) => ({
    id,
    object: 'model',
    created: startedSeconds,
    owned_by: 'miniserve',
    root: id,
    parent: null,
    kind,
    state,
    ...more,
  })
  /** Generation models come first, because clients take the first of the list. */
  const models = () => {
    if (parts.state.phase === 'loading') throw new ApiError('loading', 'the model is loading')
    return [
      ...parts.state.models.describe().flatMap(({ name, state, maxModelLen, adapters }) => {
        const length = maxModelLen === null ? {} : { max_model_len: maxModelLen }
        return [
          model(name, 'generation', state, length),
          ...adapters.map((adapter) =>
            model(adapter.name, 'generation', state, { root: name, parent: name, ...length }),
          ),
        ]
      }),
      ...parts.retrievalModels.map(({ name, kind }) => model(name, kind, 'on_demand')),
    ]
  }
  return handlersOf({
    getHealth: (c) => c.json({ status: 'ok' }),
    getReadiness: (c) => {
      const { phase } = parts.state
      const problems = parts.state.models.engines.map((engine) => engine.problem)
      // One working engine is enough to be ready.
      const problem = problems.every((found) => found !== null) ? problems[0] : null
      if (phase === 'ready' && typeof problem === 'string') {
        return c.json({ status: 'unavailable', reason: problem }, 503, { 'retry-after': '2' })
      }
      const described = parts.state.models.describe()
      if (phase === 'ready' && described.length > 1)
        return c.json({ status: 'ready', models: described.map(({ name, state }) => ({ id: name, state })) })
      if (phase === 'ready') return c.json({ status: 'ready' })
      return c.json({ status: phase }, 503, { 'retry-after': '2' })
    },
    getVersion: (c) => {
      const info = parts.state.engine?.modelInfo
      return c.json({
        version: parts.version,
        revision: parts.revision,
        node: process.version,
        device: info ? { ...info.device, quantization: info.quantization } : null,
      })
    },
    getOpenApi: (c) => c.json(parts.describe()),
    getMetrics: async (c) => {
      const { contentType, body } = await parts.renderMetrics(c.req.header('accept'), c.get('caller'))
      return c.body(body, 200, { 'content-type': contentType })
    },
    listModels: (c) => c.json({ object: 'list', data: models() }),
    getModel: (c) => {
      const served = models()
      const found = served.find(({ id }) => id === c.req.param('id'))
      if (!found) {
        const names = served.map(({ id }) => `"${id}"`).join(', ')
        throw modelNotFound(`GET /v1/models lists ${names}`)
      }
      return c.json(found)
    },
  })
}
