import { describeWidth } from './webgpu-width.ts'

await describeWidth(8)
