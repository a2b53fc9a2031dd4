"use strict";
// The predictions of a report. What stands in the page is text only: every string goes through textContent.
// The address after # is the whole state: #model/stage/instance?b=model/stage&task=...&show=wrong&page=2
(async () => {
  const PAGE = 50;
  const NARROW = matchMedia("(max-width: 52rem)"); // as report.css has it: one pane
  const FIELDS = ["task", "source", "truth", "answer", "seen", "text"];
  const $ = (id) => document.getElementById(id);
  const wellFormed = (text) => (text.toWellFormed ? text.toWellFormed() : text);
  const encode = (text) => encodeURIComponent(wellFormed(text));

  function make(tag, properties, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  async function unpack(id) {
    const text = atob($(id).textContent);
    const bytes = new Uint8Array(text.length);
    for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }

  if (!window.DecompressionStream) {
    $("status").textContent = "This browser is too old to show the predictions (it lacks DecompressionStream).";
    return;
  }
  const about = await unpack("about");
  const items = await unpack("instances");
  const keys = about.entries.map((entry) => entry.key);
  if (!keys.length) {
    $("status").textContent = "No predictions are in this report.";
    return;
  }
  const loaded = new Map();
  const load = (key) => {
    if (!loaded.has(key)) loaded.set(key, unpack(`entry-${keys.indexOf(key)}`));
    return loaded.get(key);
  };

  // ---- what an answer is: [strict label, lenient label, cut at max_tokens, [[text, steps], ...]]
  const none = (row) => (row[2] ? "cut" : "unparsed");
  const outcome = (row, item) => (row[0] === null ? none(row) : row[0] === item.label ? "right" : "wrong");
  const right = (row, item) => row[0] === item.label;
  const SHOWS = [
    ["all", "All", () => true],
    ["right", "Right", (item, a) => right(a, item)],
    ["wrong", "Wrong", (item, a) => outcome(a, item) === "wrong"],
    ["unparsed", "Unparsed", (item, a) => outcome(a, item) === "unparsed"],
    ["cut", "Cut at max_tokens", (item, a) => outcome(a, item) === "cut"],
    ["lenient", "Right if read leniently", (item, a) => !right(a, item) && a[1] === item.label],
  ];
  const PAIRED = [
    ["fixed", "B fixed", (item, a, b) => !right(a, item) && right(b, item)],
    ["broke", "B broke", (item, a, b) => right(a, item) && !right(b, item)],
    ["both", "Both right", (item, a, b) => right(a, item) && right(b, item)],
    ["neither", "Neither right", (item, a, b) => !right(a, item) && !right(b, item)],
    ["differ", "Answers differ", (item, a, b) => a[0] !== b[0]],
  ];
  const MARKS = { right: "✓", wrong: "✗", unparsed: "∅", cut: "✂" };

  // ---- state and address
  function read() {
    const [path, query] = location.hash.slice(1).split("?");
    const [model, stage, id] = path.split("/");
    if (stage === undefined) return { a: keys[0], b: "", id: "", show: "all", page: 0 };
    const given = new URLSearchParams(query);
    const known = (key) => keys.find((one) => one === key || one.split("/").map(encode).join("/") === key);
    const state = { a: known(`${model}/${stage}`) || keys[0], b: known(given.get("b")) || "", id: id || "",
      show: given.get("show") || "all",
      page: given.has("page") ? Math.max(0, Number(given.get("page")) - 1) || 0 : null };
    for (const field of FIELDS) state[field] = given.get(field) || "";
    return state;
  }

  function address(state) {
    const query = new URLSearchParams();
    for (const field of ["b", ...FIELDS]) if (state[field]) query.set(field, wellFormed(state[field]));
    if (state.show !== "all") query.set("show", state.show);
    if (state.page) query.set("page", state.page + 1);
    return `#${state.a.split("/").map(encode).join("/")}/${state.id}${String(query) && `?${query}`}`;
  }

  let state = read();
  let last = ""; // the prediction that was looked at last
  function change(changes) {
    state = { ...state, id: "", page: 0, ...changes };
    history.replaceState(null, "", address(state));
    return render();
  }

  // ---- filters
  const haystacks = new Map();
  function haystack(at, rows) {
    const key = `${state.a} ${state.b}`;
    if (!haystacks.has(key)) haystacks.clear(), haystacks.set(key, []);
    const found = haystacks.get(key);
    const item = items[at];
    found[at] ??= [item.id, item.log, item.description || "", ...rows.flatMap((row) => row[3].map((one) => one[0]))]
      .join("\n").toLowerCase();
    return found[at];
  }

  function filtered(a, b) {
    const wanted = (state.text || "").toLowerCase();
    const found = [];
    for (let at = 0; at < items.length; at++) {
      const item = items[at];
      if (!a[at] || (b && !b[at])) continue;
      if (state.task && item.task !== state.task) continue;
      if (state.source && item.source !== state.source) continue;
      if (state.truth && item.label !== state.truth) continue;
      if (state.answer && said(a[at]) !== state.answer) continue;
      if (state.seen && String(item.seen) !== state.seen) continue;
      if (wanted && !haystack(at, b ? [a[at], b[at]] : [a[at]]).includes(wanted)) continue;
      found.push(at);
    }
    return found;
  }

  function choices(id, options, all) {
    const shown = all === null ? options : [["", all], ...options];
    $(id).replaceChildren(...shown.map(([value, text]) => make("option", { value, textContent: text })));
    $(id).value = state[id] || (all === null ? keys[0] : "");
  }

  function fill() {
    const unique = (values) => [...new Set(values)].sort().map((value) => [value, value]);
    const present = new Set(items.map((item) => item.task));
    const tasks = Object.entries(about.tasks).filter(([name]) => present.has(name));
    const of = items.filter((item) => !state.task || item.task === state.task);
    const chosen = tasks.filter(([name]) => !state.task || name === state.task);
    const labels = unique(chosen.flatMap(([, task]) => task.labels));
    choices("a", keys.map((key) => [key, key]), null);
    choices("b", keys.filter((key) => key !== state.a).map((key) => [key, key]), "nothing");
    choices("task", tasks.map(([name, task]) => [name, task.title]), "all");
    choices("source", unique(of.map((item) => item.source)), "all");
    choices("truth", labels, "all");
    choices("answer", [...labels, ["unparsed", "unparsed"], ["cut", "cut"]], "all");
    choices("seen", [["0", "no"], ["1", "yes"]], "all");
    if (document.activeElement !== $("text")) $("text").value = state.text || "";
  }

  // ---- drawing
  const badge = (row, item) => {
    const is = outcome(row, item);
    return make("span", { className: `badge ${is}`, role: "img", ariaLabel: is, textContent: MARKS[is] });
  };
  const said = (row) => row[0] ?? none(row);
  const many = (count) => count.toLocaleString("en");
  const link = (at) => address({ ...state, id: encode(items[at].id) });

  function line(at, a, b) {
    const item = items[at];
    const marks = make("span", {}, badge(a[at], item), ...(b ? [" ", badge(b[at], item)] : []));
    const told = `${item.label} → ${said(a[at])}${b ? ` | ${said(b[at])}` : ""} · ${item.source}`;
    const row = make("a", { href: link(at) }, marks,
      make("code", { textContent: item.log.trimStart().split("\n")[0].slice(0, 200) }),
      make("span", { className: "said", textContent: told }));
    if (encode(item.id) === (state.id || last)) row.setAttribute("aria-current", "true");
    return make("li", {}, row);
  }

  function answer([text, steps], number, count, other) {
    const differs = (step, at) => (other && other[at] !== step ? "differs" : "");
    const listed = steps
      ? make("ol", {}, ...steps.map((step, at) => make("li", { textContent: step, className: differs(step, at) })))
      : make("p", { className: "muted", textContent: "No numbered steps." });
    const whole = make("details", { open: !steps }, make("summary", { textContent: "The whole answer" }),
      make("pre", { textContent: text || "(empty)" }));
    const title = count > 1 ? make("h4", { textContent: `Sample ${number + 1} of ${count}` }) : "";
    return make("div", {}, title, listed, whole);
  }

  function side(key, row, item, name, other) {
    const is = outcome(row, item);
    const lenient = row[1] === row[0] ? "" : `; read leniently: ${row[1] ?? none(row)}`;
    return make("div", { className: `side ${is}` },
      make("h3", { textContent: (name ? `${name}: ` : "") + key }),
      make("p", {}, make("span", { className: `badge ${is}`, textContent: `${MARKS[is]} ${is}` }),
        row[0] === null ? lenient : `: ${row[0]}${lenient}`),
      ...row[3].map((one, at) => answer(one, at, row[3].length, other?.[3][at]?.[1])));
  }

  function prompt(item) {
    const entry = about.entries[keys.indexOf(state.a)];
    const missing = !entry.prompted ? `${state.a} is not prompted: it is no language model.`
      : item.prompt === null ? "The prompt is not here." : "";
    if (missing) return make("p", { className: "muted", textContent: missing });
    return make("details", {}, make("summary", { textContent: "The whole prompt" }),
      make("pre", { textContent: about.tasks[item.task].prompt + item.prompt }));
  }

  function detail(chosen, a, b, visible) {
    const pane = $("detail");
    $("predictions").classList.toggle("open", Boolean(state.id));
    const all = address({ ...state, id: "" });
    const back = make("a", { className: "back", href: all, textContent: "‹ all predictions" });
    if (chosen < 0) {
      pane.replaceChildren(back, make("p", { className: "muted", textContent: state.id
        ? `This report has no prediction of ${state.a}${state.b && ` and ${state.b}`} with that id.`
        : "Choose a prediction to see its log, prompt, steps and answer." }));
      return;
    }
    const item = items[chosen];
    const place = visible.indexOf(chosen);
    const step = (by, text) => {
      const to = place < 0 ? undefined : items[visible[place + by]];
      if (!to) return "";
      const href = address({ ...state, id: encode(to.id), page: null });
      return make("a", { href, textContent: text, id: by > 0 ? "next" : "previous" });
    };
    const section = (title, text) => (!text ? []
      : [make("h4", { textContent: title }), make("pre", { textContent: text })]);
    pane.replaceChildren(
      make("header", {}, back, make("span", {}, step(-1, "‹ previous"), " ", step(1, "next ›"))),
      make("h3", { textContent: `Truth: ${item.label}` }),
      make("p", { className: "muted", textContent: `${about.tasks[item.task].title}, ${item.source}, ` +
        `${item.seen ? "" : "not "}seen in training, id ${item.id}` }),
      ...section("Log", item.log), ...section("Description", item.description),
      prompt(item),
      make("div", { className: "sides" }, side(state.a, a[chosen], item, b ? "A" : "", b?.[chosen]),
        b ? side(state.b, b[chosen], item, "B", a[chosen]) : ""));
    pane.scrollTop = 0;
  }

  function chips(found, a, b) {
    $("shows").replaceChildren(...[...SHOWS, ...(b ? PAIRED : [])].map(([key, text, test]) => {
      const count = found.filter((at) => test(items[at], a[at], b && b[at])).length;
      const named = b && SHOWS.slice(1).some((one) => one[0] === key) ? `A ${text.toLowerCase()} ` : `${text} `;
      const chip = make("button", { type: "button", onclick: () => change({ show: key }) },
        named, make("b", { textContent: many(count) }));
      chip.ariaPressed = String(state.show === key);
      chip.dataset.show = key;
      return chip;
    }));
  }

  async function render() {
    const at = state;
    const [a, b] = await Promise.all([load(at.a), at.b ? load(at.b) : null]);
    if (at !== state) return;
    const inside = $("list").contains(document.activeElement);
    const pressed = document.activeElement?.dataset?.show;
    fill();
    const found = filtered(a, b);
    chips(found, a, b);
    const [, name, test] = [...SHOWS, ...(b ? PAIRED : [])].find(([key]) => key === state.show) || SHOWS[0];
    const visible = found.filter((one) => test(items[one], a[one], b && b[one]));
    const both = (one) => a[one] && (!b || b[one]);
    const chosen = state.id ? items.findIndex((item, one) => encode(item.id) === state.id && both(one)) : -1;
    const pages = Math.max(1, Math.ceil(visible.length / PAGE));
    state.page = Math.min(state.page ?? Math.max(0, Math.floor(visible.indexOf(chosen) / PAGE)), pages - 1);
    const from = state.page * PAGE;
    $("list").replaceChildren(...visible.slice(from, from + PAGE).map((one) => line(one, a, b)));
    $("status").textContent = (b ? `A: ${state.a}, B: ${state.b}. ` : "") + (visible.length
      ? `${name}: ${many(from + 1)} to ${many(Math.min(from + PAGE, visible.length))} of ${many(visible.length)}.`
      : "Nothing fits these filters.");
    const turn = (by, text) => make("button", { type: "button", textContent: text,
      disabled: state.page + by < 0 || state.page + by >= pages,
      onclick: () => change({ page: state.page + by }).then(() => $("shows").scrollIntoView()) });
    const turns = [turn(-1, "‹ back"), `page ${state.page + 1} of ${many(pages)}`, turn(1, "on ›")];
    $("pages").replaceChildren(...(pages > 1 ? turns : []));
    detail(chosen, a, b, visible);
    const current = $("list").querySelector("[aria-current]");
    if (inside) (current?.offsetParent ? current : $("detail")).focus({ preventScroll: true });
    if (pressed) $("shows").querySelector(`[data-show=${pressed}]`)?.focus();
    last = state.id || last;
  }

  // ---- events
  $("filters").onsubmit = (event) => event.preventDefault();
  for (const id of ["b", "source", "truth", "answer", "seen"]) $(id).onchange = () => change({ [id]: $(id).value });
  $("a").onchange = () => change({ a: $("a").value, b: $("a").value === state.b ? "" : state.b });
  $("task").onchange = () => change({ task: $("task").value, source: "", truth: "", answer: "" });
  let typing;
  $("text").oninput = () => {
    clearTimeout(typing);
    typing = setTimeout(() => change({ text: $("text").value }), 120);
  };
  window.onhashchange = async () => {
    if (!location.hash.includes("/")) return; // a section
    state = read();
    await render();
    if (!NARROW.matches) return;
    if (state.id) $("predictions").scrollIntoView();
    else $("list").querySelector("[aria-current]")?.scrollIntoView({ block: "center" });
  };
  document.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && state.id) return void change({ page: state.page });
    if (/^(input|select|textarea)$/i.test(event.target.tagName)) return;
    if (event.key === "/") event.preventDefault(), $("text").focus();
    if (event.key === "j") (state.id ? $("next") : $("list").querySelector("a"))?.click();
    if (event.key === "k") $("previous")?.click();
  };

  $("filters").hidden = false;
  await render();
  if (state.id) $("predictions").scrollIntoView();
})();
