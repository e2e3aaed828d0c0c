// The machines: what they do now and did over the last hours.

import { el, say, setAll, show, svg } from "./dom.js";
import { Table } from "./table.js";
import { bytes, clean, clock, count, counted, duration, machineName } from "./text.js";

/** The states in the order in which they need attention, with how high they are in a strip. */
const STATES = { failing: 1, full: 0.85, drained: 0.4, busy: 0.7, ready: 0.2 };
const ORDER = Object.keys(STATES);
const LABELS = { ready: "idle" };
/** How long a strip is, in seconds, and how many units wide. */
const SPAN = 24 * 3600;
const WIDTH = 288;
const HEIGHT = 20;

const known = (state) => (Object.hasOwn(STATES, state) ? state : "ready");

/** What a machine does now. */
export function stateOf(machine) {
  return known(machine.state);
}

/** The parts of a day that a machine was in each state: `[state, from, to]` in units of the strip. */
function spans(machine, time) {
  const start = time - SPAN;
  const place = (when) => (Math.min(Math.max(when - start, 0), SPAN) / SPAN) * WIDTH;
  const states = machine.states ?? [];
  return states
    .map(({ time: when, state }, index) => [known(state), place(when), place(states[index + 1]?.time ?? time)])
    .filter(([, from, to]) => to > from);
}

