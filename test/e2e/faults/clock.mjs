/** A wall clock that jumps, for the end-to-end tests: SIGUSR2 moves it a day on, and the next one a day back behind where it was. */
const DAY_MS = 86_400_000
const { now } = Date
let offsetMs = 0
let isNextBack = false

Date.now = () => now() + offsetMs
process.on('SIGUSR2', () => {
  offsetMs += isNextBack ? -2 * DAY_MS : DAY_MS
  isNextBack = !isNextBack
})
