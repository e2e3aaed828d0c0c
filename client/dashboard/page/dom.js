// Making and updating elements. Whatever is shown goes through `textContent`: nothing is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element with properties (`className`, `type`), attributes (`aria-…`, `role`, `data-…`) and children. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in node && !name.includes("-")) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** An element of SVG. */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  setAll(node, attributes);
  node.append(...children);
  return node;
}

/** Sets attributes that differ. */
export function setAll(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    const text = String(value);
    if (node.getAttribute(name) !== text) node.setAttribute(name, text);
  }
}

/** Sets an element's text if it differs: what is selected stays selected. */
export function say(node, text) {
  const whole = String(text);
  if (node.textContent !== whole) node.textContent = whole;
}

/** Shows or hides an element. */
export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

/** An element by its identifier. */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * Makes the children of `parent` those of `items`, in this order. `keyOf` names an item; `create` makes the
 * element of a new one, and `update` is called with each element and its item. Elements stay who they are.
 */
export class List {
  constructor(parent, keyOf, create, update) {
    Object.assign(this, { parent, keyOf, create, update, nodes: new Map() });
  }

  set(items) {
    const wanted = new Map();
    for (const item of items) {
      let key = this.keyOf(item);
      // Others choose the names: two may be the same.
      while (wanted.has(key)) key += "\u0000";
      wanted.set(key, item);
    }
    for (const [key, node] of this.nodes) {
      if (!wanted.has(key)) {
        node.remove();
        this.nodes.delete(key);
      }
    }
    let next = this.parent.firstElementChild;
    for (const [key, item] of wanted) {
      let node = this.nodes.get(key);
      if (!node) {
        node = this.create(item);
        this.nodes.set(key, node);
      }
      this.update(node, item);
      if (node === next) next = next.nextElementSibling;
      else this.parent.insertBefore(node, next);
    }
  }
}

/** Whether somebody is at work within `node`: has the focus there, or has selected text. */
export function inUse(node) {
  if (node.contains(document.activeElement)) return true;
  const selection = document.getSelection();
  return Boolean(selection && !selection.isCollapsed && node.contains(selection.anchorNode));
}

/** A button that looks like a link, with text of somebody else's. */
export function nameButton(action) {
  const button = el("button", { type: "button", className: "link name" });
  button.addEventListener("click", () => action(button));
  return button;
}
