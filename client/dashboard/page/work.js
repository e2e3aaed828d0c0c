// What runs, what waits and why, and what has failed.

import { el, nameButton, say, setAll, show } from "./dom.js";
import { Table } from "./table.js";
import { clean, clock, count, duration, itemName, sum } from "./text.js";

/** Reasons for which something waits, in a few words; those that more machines or slots could help come first. */
const REASONS = {
  machine: "a build machine",
  slot: "a slot",
  "fair-share": "its turn among people",
  "build-user": "a build user",
  limit: "a limit of its client",
  "hook-turn": "the hook's turn",
  "hook-answer": "the hook's answer",
  lock: "a lock",
  "other-client": "another request's build",
  stopping: "an attempt to stop",
  turn: "its next step",
  inputs: "its inputs",
};
const ORDER = Object.keys(REASONS);

const reasonName = (why) => (Object.hasOwn(REASONS, why) ? REASONS[why] : clean(why, 40));

/** Where something runs, in words. */
export function placeName(place) {
  const names = { here: "here", hook: "by the hook", fetch: "fetched" };
  if (Object.hasOwn(names, place)) return names[place];
  return clean(place.startsWith("machine ") ? place.slice(8) : place);
}

/** All that `field` of the requests lists, each with its request. */
function ofAll(farm, field) {
  return farm.requests.flatMap((request) => request[field].map((item) => ({ ...item, request })));
}

const requestName = ({ request }) => `${request.number} ${request.who}`;

/** The column of a request's number; whose it is is said above. */
const requestColumn = {
  title: "Request",
  className: "number",
  value: ({ request }) => request.number,
  update: (cell, { request }) => {
    say(cell, request.number);
    cell.title = request.who;
  },
};

/** A cell with a button that opens the log of `path`. */
function logButton(cell, path, name, open) {
  cell.button ??= cell.appendChild(nameButton((button) => open(cell.path, button)));
  cell.path = path;
  say(cell.button, name);
  setAll(cell.button, { "aria-label": `Log of ${name}`, "data-drv": path });
}

/** A cell with text that may be long. */
const text = (cell, words) => {
  cell.span ??= cell.appendChild(el("span", { className: "name" }));
  say(cell.span, words);
};

/** How far a build is, compared with what is usual. */
function updateUsual(cell, build) {
  if (!cell.words) {
    cell.words = el("span");
    cell.meter = el("span", { className: "meter", "aria-hidden": "true" }, el("span"));
    cell.append(cell.words, cell.meter);
  }
  const { usual_s: usual, long_s: long } = build;
  show(cell.meter, Boolean(usual));
  if (!usual) return say(cell.words, "unknown");
  const late = build.elapsed > (long ?? usual);
  cell.meter.className = late ? "meter late" : "meter";
  cell.meter.firstChild.style.width = `${Math.min(100, Math.round((100 * build.elapsed) / usual))}%`;
  cell.title = long > usual ? `one in ten takes ${duration(long)} or longer` : "";
  return say(cell.words, late ? `${duration(usual)}, late` : duration(usual));
}

/** How much longer than usual it has taken; those that are latest first. */
const lateness = (build) => (build.usual_s ? build.elapsed / build.usual_s : null);

/** The section of what runs. */
export class Running {
  constructor(parent, open) {
    const forLong = (build) => {
      build.elapsed = build.elapsed_s + Math.max(0, (this.time ?? 0) - (this.said ?? 0));
      return build.elapsed;
    };
    this.table = new Table(parent, {
      label: "Running builds",
      what: ["build", "builds"],
      empty: "Nothing runs.",
      key: (build) => `${build.request.number} ${build.path}`,
      text: (build) => `${itemName(build.path)} ${placeName(build.place)} ${requestName(build)}`,
      rank: (a, b) => b.elapsed_s - a.elapsed_s,
      columns: [
        { title: "What", className: "wide", value: (build) => itemName(build.path), update: (cell, build) => this.updateName(cell, build, open) },
        { title: "Where", className: "where", value: (build) => placeName(build.place), update: (cell, build) => text(cell, placeName(build.place)) },
        { title: "For", value: (build) => build.elapsed_s, first: -1, className: "number", update: (cell, build) => say(cell, duration(forLong(build))) },
        { title: "Usually", value: lateness, first: -1, className: "usual", update: updateUsual },
        requestColumn,
      ],
    });
  }

  updateName(cell, build, open) {
    // What is fetched has no log.
    if (build.place === "fetch") text(cell, itemName(build.path));
    else logButton(cell, build.path, itemName(build.path), open);
  }

  set(farm) {
    this.said = this.time = farm.time;
    this.table.total = sum(farm.requests, "running");
    const builds = ofAll(farm, "builds");
    for (const build of builds) build.elapsed = build.elapsed_s;
    this.table.set(builds);
  }

