/** The documents: links lead somewhere, and the README's promises about commands hold. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { COMMAND_OPTIONS } from '../src/config.ts'
import { SETTINGS } from '../src/settings/settings.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const documents = [
  'README.md',
  'CONTRIBUTING.md',
  'SECURITY.md',
  'CHANGELOG.md',
  'test/README.md',
  ...readdirSync(join(root, 'docs')).map((name) => `docs/${name}`),
].filter((path) => path.endsWith('.md'))

/** Flags of the benches, which documents name as well. */
const benchFlags = readdirSync(join(root, 'bench'))
  .filter((name) => name.endsWith('.mjs'))
  .flatMap((name) => [
    ...readFileSync(join(root, 'bench', name), 'utf8').matchAll(/^ {4}'?([a-z][a-z0-9-]*)'?: \{ type:/gm),
  ])
  .map(([, flag = '']) => flag)

describe.each(documents)('%s', (path) => {
  const text = readFileSync(join(root, path), 'utf8')

  it('links only to files that exist', () => {
    const links = [...text.matchAll(/\]\((?!https?:|#)([^)#\s]+)/g)].map(([, link = '']) => link)
    expect(links.filter((link) => !existsSync(join(root, dirname(path), link)))).toEqual([])
  })

  it('names only flags that exist', () => {
    const known = new Set([...SETTINGS.flatMap((setting) => setting.flag ?? []), ...Object.keys(COMMAND_OPTIONS)])
    const lines = text.split('\n').filter((line) => /miniserve|npm start|`--/.test(line))
    const flags = lines.flatMap((line) =>
      [...line.matchAll(/(?<![\w-])--([a-z][a-z0-9-]+)/g)].map(([, flag = '']) => flag),
    )
    const foreign = new Set([...benchFlags, 'build', 'up', 'full', 'save-exact', 'omit', 'no-audit', 'no-fund'])
    expect(flags.filter((flag) => !known.has(flag) && !foreign.has(flag))).toEqual([])
  })
})

it('the README has an answer of the real server in each example', () => {
  const readme = readFileSync(join(root, 'README.md'), 'utf8')
  const answers = {
    completion: /x-trace-id: (\w{32})\n[^$]*"finish_reason": "\w+"[^$]*\$ grep \1 .*\n.*"trace_id": "\1"/,
    chat: /"role":"assistant","content":"[^"]+"/,
    rag: /"text":"[^"]*1902[^"]*","sources":\["museum"\]/,
  }
  for (const name of ['completion', 'chat', 'rag'] as const) {
    const section = new RegExp(`<!-- example: ${name} -->([\\s\\S]*?)<!-- end -->`).exec(readme)?.[1] ?? ''
    expect(section, name).toMatch(answers[name])
  }
})
