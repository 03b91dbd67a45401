"use strict";

// The page fetches itself again when the balancer has news, and changes only what differs: focus, scroll position, open details
// and typed text stay. Orders go to the API with a token that only this tab keeps.

const TOKEN = "virtpoise-token";
const AGO_MILLISECONDS = 1000;
const ANSWER_MILLISECONDS = 8000;
const FIND_MILLISECONDS = 250;

// --- updating what differs ---------------------------------------------------------------------------------------

function take(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  if (old.hasAttribute("data-keep")) return;
  if (old.tagName === "TIME" && old.dateTime === fresh.dateTime) return;
  for (const { name } of [...old.attributes]) {
    const mine = name === "hidden" || (name === "open" && old.tagName === "DETAILS");
    if (!mine && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (name !== "hidden" && name !== "checked" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  takeChildren(old, fresh);
}

function takeChildren(old, fresh) {
  // Elements with the same id are the same element. Only those whose order changes are moved, since a move loses the focus.
  const wanted = new Set();
  for (const child of fresh.children) if (child.id) wanted.add(child.id);
  const known = new Map();
  for (const child of [...old.children]) {
    if (wanted.has(child.id)) known.set(child.id, child);
    else if (child.id) child.remove();
  }
  let here = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const same = child.id ? known.get(child.id) : null;
    while (same && here && here !== same && !here.id) {
      const next = here.nextSibling;
      here.remove();
      here = next;
    }
    if (same && same !== here) {
      old.insertBefore(same, here);
      take(same, child);
    } else if (here && alike(here, child)) {
      const next = here.nextSibling;
      if (!here.isEqualNode(child)) take(here, child);
      here = next;
    } else {
      old.insertBefore(document.adoptNode(child), here);
    }
  }
  while (here) {
    const next = here.nextSibling;
    here.remove();
    here = next;
  }
}

function alike(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName && (one.id || "") === (other.id || "");
}

// --- live ------------------------------------------------------------------------------------------------------------

// Which group of hosts the page shows, as a query; empty where there are none.
const ofGroup = document.body.dataset.group;

let asking = false;
let again = false;

async function refresh() {
  if (document.hidden) {
    again = true;
    return;
  }
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  again = false;
  try {
    const response = await fetch(location.href, { headers: { Accept: "text/html" } });
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const id of ["state", "main"]) {
      const old = document.getElementById(id);
      const now = fresh.getElementById(id);
      if (old && now) take(old, now);
    }
    dress();
  } catch {
    live(false);
  } finally {
    asking = false;
    if (again) refresh();
  }
}

function live(on) {
  const place = document.getElementById("live");
  const word = on ? "live" : "not live";
  place.classList.toggle("on", on);
  const text = place.querySelector(".word");
  if (text.textContent !== word) text.textContent = word;
}

function listen() {
  const events = new EventSource("/api/v1/events" + ofGroup);
  let lost = false;
  events.addEventListener("open", () => {
    live(true);
    if (lost) refresh();
    lost = false;
  });
  events.addEventListener("error", () => {
    live(false);
    lost = true;
  });
  events.addEventListener("cycle", refresh);
  events.addEventListener("flights", () => {
    if (location.pathname === "/" || document.getElementById("flights")) refresh();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && again) refresh();
  });
  addEventListener("pagehide", () => events.close());
}

// --- what scripts add to the page ------------------------------------------------------------------------------------

function dress() {
  for (const button of document.querySelectorAll("[data-order][hidden]")) button.hidden = false;
  for (const place of document.querySelectorAll(".filter")) place.hidden = !inParts() && document.querySelectorAll(".host").length < 2;
  filter();
  chosen();
  ages();
}

function ages() {
  const now = Date.now();
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const at = new Date(time.dateTime);
    if (!time.title) time.title = at.toLocaleString();
    const text = ago(Math.max(0, Math.round((now - at.getTime()) / 1000)));
    if (time.textContent !== text) time.textContent = text;
  }
}

