// uPlot behind one wrapper: themes, resizing, intervals, zoom that live data leave alone, and a
// way for the keyboard and for screen readers through what a canvas does not say.
import { announce } from './announce.js';
import { axisLabels, utc } from './times.js';

// Okabe and Ito's palette, which colour-blind people tell apart; dashes tell without colour.
const DARK = matchMedia('(prefers-color-scheme: dark)');
const LIGHT_COLOURS = ['#0072b2', '#d55e00', '#007d5b', '#b0558a'];
const DARK_COLOURS = ['#56b4e9', '#e69f00', '#2fc59a', '#e3a1c6'];
const SVG = 'http://www.w3.org/2000/svg';
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
const HEIGHT_PX = 240;
// At most ten redraws a second, however many updates arrive.
const REDRAW_MS = 100;
const PAGE_ROWS = 50;
const MAX_POINTS = 100_000;
// Half the window around a single sample.
const ALONE_S = 30;
// A step has no end; the line that marks it has a width.
const STEP_PX = 2;
// As wide as "Nov 30, 2026" and a gap.
const TIME_LABEL_PX = 90;

const short = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 4 });
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
/** The labels of an axis: as many digits as tell neighbours apart, and large numbers in short. */
function labels(values, step) {
  const largest = Math.max(...values.map(Math.abs));
  // Steps are 1, 2, 2.5 or 5 times a power of ten.
  const fine = Math.abs(step / 10 ** Math.floor(Math.log10(step)) - 2.5) < 1e-6;
  const digits = (unit) => Math.max(Math.ceil(Math.log10(unit / step) - 1e-9) + (fine ? 1 : 0), 0);
  if (largest && (largest < 1e-3 || largest >= 1e15)) {
    const places = Math.min(digits(10 ** Math.floor(Math.log10(largest))), 6);
    return values.map((value) => (value ? value.toExponential(places) : '0'));
  }
  const unit = [1e12, 1e9, 1e6].find((size) => largest >= size && digits(size) <= 3) ?? 1;
  const format = new Intl.NumberFormat(undefined, {
    maximumFractionDigits: Math.min(digits(unit), 6), ...(unit > 1 && { notation: 'compact' }),
  });
  return values.map((value) => format.format(value));
}
/** An axis as wide as its labels in pixels; a few digits more or less do not change it. */
const axisWidth = (_, values) => Math.max(66, 18 + 8 * Math.max(0, ...(values ?? []).map(({ length }) => length)));
const number = (value) => {
  if (value === null || value === undefined) return 'no figure';
  return value && Math.abs(value) < 1e-6 ? String(Number(value.toPrecision(4))) : short.format(value);
};

/**
 * A figure element with its chart. `chart`: {title, unit, x, time, series: [{name, value, low,
 * high}], marks: [{kind, begin, end}], width}; `time`: x are seconds since 1970 instead of batch
 * sizes; `width`: of a bucket in seconds, if points are not samples.
 */
export class Chart {
  constructor(figure, chart) {
    this.figure = figure;
    figure.drawn = this;
    this.chart = chart;
    this.zoomed = false;
    this.redraws = 0;
    // Points that were appended since the columns came.
    this.appended = 0;
    this.at = -1;
    this.plot = document.createElement('div');
    this.plot.className = 'plot';
    this.plot.tabIndex = 0;
    this.plot.setAttribute('role', 'application');
    this.plot.setAttribute('aria-roledescription', 'chart');
    this.#name();
    this.reading = document.createElement('p');
    this.reading.className = 'reading';
    this.table = this.#makeTable();
    this.plot.setAttribute('aria-details', this.table.id);
    figure.append(this.plot, this.reading, this.table);
    this.plot.addEventListener('keydown', (event) => this.#key(event));
    for (const left of ['blur', 'mouseleave']) this.plot.addEventListener(left, () => this.#leave());
    this.#make();
    new ResizeObserver(() => {
      const width = this.plot.clientWidth;
      if (width && width !== this.u.width) this.u.setSize({ width, height: HEIGHT_PX });
    }).observe(this.plot);
    DARK.addEventListener('change', () => {
      this.u.destroy();
      this.#make();
    });
  }

  #name() {
    const { title, unit } = this.chart;
    this.plot.setAttribute('aria-label', `${title}, ${unit || 'no unit'}. Left and right read the points.`);
  }

  #columns() {
    const { x, series } = this.chart;
    return [x, ...series.flatMap(({ low, high, value }) => [low, high, value])];
  }

