/** What RADV says about a compiled kernel. */
export interface Figures {
  readonly vgprs: number
  readonly spilled_vgprs: number
  readonly spilled_sgprs: number
  readonly scratch_bytes: number
  readonly lds_bytes: number
  readonly waves_per_simd: number
  readonly instructions: number
}
export const GPUS: readonly string[]
export function missingTools(): Promise<string | null>
export function compileKernels(
  texts: readonly string[],
  toggles: readonly string[],
  gpus?: readonly string[],
): Promise<Record<string, readonly Figures[]>>