/** Draws the strip of a machine's states, a path for each state. */
function drawStrip(cell, machine, time) {
  const minutes = Math.floor(time / 300);
  const mark = `${minutes} ${machine.states?.length} ${machine.states?.at(-1)?.time}`;
  if (cell.mark === mark) return;
  cell.mark = mark;
  if (!cell.strip) {
    cell.paths = new Map(ORDER.map((state) => [state, svg("path", { class: `state-${state}` })]));
    cell.strip = svg("svg", { class: "strip", role: "img", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" });
    cell.strip.append(svg("path", { class: "axis", d: `M0 ${HEIGHT}H${WIDTH}` }), ...cell.paths.values());
    cell.replaceChildren(cell.strip);
  }
  const lengths = new Map();
  const shapes = new Map();
  for (const [state, from, to] of spans(machine, time)) {
    const top = HEIGHT * (1 - STATES[state]);
    shapes.set(state, `${shapes.get(state) ?? ""}M${from.toFixed(1)} ${HEIGHT}V${top.toFixed(1)}H${to.toFixed(1)}V${HEIGHT}z`);
    lengths.set(state, (lengths.get(state) ?? 0) + to - from);
  }
  for (const [state, path] of cell.paths) setAll(path, { d: shapes.get(state) ?? "" });
  const parts = [...lengths].sort(([, a], [, b]) => b - a).map(([state, length]) => `${LABELS[state] ?? state} ${Math.round((100 * length) / WIDTH)} %`);
  setAll(cell.strip, { "aria-label": parts.length ? `Last 24 hours: ${parts.join(", ")}` : "Nothing is known of the last 24 hours" });
  cell.title = cell.strip.getAttribute("aria-label");
}

/** Sets up the parts of a cell that is updated in place. */
function parts(cell, make) {
  cell.parts ??= make(cell);
  return cell.parts;
}

function updateName(cell, machine) {
  const { name, state, reason } = parts(cell, () => {
    const made = { name: el("span", { className: "name" }), state: el("span"), reason: el("span", { className: "reason" }) };
    cell.append(made.name, " ", made.state, made.reason);
    return made;
  });
  say(name, machineName(machine));
  const now = stateOf(machine);
  say(state, LABELS[now] ?? now);
  state.className = `state state-${now}`;
  const last = machine.last_error && now === "failing" ? machine.last_error : null;
  say(reason, clean(machine.why_not ?? last ?? ""));
  show(reason, Boolean(reason.textContent));
}

function updateSlots(cell, machine) {
  const { text, meter } = parts(cell, () => {
    const made = { text: el("span"), meter: el("span", { className: "meter", "aria-hidden": "true" }, el("span")) };
    cell.append(made.text, made.meter);
    return made;
  });
  say(text, `${count(machine.slots_used)} of ${count(machine.slots)}`);
  const part = machine.slots ? Math.min(machine.slots_used / machine.slots, 1) : 0;
  meter.firstChild.style.width = `${Math.round(100 * part)}%`;
}

function remarks(machine) {
  const words = [(machine.systems ?? []).join(", ")];
  if (machine.speed && machine.speed !== 1) words.push(`speed ${machine.speed}`);
  return words.join(" ");
}

/** The section of the machines. */
export class Machines {
  constructor(parent) {
    const now = () => this.time;
    this.error = el("p", { className: "problem" });
    parent.append(this.error);
    this.table = new Table(parent, {
      label: "Machines",
      what: ["machine", "machines"],
      rows: 25,
      empty: "There are no build machines: everything is built here.",
      key: (machine) => `${machine.name}:${machine.port}`,
      text: (machine) => `${machine.name}:${machine.port} ${stateOf(machine)} ${machine.why_not ?? ""} ${remarks(machine)}`,
      rank: (a, b) => ORDER.indexOf(stateOf(a)) - ORDER.indexOf(stateOf(b)) || b.slots_used - a.slots_used,
      groups: { of: stateOf, label: (state) => LABELS[state] ?? state, order: ORDER, className: (state) => `state-${state ?? "all"}` },
      rowClass: (machine) => `is-${stateOf(machine)}`,
      columns: [
        { title: "Machine", value: (machine) => machine.name, update: updateName, className: "wide" },
        { title: "Slots", className: "number", value: (machine) => machine.slots_used, first: -1, update: updateSlots },
        { title: "Load", value: (machine) => machine.load, first: -1, className: "number", update: (cell, machine) => this.measured(cell, machine, machine.load, (load) => load.toFixed(2)) },
        { title: "Free", value: (machine) => machine.free_space, className: "number", update: (cell, machine) => this.measured(cell, machine, machine.free_space, bytes) },
        { title: "Failures", value: (machine) => machine.failures, first: -1, className: "number", update: (cell, machine) => say(cell, machine.failures == null ? "unknown" : count(machine.failures)) },
        { title: "Last 24 hours", className: "history", update: (cell, machine) => drawStrip(cell, machine, now()) },
      ],
    });
    this.legend = el("p", { className: "legend" });
    for (const state of [...ORDER].reverse()) this.legend.append(el("span", {}, el("span", { className: `swatch state-${state}` }), LABELS[state] ?? state));
    parent.append(this.legend);
  }

  /** A number that was measured at some time. */
  measured(cell, machine, value, words) {
    say(cell, value === null || value === undefined ? "unknown" : words(value));
    cell.title = machine.asked ? `measured at ${clock(machine.asked, this.time)}, ${duration(this.time - machine.asked)} ago` : "";
  }

  set(farm) {
    this.time = farm.time;
    const words = farm.machines.length ? "Build machines are missing" : "The build machines are unknown";
    say(this.error, farm.machines_error ? `${words}: ${clean(farm.machines_error)}` : "");
    show(this.error, Boolean(farm.machines_error));
    show(this.legend, farm.machines.length > 0);
    this.table.total = farm.machines.length + (farm.unlisted_machines ?? 0);
    this.table.set(farm.machines);
  }
}

/** The numbers of machines in each state, as tiles show them. */
export function summary(machines) {
  const numbers = Object.fromEntries(ORDER.map((state) => [state, 0]));
  for (const machine of machines) numbers[stateOf(machine)] += 1;
  const bad = [];
  if (numbers.failing) bad.push(counted(numbers.failing, "fails", "fail"));
  if (numbers.drained) bad.push(`${count(numbers.drained)} drained`);
  return { numbers, text: bad.join(", ") || (machines.length ? "all answer" : "") };
}
