// A table that is sorted by its headings and filtered by words and groups, with a bounded number of rows.

import { List, el, inUse, say, setAll, show } from "./dom.js";
import { count } from "./text.js";

/** How many more rows a press of the button shows, and how many there can be. */
const MORE = 100;
const MOST = 500;

const collator = new Intl.Collator("en", { numeric: true });

const unknown = (value) => value === null || value === undefined;

/** Which of two values comes first; what isn't known comes last, in either direction. */
function compare(a, b, direction) {
  if (unknown(a) || unknown(b)) return unknown(a) - unknown(b);
  return direction * (typeof a === "string" ? collator.compare(a, b) : a - b);
}

/**
 * `columns` have a `title`, a `value` to sort by (optional), a `className`, and `update(cell, item)`.
 * `what` names the rows ("machine", "machines"); `key` an item; `text` is searched by the filter; `rank` sorts
 * if no column does; `groups` (optional) has `of(item)` and `label(group)`, with a button for each group.
 */
export class Table {
  constructor(parent, options) {
    Object.assign(this, { rows: 20, empty: "None.", ...options });
    Object.assign(this, { items: [], column: null, direction: 1, words: [], group: null, shown: this.rows });
    this.heads = this.columns.map((column, index) => this.makeHead(column, index));
    this.body = el("tbody", { role: "rowgroup" });
    this.list = new List(this.body, (item) => this.key(item), () => this.makeRow(), (row, item) => this.updateRow(row, item));
    this.table = el(
      "table",
      { role: "table", "aria-label": this.label },
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...this.heads)),
      this.body,
    );
    this.note = el("p", { className: "note" });
    this.more = el("button", { type: "button", textContent: "Show more" });
    this.more.addEventListener("click", () => {
      this.shown = Math.min(this.shown + MORE, MOST);
      this.render();
    });
    parent.append(this.makeTools(), this.table, el("div", { className: "below" }, this.note, this.more));
  }

  makeHead(column, index) {
    const head = el("th", { scope: "col", role: "columnheader", className: column.className ?? "" });
    if (!column.value) {
      say(head, column.title);
      return head;
    }
    const button = el("button", { type: "button", textContent: column.title });
    button.addEventListener("click", () => this.sortBy(index));
    head.append(button);
    return head;
  }

  makeTools() {
    this.filter = el("input", { type: "search", placeholder: "Filter", "aria-label": `Filter ${this.what[1]}`, autocomplete: "off", spellcheck: false });
    this.filter.addEventListener("input", () => {
      this.words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      this.shown = this.rows;
      this.render();
    });
    this.chips = el("div", { className: "chips", role: "group", "aria-label": `Which ${this.what[1]}` });
    this.chipList = new List(this.chips, ([group]) => String(group), ([group]) => this.makeChip(group), (chip, [group, number]) => {
      const label = group === null ? "all" : this.groups.label(group);
      say(chip, `${label} ${count(number)}`);
      setAll(chip, { "aria-pressed": group === this.group });
    });
    this.tools = el("div", { className: "tools" }, this.filter, this.chips);
    return this.tools;
  }

  makeChip(group) {
    const chip = el("button", { type: "button", className: `chip ${this.groups.className?.(group) ?? ""}` });
    chip.addEventListener("click", () => {
      this.group = group === this.group ? null : group;
      this.shown = this.rows;
      this.render();
    });
    return chip;
  }

  makeRow() {
    const cells = this.columns.map((column, index) => {
      const role = index === 0 ? "rowheader" : "cell";
      const cell = el(index === 0 ? "th" : "td", { role, className: column.className ?? "", "data-label": column.title });
      if (index === 0) cell.scope = "row";
      return cell;
    });
    return el("tr", { role: "row" }, ...cells);
  }

  updateRow(row, item) {
    row.item = item;
    row.className = this.rowClass?.(item) ?? "";
    this.columns.forEach((column, index) => column.update(row.cells[index], item));
  }

  sortBy(index) {
    if (this.column !== index) Object.assign(this, { column: index, direction: this.columns[index].first ?? 1 });
    else if (this.direction === (this.columns[index].first ?? 1)) this.direction = -this.direction;
    else this.column = null;
    this.heads.forEach((head, number) => {
      const sorted = number === this.column;
      if (sorted) head.setAttribute("aria-sort", this.direction === 1 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    this.render(true);
  }

  /** Shows these items. */
  set(items) {
    this.items = items;
    this.render();
  }

  /** Shows the time that has passed. */
  tick() {
    for (const row of this.body.rows) this.updateRow(row, row.item);
  }

  matching() {
    if (!this.words.length) return this.items;
    return this.items.filter((item) => {
      const text = this.text(item).toLowerCase();
      return this.words.every((word) => text.includes(word));
    });
  }

  sorted(items) {
    const value = this.columns[this.column]?.value;
    if (!value) return this.rank ? [...items].sort(this.rank) : items;
    return [...items].sort((a, b) => compare(value(a), value(b), this.direction));
  }

  render(anew = false) {
    const matching = this.matching();
    this.renderChips(matching);
    const chosen = this.group === null ? matching : matching.filter((item) => this.groups.of(item) === this.group);
    const sorted = this.sorted(chosen);
    // Nothing moves under the hands of whoever reads or selects.
    const shown = (inUse(this.body) && !anew ? this.asBefore(sorted) : sorted).slice(0, this.shown);
    const index = [...this.body.rows].findIndex((row) => row.contains(document.activeElement));
    this.list.set(shown);
    if (index >= 0 && document.activeElement === document.body) this.focusRow(index);
    this.renderBelow(shown.length, chosen.length);
  }

  asBefore(items) {
    const places = new Map([...this.body.rows].map((row, place) => [this.key(row.item), place]));
    const place = (item) => places.get(this.key(item)) ?? Infinity;
    return [...items].sort((a, b) => (place(a) === place(b) ? 0 : place(a) - place(b)));
  }

  /** The row that had the focus is gone: the next one gets it. */
  focusRow(index) {
    const rows = this.body.rows;
    const target = rows[Math.min(index, rows.length - 1)]?.querySelector("button") ?? this.filter;
    target.focus({ preventScroll: true });
  }

  renderChips(matching) {
    if (!this.groups) return;
    const numbers = new Map();
    for (const item of matching) {
      const group = this.groups.of(item);
      numbers.set(group, (numbers.get(group) ?? 0) + 1);
    }
    if (this.group !== null && !numbers.has(this.group)) numbers.set(this.group, 0);
    const place = (group) => this.groups.order?.indexOf(group) ?? 0;
    const entries = [...numbers].sort(([a, n], [b, m]) => place(a) - place(b) || m - n);
    this.chipList.set(entries.length > 1 || this.group !== null ? [[null, matching.length], ...entries] : []);
  }

  renderBelow(shown, chosen) {
    const all = Math.max(this.items.length, this.total ?? 0);
    show(this.tools, this.items.length > 1);
    show(this.table, shown > 0);
    show(this.more, chosen > shown && this.shown < MOST);
    show(this.note, shown === 0 || shown < all);
    const hint = chosen > shown && this.shown >= MOST ? "; filter to see others" : "";
    if (all === 0) say(this.note, this.empty);
    else if (shown === 0) say(this.note, `None of ${count(all)} ${this.what[1]} is like that.`);
    else say(this.note, `${count(shown)} of ${count(all)} ${this.what[1]}${hint}`);
  }
}
