/** Locates the entries of worker threads. */
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/**
 * The JavaScript entry of a worker, by its path within the engine's folder. Code that runs from src/ (tests) uses the built entry in dist/, because a
 * worker thread does not inherit the test runner's loader.
 * @throws if the entry has not been built
 */
export function builtEntry(path: string): URL {
  if (!import.meta.url.endsWith('.ts')) return new URL(`../${path}.js`, import.meta.url)
  const entry = new URL(`../../../dist/engine/${path}.js`, import.meta.url)
  if (!existsSync(fileURLToPath(entry))) throw new Error(`${fileURLToPath(entry)} not found: run npm run build first`)
  return entry
}
