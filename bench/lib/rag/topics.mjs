// Made-up chunks that have subjects. Half of a text's words are those of its subject, the others those of the language, with the frequencies of
// natural text. Its vector lies around the centre of its document, that around the centre of its subject, and that around one of a few fields. What a
// search finds among them says how well an index finds, not how good an embedding model is.
import { seededRandom } from '../stats.mjs'
import { englishWords } from './common.mjs'

const NUM_TOPICS = 2_000
const NUM_FIELDS = 50
const TOPIC_WORDS = 60
/** How far subjects lie from their field, documents from their subject, chunks from their document, over the length of a field's vector. */
const SPREAD = { topic: 1, document: 0.6, chunk: 0.6 }

/**
 * @param {number} seed of the subjects
 * @param {number} dimensions of the vectors
 */
export function topics(seed, dimensions) {
  const words = englishWords()
  const random = seededRandom(seed)
  const own = Array.from({ length: NUM_TOPICS }, () =>
    words(random, 4 * TOPIC_WORDS)
      .split(' ')
      .slice(-TOPIC_WORDS),
  )
  /** A text of `count` words on the subject of that number. */
  const text = (next, topic, count) => {
    const special = own[topic]
    const general = words(next, count).split(' ')
    return general.map((word) => (next() < 0.5 ? special[Math.floor(next() * special.length)] : word)).join(' ')
  }
  const offset = (next, scale) => Float32Array.from({ length: dimensions }, () => scale * (next() - 0.5))
  const add = (a, b) => a.map((value, i) => value + b[i])
  const fields = Array.from({ length: NUM_FIELDS }, () => offset(random, 1))
  const centres = own.map((_, topic) => add(fields[topic % NUM_FIELDS], offset(random, SPREAD.topic)))
  /** The centre of a document on a subject; a question's, too. */
  const document = (next, topic) => add(centres[topic], offset(next, SPREAD.document))
  /** A unit vector around a centre. */
  const vector = (next, centre) => {
    const sum = add(centre, offset(next, SPREAD.chunk))
    const length = Math.hypot(...sum)
    return sum.map((value) => value / length)
  }
  return { numTopics: NUM_TOPICS, text, document, vector }
}
