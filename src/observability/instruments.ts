/** The kinds of metrics: counted here, or read from where they are counted. */
import { Counter, Gauge, Histogram, Registry } from 'prom-client'

export interface LabelledValue {
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

/** A prom-client registry with counters, gauges and histograms, in the OpenMetrics format. */
export class Instruments {
  readonly registry = new Registry<typeof Registry.OPENMETRICS_CONTENT_TYPE>()
  readonly #registers = [this.registry]

  constructor() {
    this.registry.setContentType(Registry.OPENMETRICS_CONTENT_TYPE)
  }

  counter(name: string, help: string, labelNames: string[] = []): Counter {
    return new Counter({ name, help, labelNames, registers: this.#registers })
  }

  /** `buckets`: upper bounds. */
  histogram(name: string, help: string, buckets: number[], labelNames: string[] = ['model_name']): Histogram {
    return new Histogram({ name, help, buckets, labelNames, registers: this.#registers, enableExemplars: true })
  }

  /** A gauge that is read when the metrics are. */
  gauge(name: string, help: string, read: () => number): void {
    this.gauges(name, help, [], () => [{ labels: {}, value: read() }])
  }

  gauges(name: string, help: string, labelNames: string[], read: () => readonly LabelledValue[]): void {
    const gauge: Gauge = new Gauge({
      name,
      help,
      labelNames,
      registers: this.#registers,
      collect: () => {
        gauge.reset()
        for (const { labels, value } of read()) gauge.set(labels, value)
      },
    })
  }

  /** A counter that is kept elsewhere, and read when the metrics are. */
  mirror(name: string, help: string, read: () => number): void {
    this.mirrors(name, help, [], () => [{ labels: {}, value: read() }])
  }

  mirrors(name: string, help: string, labelNames: string[], read: () => readonly LabelledValue[]): void {
    const counter: Counter = new Counter({
      name,
      help,
      labelNames,
      registers: this.#registers,
      collect: () => {
        counter.reset()
        for (const { labels, value } of read()) counter.inc(labels, value)
      },
    })
  }
}

interface Series {
  /** One per bound, and one for values above the last. */
  readonly counts: number[]
  sum: number
}

/** A histogram with one label that takes many values at once. prom-client would look up the labels for each value. */
export class BulkHistogram {
  readonly #name: string
  readonly #help: string
  readonly #labelName: string
  readonly #bounds: readonly number[]
  readonly #series = new Map<string, Series>()

  /** `bounds`: upper bounds in ascending order. */
  constructor(name: string, help: string, labelName: string, bounds: readonly number[]) {
    this.#name = name
    this.#help = help
    this.#labelName = labelName
    this.#bounds = bounds
  }

  /** Observes `values` times `scale` under the label's value. */
  observe(label: string, values: readonly number[], scale: number): void {
    let series = this.#series.get(label)
    if (!series)
      this.#series.set(label, (series = { counts: Array.from({ length: this.#bounds.length + 1 }, () => 0), sum: 0 }))
    for (const value of values) {
      const scaled = value * scale
      let i = 0
      while (i < this.#bounds.length && scaled > (this.#bounds[i] ?? Infinity)) i += 1
      series.counts[i] = (series.counts[i] ?? 0) + 1
      series.sum += scaled
    }
  }

  /** In the form of prom-client's getMetricsAsJSON. */
  toJson() {
    const values = [...this.#series].flatMap(([label, { counts, sum }]) => {
      const labels = { [this.#labelName]: label }
      let total = 0
      const buckets = counts.map((count, i) => {
        total += count
        return {
          metricName: `${this.#name}_bucket`,
          labels: { le: this.#bounds[i] ?? '+Inf', ...labels },
          value: total,
        }
      })
      return [
        ...buckets,
        { metricName: `${this.#name}_sum`, labels, value: sum },
        { metricName: `${this.#name}_count`, labels, value: total },
      ]
    })
    return { name: this.#name, help: this.#help, type: 'histogram', values }
  }
}
