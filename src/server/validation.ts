/**
 * Validates bodies against their schemas, and describes the first error in words. Lists and records are checked item by item, up to the first
 * invalid one: zod alone would collect an issue for each of millions of items.
 */
import { z } from 'zod'
import { invalidRequest } from './errors.ts'

/** The item schemas of list() and record(), for messages. */
const itemTypes = new WeakMap<z.core.$ZodType, z.core.$ZodType>()

const jsonSchemaOf = (type: z.ZodType): Record<string, unknown> => {
  const { $schema: _, ...schema } = z.toJSONSchema(type, { io: 'input', unrepresentable: 'any', reused: 'inline' })
  return schema
}

/** An optional field. null is the same as leaving it out. */
export const nullable = <T extends z.ZodType>(type: T) => type.nullish().transform((value) => value ?? undefined)

/** A shape whose fields are all nullable. */
export const nullableFields = <S extends Readonly<Record<string, z.ZodType>>>(shape: S) =>
  Object.fromEntries(Object.entries(shape).map(([name, type]) => [name, nullable(type)])) as {
    [F in keyof S]: ReturnType<typeof nullable<S[F]>>
  }

/** The fields that have a value: for objects whose optional fields may be left out but not undefined. */
export const defined = <T extends object>(fields: T): Defined<T> =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Defined<T>

type Defined<T> = { [K in keyof T as undefined extends T[K] ? never : K]: T[K] } & {
  [K in keyof T as undefined extends T[K] ? K : never]?: Exclude<T[K], undefined>
}

interface Bounds {
  readonly min?: number
  readonly max: number
}

/** What is wrong with a value that should be an array of `min` to `max` items; null if it is valid. */
function listIssue(value: unknown, { min = 0, max }: Bounds): z.core.$ZodRawIssue | null {
  if (!Array.isArray(value)) return { code: 'invalid_type', expected: 'array', input: value }
  const size = { inclusive: true, origin: 'array', input: value } as const
  if (value.length < min) return { code: 'too_small', minimum: min, ...size }
  if (value.length > max) return { code: 'too_big', maximum: max, ...size }
  return null
}

function arrayOf<T extends z.ZodType>(
  item: T,
  { min = 0, max }: Bounds,
  parse: (items: readonly unknown[], ctx: Issues) => z.output<T>[],
) {
  const type = z
    .unknown()
    .transform((value, ctx): z.output<T>[] => {
      const issue = listIssue(value, { min, max })
      return issue ? refuse(ctx, issue) : parse(value as readonly unknown[], ctx)
    })
    .meta({ type: 'array', items: jsonSchemaOf(item), ...(min > 0 ? { minItems: min } : {}), maxItems: max })
  itemTypes.set(type, item)
  return type
}

/** An array of `min` to `max` items. */
export const list = <T extends z.ZodType>(item: T, bounds: Bounds) =>
  arrayOf(item, bounds, (values, ctx) => {
    const items: z.output<T>[] = []
    for (const [i, value] of values.entries()) {
      const result = item.safeParse(value)
      if (!result.success) return refuseItem(ctx, i, result.error)
      items.push(result.data)
    }
    return items
  })

/** Token ids: `min` to `max` whole numbers of at least 0. There may be hundreds of thousands, so the schema only describes a wrong one. */
export const tokenIds = (bounds: Bounds) =>
  arrayOf(tokenId, bounds, (ids, ctx) => {
    const wrong = ids.findIndex((id) => typeof id !== 'number' || !Number.isSafeInteger(id) || id < 0)
    return wrong === -1 ? (ids as number[]) : refuseItem(ctx, wrong, tokenId.safeParse(ids[wrong]).error)
  })

const tokenId = z.int().min(0)

