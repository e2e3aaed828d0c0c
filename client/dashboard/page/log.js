// The panel with the end of a log, which grows while the build runs.

import { byId, say } from "./dom.js";
import { baseName, clean, cleanLog, itemName } from "./text.js";

/** How many characters of a log are kept, and after how many a line is cut. */
const KEPT = 400_000;
const LINE = 20_000;

/** The end of a log in an element, as pieces of text of whole lines, and a line that isn't complete. */
class Tail {
  constructor(node) {
    Object.assign(this, { node, pieces: [], length: 0, rest: "", last: document.createTextNode("") });
    this.clear();
  }

  clear() {
    Object.assign(this, { pieces: [], length: 0, rest: "" });
    this.last.data = "";
    this.node.replaceChildren(this.last);
  }

  /** Adds text, and forgets the oldest. What is selected stays selected. */
  add(text) {
    const { node } = this;
    const atEnd = node.scrollHeight - node.scrollTop - node.clientHeight < 40;
    let whole = this.rest + text;
    const cut = whole.lastIndexOf("\n") + 1;
    this.rest = whole.slice(cut);
    whole = whole.slice(0, cut);
    if (this.rest.length > LINE) {
      whole += `${this.rest}\n`;
      this.rest = "";
    }
    if (whole) {
      const piece = document.createTextNode(cleanLog(whole));
      node.insertBefore(piece, this.last);
      this.pieces.push(piece);
      this.length += piece.length;
    }
    while (this.length > KEPT && this.pieces.length > 1) {
      const oldest = this.pieces.shift();
      this.length -= oldest.length;
      oldest.remove();
    }
    const rest = cleanLog(this.rest);
    if (this.last.data !== rest) this.last.data = rest;
    if (atEnd) node.scrollTop = node.scrollHeight;
  }
}

/** The panel. */
export class LogPanel {
  constructor() {
    this.panel = byId("log");
    this.title = byId("log-title");
    this.state = byId("log-state");
    this.tail = new Tail(byId("log-text"));
    byId("log-close").addEventListener("click", () => this.close());
    byId("log-end").addEventListener("click", () => {
      this.tail.node.scrollTop = this.tail.node.scrollHeight;
    });
    this.panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
  }

  /** Shows the log of a derivation; `opener` gets the focus back. */
  open(path, opener) {
    this.stop();
    this.opener = opener;
    this.path = path;
    say(this.title, `Log of ${itemName(path)}`);
    say(this.state, "Reading…");
    this.tail.clear();
    this.panel.hidden = false;
    document.documentElement.classList.add("with-log");
    this.title.focus({ preventScroll: true });
    this.follow(`/api/v1/log?follow=1&drv=${encodeURIComponent(baseName(path))}`);
  }

  follow(address) {
    const source = new EventSource(address);
    this.source = source;
    source.addEventListener("open", () => {
      // It begins anew after an interruption.
      this.tail.clear();
      say(this.state, "Live");
    });
    source.addEventListener("log", (event) => this.tail.add(JSON.parse(event.data)));
    source.addEventListener("end", (event) => {
      source.close();
      const { error } = JSON.parse(event.data);
      if (error) say(this.state, `The log cannot be shown to its end: ${clean(error)}`);
      else say(this.state, this.tail.node.textContent ? "The log is complete" : "The log is empty");
    });
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) say(this.state, "There is no log of it here, or the server does not answer");
      else say(this.state, "Connection lost; trying again…");
    });
  }

  stop() {
    this.source?.close();
    this.source = null;
  }

  close() {
    this.stop();
    this.tail.clear();
    this.panel.hidden = true;
    document.documentElement.classList.remove("with-log");
    // The row may be gone, or its build may have another row now.
    const selector = `button[data-drv="${CSS.escape(this.path)}"]`;
    const target = this.opener?.isConnected ? this.opener : document.querySelector(selector);
    (target ?? byId("main")).focus({ preventScroll: true });
  }
}
