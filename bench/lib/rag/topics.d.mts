export interface Topics {
  readonly numTopics: number
  text(next: () => number, topic: number, count: number): string
  document(next: () => number, topic: number): Float32Array
  vector(next: () => number, centre: Float32Array): Float32Array
}
export function topics(seed: number, dimensions: number): Topics
