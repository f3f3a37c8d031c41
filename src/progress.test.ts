import { expect, it } from 'vitest'
import { createProgress } from './progress.ts'

const show = (isTTY: boolean, options?: { isShortShown: boolean }): string => {
  let out = ''
  const stream = { isTTY, write: (text: string) => Boolean((out += text)) }
  const progress = createProgress(stream as Parameters<typeof createProgress>[0], 'indexing', options)
  for (const done of [0, 12, 100]) progress.update(done, 100)
  progress.end()
  progress.end()
  return out
}

it('draws a bar on a terminal', () => {
  expect(show(true, { isShortShown: true })).toMatch(
    /^\rindexing \[ {24}\] 0 % \d+ MB\/s \rindexing \[={24}\] 100 % .*\n$/,
  )
})

it('writes a line every 10 % elsewhere', () => {
  expect(show(false, { isShortShown: true })).toBe('indexing: 10 %\nindexing: 100 %\n')
})

it('shows nothing of short work', () => {
  expect(show(true) + show(false)).toBe('')
})
