/** A cache of downloaded model files for @xenova/transformers. The library's own cache writes in place, so a file cut off by a kill would stay. */
import { randomUUID } from 'node:crypto'
import { rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { makeFolder, readFile } from '../regular-file.ts'

/** The interface that the library expects. Keys are URLs; the library also asks for local paths, which are never cached. */
interface DownloadCache {
  match(key: string): Promise<Response | undefined>
  put(key: string, response: Response): Promise<void>
}

const REVISION = '/resolve/main/'

/**
 * A cache in the layout of local models.
 * @param folder contains ORG/NAME/FILE
 * @param endpoint the hub's address, without a slash at the end
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
      makeFolder(dirname(path))
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
