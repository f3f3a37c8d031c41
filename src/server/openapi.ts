/** GET /openapi.json: the request schemas are the very ones that validate (wire.ts), turned into JSON Schema. */
import { z } from 'zod'
import { countTokensRequest, messagesRequest } from './messages/wire.ts'
import { responsesRequest } from './responses/wire.ts'
import { chatRequest, completionRequest, detokenizeRequest, tokenizeRequest } from './wire.ts'

const jsonSchema = (type: z.ZodType) => {
  const { $schema: _, ...schema } = z.toJSONSchema(type, { io: 'input', unrepresentable: 'any', reused: 'inline' })
  return schema
}

const ERROR = {
  description: 'error in the envelope of OpenAI',
  content: {
    'application/json': {
      schema: {
        type: 'object',
        properties: {
          error: {
            type: 'object',
            properties: {
              message: { type: 'string' },
              type: { type: 'string' },
              param: { type: ['string', 'null'] },
              code: { type: ['string', 'null'] },
            },
          },
        },
      },
    },
  },
}

const HEADERS = {
  'X-Trace-Id': { description: 'trace id, 32 hex digits: the key of logs and traces', schema: { type: 'string' } },
  'X-Request-Id': { description: "the caller's X-Request-Id, else the response id", schema: { type: 'string' } },
}

interface Operation {
  readonly summary: string
  readonly body?: z.ZodType
  /** What each line is where the body may be JSON lines instead. */
  readonly line?: z.ZodType
  readonly stream?: boolean
  readonly parameters?: readonly string[]
  readonly response?: string
}

/** One route of the document; other route files hand in theirs. */
export type Routes = Readonly<Record<string, Readonly<Record<string, Operation>>>>

export const CORE_ROUTES: Routes = {
  '/v1/completions': { post: { summary: 'Complete a prompt', body: completionRequest, stream: true } },
  '/v1/chat/completions': { post: { summary: 'Answer a conversation', body: chatRequest, stream: true } },
  '/v1/responses': {
    post: { summary: 'Answer items, keeping the answer for later turns', body: responsesRequest, stream: true },
  },
  '/v1/responses/{id}': {
    get: { summary: 'One response that was kept', parameters: ['id'] },
    delete: { summary: 'Forget a response', parameters: ['id'] },
  },
  '/v1/messages': {
    post: { summary: "Answer a conversation in Anthropic's form", body: messagesRequest, stream: true },
  },
  '/v1/messages/count_tokens': { post: { summary: 'Tokens of such a conversation', body: countTokensRequest } },
  '/v1/models': { get: { summary: 'List the served models' } },
  '/v1/models/{id}': { get: { summary: 'One served model', parameters: ['id'] } },
  '/tokenize': { post: { summary: 'Token ids of a prompt or a conversation', body: tokenizeRequest } },
  '/detokenize': { post: { summary: 'Text of token ids', body: detokenizeRequest } },
  '/v1/traces': { get: { summary: 'Recent traces' } },
  '/v1/traces/{traceId}': {
    get: { summary: 'One trace, as otlp, tempo, grafana or jaeger JSON', parameters: ['traceId'] },
  },
  '/v1/traces/{traceId}/validate': {
    get: { summary: 'A trace held against the span contract', parameters: ['traceId'] },
  },
  '/health': { get: { summary: 'The process is alive' } },
  '/ready': { get: { summary: 'The model is loaded and requests are accepted' } },
  '/version': { get: { summary: 'Version, revision and device' } },
  '/metrics': { get: { summary: 'Prometheus metrics', response: 'text/plain' } },
}

export function openApiDocument(version: string, routes: Routes): object {
  const paths = Object.fromEntries(
    Object.entries(routes).map(([path, operations]) => [
      path,
      Object.fromEntries(Object.entries(operations).map(([method, operation]) => [method, toOperation(operation)])),
    ]),
  )
  return {
    openapi: '3.1.0',
    info: { title: 'miniserve', version, license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } },
    paths,
    components: {
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer' },
        key: { type: 'apiKey', in: 'header', name: 'X-Api-Key' },
      },
    },
    security: [{}, { bearer: [] }, { key: [] }],
  }
}

function toOperation(operation: Operation): object {
  const content = {
    [operation.response ?? 'application/json']: { schema: {} },
    ...(operation.stream ? { 'text/event-stream': { schema: { type: 'string' } } } : {}),
  }
  return {
    summary: operation.summary,
    ...(operation.parameters
      ? {
          parameters: operation.parameters.map((name) => ({
            name,
            in: 'path',
            required: true,
            schema: { type: 'string' },
          })),
        }
      : {}),
    ...(operation.body
      ? {
          requestBody: {
            required: true,
            content: {
              'application/json': { schema: jsonSchema(operation.body) },
              ...(operation.line ? { 'application/x-ndjson': { schema: jsonSchema(operation.line) } } : {}),
            },
          },
        }
      : {}),
    responses: { 200: { description: 'ok', headers: HEADERS, content }, default: ERROR },
  }
}
