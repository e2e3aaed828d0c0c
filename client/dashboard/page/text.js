// Text for people: names, times and sizes; and what others wrote, made safe to show.

// Control characters; characters that are not seen, or that turn the direction of what follows; halves of
// surrogate pairs. As \p{…}: controls, formats, line and paragraph separators, surrogates, private use.
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}]/gu;
const UNPRINTABLE_IN_LOG = /[^\P{Cc}\t\n]|[\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}]/gu;

// What a terminal obeys instead of showing it: colours, movements, titles; whole sequences only.
const TERMINAL = new RegExp(
  [
    "\\x1b\\[[0-?]*[ -/]*[@-~]", // CSI, as colours
    "\\x1b[\\]P^_X][^\\x07\\x1b]*(?:\\x07|\\x1b\\\\)", // OSC and other strings, as titles and links
    "\\x1b[ -/]*[0-Z\\\\`-~]", // two characters, and choices of character sets
  ].join("|"),
  "g",
);

const escaped = (character) => `\\u{${character.codePointAt(0).toString(16)}}`;

/** The sum of a field of all of these. */
export const sum = (list, field) => list.reduce((total, one) => total + one[field], 0);

/** Text of somebody else's, on one line, `limit` characters at most. */
export function clean(text, limit = 300) {
  const whole = String(text ?? "");
  const start = whole.length > limit ? `${whole.slice(0, limit)}…` : whole;
  return start.replace(UNPRINTABLE, escaped);
}

/** Whole lines of a log: without what terminals obey, and with what else isn't seen as `\u{…}`. */
export function cleanLog(text) {
  const lines = text.replace(TERMINAL, "").split("\n");
  return lines.map(asInTheEnd).join("\n").replace(UNPRINTABLE_IN_LOG, escaped);
}

/** A line that was written over, as progress bars are, as it was in the end. */
function asInTheEnd(line) {
  let end = line.length;
  while (end > 0 && line[end - 1] === "\r") end -= 1;
  return line.slice(line.lastIndexOf("\r", end - 1) + 1, end);
}

const HASHED = /^[0-9a-z]{32}-/;

/** What people call an item: its name without directory, hash and `.drv`. */
export function itemName(path) {
  const base = baseName(path).replace(HASHED, "");
  return clean(base.endsWith(".drv") ? base.slice(0, -4) : base);
}

/** The last part of a path. */
export function baseName(path) {
  const text = String(path ?? "");
  return text.slice(text.lastIndexOf("/") + 1);
}

/** A number with separators: 1,000. */
export function count(number) {
  return Number(number ?? 0).toLocaleString("en-US");
}

/** A number and what is counted: 1 build, 2 builds. */
export function counted(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** A size: 431 GiB. */
export function bytes(size) {
  let value = size;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = value < 10 && unit > 0 ? 1 : 0;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** How long something takes: 45 s, 4 min 5 s, 42 min, 3 h 5 min, 2 d 4 h. */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const two = (large, unit, small, smaller) => (small ? `${large} ${unit} ${small} ${smaller}` : `${large} ${unit}`);
  if (s < 60) return `${s} s`;
  if (s < 600) return two(Math.floor(s / 60), "min", s % 60, "s");
  if (s < 3570) return `${Math.round(s / 60)} min`;
  const minutes = Math.round(s / 60);
  if (minutes < 1440) return two(Math.floor(minutes / 60), "h", minutes % 60, "min");
  const hours = Math.round(s / 3600);
  return two(Math.floor(hours / 24), "d", hours % 24, "h");
}

const HOUR = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** A time of day, with the date if it isn't that of `now`; both in seconds since the epoch. */
export function clock(time, now) {
  const date = new Date(time * 1000);
  const hour = HOUR.format(date);
  return date.toDateString() === new Date(now * 1000).toDateString() ? hour : `${DAY.format(date)}, ${hour}`;
}

/** The name of a machine, with its port if that is not the usual one. */
export function machineName(machine) {
  return machine.port === 22 ? clean(machine.name) : `${clean(machine.name)}:${machine.port}`;
}
