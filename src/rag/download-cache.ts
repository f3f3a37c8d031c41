/** Files of hub models on disk, for @xenova/transformers: its own cache writes in place, and a file cut short by a kill would be loaded for ever. */
import { randomUUID } from 'node:crypto'
import { mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { readFile } from '../regular-file.ts'

/** What the library asks of a cache, keyed by URLs; it also asks for local paths, which are never in it. */
interface DownloadCache {
  match(key: string): Promise<Response | undefined>
  put(key: string, response: Response): Promise<void>
}

const REVISION = '/resolve/main/'

/**
 * @param folder holds ORG/NAME/FILE, where a model that is all there can be loaded from as a local one.
 * @param endpoint the hub's address, without a slash at the end.
 */
export function downloadCache(folder: string, endpoint: string): DownloadCache {
  const pathOf = (key: string): string | null => {
    const [id, file] = key.startsWith(`${endpoint}/`) ? key.slice(endpoint.length + 1).split(REVISION) : []
    return id && file ? join(folder, id, file) : null
  }
  return {
    async match(key) {
      const path = pathOf(key)
      const content = path && (await readFile(path).catch(() => null))
      return content ? new Response(content) : undefined
    },
    async put(key, response) {
      const path = pathOf(key)
      if (!path) return
      await mkdir(dirname(path), { recursive: true })
      const partial = `${path}.${randomUUID()}.partial`
      try {
        await writeFile(partial, new Uint8Array(await response.arrayBuffer()))
        await rename(partial, path)
      } catch (error) {
        await rm(partial, { force: true })
        throw error
      }
    },
  }
}
