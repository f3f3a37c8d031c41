/** Argument checks of `experts` that all backends share. */
import type { Activation, ExpertMatrix, Routing } from './ops.ts'

/** @throws Error when the shapes do not match */
export function checkExperts(
  out: Activation,
  x: Activation,
  gateUp: ExpertMatrix,
  down: ExpertMatrix,
  { numExperts, inner, outer }: Routing,
  isGated: boolean,
): void {
  const fits =
    gateUp.numExperts === numExperts &&
    down.numExperts === numExperts &&
    gateUp.rows === (isGated ? 2 : 1) * inner &&
    gateUp.cols === x.cols &&
    down.rows === outer &&
    down.cols === inner &&
    out.cols === outer
  if (fits) return
  throw new Error(
    `experts ${gateUp.label}: [.., ${x.cols}] -> [.., ${out.cols}] through ${numExperts} of ${inner} does not fit ` +
      `${gateUp.numExperts} x ${gateUp.rows} x ${gateUp.cols} and ${down.numExperts} x ${down.rows} x ${down.cols}`,
  )
}
