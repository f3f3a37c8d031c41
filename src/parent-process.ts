/** The process that started this one. `main.ts` imports it before all else: a parent that ends while the rest loads has been seen. */
export const PARENT_PID = process.ppid
