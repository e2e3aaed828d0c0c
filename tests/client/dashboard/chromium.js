// Told to every page before its own scripts, by `chromium.rs`.

window.testErrors = [];
for (const kind of ["error", "unhandledrejection"]) {
  addEventListener(kind, (event) => testErrors.push(`${kind}: ${event.message ?? event.reason}`));
}
addEventListener("securitypolicyviolation", (event) => testErrors.push(`policy: ${event.violatedDirective} ${event.blockedURI}`));

// At `/#given`, the page's events don't come from the server, but from the test.
if (location.hash === "#given") {
  const open = [];
  window.EventSource = class extends EventTarget {
    static CLOSED = 2;
    readyState = 1;
    constructor(url) {
      super();
      this.url = url;
      open.push(this);
      queueMicrotask(() => this.dispatchEvent(new Event("open")));
    }
    close() {
      this.readyState = 2;
    }
  };
  const give = (part, kind, data) => {
    for (const source of open) {
      if (source.url.includes(part) && source.readyState !== 2) source.dispatchEvent(new MessageEvent(kind, { data: JSON.stringify(data) }));
    }
  };
  window.giveFarm = (farm) => give("/events", "farm", farm);
  window.giveLog = (text) => give("/log", "log", text);
}

/** A farm with this many machines, the same each time; every text of it goes through `text`. */
window.sampleFarm = (number, text = (words) => words) => {
  let seed = 16;
  const random = (below) => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return Math.floor((seed / 2147483648) * below);
  };
  const any = (list) => list[random(list.length)];
  const time = Math.floor(Date.now() / 1000);
  const names = ["gcc-14.3.0", "texlive-20250308", "linux-libre-6.12.5", "python-3.11.11", "rust-1.85.1", "icecat-140.2.0", "ghc-9.8.4", "openjdk-21.0.2", "qtbase-6.8.2", "webkitgtk-2.48.1", "libreoffice-25.2.3", "llvm-19.1.7"];
  const digits = "0123456789abcdfghijklmnpqrsvwxyz";
  const path = (name) => text(`/gnu/store/${Array.from({ length: 32 }, () => digits[random(32)]).join("")}-${name}.drv`);
  const machines = Array.from({ length: number }, (_, index) => {
    const slots = any([2, 4, 8]);
    const kind = index % 29 === 6 ? "failing" : index % 41 === 8 ? "drained" : number > 50 ? any(["busy", "full", "full", "ready"]) : "full";
    const used = { failing: 0, drained: 0, ready: 0, full: slots, busy: 1 + random(slots - 1) }[kind];
    const why = { failing: "set aside for 320 s: connecting: no route to host", drained: "it is drained: new disk", full: `all ${slots} slots are taken` }[kind];
    const states = Array.from({ length: 12 }, (_, hour) => ({ time: time - 86400 + hour * 7200 + random(3600), state: any(["ready", "busy", "busy", "full"]), reason: "" }));
    states.push({ time: time - 600 - random(3600), state: kind, reason: text(why ?? "") });
    return { name: text(`build${String(index + 1).padStart(String(number).length, "0")}`), port: 22, slots, slots_used: used, state: kind, why_not: why ? text(why) : null, drained: kind === "drained", systems: [text("x86_64-linux")], load: used * 0.9 + random(100) / 200, free_space: (random(900) + 40) * 2 ** 30, asked: time - random(60), speed: 1, failures: kind === "failing" ? 3 + random(5) : random(2), last_error: null, states };
  });
  const builds = machines.flatMap((machine) =>
    Array.from({ length: machine.slots_used }, () => {
      const usual = 120 + random(3000);
      return { path: path(any(names)), place: text(`machine ${machine.name}`), elapsed_s: random(usual * 1.3), usual_s: usual, long_s: Math.round(usual * 1.2) };
    }),
  ).sort((a, b) => b.elapsed_s - a.elapsed_s);
  const waits = [
    ...Array.from({ length: 14 }, () => ({ path: path(any(names)), why: text("inputs"), text: text("it waits for something else to be done"), retry_s: null })),
    ...Array.from({ length: 9 }, () => ({ path: path(any(names)), why: text("machine"), text: text("it waits for a build machine: all slots are taken"), retry_s: 5 })),
  ];
  const request = (which, top, builds, waits) => ({
    number: which, client: { uid: 1000 + which, address: null }, since: time - 4300, targets: [path(top)], unlisted_targets: 0, answered: true,
    done: 412 - 150 * which, running: builds.length, waiting: waits.length, failed: 0,
    critical_path: names.slice(which, which + 5).map(path), unlisted_path: 0, end: { earliest_s: 2400 * which, latest_s: 4300 * which },
    builds: builds.slice(0, 1000), waits, reasons: waits.length ? { inputs: 14, machine: 9 } : {},
  });
  const half = Math.floor(builds.length / 2);
  const failures = Array.from({ length: 14 }, (_, index) => ({ time: time - 900 - index * 4000 - random(1500), drv: path(any(names)), name: text("x"), system: text("x86_64-linux"), machine: text(`build${any(["07", "03", "07", "12"])}:22`), reason: text(any(["builder failed with exit code 1", "the connection was lost", "builder failed with exit code 1"])), result: any(["failed", "failed", "machine-failed", "timed-out"]), built_s: random(4000), has_log: true }));
  const first = Math.floor(time / 600) * 600 - 143 * 600;
  const throughput = Array.from({ length: 144 }, (_, index) => {
    const wave = 0.55 + 0.4 * Math.sin(index / 19);
    const done = Math.round(number * wave * (0.7 + random(60) / 100));
    const slots = machines.reduce((sum, machine) => sum + machine.slots, 0);
    return { time: first + index * 600, builds: done, failed: random(12) === 0 ? 1 + random(3) : 0, busy_s: Math.round(600 * slots * Math.min(1, wave * (0.85 + random(25) / 100))), bytes_sent: done * random(9) * 2 ** 20, bytes_retrieved: done * random(14) * 2 ** 20 };
  });
  return { version: 1, time, host: text("head"), error: null, requests: [request(1, "my-system-1.0", builds.slice(0, half), waits), request(2, "webkit-manifest", builds.slice(half), [])], unlisted_requests: 0, machines, machines_error: null, unlisted_machines: 0, history_error: null, users: { 1001: text("alice"), 1002: text("bob") }, failures, throughput, interval_s: 600 };
};
