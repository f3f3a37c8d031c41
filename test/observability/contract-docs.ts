/** The generated parts of docs/span-contract.md, events.md, metrics.md and configuration.md. */
import type { MetricDescription } from '../../src/observability/metrics.ts'
import { SPAN_TABLE } from '../../src/observability/contract.ts'
import type { AttributeSpec } from '../../src/observability/contract/span-spec.ts'
import { ENDINGS } from '../../src/observability/endings.ts'
import { GROUPS, SETTINGS } from '../../src/settings/settings.ts'

const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => '---'), ...rows]
    .map((row) => `| ${row.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`)
    .join('\n')

/** Text in lines of at most 120 characters. */
function wrapped(text: string): string {
  const lines: string[] = []
  for (const word of text.split(' ')) {
    const last = lines.at(-1)
    if (last !== undefined && last.length + 1 + word.length <= 120) lines[lines.length - 1] = `${last} ${word}`
    else lines.push(word)
  }
  return lines.join('\n')
}

const code = (text: string): string => `\`${text}\``

function attributeRow(name: string, spec: AttributeSpec): readonly string[] {
  const values = spec.oneOf ? ` (${spec.oneOf.join(', ')})` : ''
  return [code(name), spec.type, spec.when, `${spec.meaning}${values}`, (spec.alias ?? []).map(code).join(', ')]
}

/** One section per span: its parent, when it is emitted, its attributes and events. */
export function spansMarkdown(): string {
  return Object.entries(SPAN_TABLE)
    .map(([name, span]) => {
      const place = span.parent === null ? 'A root' : `Below ${[span.parent, ...span.orParents].map(code).join(' or ')}`
      const facts = [
        place,
        span.kind.toUpperCase(),
        `level ${span.level}`,
        ...(span.mayOutliveParent ? ['may outlive its parent'] : []),
      ]
      const attributes = Object.entries(span.attributes)
      const own = attributes.filter(([, spec]) => !spec.convention)
      const conventions = attributes.filter(([, spec]) => spec.convention)
      const head = ['attribute', 'type', 'when', 'meaning', 'also emitted as']
      const parts = [`### ${name}`, wrapped(`${facts.join(', ')}. When: ${span.when}.`)]
      if (own.length > 0)
        parts.push(
          table(
            head,
            own.map(([key, spec]) => attributeRow(key, spec)),
          ),
        )
      if (conventions.length > 0) {
        parts.push(
          "From today's conventions:",
          table(
            head,
            conventions.map(([key, spec]) => attributeRow(key, spec)),
          ),
        )
      }
      const events = Object.entries(span.events)
      if (events.length > 0) {
        const rows = events.map(([event, spec]) => [
          code(event),
          spec.meaning,
          Object.entries(spec.attributes)
            .map(([key, attribute]) => `${code(key)} ${attribute.type}`)
            .join(', '),
        ])
        parts.push(table(['event', 'meaning', 'attributes'], rows))
      }
      return parts.join('\n\n')
    })
    .join('\n\n')
}

export function endingsMarkdown(): string {
  const rows = ENDINGS.map((row) => [
    row.path,
    row.sent.length === 0 ? 'none' : row.sent.join(', '),
    row.statusCode === null ? (row.sent.length === 0 ? 'absent' : 'same') : String(row.statusCode),
    row.spanStatus === 'error' ? 'ERROR' : 'unset',
    row.errorType ?? '',
    row.reason === null ? code(row.event) : `${code(row.event)} {${row.reason}}`,
    row.tail,
  ])
  return table(['path', 'status sent', 'http.status_code', 'span status', 'error.type', 'event', 'response'], rows)
}

interface EventDoc {
  readonly name: string
  readonly type: string
  readonly doc: string
  readonly base: string | null
  readonly fields: readonly { readonly name: string; readonly type: string; readonly doc: string }[]
}

/** The interfaces of src/engine/events.ts with their comments: the file is plain enough to be read line by line. */
export function readEvents(source: string): readonly EventDoc[] {
  const interfaces = new Map<string, EventDoc>()
  const declaration =
    /(?:\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\s*)?(?:export )?interface (\w+)(?: extends (\w+))? \{\n([\s\S]*?)\n\}/g
  for (const [, comment, name = '', base, body = ''] of source.matchAll(declaration)) {
    const fields = [...body.matchAll(/(?: {2}\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\n)? {2}readonly (\w+): (.+)/g)].map(
      ([, doc, field = '', type = '']) => ({
        name: field,
        type: type.trim(),
        doc: clean(doc),
      }),
    )
    const type = fields.find((field) => field.name === 'type')?.type.replaceAll("'", '') ?? ''
    interfaces.set(name, { name, type, doc: clean(comment), base: base ?? null, fields })
  }
  const inherited = (event: EventDoc): EventDoc['fields'] => {
    const base = event.base === null ? undefined : interfaces.get(event.base)
    return base ? [...inherited(base), ...base.fields] : []
  }
  const union = /export type EngineEvent =([\s\S]*?)\n\n/.exec(source)?.[1] ?? ''
  return [...union.matchAll(/\w+/g)].map(([name]) => {
    const event = interfaces.get(name)
    if (!event)
      throw new Error(`src/engine/events.ts: expected an interface ${name} of the union EngineEvent, found none`)
    return { ...event, fields: [...inherited(event), ...event.fields].filter((field) => field.name !== 'type') }
  })
}

const clean = (comment: string | undefined): string =>
  (comment ?? '')
    .split('\n')
    .map((line) => line.replace(/^\s*\*?\s?/, '').trim())
    .filter((line) => line !== '')
    .join(' ')

export function eventsMarkdown(source: string): string {
  return readEvents(source)
    .map((event) => {
      const rows = event.fields.map((field) => [code(field.name), code(field.type), field.doc])
      return `### ${event.type}\n\n${wrapped(event.doc)}\n\n${table(['key', 'type', ''], rows)}`
    })
    .join('\n\n')
}

/** Every metric of /metrics as a table. */
export function metricsMarkdown(metrics: readonly MetricDescription[]): string {
  const rows = metrics.map(
    ({ name, type, labels, help }) =>
      `| \`${name}\` | ${type} | ${labels.map((label) => `\`${label}\``).join(', ')} | ${help} |`,
  )
  return ['| metric | type | labels | meaning |', '|---|---|---|---|', ...rows].join('\n')
}

/** The tables of docs/configuration.md. */
export function settingsMarkdown(): string {
  const parts: string[] = []
  for (const group of GROUPS) {
    parts.push(`### ${group}`, '', '| flag | variable | default | what it does |', '|---|---|---|---|')
    for (const setting of SETTINGS.filter((candidate) => candidate.group === group)) {
      const cell = (value: string) => value.replaceAll('|', '\\|')
      const flag = setting.flag ? `\`--${setting.flag}${setting.value ? ` ${cell(setting.value)}` : ''}\`` : ''
      const env = setting.env ? `\`${setting.env}\`` : ''
      parts.push(
        `| ${flag} | ${env} | ${setting.isBoolean ? '' : cell(setting.printedDefault)} | ${cell(setting.help)} |`,
      )
    }
    parts.push('')
  }
  return parts.join('\n')
}
