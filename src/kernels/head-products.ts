/** Argument checks of `headProducts` that all backends share. */
import type { HeadProductsOptions } from './attention-options.ts'
import type { Columns } from './ops.ts'

/** @throws Error when the shapes do not match */
export function checkHeadProducts(out: Columns, { x, numHeads, headDim, count, table }: HeadProductsOptions): void {
  const fits =
    count % 16 === 0 &&
    out.offset + numHeads * count <= out.x.cols &&
    x.offset + numHeads * headDim <= x.x.cols &&
    table.length === numHeads * count * headDim
  if (fits) return
  throw new Error(
    `headProducts ${table.label}: ${numHeads} heads of ${headDim} with ${count} vectors each do not fit ${x.x.label} [.., ${x.x.cols}], ` +
      `${out.x.label} [.., ${out.x.cols}] and a table of ${table.length}`,
  )
}
