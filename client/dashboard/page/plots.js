// What was done over time: plots, each with its numbers as a table.

import { el, say, setAll, show, svg } from "./dom.js";
import { bytes, clock, count, sum } from "./text.js";

const HEIGHT = 170;
const MARGIN = { top: 10, right: 8, bottom: 22, left: 58 };

/** A number of the form 1, 2 or 5 times a power of ten (or of two, for bytes) at which axes end well. */
function step(most, parts, binary) {
  const rough = most / parts;
  if (binary) return 2 ** Math.ceil(Math.log2(Math.max(rough, 1)));
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= rough * 0.999);
}

/** A plot of some series over the same times. `series` have a `label`, a `value(entry)` and a `kind`: bar or line. */
class Plot {
  constructor(parent, { title, series, words, binary = false, whole = false }) {
    Object.assign(this, { series, words, binary, whole, title, entries: [] });
    this.svg = svg("svg", { class: "plot", role: "img", tabindex: "0", height: HEIGHT });
    this.axes = svg("g", { class: "axes" });
    this.paths = series.map((one) => svg("path", { class: `${one.kind} series-${one.name}` }));
    this.cursor = svg("path", { class: "cursor" });
    this.svg.append(this.axes, ...this.paths, this.cursor);
    this.readout = el("p", { className: "readout" });
    this.readout.setAttribute("aria-live", "polite");
    const legend = el("p", { className: "legend" });
    if (series.length > 1) for (const one of series) legend.append(el("span", {}, el("span", { className: `swatch series-${one.name}` }), one.label));
    this.details = el("details", {}, el("summary", { textContent: "As a table" }));
    this.details.addEventListener("toggle", () => this.fillTable());
    parent.append(el("figure", {}, el("figcaption", { textContent: title }), legend, this.svg, this.readout, this.details));
    new ResizeObserver(() => this.draw()).observe(this.svg);
    this.svg.addEventListener("pointermove", (event) => this.pointAt(Math.floor((event.offsetX - MARGIN.left) / this.unit)));
    this.svg.addEventListener("pointerleave", () => this.pointAt(null));
    this.svg.addEventListener("blur", () => this.pointAt(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (steps === undefined || !this.entries.length) return;
    event.preventDefault();
    const last = this.entries.length - 1;
    this.pointAt(Math.min(Math.max((this.chosen ?? (steps < 0 ? last + 1 : -1)) + steps, 0), last));
  }

  set(entries, interval, now) {
    const mark = JSON.stringify([entries, Math.floor(now / 60)]);
    if (mark === this.mark) return;
    Object.assign(this, { entries, interval, now, mark });
    this.draw();
    this.fillTable();
  }

  draw() {
    const width = this.svg.clientWidth;
    const { entries } = this;
    if (!width || !entries.length) return;
    const stacked = (entry) => this.series.filter((one) => one.kind === "bar").reduce((sum, one) => sum + one.value(entry), 0);
    const lines = (entry) => this.series.filter((one) => one.kind !== "bar").map((one) => one.value(entry));
    const most = Math.max(...entries.map((entry) => Math.max(stacked(entry), ...lines(entry))), this.whole ? 1 : 0) || 1;
    let tick = step(most, 3, this.binary);
    if (this.whole) tick = Math.max(1, tick);
    this.top = Math.ceil(most / tick - 0.001) * tick;
    this.unit = (width - MARGIN.left - MARGIN.right) / entries.length;
    this.drawAxes(width, tick);
    const base = entries.map(() => 0);
    this.series.forEach((one, index) => setAll(this.paths[index], { d: this.shape(one, base) }));
    const total = this.series.map((one) => `${one.label}: ${this.words(Math.max(...entries.map(one.value)))} at most`);
    setAll(this.svg, { "aria-label": `${this.title} over the last ${Math.round((entries.length * this.interval) / 3600)} hours. ${total.join("; ")}. Arrow keys read the values.` });
    this.pointAt(this.chosen ?? null);
  }

  x(index) {
    return (MARGIN.left + index * this.unit).toFixed(1);
  }

  y(value) {
    const height = HEIGHT - MARGIN.top - MARGIN.bottom;
    return (MARGIN.top + height * (1 - value / this.top)).toFixed(1);
  }

  /** The outline of a series; bars stand on those before them. */
  shape({ kind, value }, base) {
    let text = "";
    this.entries.forEach((entry, index) => {
      const number = value(entry);
      if (kind === "line") {
        text += `${index ? "L" : "M"}${this.x(index + 0.5)} ${this.y(number)}`;
      } else if (number > 0) {
        const gap = this.unit > 4 ? 1 : 0;
        const right = MARGIN.left + (index + 1) * this.unit - gap;
        text += `M${this.x(index)} ${this.y(base[index])}V${this.y(base[index] + number)}H${right.toFixed(1)}V${this.y(base[index])}z`;
        base[index] += number;
      }
    });
    return text;
  }

  drawAxes(width, tick) {
    const marks = [];
    for (let value = 0; value <= this.top * 1.001; value += tick) {
      const y = this.y(value);
      marks.push(svg("path", { d: `M${MARGIN.left} ${y}H${width - MARGIN.right}` }));
      const label = svg("text", { x: MARGIN.left - 6, y: Number(y) + 4, "text-anchor": "end" });
      label.textContent = this.words(value);
      marks.push(label);
    }
    // Full hours, as many as have room.
    const hours = (this.entries.length * this.interval) / 3600;
    const every = [1, 2, 3, 4, 6, 12, 24].find((number) => ((width - MARGIN.left) / hours) * number > 52) ?? 24;
    const first = this.entries[0].time;
    const date = new Date(first * 1000);
    date.setMinutes(60, 0, 0);
    for (; date / 1000 < first + 3600 * hours; date.setHours(date.getHours() + 1)) {
      const x = this.x((date / 1000 - first) / this.interval);
      if (date.getHours() % every || x > width - 20) continue;
      const label = svg("text", { x, y: HEIGHT - 5, "text-anchor": "middle" });
      label.textContent = clock(date / 1000, date / 1000);
      marks.push(label);
    }
    this.axes.replaceChildren(...marks);
  }

  /** Reads out the values at a place. */
  pointAt(index) {
    const entry = index === null ? undefined : this.entries[index];
    this.chosen = entry ? index : null;
    setAll(this.cursor, { d: entry ? `M${this.x(index + 0.5)} ${MARGIN.top}V${HEIGHT - MARGIN.bottom}` : "" });
    say(this.readout, entry ? this.row(entry).map((text, place) => (place ? `${this.series[place - 1].label} ${text}` : text)).join(", ") : "");
  }

  row(entry) {
    const from = clock(entry.time, this.now);
    return [`${from} to ${clock(entry.time + this.interval, entry.time)}`, ...this.series.map((one) => this.words(one.value(entry)))];
  }

  fillTable() {
    this.table?.remove();
    if (!this.details.open) return;
    const head = el("tr", {}, ...["Time", ...this.series.map((one) => one.label)].map((text) => el("th", { scope: "col", textContent: text })));
    const rows = [...this.entries].reverse().map((entry) => el("tr", {}, ...this.row(entry).map((text) => el("td", { textContent: text }))));
    this.table = el("div", { className: "numbers", tabIndex: 0, role: "region", "aria-label": `${this.title}, as a table` }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)));
    this.details.append(this.table);
  }
}

