"""Scripts that tests run in a page, to inspect what it has drawn."""

# The labels of each chart's values, and whether they fit beside it.
AXES = """
() => [...document.querySelectorAll('.chart')].map(({ drawn: { u: { ctx, axes: [, axis] } } }) => {
  [ctx.font] = axis.font;
  const widths = axis._values.map((text) => ctx.measureText(text).width / devicePixelRatio);
  return [axis._values, Math.max(...widths) + 15 <= axis._size];
})
"""
# Whether no label of a time axis reaches into the next, on any chart.
APART = """
() => [...document.querySelectorAll('.chart')].every(({ drawn: { u, plot } }) => {
  if (u.width !== plot.clientWidth) return false;
  const [axis] = u.axes;
  [u.ctx.font] = axis.font;
  const widths = axis._values.map((text) => (
    Math.max(...text.split('\\n').map((line) => u.ctx.measureText(line).width)) / devicePixelRatio
  ));
  const places = axis._splits.map((time) => u.valToPos(time, 'x'));
  return widths.every((width, at) => (
    !at || places[at] - places[at - 1] > (width + widths[at - 1]) / 2
  ));
})
"""
# By how much a page's parts have moved without a person's doing; 0.1 is what the Web Vitals allow.
SHIFT = """
() => new Promise((resolve) => {
  let sum = 0;
  new PerformanceObserver((list) => {
    for (const { value, hadRecentInput } of list.getEntries()) sum += hadRecentInput ? 0 : value;
  }).observe({ type: 'layout-shift', buffered: true });
  setTimeout(() => resolve(sum), 500);
})
"""
# Ask for the statistics, and wait until the page has done with the answer.
REFRESHED = """
() => new Promise((resolve) => {
  document.addEventListener('htmx:finally:request', () => resolve(), { once: true });
  window.htmx.trigger('#found', 'refresh');
})
"""
