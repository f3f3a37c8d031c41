/** Progress on stderr: one rewritten line on a terminal, a line every 10 % otherwise. */
import type { WriteStream } from 'node:tty'

interface Progress {
  /** Bytes (or any unit) done, of how many. */
  readonly update: (done: number, total: number) => void
  /** Leaves the terminal's line; idempotent. */
  end(): void
}

const BAR_WIDTH = 24
/** Work that ends sooner shows nothing: a start of one second needs no bar, and one of a few seconds no line in a log. */
const QUIET_MS = { terminal: 1_000, log: 10_000 } as const

/** Starts a progress display. @param label the work, such as "downloading" @param isShortShown whether short work shows its progress, too */
export function createProgress(
  stream: Pick<WriteStream, 'write' | 'isTTY'>,
  label: string,
  { isShortShown = false }: { readonly isShortShown?: boolean } = {},
): Progress {
  const startedMs = performance.now()
  const quietMs = isShortShown ? 0 : stream.isTTY ? QUIET_MS.terminal : QUIET_MS.log
  let lastTenth = 0
  let lastDrawnMs = 0
  let isLineOpen = false
  return {
    update(done, total) {
      const nowMs = performance.now()
      if (total <= 0 || nowMs - startedMs < quietMs) return
      const share = Math.min(done / total, 1)
      if (stream.isTTY) {
        if (nowMs - lastDrawnMs < 100 && share < 1) return
        lastDrawnMs = nowMs
        isLineOpen = true
        const filled = Math.round(share * BAR_WIDTH)
        const seconds = (nowMs - startedMs) / 1000
        const rate = `${(done / 1e6 / seconds).toFixed(0)} MB/s`
        stream.write(
          `\r${label} [${'='.repeat(filled)}${' '.repeat(BAR_WIDTH - filled)}] ${(share * 100).toFixed(0)} % ${rate} `,
        )
        return
      }
      const tenth = Math.floor(share * 10)
      if (tenth <= lastTenth) return
      lastTenth = tenth
      stream.write(`${label}: ${tenth * 10} %\n`)
    },
    end() {
      if (isLineOpen) stream.write('\n')
      isLineOpen = false
    },
  }
}
