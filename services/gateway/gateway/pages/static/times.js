// Times as people read them: local, with UTC on hover.

/** Such as "2026-11-30 04:47:05 UTC". */
export const utc = (time) => time.toISOString().replace('T', ' ').replace(/\..*/, ' UTC');

// For steps of less than a second, a minute and a day: what tells neighbours apart.
const CLOCKS = [
  [1, { minute: '2-digit', second: '2-digit', fractionalSecondDigits: 2 }],
  [60, { hour: 'numeric', minute: '2-digit', second: '2-digit' }],
  [86_400, { hour: 'numeric', minute: '2-digit' }],
].map(([below, options]) => [below, new Intl.DateTimeFormat(undefined, options)]);
const DAY = new Intl.DateTimeFormat(undefined, { year: 'numeric', month: 'short', day: 'numeric' });

/** Labels of a time axis: the time of day, and the date below it where it changes. */
export function axisLabels(seconds, step) {
  const clock = CLOCKS.find(([below]) => step < below)?.[1];
  let before = '';
  return seconds.map((at) => {
    const time = new Date(at * 1000);
    const day = DAY.format(time);
    if (!clock) return day;
    const label = day === before ? clock.format(time) : `${clock.format(time)}\n${day}`;
    before = day;
    return label;
  });
}

/** The time of day; with the date unless it is today. */
export function local(time) {
  const today = time.toDateString() === new Date().toDateString();
  return today ? time.toLocaleTimeString() : time.toLocaleString();
}
