/** Masks that come after their step has given them up. */
import { vi } from 'vitest'
import { MaskQueue } from '../../src/engine/structured/mask-queue.ts'
import type { Random } from './random.ts'

/** Delays a share of all masks from now on, until `vi.restoreAllMocks`. */
export function delayMasks(random: Random, share: number): void {
  const { compute } = MaskQueue.prototype
  vi.spyOn(MaskQueue.prototype, 'compute').mockImplementation(function (this: MaskQueue, owner, matcher) {
    const delayMs = random.next() < share ? random.int(1, 15) : 0
    const mask = async () => {
      const found = await matcher.mask()
      if (delayMs > 0) await new Promise((resolve) => setTimeout(resolve, delayMs))
      return found
    }
    compute.call(this, owner, { mask } as typeof matcher)
  })
}
