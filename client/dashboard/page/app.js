// The page: keeps a connection to the server, and gives what it says to the sections.

import { List, byId, el, say, show } from "./dom.js";
import { LogPanel } from "./log.js";
import { Machines, summary } from "./machines.js";
import { Throughput } from "./plots.js";
import { Requests, nameClients } from "./requests.js";
import { clean, clock, count, counted, itemName, sum } from "./text.js";
import { Failures, Running, Waiting, reasonsOf } from "./work.js";

/** After how many seconds without a word the server is asked whether it is there. */
const SILENCE = 30;
/** After how many seconds in the background the page asks for nothing any more. */
const UNSEEN = 300;

/** How many failures the server lists at most. */
const FAILURES = 100;

/** What waits for one of these has all it needs but a place to be built. */
const READY = ["machine", "slot", "fair-share", "build-user", "limit", "hook-turn"];

const log = new LogPanel();
const openLog = (path, button) => log.open(path, button);
const content = (id) => byId(id).querySelector(".content");
const sections = {
  requests: new Requests(content("requests")),
  running: new Running(content("running"), openLog),
  waiting: new Waiting(content("waiting")),
  machines: new Machines(content("machines")),
  failures: new Failures(content("failures"), openLog),
  throughput: new Throughput(content("throughput")),
};

/** What matters at a glance, with the summary of the machines: `[name, value, remark, whether it is bad]`. */
function tilesOf(farm, { numbers, text }) {
  const { requests, machines, failures } = farm;
  const slots = sum(machines, "slots");
  const used = sum(machines, "slots_used");
  const hour = failures.filter((failure) => failure.time > farm.time - 3600).length;
  // No more are listed: there may be more.
  const atLeast = hour >= FAILURES ? " or more" : "";
  return [
    ["Running", count(sum(requests, "running")), requests.length ? `for ${counted(requests.length + farm.unlisted_requests, "request")}` : "", false],
    ["Waiting", count(sum(requests, "waiting")), "", false],
    ["Slots in use", slots ? `${count(used)} of ${count(slots)}` : "none", slots ? `${Math.round((100 * used) / slots)} %` : "no build machines", false],
    ["Machines", count(machines.length + farm.unlisted_machines), text, numbers.failing > 0],
    ["Failures", `${count(hour)}${atLeast}`, "in the last hour", hour > 0],
  ];
}

const tileList = new List(
  byId("tiles"),
  ([name]) => name,
  ([name]) => el("div", { className: "tile" }, el("dt", { textContent: name }), el("dd", {}, el("b"), el("span"))),
  (tile, [, value, remark, bad]) => {
    const [number, words] = tile.lastChild.children;
    say(number, value);
    say(words, remark);
    tile.classList.toggle("bad", bad);
  },
);

/** Whether more machines would help, in a sentence. */
function verdictOf(farm) {
  const reasons = reasonsOf(farm);
  const waiting = sum(farm.requests, "waiting");
  const ready = READY.reduce((total, why) => total + (reasons.get(why) ?? 0), 0);
  const usable = farm.machines.filter((machine) => !machine.why_not && !machine.drained);
  const free = Math.max(0, sum(usable, "slots") - sum(usable, "slots_used"));
  if (!farm.requests.length) return "Nothing is being built.";
  if (!waiting) return "Nothing waits: more machines would not help now.";
  if (!ready) return `More machines would not help now: what waits (${count(waiting)}) waits for other things than a place to be built.`;
  if (!free) return `More machines would help: ${counted(ready, "derivation")} could be built at once, but there is no place for them.`;
  return `${counted(ready, "derivation")} could be built, and ${counted(free, "slot is", "slots are")} free: see under Waiting what they wait for.`;
}

const noticeList = new List(byId("notices"), (text) => text, () => el("li"), say);

function noticesOf(farm) {
  const notices = [];
  if (farm.error) notices.push(`What is being built is unknown: ${clean(farm.error)}`);
  if (farm.history_error) notices.push(`What was built is unknown: ${clean(farm.history_error)}`);
  return notices;
}

