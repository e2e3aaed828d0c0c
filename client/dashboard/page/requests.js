// The requests: how far they are, what they wait for longest, and when they will probably end.

import { List, el, say, setAll, show } from "./dom.js";
import { clean, clock, count, counted, duration, itemName } from "./text.js";

/** How many requests are shown, how many targets of each, and how much of a path at either end. */
const SHOWN = 30;
const TARGETS = 3;
const ENDS = 3;

const PARTS = ["done", "running", "waiting", "failed"];

/** Whose request it is; `users` are the names of accounts. */
function clientName({ uid, address } = {}, users = {}) {
  if (uid !== null && uid !== undefined) return Object.hasOwn(users, uid) ? clean(users[uid]) : `user ${uid}`;
  return address ? clean(address) : "an unknown client";
}

function targets(request) {
  const names = request.targets.slice(0, TARGETS).map(itemName);
  const more = request.targets.length + request.unlisted_targets - names.length;
  if (more > 0) names.push(`${count(more)} more`);
  return names.join(", ");
}

/** When it will probably end. */
function end(request, time) {
  if (!request.answered) return "It is busy, and does not say what it does.";
  if (!request.end) return "It is unknown when it will end.";
  const { earliest_s: earliest, latest_s: latest } = request.end;
  const moments = [time + earliest, time + latest].map((moment) => clock(moment, time));
  if (moments[0] === moments[1]) return `Ends about ${moments[0]}, in ${duration(latest)}.`;
  const saved = `More machines could save ${duration(latest - earliest)} at most.`;
  return `Ends between ${moments[0]} and ${moments[1]}, in ${duration(earliest)} to ${duration(latest)}. ${saved}`;
}

/** Both ends of the critical path. */
function pathInShort(request) {
  const names = request.critical_path;
  const all = names.length + request.unlisted_path;
  if (all <= 2 * ENDS + 1) return names.map(itemName).join(" → ");
  const last = request.unlisted_path ? [] : names.slice(-ENDS).map(itemName);
  return [...names.slice(0, ENDS).map(itemName), `${count(all - ENDS - last.length)} more`, ...last].join(" → ");
}

function create() {
  const card = el("article", { className: "card" });
  const parts = {
    title: el("h3", { className: "name" }),
    about: el("p", { className: "about" }),
    bar: el("div", { className: "bar", role: "img" }),
    counts: el("p", { className: "counts" }),
    end: el("p", { className: "end" }),
    path: el("details", {}, el("summary"), el("ol", { className: "path" })),
  };
  parts.bar.append(...PARTS.map((part) => el("span", { className: `part-${part}` })));
  parts.steps = new List(parts.path.lastChild, (path) => path, () => el("li", { className: "name" }), (node, path) => say(node, itemName(path)));
  card.append(parts.title, parts.about, parts.bar, parts.counts, parts.end, parts.path);
  card.parts = parts;
  return card;
}

function updateProgress(parts, request) {
  const all = PARTS.reduce((sum, part) => sum + request[part], 0);
  PARTS.forEach((part, index) => {
    parts.bar.children[index].style.flexGrow = String(request[part]);
  });
  const words = PARTS.filter((part) => part !== "failed" || request.failed).map((part) => `${count(request[part])} ${part}`);
  const percent = all ? `${Math.floor((100 * request.done) / all)} % done: ` : "";
  say(parts.counts, `${percent}${words.join(", ")}`);
  setAll(parts.bar, { "aria-label": `Progress: ${parts.counts.textContent}` });
  show(parts.bar, request.answered && all > 0);
  show(parts.counts, request.answered);
}

function update(card, request, time) {
  const { parts } = card;
  say(parts.title, targets(request));
  say(parts.about, `Request ${request.number} of ${request.who}, for ${duration(time - request.since)}`);
  updateProgress(parts, request);
  say(parts.end, end(request, time));
  const length = request.critical_path.length + request.unlisted_path;
  show(parts.path, length > 1);
  if (length > 1) {
    say(parts.path.firstChild, `Longest path, ${counted(length, "derivation")}: ${pathInShort(request)}`);
    // Nobody sees it while it is closed.
    parts.steps.set(parts.path.open ? request.critical_path : []);
  }
}

/** Notes with each request whose it is. */
export function nameClients(farm) {
  for (const request of farm.requests) request.who = clientName(request.client, farm.users ?? {});
}

/** The section of the requests. */
export class Requests {
  constructor(parent) {
    this.cards = el("div", { className: "cards" });
    this.note = el("p", { className: "note" });
    parent.append(this.cards, this.note);
    this.list = new List(this.cards, (request) => String(request.number), () => this.make(), (card, request) => {
      card.request = request;
      update(card, request, this.time);
    });
  }

  make() {
    const card = create();
    card.parts.path.addEventListener("toggle", () => update(card, card.request, this.time));
    return card;
  }

  set(farm) {
    this.time = farm.time;
    this.list.set(farm.requests.slice(0, SHOWN));
    const more = farm.requests.length + farm.unlisted_requests - SHOWN;
    say(this.note, more > 0 ? `and ${counted(more, "more request")}` : "Nothing is being built.");
    show(this.note, more > 0 || farm.requests.length === 0);
  }

  tick(time) {
    this.time = time;
    for (const card of this.cards.children) update(card, card.request, time);
  }
}