  #make() {
    const { time, series } = this.chart;
    const colours = DARK.matches ? DARK_COLOURS : LIGHT_COLOURS;
    this.#tellApart(colours);
    // Around a single sample uPlot would show years.
    const range = ({ data: [x] }, min, max) => (x.length === 1 ? [x[0] - ALONE_S, x[0] + ALONE_S] : [min, max]);
    const grid = { stroke: style('--line'), width: 1 };
    const axis = { stroke: style('--quiet'), grid, ticks: grid };
    const lines = series.flatMap(({ name }, place) => {
      const stroke = colours[place % colours.length];
      const edge = { show: true, stroke: 'transparent', points: { show: false } };
      const line = {
        label: name, stroke, width: 2, dash: DASHES[place % DASHES.length], spanGaps: !time,
        // Over time, uPlot draws points where they have room.
        points: { ...(!time && { show: true }), size: 6, fill: stroke },
      };
      return [edge, edge, line];
    });
    this.u = new uPlot({
      width: this.plot.clientWidth || 320,
      height: HEIGHT_PX,
      cursor: { drag: { x: Boolean(time), y: false } },
      legend: { show: false },
      scales: { x: time ? { time: true, range } : { time: false, distr: 3, log: 2 } },
      axes: [
        time ? { ...axis, space: TIME_LABEL_PX, values: (_, times, __, ___, step) => axisLabels(times, step) } : { ...axis, splits: () => this.chart.x, values: (_, sizes) => sizes },
        { ...axis, size: axisWidth, values: (_, values, __, ___, step) => labels(values, step) },
      ],
      series: [{}, ...lines],
      bands: series.map((_, place) => ({
        series: [3 * place + 2, 3 * place + 1],
        fill: `${colours[place % colours.length]}30`,
      })),
      hooks: {
        drawClear: [(u) => this.#shade(u)],
        draw: [() => { this.redraws += 1; this.figure.dataset.redraws = this.redraws; }],
        setSelect: [(u) => { if (u.select.width > 0) this.#zoom(true); }],
        setCursor: [(u) => { if (u.cursor.idx !== null && u.cursor.idx !== undefined) this.#show(u.cursor.idx); }],
      },
    }, this.#columns(), this.plot);
    this.u.over.addEventListener('dblclick', () => this.#zoom(false));
    this.#tellNewest();
  }

  /** Shade the incidents, and mark the steps, that the advice speaks of. */
  #shade(u) {
    const { left, top, width, height } = u.bbox;
    for (const { kind, begin, end } of this.chart.marks ?? []) {
      const from = Math.max(u.valToPos(begin, 'x', true), left);
      const to = kind === 'step' ? from + STEP_PX : Math.min(u.valToPos(end ?? begin, 'x', true), left + width);
      if (from > left + width || to <= from) continue;
      u.ctx.fillStyle = style(kind === 'step' ? '--warn' : '--mark');
      u.ctx.fillRect(from, top, to - from, height);
    }
  }

  /** A legend, where there are several lines. */
  #tellApart(colours) {
    const { series } = this.chart;
    if (series.length < 2) return;
    const legend = document.createElement('ul');
    legend.className = 'legend';
    for (const [place, { name }] of series.entries()) {
      const item = document.createElement('li');
      const line = document.createElementNS(SVG, 'svg');
      const path = document.createElementNS(SVG, 'path');
      path.setAttribute('d', 'M0 5H28');
      path.setAttribute('stroke', colours[place % colours.length]);
      path.setAttribute('stroke-dasharray', DASHES[place % DASHES.length].join(' '));
      line.setAttribute('aria-hidden', 'true');
      line.append(path);
      item.append(line, name);
      legend.append(item);
    }
    this.figure.querySelector('.legend')?.remove();
    this.plot.before(legend);
  }

  #zoom(on) {
    this.zoomed = on;
    this.figure.dataset.zoomed = on ? 'yes' : 'no';
    this.figure.dispatchEvent(new CustomEvent('zoom', { bubbles: true }));
  }

  /** Follow live data: forget the zoom and show everything again. */
  follow() {
    this.#zoom(false);
    this.u.setData(this.#columns());
  }

  #label(index) {
    const x = this.chart.x[index];
    const where = this.chart.time ? new Date(x * 1000).toLocaleString() : `batch size ${x}`;
    const values = this.chart.series.map(({ name, value, low, high }) => {
      const [least, most] = [low[index], high[index]];
      const ends = most === null || most === undefined ? `at least ${number(least)}` : `${number(least)} to ${number(most)}`;
      const interval = least === null || least === undefined || least === most ? '' : ` (${ends})`;
      const owner = this.chart.series.length > 1 ? `${name} ` : '';
      return `${owner}${number(value[index])}${interval}`;
    });
    return `${where}: ${values.join('; ')} ${this.chart.unit}`;
  }

  /** While nobody reads a point of a time series, tell its newest. */
  #tellNewest() {
    const last = this.chart.x.length - 1;
    if (!this.chart.time || this.at >= 0 || last < 0) return;
    this.reading.textContent = `Newest: ${this.#label(last)}`;
    this.reading.title = utc(new Date(this.chart.x[last] * 1000));
  }

  #leave() {
    if (!this.chart.time || document.activeElement === this.plot) return;
    this.at = -1;
    this.#tellNewest();
  }

  #show(index) {
    this.at = index;
    this.reading.textContent = this.#label(index);
    if (this.chart.time) this.reading.title = utc(new Date(this.chart.x[index] * 1000));
  }