/** Tells those who don't see the page of a new failure, the newest one. */
let newest = null;
function announce(farm) {
  const last = farm.failures.reduce((latest, one) => (latest && latest.time >= one.time ? latest : one), null);
  if (newest !== null && last && last.time > newest) say(byId("news"), `Failed: ${itemName(last.drv ?? last.name)}`);
  newest = last?.time ?? 0;
}

/** The document, with what may be absent filled in. */
function complete(farm) {
  const lists = ["requests", "machines", "failures", "throughput"];
  for (const name of lists) farm[name] ??= [];
  farm.unlisted_requests ??= 0;
  farm.unlisted_machines ??= 0;
  nameClients(farm);
  return farm;
}

let farm = null;
/** The server's clock, compared with the browser's, in seconds. */
let offset = 0;
let waitingToRender = false;

const now = () => Date.now() / 1000 + offset;

function receive(text) {
  farm = complete(JSON.parse(text));
  offset = farm.time - Date.now() / 1000;
  connection.heard();
  if (waitingToRender) return;
  waitingToRender = true;
  requestAnimationFrame(() => {
    waitingToRender = false;
    render();
  });
}

function render() {
  const title = `Build farm of ${clean(farm.host ?? "this machine", 80)}`;
  say(byId("title"), title);
  const machines = summary(farm.machines);
  const { failing } = machines.numbers;
  const words = [`${count(sum(farm.requests, "running"))} running`];
  if (failing) words.unshift(`${counted(failing, "machine fails", "machines fail")}`);
  document.title = `${words.join(", ")} – ${title}`;
  tileList.set(tilesOf(farm, machines));
  say(byId("verdict"), verdictOf(farm));
  noticeList.set(noticesOf(farm));
  show(byId("notices"), byId("notices").childElementCount > 0);
  for (const section of Object.values(sections)) section.set(farm);
  announce(farm);
}

/** The connection to the server, which is made again whenever it is lost. */
const connection = {
  source: null,
  lost: 0,
  last: Date.now(),
  retry: null,

  open() {
    this.close();
    this.source = new EventSource("/api/v1/events");
    this.source.addEventListener("farm", (event) => receive(event.data));
    this.source.addEventListener("error", () => {
      this.fail();
      // The browser gives up where the server has answered something else.
      if (this.source?.readyState === EventSource.CLOSED) this.again();
    });
  },

  close() {
    clearTimeout(this.retry);
    this.retry = null;
    this.source?.close();
    this.source = null;
  },

  again() {
    this.close();
    const seconds = Math.min(30, 2 ** Math.min(this.lost, 5)) * (0.75 + Math.random() / 2);
    this.retry = setTimeout(() => this.open(), 1000 * seconds);
  },

  heard() {
    this.last = Date.now();
    this.lost = 0;
    this.say("Live", "live");
  },

  fail() {
    this.lost += 1;
    const since = farm ? ` What you see is of ${clock(farm.time, now())}.` : "";
    this.say(`Connection lost; trying again.${since}`, "lost");
  },

  say(text, state) {
    say(byId("connection"), text);
    byId("connection").className = state;
    document.documentElement.classList.toggle("stale", state === "lost");
  },

  /** Nothing was heard for a while: nothing may have changed, or the server may be gone without a word. */
  async check() {
    if (!this.source || Date.now() - this.last < 1000 * SILENCE) return;
    this.last = Date.now();
    try {
      const answer = await fetch("/api/v1/farm", { signal: AbortSignal.timeout(10_000) });
      if (!answer.ok) throw new Error(answer.statusText);
      receive(await answer.text());
    } catch {
      this.fail();
      this.again();
    }
  },
};

let unseen = 0;
setInterval(() => {
  unseen = document.hidden ? unseen + 1 : 0;
  if (unseen === UNSEEN) {
    connection.close();
    connection.say("Paused while nobody looks", "paused");
  }
  if (document.hidden) return;
  connection.check();
  if (farm && byId("connection").className === "live") {
    sections.requests.tick(now());
    sections.running.tick(now());
  }
}, 1000);

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !connection.source && !connection.retry) connection.open();
});

connection.open();