function ago(seconds) {
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

// Of a large group the page has only a part: the balancer looks through all hosts.
function inParts() {
  return document.querySelector("#host-list[data-part]") !== null;
}

let finding = 0;

function typed(input) {
  clearTimeout(finding);
  if (!inParts()) {
    filter();
    return;
  }
  finding = setTimeout(() => {
    const address = new URL(location.href);
    address.searchParams.delete("page");
    address.searchParams.set("find", input.value.trim());
    history.replaceState(null, "", address);
    refresh();
  }, FIND_MILLISECONDS);
}

function filter() {
  const input = document.getElementById("filter");
  if (!input) return;
  const wanted = inParts() ? "" : input.value.trim().toLowerCase();
  let shown = 0;
  for (const host of document.querySelectorAll(".host")) {
    const fits = !wanted || host.querySelector(".name").textContent.toLowerCase().includes(wanted) || holds(host, wanted);
    host.hidden = !fits;
    shown += fits;
  }
  document.getElementById("none").hidden = shown > 0;
}

function holds(host, wanted) {
  for (const name of host.querySelectorAll(".load title, .names a")) {
    if (name.textContent.toLowerCase().includes(wanted)) return true;
  }
  return false;
}

// --- the plan's moves ------------------------------------------------------------------------------------------------

function moves() {
  return [...document.querySelectorAll("input[data-move]")];
}

function chosen() {
  const button = document.querySelector("[data-chosen]");
  if (!button) return;
  const taken = moves().filter((move) => move.checked);
  button.disabled = taken.length === 0;
  button.textContent = taken.length === moves().length ? "Make all moves" : `Make ${taken.length} move${taken.length === 1 ? "" : "s"}`;
  button.dataset.body = JSON.stringify({
    moves: taken.map((move) => ({ uuid: move.dataset.move, destination: move.dataset.destination })),
  });
}

// The uuids of the moves that this one depends on.
function needs(move) {
  return JSON.parse(move.dataset.needs);
}

// Selecting a move selects those that it needs; deselecting one deselects those that need it.
function choose(input) {
  const all = new Map(moves().map((move) => [move.dataset.move, move]));
  const settle = (move) => {
    if (move.checked) {
      for (const uuid of needs(move)) {
        const other = all.get(uuid);
        if (other && !other.checked) {
          other.checked = true;
          settle(other);
        }
      }
    } else {
      for (const other of all.values()) {
        if (other.checked && needs(other).includes(move.dataset.move)) {
          other.checked = false;
          settle(other);
        }
      }
    }
  };
  settle(input);
  chosen();
}

// --- orders ----------------------------------------------------------------------------------------------------------

function sure(text) {
  const dialog = document.getElementById("sure-dialog");
  document.getElementById("sure-text").textContent = text;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

function askToken() {
  const dialog = document.getElementById("token-dialog");
  const input = document.getElementById("token");
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "go" ? input.value.trim() : ""), { once: true });
  });
}

async function order(button) {
  const path = button.dataset.order + ofGroup;
  const body = button.dataset.body;
  if (button.dataset.sure && !(await sure(button.dataset.sure))) return;
  const token = sessionStorage.getItem(TOKEN) || (await askToken());
  if (!token) return;
  button.disabled = true;
  try {
    const response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${token}` },
      body,
    });
    const said = await response.json();
    if (response.status === 401) sessionStorage.removeItem(TOKEN);
    else sessionStorage.setItem(TOKEN, token);
    tell(response.ok ? said.answer : `Refused: ${said.error}`, response.ok);
  } catch {
    tell("The balancer does not answer.", false);
  } finally {
    button.disabled = false;
    refresh();
  }
}

let fading = 0;

function tell(text, good) {
  const place = document.getElementById("answer");
  place.textContent = text;
  place.classList.toggle("bad", !good);
  clearTimeout(fading);
  fading = setTimeout(() => { place.textContent = ""; }, ANSWER_MILLISECONDS);
}

// --- begin -----------------------------------------------------------------------------------------------------------

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-order]");
  if (button) order(button);
  if (event.target.id === "token-cancel") document.getElementById("token-dialog").close("");
});
document.addEventListener("change", (event) => {
  if (event.target.matches("input[data-move]")) choose(event.target);
});
document.addEventListener("input", (event) => {
  if (event.target.id === "filter") typed(event.target);
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, dialog *");
  const input = document.getElementById("filter");
  if (event.key === "/" && !typing && input && !input.closest("[hidden]")) {
    event.preventDefault();
    input.focus();
  } else if (event.key === "Escape" && event.target === input) {
    input.value = "";
    typed(input);
  }
});
document.getElementById("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  document.getElementById("token-dialog").close("go");
});

dress();
listen();
setInterval(ages, AGO_MILLISECONDS);
