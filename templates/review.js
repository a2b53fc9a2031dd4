// The page of data_builders/review_page.py. Log text and model answers are hostile: they reach the page only as text.
"use strict";
const $ = (id) => document.getElementById(id);
let state, item, at = 0, form = null, busy = false;

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  node.className = className;
  node.append(...children);  // strings become text nodes
  return node;
}
const section = (title, ...children) => make("section", "", make("h2", "", title), ...children);
const text = (value) => typeof value === "string" ? value : value == null ? "" : JSON.stringify(value, null, 1);
const texts = (value) => Array.isArray(value) ? value.map(text) : [];
const words = (value) => text(value).trim().split(/\s+/).join(" ");
const showMessage = (message) => { $("message").textContent = message; };

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw Error("the server does not answer; start make review again and open the address it prints");
  }
  const value = response.headers.get("content-type").startsWith("application/json") ? await response.json()
    : {error: await response.text()};
  if (value.error) throw Error(value.error);
  return value;
}

// One action at a time: a key pressed while one is running does nothing.
async function run(action) {
  if (busy) return;
  busy = true;
  try {
    await action();
  } catch (error) {
    showMessage(error.message);
  } finally {
    busy = false;
  }
}

async function show(number) {
  at = Math.min(Math.max(number, 0), state.decided.length - 1);
  item = await request("item/" + at);
  state.decided[at] = item.decision.decision;
  showMessage("");
  draw(false);
  window.scrollTo(0, 0);
}

// The first undecided row from a number on, else from the beginning; -1 if all are decided.
function firstUndecided(from) {
  const later = state.decided.indexOf("", from);
  return later >= 0 ? later : state.decided.indexOf("");
}

async function showNextUndecided() {
  const next = firstUndecided(at + 1);
  await show(next < 0 ? at : next);
  if (next < 0) showMessage("All are decided.");
}

async function decide(decision, edit) {
  const body = JSON.stringify({id: item.id, decision, [state.kind]: edit});
  Object.assign(state, await request("decide", {method: "POST", body}));
  await showNextUndecided();
}

function draw(editing) {
  const {decision, who, when} = item.decision, decided = state.decided.filter(Boolean).length;
  $("bar").max = state.decided.length;
  $("bar").value = decided;
  const total = state.decided.length.toLocaleString("en");
  $("progress").textContent = `${decided.toLocaleString("en")} of ${total} decided`;
  $("who").textContent = `as ${state.who}`;
  $("place").textContent = `${(at + 1).toLocaleString("en")} of ${total} · ${item.task.replaceAll("_", " ")}`;
  $("id").textContent = item.id;
  $("verdict").className = decision || "undecided";
  $("verdict").textContent = (decision || "undecided") + (who ? ` by ${who}` : "") + (when ? `, ${when}` : "");
  form = editing ? (state.kind === "thought" ? thoughtForm() : correctionForm()) : null;
  const shown = form ? form.node : state.kind === "thought" ? thought() : correction();
  const wrong = item.why && decision !== "edited"
    ? [make("p", "why", `Not valid: ${item.why}. Edit it into a valid one, or reject it.`)] : [];
  $("main").replaceChildren(...(state.kind === "thought"
    ? [make("div", "", section("Problem", make("pre", "", item.problem)),
            section("Raw analysis", make("pre", "", text(item.analysis)))),
       make("div", "", ...wrong, shown)]
    : [make("div", "wide", section("Problem", make("pre", "", item.problem)), ...wrong),
       flawed(), shown]));
  for (const id of ["save", "cancel"]) $(id).hidden = !form;
  for (const id of ["previous", "next", "undecided", "accept", "edit", "reject"]) $(id).hidden = Boolean(form);
  $("accept").disabled = Boolean(item.why) && decision !== "edited";
  if (form) form.node.querySelector("textarea:not([readonly])").focus();
}

// ---- thoughts
function thought() {
  const {problem_overview, key_challenges, reasoning_steps} = item.draft;
  if (!texts(reasoning_steps).length) return section("The teacher's answer", make("pre", "", text(item.thought)));
  return make("article", "", section("Problem overview", make("p", "", text(problem_overview))),
    section("Key challenges", make("ul", "", ...texts(key_challenges).map((challenge) => make("li", "", challenge)))),
    section("Reasoning steps", make("ol", "", ...texts(reasoning_steps).map((step) => make("li", "", step)))));
}

function thoughtForm() {
  const overview = area(text(item.draft.problem_overview), "Problem overview");
  const challenges = list("Key challenges", texts(item.draft.key_challenges));
  const steps = list("Reasoning steps", texts(item.draft.reasoning_steps));
  return {
    node: make("article", "", section("Problem overview", overview), challenges.node, steps.node),
    value: () => ({problem_overview: overview.value.trim(), key_challenges: challenges.values(),
                   reasoning_steps: steps.values()}),
  };
}

// ---- corrections
function firstFlawed() {
  return Number.isInteger(item.draft.first_error) ? item.draft.first_error : item.flawed.steps.length + 1;
}

// The number of the first step that the flawed solution does not have: the flawed step itself may stand before it.
function firstNew(steps) {
  return steps.findIndex((step, index) => words(step) !== words(item.flawed.steps[index])) + 1;
}

