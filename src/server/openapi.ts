/**
 * GET /openapi.json, generated from ROUTES. Its request schemas are those that validate requests, converted to JSON Schema. Schemas of
 * requests and responses are components, named after their operation.
 */
import { z } from 'zod'
import { errorBody, messagesErrorBody } from './response-bodies.ts'
import { patternOf, type Route, type RouteName, ROUTES } from './routes.ts'
import { WARNING_HEADER } from './warnings.ts'

const HEADERS = {
  'X-Trace-Id': { description: 'trace id, 32 hex digits: the key of logs and traces', schema: { type: 'string' } },
  'X-Request-Id': { description: "the caller's X-Request-Id, else the response id", schema: { type: 'string' } },
  [WARNING_HEADER]: {
    description: 'how the response differs from what was requested, one sentence each; absent if it does not',
    schema: { type: 'string' },
  },
}

const TAGS: Readonly<Record<Route['tag'], string>> = {
  Generation: 'Completions, chat, responses and messages',
  Retrieval: 'Embeddings, reranking and document indexes',
  Tokenizer: 'Tokenize without generating',
  Models: 'Served models',
  Traces: 'Traces',
  Pages: 'For browsers',
  Server: 'Probes and metrics',
}

type Schema = Record<string, unknown>

/** The OpenAPI document for the given routes. */
export function openApiDocument(version: string, names: readonly RouteName[]): object {
  const schemas: Record<string, Schema> = {
    Error: jsonSchema(errorBody, 'output'),
    MessagesError: jsonSchema(messagesErrorBody, 'output'),
  }
  /** Names of the components, by schema. Operations with the same schema share a component. */
  const known = new Map<z.ZodType, string>()
  const reference = (type: z.ZodType, name: string, io: 'input' | 'output'): Schema => {
    const shared = known.get(type) ?? name
    if (!known.has(type)) {
      known.set(type, name)
      schemas[name] = jsonSchema(type, io)
    }
    return { $ref: `#/components/schemas/${shared}` }
  }
  const paths: Record<string, Record<string, object>> = {}
  for (const name of names) {
    const route: Route = ROUTES[name]
    const operations = (paths[patternOf(route)] ??= {})
    operations[route.method.toLowerCase()] = toOperation(name, route, reference)
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'miniserve',
      version,
      summary: "Language models over OpenAI's API, with retrieval and traces",
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/' }],
    tags: Object.entries(TAGS).map(([name, description]) => ({ name, description })),
    paths,
    components: {
      schemas,
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer' },
        key: { type: 'apiKey', in: 'header', name: 'X-Api-Key' },
      },
    },
    security: [{}, { bearer: [] }, { key: [] }],
  }
}

function toOperation(
  name: RouteName,
  route: Route,
  reference: (type: z.ZodType, name: string, io: 'input' | 'output') => Schema,
): object {
  const title = name.charAt(0).toUpperCase() + name.slice(1)
  const parameters = [...pathParameters(route), ...queryParameters(route)]
  const { answer, event } = route
  const content =
    typeof answer === 'string'
      ? { [answer]: { schema: { type: 'string' } } }
      : { 'application/json': { schema: reference(answer, `${title}Answer`, 'output') } }
  const events = event && {
    // OpenAPI 3.1 cannot describe the schema of a stream's events.
    'text/event-stream': { schema: {}, 'x-event-schema': reference(event, `${title}Event`, 'output') },
  }
  const error =
    route.errors === 'protocol'
      ? {}
      : { $ref: `#/components/schemas/${route.errors === 'anthropic' ? 'MessagesError' : 'Error'}` }
  return {
    operationId: name,
    summary: route.summary,
    tags: [route.tag],
    ...(route.openTo ? { security: [{}] } : {}),
    ...(parameters.length > 0 ? { parameters } : {}),
    ...(route.bytes ? { requestBody: { required: true, content: { [route.bytes]: { schema: {} } } } } : {}),
    ...(route.body
      ? {
          requestBody: {
            required: true,
            content: {
              'application/json': { schema: reference(route.body, `${title}Request`, 'input') },
              ...(route.line
                ? { 'application/x-ndjson': { schema: reference(route.line, `${title}Line`, 'input') } }
                : {}),
            },
          },
        }
      : {}),
    responses: {
      200: { description: 'ok', headers: HEADERS, content: { ...content, ...events } },
      ...(route.accepts ? { 202: { description: route.accepts, headers: HEADERS } } : {}),
      default: {
        description: 'an error',
        headers: HEADERS,
        content: { 'application/json': { schema: error } },
      },
    },
  }
}

const pathParameters = (route: Route): object[] =>
  [...patternOf(route).matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
    name,
    in: 'path',
    required: true,
    schema: { type: 'string', minLength: 1 },
  }))

const queryParameters = ({ query }: Route): object[] =>
  Object.entries(query?.shape ?? {}).map(([name, type]) => ({
    name,
    in: 'query',
    required: !(type as z.ZodType).safeParse(undefined).success,
    schema: jsonSchema(type as z.ZodType, 'output'),
  }))

function jsonSchema(type: z.ZodType, io: 'input' | 'output'): Schema {
  const { $schema: _, ...schema } = z.toJSONSchema(type, { io, unrepresentable: 'any', reused: 'inline' })
  return schema
}
