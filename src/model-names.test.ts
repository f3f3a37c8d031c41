import { cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, it } from 'vitest'
import { modelsOf } from './model-loading.ts'

const folder = mkdtempSync(join(tmpdir(), 'miniserve-names-'))
const path = join(folder, 'a=b')
mkdirSync(path)
cpSync(new URL('../models/mini-1m/config.json', import.meta.url), join(path, 'config.json'))
afterAll(() => rmSync(folder, { recursive: true }))

const named = (...models: string[]) => modelsOf({ models, servedModelName: null, lora: [] })

it('a model has the name before the equals sign, or that of its place', () => {
  expect(named(path)).toMatchObject([{ name: 'a=b', location: path }])
  expect(named(`x=${path}`, 'team/chat:1= org/name')).toMatchObject([
    { name: 'x', location: path },
    { name: 'team/chat:1', location: 'org/name' },
  ])
})

it.each([
  '=p',
  ' =p',
  'a b=p',
  'ü=p',
  '.=p',
  '../x=p',
  'x/..=p',
  '/x=p',
  'x/=p',
  'a//b=p',
  'a\n=p',
  `${'n'.repeat(129)}=p`,
])('the name of %j is refused', (value) => {
  expect(() => named(value)).toThrow(
    /^--model NAME=PATH: expected a name of 1 to 128 characters .*, found (?:none|another)$/,
  )
})

it('one without a path, and one that is there twice, are refused', () => {
  expect(() => named('x=')).toThrow('--model x=: expected a path or a hub id behind the name, found none')
  expect(() => named(`x=${path}`, `x=${path}`)).toThrow('two models are called x')
})