  #key(event) {
    const last = this.chart.x.length - 1;
    // The newest point of a time series is the first that is read.
    const before = this.at < 0 ? last : this.at - 1;
    const steps = { ArrowLeft: before, ArrowRight: this.at + 1, Home: 0, End: last };
    if (!(event.key in steps) || last < 0) return;
    event.preventDefault();
    this.#show(Math.min(Math.max(steps[event.key], 0), last));
    const value = this.chart.series[0].value[this.at];
    this.u.setCursor({
      left: this.u.valToPos(this.chart.x[this.at], 'x'),
      top: value === null || value === undefined ? 0 : this.u.valToPos(value, 'y'),
    }, false);
    announce(this.#label(this.at));
  }

  /** Replace the columns, but keep appended points that are newer; a zoom stays where it was. */
  replace(chart) {
    const { x, series: [line] } = this.chart;
    const newest = chart.x.at(-1) ?? -Infinity;
    let first = x.length - this.appended;
    while (first < x.length && x[first] <= newest) first += 1;
    this.appended = x.length - first;
    this.chart = { ...this.chart, ...chart };
    this.#name();
    this.#caption(this.chart.caption);
    if (this.appended) {
      for (let index = first; index < x.length; index += 1) this.#push(x[index], line.value[index]);
      this.#count();
    }
    this.#redrawSoon();
  }

  /** Add a point at the end; those that are older than the window make room. */
  append(x, value, window = Infinity) {
    const { series } = this.chart;
    const [line] = series;
    if (this.chart.x.length && x < this.chart.x.at(-1)) return;
    this.#push(x, value);
    this.appended += 1;
    const old = Math.max(
      this.chart.x.findIndex((time) => time >= x - window),
      this.chart.x.length - MAX_POINTS,
    );
    if (old > 0) {
      for (const column of [this.chart.x, line.value, line.low, line.high]) column.splice(0, old);
      if (this.at >= 0) this.at = Math.max(this.at - old, 0);
      this.appended = Math.min(this.appended, this.chart.x.length);
    }
    this.#count();
    this.#redrawSoon();
  }

  #push(x, value) {
    const [line] = this.chart.series;
    this.chart.x.push(x);
    for (const column of [line.value, line.low, line.high]) column.push(value);
  }

  /** Count the points; where some were appended, there may be samples that no update carried. */
  #count() {
    const count = this.chart.x.length;
    const more = this.appended ? '+' : '';
    if (!this.chart.width) {
      this.#caption(`${count.toLocaleString()}${more} sample${count + this.appended > 1 ? 's' : ''}`);
    }
  }

  #caption(text) {
    const caption = this.figure.querySelector('figcaption .quiet');
    if (caption && text) caption.textContent = text;
  }

  #redrawSoon() {
    this.pending ??= setTimeout(() => {
      this.pending = undefined;
      const { min, max } = this.u.scales.x;
      this.u.batch(() => {
        this.u.setData(this.#columns(), !this.zoomed);
        // Without new scales uPlot takes the data and draws nothing.
        if (this.zoomed) this.u.setScale('x', { min, max });
      });
      this.#tellNewest();
    }, REDRAW_MS);
  }

  /** A table of the points, made when it is opened, newest page of a time series first. */
  #makeTable() {
    const details = document.createElement('details');
    details.id = `table-${crypto.randomUUID()}`;
    const summary = document.createElement('summary');
    summary.textContent = 'As a table';
    details.append(summary);
    let page = 0;
    const fill = () => {
      const rows = this.chart.x.map((_, index) => index);
      if (this.chart.time) rows.reverse();
      const pages = Math.max(1, Math.ceil(rows.length / PAGE_ROWS));
      page = Math.min(Math.max(page, 0), pages - 1);
      const list = document.createElement('ol');
      list.className = 'rows';
      for (const index of rows.slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS)) {
        const item = document.createElement('li');
        item.textContent = this.#label(index);
        list.append(item);
      }
      const acts = document.createElement('p');
      acts.className = 'acts';
      for (const [name, step] of [['Previous', -1], ['Next', 1]]) {
        const button = document.createElement('button');
        button.type = 'button';
        button.className = 'quiet small';
        button.textContent = name;
        button.disabled = page + step < 0 || page + step >= pages;
        button.addEventListener('click', () => { page += step; fill(); });
        acts.append(button);
      }
      acts.append(`Page ${page + 1} of ${pages}`);
      details.replaceChildren(summary, list, ...(pages > 1 ? [acts] : []));
    };
    details.addEventListener('toggle', () => { if (details.open) fill(); });
    return details;
  }
}

/** Draw each figure of the page that is not drawn yet. */
export function drawAll() {
  return [...document.querySelectorAll('.chart[data-chart]')].map((figure) => {
    return figure.drawn ?? new Chart(figure, JSON.parse(figure.dataset.chart));
  });
}