  tick(time) {
    this.time = time;
    this.table.tick();
  }
}

/** The section of what waits. */
export class Waiting {
  constructor(parent) {
    this.reasons = el("p", { className: "note" });
    parent.append(this.reasons);
    this.table = new Table(parent, {
      label: "What waits, and why",
      what: ["derivation", "derivations"],
      rows: 10,
      empty: "Nothing waits.",
      key: (wait) => `${wait.request.number} ${wait.path}`,
      text: (wait) => `${itemName(wait.path)} ${wait.text} ${requestName(wait)}`,
      rank: (a, b) => ORDER.indexOf(a.why) - ORDER.indexOf(b.why),
      groups: { of: (wait) => wait.why, label: reasonName, order: ORDER },
      columns: [
        { title: "What", className: "wide", value: (wait) => itemName(wait.path), update: (cell, wait) => text(cell, itemName(wait.path)) },
        { title: "Why", className: "wide", value: (wait) => wait.text, update: (cell, wait) => text(cell, clean(wait.text)) },
        { title: "Tried again", className: "number", value: (wait) => wait.retry_s, update: (cell, wait) => say(cell, wait.retry_s == null ? "" : `in ${duration(wait.retry_s)}`) },
        requestColumn,
      ],
    });
  }

  set(farm) {
    const numbers = reasonsOf(farm);
    this.table.total = sum(farm.requests, "waiting");
    const waits = ofAll(farm, "waits");
    this.table.set(waits);
    // The list may be cut; these numbers are of all.
    const words = [...numbers].sort((a, b) => b[1] - a[1]).map(([why, number]) => `${count(number)} for ${reasonName(why)}`);
    say(this.reasons, `In all: ${words.join(", ")}.`);
    show(this.reasons, waits.length < this.table.total && words.length > 0);
  }
}

/** How many wait for each reason, in all requests. */
export function reasonsOf(farm) {
  const numbers = new Map();
  for (const request of farm.requests) {
    for (const [why, number] of Object.entries(request.reasons ?? {})) numbers.set(why, (numbers.get(why) ?? 0) + number);
  }
  return numbers;
}

const RESULTS = { failed: "build failed", "timed-out": "took too long", "machine-failed": "machine failed" };
const resultName = (result) => (Object.hasOwn(RESULTS, result) ? RESULTS[result] : clean(result, 40).replaceAll("-", " "));
const failedWhere = (failure) => (failure.machine === "local" ? "here" : clean(failure.machine?.replace(/:22$/, "") ?? "unknown"));
const failedName = (failure) => itemName(failure.drv ?? failure.name);

/** The section of what has failed. */
export class Failures {
  constructor(parent, open) {
    this.where = el("p", { className: "note" });
    parent.append(this.where);
    this.table = new Table(parent, {
      label: "Recent failures",
      what: ["failure", "failures"],
      rows: 10,
      empty: "Nothing has failed.",
      key: (failure) => `${failure.time} ${failure.drv} ${failure.machine}`,
      text: (failure) => `${failedName(failure)} ${failedWhere(failure)} ${resultName(failure.result)} ${failure.reason} ${failure.system}`,
      rank: (a, b) => b.time - a.time,
      groups: { of: (failure) => failure.result, label: resultName },
      columns: [
        { title: "What", className: "wide", value: failedName, update: (cell, failure) => this.updateName(cell, failure, open) },
        { title: "When", className: "number", value: (failure) => failure.time, first: -1, update: (cell, failure) => say(cell, clock(failure.time, this.time)) },
        { title: "Where", className: "where", value: failedWhere, update: (cell, failure) => text(cell, failedWhere(failure)) },
        { title: "After", value: (failure) => failure.built_s, first: -1, className: "number", update: (cell, failure) => say(cell, duration(failure.built_s ?? 0)) },
        { title: "Why", className: "wide", value: (failure) => failure.reason, update: (cell, failure) => text(cell, `${resultName(failure.result)}: ${clean(failure.reason)}`) },
      ],
    });
  }

  updateName(cell, failure, open) {
    if (failure.has_log) logButton(cell, failure.drv, failedName(failure), open);
    else text(cell, failedName(failure));
  }

  set(farm) {
    this.time = farm.time;
    this.table.set(farm.failures);
    const numbers = new Map();
    for (const failure of farm.failures) {
      if (failure.result === "machine-failed") numbers.set(failedWhere(failure), (numbers.get(failedWhere(failure)) ?? 0) + 1);
    }
    const worst = [...numbers].sort((a, b) => b[1] - a[1]).slice(0, 5);
    say(this.where, `Machines that failed: ${worst.map(([name, number]) => `${name} (${count(number)})`).join(", ")}${numbers.size > 5 ? `, and ${count(numbers.size - 5)} more` : ""}.`);
    show(this.where, worst.length > 0);
  }
}
