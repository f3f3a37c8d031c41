/** Ways to make a metric in a registry: counted here, or read where it is counted. */
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

  /** Buckets are upper bounds. */
  histogram(name: string, help: string, buckets: number[], labelNames: string[] = ['model_name']): Histogram {
    return new Histogram({ name, help, buckets, labelNames, registers: this.#registers, enableExemplars: true })
  }

  /** A gauge read when the metrics are. */
  gauge(name: string, help: string, read: () => number): void {
    this.gauges(name, help, [], () => [{ labels: {}, value: read() }])
  }

  gauges(name: string, help: string, labelNames: string[], read: () => readonly LabelledValue[]): void {
    const gauge: Gauge = new Gauge({
      name,
      help,
      labelNames,
      registers: this.#registers,
      collect() {
        gauge.reset()
        for (const { labels, value } of read()) gauge.set(labels, value)
      },
    })
  }

  /** A counter kept elsewhere. */
  mirror(name: string, help: string, read: () => number): void {
    this.mirrors(name, help, [], () => [{ labels: {}, value: read() }])
  }

  mirrors(name: string, help: string, labelNames: string[], read: () => readonly LabelledValue[]): void {
    const counter: Counter = new Counter({
      name,
      help,
      labelNames,
      registers: this.#registers,
      collect() {
        counter.reset()
        for (const { labels, value } of read()) counter.inc(labels, value)
      },
    })
  }
}
