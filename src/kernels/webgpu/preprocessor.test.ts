import { describe, expect, it } from 'vitest'
import { preprocess } from './preprocessor.ts'

const expand = (text: string, defines: Record<string, number> = {}, files: Record<string, string> = {}) =>
  preprocess('main.wgsl', defines, (name) => {
    const found = name === 'main.wgsl' ? text : files[name]
    if (found === undefined) throw new Error(`no file ${name}`)
    return found
  })

describe('preprocess', () => {
  it('evaluates expressions with the precedence of C', () => {
    expect(expand('$(1 + 2 * 3) $((1 + 2) * 3) $(7 / 2) $(A % 4 == 1 && !B) $(2 < 1 || A >= 5)', { A: 5 })).toBe(
      '7 9 3 1 1',
    )
    expect(expand('x$(i)[$((A + 1) / (B - 1))]', { i: 2, A: 5, B: 4 })).toBe('x2[2]')
  })

  it('keeps one branch of #if, nested ones included', () => {
    const text = ['#if A', 'a', '#if B == 2', 'ab', '#else', 'a!b', '#endif', '#else', '!a', '#endif', 'end'].join('\n')
    expect(expand(text, { A: 1, B: 2 })).toBe('a\nab\nend')
    expect(expand(text, { A: 1 })).toBe('a\na!b\nend')
    expect(expand(text)).toBe('!a\nend')
  })

  it('repeats bodies, the count and conditions taken anew each time', () => {
    expect(expand('#repeat i 2\n#repeat j i + 1\n$(i),$(j)\n#end\n#if i == 1\nlast\n#endif\n#end')).toBe(
      '0,0\n1,0\n1,1\nlast',
    )
    expect(expand('#repeat i 0\nnever\n#end')).toBe('')
  })

  it('includes files, with the variables of the place', () => {
    expect(expand('#repeat i 2\n#include "part.wgsl"\n#end', {}, { 'part.wgsl': 'part $(i)' })).toBe('part 0\npart 1')
  })

  it('names the file and line of what is wrong', () => {
    expect(() => expand('ok\n#if 1\nx')).toThrow('main.wgsl:2')
    expect(() => expand('#frobnicate')).toThrow('main.wgsl:1: unknown directive #frobnicate')
    expect(() => expand('$(1 +)')).toThrow('ends too early')
    expect(() => expand('$(1')).toThrow('lacks a )')
  })
})
