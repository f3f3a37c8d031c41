import { describe, expect, it } from 'vitest'
import { createRandom } from '../../../test/engine/random.ts'
import { IncrementalDetokenizer, StopMatcher } from './stops.ts'

describe('the detokenizer', () => {
  it('holds a character back until its bytes are there', () => {
    const detokenizer = new IncrementalDetokenizer()
    const pieces = [...Buffer.from('aé日😀')].map((byte) => detokenizer.push(Uint8Array.of(byte)))
    expect(pieces.filter((piece) => piece !== '')).toEqual(['a', 'é', '日', '😀'])
    expect(detokenizer.flush()).toBe('')
  })

  it('replaces what never becomes a character, also at the end', () => {
    const detokenizer = new IncrementalDetokenizer()
    expect(detokenizer.push(Uint8Array.of(0xff, 0x61))).toBe('\ufffda')
    expect(detokenizer.push(Uint8Array.of(0xe6, 0x97))).toBe('')
    expect(detokenizer.flush()).toBe('\ufffd')
  })
})

describe('the stop matcher', () => {
  const run = (pieces: readonly string[], stops: readonly string[], includeStop = false) => {
    const matcher = new StopMatcher(stops, includeStop)
    const shown: string[] = []
    for (const piece of pieces) {
      const { text, stop } = matcher.push(piece)
      shown.push(text)
      if (stop !== null) return { shown, text: shown.join(''), stop }
    }
    return { shown, text: shown.join('') + matcher.flush(), stop: null }
  }

  it('holds back what may become a stop string and shows it when it does not', () => {
    expect(run(['one\n', '\nQ'], ['\n\nQ:'])).toEqual({ shown: ['one', ''], text: 'one\n\nQ', stop: null })
    expect(run(['one\n', '\nA', ': x'], ['\n\nQ:']).shown).toEqual(['one', '\n\nA', ': x'])
    expect(run(['ab', 'ab', 'ac'], ['abac'])).toMatchObject({ text: 'ab', stop: 'abac' })
    expect(run(['say STOP now'], ['STOP'], true)).toMatchObject({ text: 'say STOP', stop: 'STOP' })
    expect(run(['free'], [])).toMatchObject({ text: 'free', stop: null })
  })

  it('decides the same wherever the pieces are cut', () => {
    for (let seed = 1; seed <= 300; seed++) {
      const random = createRandom(seed)
      const text = Array.from({ length: random.int(1, 30) }, () => random.pick(['a', 'b', 'c'])).join('')
      const stops = Array.from({ length: random.int(1, 4) }, () =>
        Array.from({ length: random.int(1, 5) }, () => random.pick(['a', 'b', 'c'])).join(''),
      )
      const pieces: string[] = []
      for (let at = 0; at < text.length;) {
        const length = random.int(1, 7)
        pieces.push(text.slice(at, at + length))
        at += length
      }
      const byCharacter = run([...text], stops)
      const byPiece = run(pieces, stops)
      expect({ seed, text: byPiece.text, stop: byPiece.stop }).toEqual({
        seed,
        text: byCharacter.text,
        stop: byCharacter.stop,
      })
      if (byPiece.stop === null) expect(byPiece.text).toBe(text)
      for (const stop of stops) expect(byPiece.text).not.toContain(stop)
    }
  })
})