/** An object with at most `max` keys, which the caller chooses. */
export function record<T extends z.ZodType>(key: z.ZodString, value: T, { max }: Bounds) {
  const type = z
    .unknown()
    .transform((given, ctx): Record<string, z.output<T>> => {
      if (typeof given !== 'object' || given === null || Array.isArray(given))
        return refuse(ctx, { code: 'invalid_type', expected: 'record', input: given })
      const entries = Object.entries(given)
      if (entries.length > max) return refuse(ctx, { code: 'custom', message: `at most ${max} keys`, input: given })
      const found: [string, z.output<T>][] = []
      for (const [name, item] of entries) {
        const issue = key.safeParse(name).error?.issues[0]
        if (issue)
          return refuse(ctx, { code: 'invalid_key', origin: 'record', issues: [issue], input: name, path: [name] })
        const result = value.safeParse(item)
        if (!result.success) return refuseItem(ctx, name, result.error)
        found.push([name, result.data])
      }
      return Object.fromEntries(found)
    })
    .meta({ type: 'object', additionalProperties: jsonSchemaOf(value), maxProperties: max })
  itemTypes.set(type, value)
  return type
}

type Issues = z.core.ParsePayload

function refuse(ctx: Issues, issue: z.core.$ZodRawIssue): never {
  ctx.issues.push(issue)
  return z.NEVER
}

/** Reports the first issue of an item as the issue of its list. */
function refuseItem(ctx: Issues, key: PropertyKey, error: z.ZodError | undefined): never {
  const [issue] = error?.issues ?? []
  return issue ? refuse(ctx, { ...issue, path: [key, ...issue.path] } as z.core.$ZodRawIssue) : z.NEVER
}

/** A JSON value in an error message. Numbers and booleans are quoted; strings never are. */
function describeFound(value: unknown, issue?: z.core.$ZodIssue): string {
  if (value === undefined) return 'nothing'
  if (value === null) return 'null'
  if (Array.isArray(value)) return `an array of ${value.length}`
  if (typeof value === 'number') return `the number ${value}`
  if (typeof value === 'boolean') return String(value)
  if (typeof value !== 'string') return typeof value === 'object' ? 'an object' : `a ${typeof value}`
  return issue?.code === 'too_small' || issue?.code === 'too_big' ? `a string of ${value.length}` : 'a string'
}

/** Whether the name of a key, not a value, is at fault: it is the caller's own text. */
const isOtherKey = ({ code }: z.core.$ZodIssue): boolean => code === 'invalid_key' || code === 'unrecognized_keys'

/** What was expected. @param type schema of the invalid field, if the schema names it */
function describeExpected(issue: z.core.$ZodIssue, type: z.core.$ZodType | undefined): string {
  const integer = integerOf(type)
  switch (issue.code) {
    case 'invalid_type': {
      if (issue.expected === 'int' || (issue.expected === 'number' && integer)) return 'a whole number'
      const expected = issue.expected === 'record' ? 'object' : issue.expected
      return `${/^[aeio]/.test(expected) ? 'an' : 'a'} ${expected}`
    }
    case 'too_small':
      if (integer && issue.minimum === Number.MIN_SAFE_INTEGER) return describeRange(integer)
      return `${issue.origin === 'array' ? 'at least' : issue.inclusive ? 'at least' : 'more than'} ${String(issue.minimum)}${sizeUnit(issue.origin)}`
    case 'too_big':
      if (integer && issue.maximum === Number.MAX_SAFE_INTEGER) return describeRange(integer)
      return `${issue.inclusive ? 'at most' : 'less than'} ${String(issue.maximum)}${sizeUnit(issue.origin)}`
    case 'invalid_value':
      // Zod's own messages begin like this. A schema's own message says more.
      return issue.message.startsWith('Invalid ') ? `one of ${issue.values.map(String).join(', ')}` : issue.message
    case 'invalid_key':
      return issue.issues[0]?.message ?? 'other keys'
    case 'unrecognized_keys':
      return `no keys other than ${fieldsOf(type).join(', ')}`
    default:
      return issue.message
  }
}

/** The fields of an object that takes no others. */
function fieldsOf(type: z.core.$ZodType | undefined): readonly string[] {
  if (type instanceof z.ZodOptional || type instanceof z.ZodNullable) return fieldsOf(type.unwrap())
  if (type instanceof z.ZodPipe) return fieldsOf(type.in)
  return type instanceof z.ZodObject ? Object.keys(type.shape) : []
}

