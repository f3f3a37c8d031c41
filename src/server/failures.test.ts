import { describe, expect, it } from 'vitest'
import { type EndingName, ENDINGS } from '../observability/endings.ts'
import { endingOfStatus } from './errors.ts'
import { FAILURES } from './failures.ts'

/** The row that a trace with this ending and status is validated against. */
const rowOf = (ending: EndingName, status: number) =>
  ENDINGS.find(
    (row) =>
      row.ending === ending &&
      row.phase === 'before headers' &&
      (row.statusCode === null ? row.sent.includes(status) : row.statusCode === status),
  )

describe('the table of endings', () => {
  it.each(Object.entries(FAILURES))('has the status of %s', (_, { ending, status }) => {
    expect(rowOf(ending, status)).toBeDefined()
  })

  // The Model Context Protocol's transport answers with these, without an error of this server.
  it.each([200, 202, 400, 403, 404, 405, 406, 409, 413, 415, 500])('has the returned status %d', (status) => {
    expect(rowOf(endingOfStatus(status), status)).toBeDefined()
  })
})
