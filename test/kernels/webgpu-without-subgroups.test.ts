import { describeWithoutSubgroups } from './webgpu-width.ts'

await describeWithoutSubgroups()
