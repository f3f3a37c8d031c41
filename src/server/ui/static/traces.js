// Comforts on top of pages that work without: arrow keys between spans, a readout on the step chart, opening the span a link names, a
// list that keeps itself up to date.
'use strict'

const summaries = () => [...document.querySelectorAll('details[data-span] > summary')]

document.addEventListener('keydown', (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return
  const list = summaries()
  const at = list.indexOf(document.activeElement)
  if (at < 0) return
  const move = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key]
  if (move) {
    event.preventDefault()
    list[Math.min(Math.max(at + move, 0), list.length - 1)].focus()
  } else if (event.key === 'ArrowRight' || event.key === 'ArrowLeft') {
    event.preventDefault()
    list[at].parentElement.open = event.key === 'ArrowRight'
  } else if (event.key === 'Home' || event.key === 'End') {
    event.preventDefault()
    list[event.key === 'Home' ? 0 : list.length - 1].focus()
  }
})

function openTarget() {
  const target = location.hash.startsWith('#span-') ? document.getElementById(location.hash.slice(1)) : null
  if (target instanceof HTMLDetailsElement) {
    target.open = true
    target.querySelector('summary').focus()
  }
}
addEventListener('hashchange', openTarget)
openTarget()

for (const chart of document.querySelectorAll('svg[data-steps]')) {
  const steps = chart.dataset.steps.split(' ').map(Number)
  const readout = chart.parentElement.querySelector('.readout')
  chart.addEventListener('pointermove', (event) => {
    const { left, width } = chart.getBoundingClientRect()
    const index = Math.min(steps.length - 1, Math.max(0, Math.floor(((event.clientX - left) / width) * steps.length)))
    readout.textContent = `step ${index + 1}: ${(steps[index] / 1000).toFixed(2)} ms`
  })
  chart.addEventListener('pointerleave', () => {
    readout.textContent = ''
  })
}

const id = document.querySelector('.crumbs .id')
// Browsers have a clipboard on https and on this machine only.
if (id && navigator.clipboard) {
  const button = document.createElement('button')
  button.className = 'copy'
  button.textContent = 'Copy'
  button.addEventListener('click', async () => {
    await navigator.clipboard.writeText(id.textContent)
    button.textContent = 'Copied'
  })
  id.after(button)
}

const REFRESH_MS = 2000
const results = document.getElementById('results')
if (results) keepCurrent(results)

/** A box on the list of traces: while it is checked the list is fetched again, as long as somebody can see it. */
function keepCurrent(list) {
  const box = document.createElement('input')
  box.type = 'checkbox'
  box.id = 'live'
  box.checked = sessionStorage.getItem('live') === 'yes'
  const label = document.createElement('label')
  label.className = 'live'
  label.append(box, ' Live')
  document.querySelector('h1').append(label)
  box.addEventListener('change', () => {
    sessionStorage.setItem('live', box.checked ? 'yes' : 'no')
    if (box.checked) void refresh()
  })

  let isBusy = false
  async function refresh() {
    if (!box.checked || document.hidden || isBusy) return
    isBusy = true
    try {
      const response = await fetch(location.href, { headers: { accept: 'text/html' } })
      const page = new DOMParser().parseFromString(await response.text(), 'text/html')
      const current = page.getElementById('results')
      // Not while a link in it has the focus, which would be lost.
      const isFree = !list.contains(document.activeElement)
      if (response.ok && current && isFree && current.innerHTML !== list.innerHTML)
        list.replaceChildren(...current.childNodes)
    } catch {
      // The server is away for a moment: the next try may find it.
    } finally {
      isBusy = false
    }
  }
  setInterval(() => void refresh(), REFRESH_MS)
  document.addEventListener('visibilitychange', () => void refresh())
  void refresh()
}