/** The integer schema of a field; undefined if it is not an integer. */
function integerOf(type: z.core.$ZodType | undefined): z.ZodNumber | undefined {
  if (type instanceof z.ZodOptional || type instanceof z.ZodNullable) return integerOf(type.unwrap())
  if (type instanceof z.ZodPipe) return integerOf(type.in)
  return type instanceof z.ZodNumber && type.isInt ? type : undefined
}

const describeRange = ({ minValue, maxValue }: z.ZodNumber): string => `a whole number from ${minValue} to ${maxValue}`

const sizeUnit = (origin: string): string => (origin === 'array' ? ' items' : origin === 'string' ? ' characters' : '')

const at = (body: unknown, path: readonly PropertyKey[]): unknown =>
  path.reduce<unknown>(
    (value, key) => (typeof value === 'object' && value !== null ? Reflect.get(value, key) : undefined),
    body,
  )

/** The schema of a field or an item. Undefined if the schema does not name it: the rest of the path is the caller's own keys. */
function schemaAt(type: z.core.$ZodType, key: PropertyKey): z.core.$ZodType | undefined {
  if (type instanceof z.ZodObject) return Object.hasOwn(type.shape, key) ? type.shape[String(key)] : undefined
  const item = itemTypes.get(type)
  if (item) return typeof key === 'number' ? item : undefined
  if (type instanceof z.ZodOptional || type instanceof z.ZodNullable) return schemaAt(type.unwrap(), key)
  if (type instanceof z.ZodPipe) return schemaAt(type.in, key)
  if (type instanceof z.ZodUnion) {
    for (const option of type.options) {
      const found = schemaAt(option, key)
      if (found) return found
    }
  }
  return undefined
}

/** The part of a path that the schema names, and the schema at its end if that is the whole path. */
function knownPath(
  type: z.core.$ZodType,
  path: readonly PropertyKey[],
): { readonly path: readonly PropertyKey[]; readonly type: z.core.$ZodType | undefined } {
  let current: z.core.$ZodType | undefined = type
  const end = path.findIndex((key) => {
    current = current && schemaAt(current, key)
    return current === undefined
  })
  return { path: end === -1 ? path : path.slice(0, end), type: current }
}

/** If only one form of a union fits a value, the issue inside that form. Listing all forms would not name the field. */
function fieldIssue(issue: z.core.$ZodIssue, body: unknown): z.core.$ZodIssue {
  if (issue.code !== 'invalid_union') return issue
  const found = at(body, issue.path)
  if (typeof found !== 'object' || found === null) return issue
  // Forms of another type fail at once. The others may be what was meant.
  const forms = issue.errors.filter((errors) =>
    errors.some(({ path, code }) => path.length > 0 || code !== 'invalid_type'),
  )
  const inner = forms.flat().find(({ path }) => path.length > 0)
  if (inner === undefined || (Array.isArray(found) && forms.length > 1)) return issue
  return fieldIssue({ ...inner, path: [...issue.path, ...inner.path] }, body)
}

/**
 * A request body validated against its schema.
 * @throws ApiError 400 naming the field, what was expected and the type that was found.
 */
export function parseBody<T extends z.ZodType>(type: T, body: unknown): z.output<T> {
  const result = type.safeParse(body)
  if (result.success) return result.data
  const [first] = result.error.issues
  if (!first) throw invalidRequest('the body does not fit the schema')
  const issue = fieldIssue(first, body)
  if (issue.path.length === 0 && issue.code === 'invalid_type') {
    throw invalidRequest(`body: expected a JSON object, found ${describeFound(body)}`)
  }
  const { path, type: fieldType } = knownPath(type, issue.path)
  const param = path.map(String).join('.')
  if (issue.code === 'custom' && issue.message === 'not supported by this server') {
    throw invalidRequest(`${param}: ${issue.message}`, param)
  }
  const where =
    path.length === issue.path.length || issue.code === 'invalid_key' ? param : `${param} (one of its values)`
  const found = isOtherKey(issue) ? 'another key' : describeFound(at(body, issue.path), issue)
  throw invalidRequest(`${where}: expected ${describeExpected(issue, fieldType)}, found ${found}`, param)
}
