/** The terms of lexical search: words in lower case, without English suffixes; identifiers also as a whole; CJK text as bigrams. */

const WORD = /[\p{L}\p{N}\p{M}]+(?:[._:/-][\p{L}\p{N}\p{M}]+)*/gu
const CJK = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]/u
const CJK_RUN =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]+|[^\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]+/gu
const ASCII_WORD = /^[a-z]+$/
/** Longer words are hashes, base64 and the like: nobody searches for them, and each would be a term of its own. */
const MAX_TERM_CHARS = 64

/** Words without a topic. All others are weighted by their document frequency. */
const STOP_WORDS = new Set(
  (
    'a about after all also am an and any are as at be because been before being between both but by can could did do does ' +
    'doing down each few for from further had has have having he her here hers him his how i if in into is it its itself just ' +
    'me more most my no nor not of off on once only or other our ours out over own same she should so some such than that ' +
    'the their theirs them then there these they this those through to too under until up very was we were what when where ' +
    'which while who whom whose why will with would you your yours'
  ).split(' '),
)

/** The terms of a document or a query, in order and without stop words. */
export function analyze(text: string): string[] {
  const terms: string[] = []
  const plain = text.normalize('NFKC').toLowerCase().replaceAll('_', '-')
  for (const [match] of plain.matchAll(WORD)) {
    const known = termsOfWords.get(match)
    // One push per term, because a call cannot have that many arguments.
    if (known) for (const term of known) terms.push(term)
    else addMatch(terms, match)
  }
  return terms
}

/** The terms of words seen before: a language has few words, which occur again and again. */
const termsOfWords = new Map<string, readonly string[]>()
const MAX_KNOWN_WORDS = 1 << 16

function addMatch(terms: string[], match: string): void {
  const first = terms.length
  const parts = match.split(/[._:/-]/)
  // An identifier such as llm.cache.hits can be found as a whole and by its parts.
  if (parts.length > 1 && match.length <= MAX_TERM_CHARS) terms.push(match)
  for (const part of parts) {
    if (CJK.test(part)) {
      for (const [run] of part.matchAll(CJK_RUN)) {
        if (CJK.test(run)) addBigrams(terms, run)
        else addWord(terms, run)
      }
    } else addWord(terms, part)
  }
  if (match.length > MAX_TERM_CHARS) return
  if (termsOfWords.size >= MAX_KNOWN_WORDS) termsOfWords.clear()
  // Copied, because a slice would keep the whole text in memory.
  termsOfWords.set(Buffer.from(match).toString(), terms.slice(first))
}

function addWord(terms: string[], word: string): void {
  if (word.length === 0 || word.length > MAX_TERM_CHARS || STOP_WORDS.has(word)) return
  terms.push(ASCII_WORD.test(word) ? stem(word) : word)
}

function addBigrams(terms: string[], run: string): void {
  let last: string | null = null
  for (const character of run) {
    if (last !== null) terms.push(last + character)
    else if (character.length === run.length) terms.push(character)
    last = character
  }
}

const isVowelAt = (word: string, i: number): boolean => {
  const character = word.charAt(i)
  if ('aeiou'.includes(character)) return true
  return character === 'y' && i > 0 && !isVowelAt(word, i - 1)
}

/** The number of vowel-consonant sequences: Porter's m. */
function measure(stem: string): number {
  let count = 0
  let afterVowel = false
  for (let i = 0; i < stem.length; i++) {
    const vowel = isVowelAt(stem, i)
    if (afterVowel && !vowel) count++
    afterVowel = vowel
  }
  return count
}

function hasVowel(stem: string): boolean {
  for (let i = 0; i < stem.length; i++) if (isVowelAt(stem, i)) return true
  return false
}

const endsDouble = (word: string): boolean =>
  word.length > 1 && word.at(-1) === word.at(-2) && !isVowelAt(word, word.length - 1)

/** Whether a word ends with consonant, vowel, consonant, where the last is not w, x or y. */
function endsShort(word: string): boolean {
  const n = word.length
  return n > 2 && !isVowelAt(word, n - 3) && isVowelAt(word, n - 2) && !isVowelAt(word, n - 1) && !/[wxy]$/.test(word)
}

type Rules = readonly (readonly [suffix: string, replacement: string])[]

const parseRules = (rules: string): Rules =>
  rules.split(' ').map((rule) => {
    const [suffix = '', replacement = ''] = rule.split('>')
    return [suffix, replacement] as const
  })

const STEP_2 = parseRules(
  'ational>ate tional>tion enci>ence anci>ance izer>ize abli>able alli>al entli>ent eli>e ousli>ous ization>ize ' +
    'ation>ate ator>ate alism>al iveness>ive fulness>ful ousness>ous aliti>al iviti>ive biliti>ble',
)
const STEP_3 = parseRules('icate>ic ative> alize>al iciti>ic ical>ic ful> ness>')
const STEP_4 = parseRules(
  'ement> ance> ence> able> ible> ment> ant> ent> ism> ate> iti> ous> ive> ize> ion> al> er> ic> ou>',
)

function applyFirst(word: string, rules: Rules, minMeasure: number): string {
  for (const [suffix, replacement] of rules) {
    if (!word.endsWith(suffix)) continue
    const base = word.slice(0, word.length - suffix.length)
    if (measure(base) < minMeasure || (suffix === 'ion' && !/[st]$/.test(base))) return word
    return base + replacement
  }
  return word
}

/** The stem of a word of lower-case ASCII letters (M. F. Porter, An algorithm for suffix stripping, Program 14 (3), 1980). */
export function stem(word: string): string {
  if (word.length <= 2) return word
  let w = word
  if (/(ss|i)es$/.test(w)) w = w.slice(0, -2)
  else if (/[^s]s$/.test(w)) w = w.slice(0, -1)

  if (w.endsWith('eed')) {
    if (measure(w.slice(0, -3)) > 0) w = w.slice(0, -1)
  } else {
    const suffix = /(ed|ing)$/.exec(w)?.[0]
    const base = suffix === undefined ? '' : w.slice(0, -suffix.length)
    if (suffix !== undefined && hasVowel(base)) {
      w = base
      if (/(at|bl|iz)$/.test(w)) w += 'e'
      else if (endsDouble(w) && !/[lsz]$/.test(w)) w = w.slice(0, -1)
      else if (measure(w) === 1 && endsShort(w)) w += 'e'
    }
  }
  if (w.endsWith('y') && hasVowel(w.slice(0, -1))) w = `${w.slice(0, -1)}i`

  w = applyFirst(w, STEP_2, 1)
  w = applyFirst(w, STEP_3, 1)
  w = applyFirst(w, STEP_4, 2)

  if (w.endsWith('e')) {
    const base = w.slice(0, -1)
    const m = measure(base)
    if (m > 1 || (m === 1 && !endsShort(base))) w = base
  }
  return measure(w) > 1 && w.endsWith('ll') ? w.slice(0, -1) : w
}
