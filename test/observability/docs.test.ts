/** The generated parts of the documents are current; UPDATE_DOCS=1 rewrites them. The documented queries parse. */
import { readFileSync, writeFileSync } from 'node:fs'
import { parser as traceql } from '@grafana/lezer-traceql'
import { format } from 'prettier'
import { describe, expect, it } from 'vitest'
import { faultsMarkdown } from '../e2e/fault-rows.ts'
import {
  endingsMarkdown,
  eventsMarkdown,
  metricsMarkdown,
  readEvents,
  settingsMarkdown,
  spansMarkdown,
} from './contract-docs.ts'
import { testObservability } from './scenario.ts'

const root = new URL('../../', import.meta.url)
const read = (path: string) => readFileSync(new URL(path, root), 'utf8')
const example = (name: string) => `\`\`\`js\n${read(`test/observability/plugins/${name}.mjs`).trimEnd()}\n\`\`\``

async function describeMetrics(): Promise<string> {
  const observability = testObservability()
  try {
    return metricsMarkdown(await observability.metrics.describe())
  } finally {
    await observability.shutdown(100)
  }
}

const generated: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  'docs/span-contract.md': { spans: spansMarkdown(), endings: endingsMarkdown() },
  'docs/metrics.md': { metrics: await describeMetrics() },
  'docs/configuration.md': { settings: settingsMarkdown().trimEnd() },
  'docs/troubleshooting.md': { faults: faultsMarkdown() },
  'docs/events.md': { events: eventsMarkdown(read('src/engine/events.ts')) },
  'docs/extending-traces.md': {
    'example: queue-span': example('queue-span'),
    'example: nested-spans': example('nested-spans'),
  },
}

it.each(Object.keys(generated))('%s is current', async (path) => {
  const text = read(path)
  let current = text
  for (const [name, content] of Object.entries(generated[path] ?? {})) {
    const section = new RegExp(`(<!-- ${name}[^\\n]*-->\\n)[\\s\\S]*?(<!-- end -->)`)
    expect(text).toMatch(section)
    current = current.replace(section, (_, start: string, end: string) => `${start}\n${content}\n\n${end}`)
  }
  const options = { parser: 'markdown', printWidth: 120, semi: false, singleQuote: true, trailingComma: 'all' } as const
  const formatted = await format(current, options)
  if (process.env['UPDATE_DOCS'] === '1') writeFileSync(new URL(path, root), formatted)
  expect(read(path)).toBe(formatted)
})

it('reads every event with its keys', () => {
  const events = readEvents(read('src/engine/events.ts'))
  expect(events.map((event) => event.type)).toEqual([
    'requestStarted',
    'requestAccepted',
    'requestFinished',
    'grammar',
    'queued',
    'scheduled',
    'prefillChunk',
    'firstToken',
    'preempted',
    'finished',
    'kvSubmitted',
    'kvDone',
    'step',
  ])
  for (const event of events) expect(event.doc, event.name).not.toBe('')
  expect(events.find(({ type }) => type === 'scheduled')?.fields.map((field) => field.name)).toEqual([
    'requestId',
    'atMs',
    'choice',
    'kind',
    'waitUs',
    'numCachedTokens',
    'numMissTokens',
    'missReason',
  ])
})

describe('the queries of docs/span-contract.md', () => {
  const queries = /## Queries\n\n```\n([\s\S]*?)\n```/.exec(read('docs/span-contract.md'))?.[1]?.split('\n') ?? []

  it.each(queries)('%s is TraceQL', (query) => {
    let isBroken = false
    traceql.parse(query).iterate({
      enter(node) {
        isBroken ||= node.type.isError
      },
    })
    expect(isBroken).toBe(false)
  })

  it('are all there', () => expect(queries).toHaveLength(7))
})