// Steps with marks: those before the first flawed one are unchanged; after it, those that the other side lacks differ.
function marked(steps, others, label, className, first = firstFlawed()) {
  const rows = steps.map((step, index) => {
    const differs = index + 1 === first || (index + 1 > first && words(step) !== words(others[index]));
    const row = make("li", index + 1 < first ? "unchanged" : differs ? className : "", step);
    if (index + 1 === first) row.prepend(make("b", "tag", label), " ");
    return row;
  });
  return make("ol", "steps", ...rows);
}

function answer(label, className, first) {
  return make("p", className, ...(first ? [make("b", "tag", "only the conclusion is flawed"), " "] : []), "Answer: ",
    make("strong", "", label));
}

function flawed() {
  const {steps} = item.flawed;
  return section("Flawed (the model's)", marked(steps, texts(item.draft.steps), "first flawed step", "flaw"),
    answer(item.flawed.answer, "flaw", firstFlawed() === steps.length + 1));
}

function correction() {
  const steps = texts(item.draft.steps);
  if (!steps.length) return section("The teacher's answer", make("pre", "", text(item.text)));
  return section("Corrected", marked(steps, item.flawed.steps, "corrected from here", "corrected", firstNew(steps)),
    answer(text(item.draft.answer), "corrected"), make("p", "reason", make("b", "", "Why: "), text(item.draft.reason)));
}

function correctionForm() {
  const original = item.flawed.steps, draft = texts(item.draft.steps);
  const first = make("input", ""), reason = area(text(item.draft.reason), "Why that step is flawed");
  Object.assign(first, {type: "number", min: 1, max: original.length + 1, value: firstFlawed()});
  first.ariaLabel = "First flawed step";
  const steps = list("Corrected steps", draft.length ? draft : original);
  const lockPrefix = () => steps.areas().forEach((area, index) => {
    area.readOnly = index + 1 < first.value;
    if (area.readOnly && index < original.length) area.value = original[index];
  });
  first.addEventListener("input", lockPrefix);
  lockPrefix();
  return {
    node: make("article", "",
      section("First flawed step", first, ` of ${original.length}; ${original.length + 1}: only the conclusion`), steps.node,
      section("Why that step is flawed", reason), answer(item.label, "corrected")),
    value: () => ({first_error: Number(first.value), reason: reason.value.trim(), steps: steps.values(),
                   answer: item.label}),
  };
}

// ---- forms
function area(value, label) {
  const node = make("textarea", "");
  Object.assign(node, {value, ariaLabel: label, rows: Math.max(2, Math.ceil(value.length / 60))});
  return node;
}

// Texts that can be changed, added and removed.
function list(title, initial) {
  const rows = make("ol", "editing"), more = make("button", "", "Add one");
  const add = (value) => {
    const remove = make("button", "", "×"), text = area(value, `${title}, ${rows.children.length + 1}`);
    const row = make("li", "", text, remove);
    Object.assign(remove, {type: "button", ariaLabel: "remove"});
    remove.addEventListener("click", () => row.remove());
    rows.append(row);
    return text;
  };
  initial.forEach(add);
  more.addEventListener("click", () => add("").focus());
  const areas = () => [...rows.querySelectorAll("textarea")];
  const values = () => areas().map((area) => area.value.trim()).filter(Boolean);
  return {node: section(title, rows, more), areas, values};
}

// ---- actions and keys
const actions = {
  accept: () => run(() => item.decision.decision === "edited" ? decide("edited", item.draft) : decide("accepted")),
  reject: () => run(() => decide("rejected")),
  edit: () => draw(true),
  save: () => run(() => decide("edited", form.value())),
  cancel: () => { showMessage(""); draw(false); },
  next: () => run(() => show(at + 1)),
  previous: () => run(() => show(at - 1)),
  undecided: () => run(showNextUndecided),
  help: () => $("helping").showModal(),
};
const KEYS = {a: "accept", e: "edit", r: "reject", j: "next", ArrowRight: "next", k: "previous", ArrowLeft: "previous",
              u: "undecided", "?": "help"};

document.addEventListener("keydown", (event) => {
  if (!item || $("helping").open || event.altKey) return;
  let action;
  const control = event.ctrlKey || event.metaKey;
  if (form) action = {Escape: "cancel", Enter: control ? "save" : ""}[event.key];
  else if (!control) action = KEYS[event.key];
  if (!action || $(action).disabled) return;
  event.preventDefault();
  if (!event.repeat || action === "next" || action === "previous") actions[action]();
});
for (const id of Object.keys(actions)) $(id).addEventListener("click", () => item && actions[id]());
window.addEventListener("beforeunload", (event) => form && event.preventDefault());

run(async () => {
  state = await request("state");
  document.title = `Review: ${state.kind}s`;
  $("file").textContent = state.file;
  for (const name of state.names) {
    const link = make("a", name.startsWith(state.kind) ? "here" : "", name);
    link.href = `../${name}/`;
    $("names").append(link);
  }
  await show(Math.max(firstUndecided(0), 0));
});