/** The section of what was done. */
export class Throughput {
  constructor(parent) {
    this.note = el("p", { className: "note" });
    this.plots = el("div", { className: "plots" });
    parent.append(this.note, this.plots);
    const number = (value) => (Number.isInteger(value) ? count(value) : value.toFixed(1));
    this.builds = new Plot(this.plots, {
      title: "Builds in ten minutes",
      words: number,
      whole: true,
      series: [
        { name: "done", label: "built", kind: "bar", value: (entry) => entry.builds },
        { name: "failed", label: "failed", kind: "bar", value: (entry) => entry.failed },
      ],
    });
    this.use = new Plot(this.plots, {
      title: "Builds at a time",
      words: number,
      series: [
        { name: "used", label: "on average", kind: "bar", value: (entry) => entry.busy_s / this.interval },
        { name: "slots", label: "slots there are now", kind: "line", value: () => this.slots },
      ],
    });
    this.sent = new Plot(this.plots, {
      title: "Bytes in ten minutes",
      words: bytes,
      binary: true,
      series: [
        { name: "sent", label: "sent to machines", kind: "bar", value: (entry) => entry.bytes_sent },
        { name: "retrieved", label: "retrieved", kind: "bar", value: (entry) => entry.bytes_retrieved },
      ],
    });
  }

  set(farm) {
    const entries = farm.throughput;
    this.interval = farm.interval_s ?? 600;
    const slots = sum(farm.machines, "slots");
    const changed = slots !== this.slots;
    this.slots = slots;
    const some = entries.some((entry) => entry.builds || entry.failed || entry.busy_s);
    say(this.note, "Nothing was built in the last 24 hours, as far as is remembered.");
    show(this.note, !some);
    show(this.plots, some);
    if (!some) return;
    if (changed) this.use.mark = null;
    for (const plot of [this.builds, this.use, this.sent]) plot.set(entries, this.interval, farm.time);
  }
}
