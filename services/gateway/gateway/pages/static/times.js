// Times as people read them: local, with UTC on hover.

/** Such as "2026-11-30 04:47:05 UTC". */
export const utc = (time) => time.toISOString().replace('T', ' ').replace(/\..*/, ' UTC');

/** The time of day; with the date unless it is today. */
export function local(time) {
  const today = time.toDateString() === new Date().toDateString();
  return today ? time.toLocaleTimeString() : time.toLocaleString();
}
