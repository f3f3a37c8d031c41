// The questions of the yardstick, in two halves: weights are chosen on `tune`, `report` is looked at for the report only.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { analyze } from '#dist/rag/analyzer.js'
import { root } from '../run.mjs'

export const HALVES = ['tune', 'report']
export const KINDS = ['keyword', 'paraphrase', 'table']
/** A word in fewer of the passages than this share is rare. */
const RARE = 0.01

/** [{id, kind, question, files, answer_pattern}] */
export const readQuestions = (half) =>
  readFileSync(join(root, 'bench', 'rag', `${half}.jsonl`), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))

const passageText = ({ headings, text }) => [...headings, text].join('\n')

/** Whether a passage answers: it is in a right file, and the pattern occurs in its headings or its text. */
export const isRight = ({ files, answer_pattern: pattern }, passage) =>
  files.includes(passage.documentId) && new RegExp(pattern).test(passageText(passage))

/**
 * Checks the questions against the passages: kinds are known, files are there, the pattern occurs in one, and a paraphrase has no rare
 * word in common with the passages that answer it.
 * @param passages [{documentId, headings, text}]
 * @param areRareKnown whether the passages are those of the bundled model, which kinds were written for: other models cut other passages,
 * and a word at the limit is rare in one cut and not in the other.
 * @returns what is wrong, one line each.
 */
export function problemsOf(questions, passages, areRareKnown) {
  const byDocument = new Map(passages.map(({ documentId }) => [documentId, []]))
  for (const passage of passages) byDocument.get(passage.documentId).push(passage)
  const terms = new Map(passages.map((passage) => [passage, new Set(analyze(passageText(passage)))]))
  const frequency = new Map()
  for (const found of terms.values()) for (const term of found) frequency.set(term, (frequency.get(term) ?? 0) + 1)
  return questions.flatMap((question) => {
    const { id, kind, files } = question
    const absent = files.filter((file) => !byDocument.has(file))
    const right = files.flatMap((file) => byDocument.get(file) ?? []).filter((passage) => isRight(question, passage))
    const rare = analyze(question.question).filter(
      (term) =>
        (frequency.get(term) ?? 0) < RARE * passages.length && right.some((passage) => terms.get(passage).has(term)),
    )
    return [
      ...(KINDS.includes(kind) ? [] : [`kind ${kind}: expected one of ${KINDS.join(', ')}`]),
      ...absent.map((file) => `${file}: no such document`),
      ...(right.length > 0 ? [] : ['no passage has the pattern']),
      ...(areRareKnown && kind === 'paraphrase' && rare.length > 0
        ? [`a paraphrase, but answers have ${rare.join(', ')}`]
        : []),
    ].map((problem) => `${id}: ${problem}`)
  })
}
