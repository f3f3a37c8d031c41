/** A histogram for many values at once: one array add a value, where prom-client looks its labels up each time. */

interface Series {
  /** One per bound, and one for values above the last. */
  readonly counts: number[]
  sum: number
}

/** A Prometheus histogram with one label. Values are added by series, without a label lookup per value. */
export class BulkHistogram {
  private readonly name: string
  private readonly help: string
  private readonly labelName: string
  private readonly bounds: readonly number[]
  private readonly series = new Map<string, Series>()

  /** `bounds`: upper bounds in ascending order. */
  constructor(name: string, help: string, labelName: string, bounds: readonly number[]) {
    this.name = name
    this.help = help
    this.labelName = labelName
    this.bounds = bounds
  }

  /** Observes `values` times `scale` under the label's value. */
  observe(label: string, values: readonly number[], scale: number): void {
    let series = this.series.get(label)
    if (!series)
      this.series.set(label, (series = { counts: Array.from({ length: this.bounds.length + 1 }, () => 0), sum: 0 }))
    for (const value of values) {
      const scaled = value * scale
      let i = 0
      while (i < this.bounds.length && scaled > (this.bounds[i] ?? Infinity)) i += 1
      series.counts[i] = (series.counts[i] ?? 0) + 1
      series.sum += scaled
    }
  }

  /** In the shape of prom-client's getMetricsAsJSON. */
  toJson() {
    const values = [...this.series].flatMap(([label, { counts, sum }]) => {
      const labels = { [this.labelName]: label }
      let total = 0
      const buckets = counts.map((count, i) => {
        total += count
        return { metricName: `${this.name}_bucket`, labels: { le: this.bounds[i] ?? '+Inf', ...labels }, value: total }
      })
      return [
        ...buckets,
        { metricName: `${this.name}_sum`, labels, value: sum },
        { metricName: `${this.name}_count`, labels, value: total },
      ]
    })
    return { name: this.name, help: this.help, type: 'histogram', values }
  }
}
