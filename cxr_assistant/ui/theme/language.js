// The interface in the person's language. The page is written in English; this puts the catalogue's words in the
// place of the English ones, as they appear, and back. In English it does nothing at all. What a model wrote and
// what a person typed is left alone. CATALOGUE and SETTING are put before this text by masthead.py.

const READ = ["aria-label", "title", "placeholder", "alt", "aria-roledescription", "data-note"];
const THEIRS = "[data-testid=user] .words, textarea, script, style, .mono";
const english = new WeakMap(), before = new WeakMap(); // what stood there, by text node and by element
let language = "en", exact = null, patterns = [], observer = null;

function preferred() {
  let chosen = null;
  try { chosen = localStorage.getItem("cxr-language"); } catch { /* storage is blocked */ }
  const wished = [chosen, SETTING, ...(chosen || SETTING ? [] : navigator.languages)].filter(Boolean);
  return wished.map((name) => name.toLowerCase().split("-")[0]).find((name) => name === "en" || CATALOGUE[name]) ?? "en";
}
function load(name) {
  const words = CATALOGUE[name] ?? {}, escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  exact = new Map(Object.entries(words));
  patterns = Object.entries(words).filter(([key]) => key.includes("{}")).sort((a, b) => b[0].length - a[0].length)
    .map(([key, said]) => [new RegExp("^" + key.split("{}").map(escaped).join("(.+?)") + "$"), said]);
}
function say(text) {
  const tidy = text.trim().replace(/\s+/g, " ");
  if (!/[A-Za-z]/.test(tidy)) return null;
  if (exact.has(tidy)) return exact.get(tidy);
  for (const [pattern, said] of patterns) {
    const found = tidy.match(pattern);
    if (found) { let n = 0; return said.replace(/\{\}/g, () => say(found[++n]) ?? found[n]); }
  }
  return sayParts(tidy, " · ") ?? sayParts(tidy, ", ");
}
// A row of facts is said fact by fact; what is in no catalogue stays.
function sayParts(text, gap) {
  const parts = text.split(gap), said = parts.length > 1 ? parts.map(say) : [];
  return said.some((part) => part !== null) ? parts.map((part, n) => said[n] ?? part).join(gap) : null;
}
function isTheirs(element) {
  if (!element || element.closest(THEIRS)) return true;
  return element.closest("[data-testid=bot]") !== null && !element.closest(".pending");
}
function translateText(node) {
  if (english.get(node)?.said === node.data || isTheirs(node.parentElement)) return;
  const said = say(node.data);
  if (said === null) return;
  const whole = node.data.match(/^\s*/)[0] + said + node.data.match(/\s*$/)[0];
  english.set(node, { was: node.data, said: whole });
  node.data = whole;
}
function translateAttributes(element) {
  if (element.matches(".mono")) return;
  for (const name of READ) {
    const value = element.getAttribute(name), kept = before.get(element) ?? {};
    if (!value || kept[name]?.said === value) continue;
    const said = say(value);
    if (said === null) continue;
    before.set(element, { ...kept, [name]: { was: value, said } });
    element.setAttribute(name, said);
  }
}
function walk(root, onText, onElement) {
  if (root.nodeType === Node.TEXT_NODE) { onText(root); return; }
  if (root.nodeType !== Node.ELEMENT_NODE) return;
  onElement(root);
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT);
  while (walker.nextNode()) (walker.currentNode.nodeType === Node.TEXT_NODE ? onText : onElement)(walker.currentNode);
}
function restoreText(node) { const kept = english.get(node); if (kept && kept.said === node.data) node.data = kept.was; english.delete(node); }
function restoreAttributes(element) {
  for (const [name, kept] of Object.entries(before.get(element) ?? {})) if (element.getAttribute(name) === kept.said) element.setAttribute(name, kept.was);
  before.delete(element);
}
function changed(records) {
  for (const record of records) {
    if (record.type === "childList") record.addedNodes.forEach((node) => walk(node, translateText, translateAttributes));
    else if (record.type === "characterData") translateText(record.target);
    else translateAttributes(record.target);
  }
}
const OF_SHEETS = { "--says-drop": "Drop films or a folder here", "--says-measured": "Measured:" };
function speakInSheets() {
  for (const [name, text] of Object.entries(OF_SHEETS)) {
    if (language === "en") document.documentElement.style.removeProperty(name);
    else document.documentElement.style.setProperty(name, JSON.stringify((say(text) ?? text) + (text.endsWith(":") ? " " : "")));
  }
}
function speak(name) {
  observer?.disconnect();
  observer = null;
  const room = document.body;
  if (language !== "en") walk(room, restoreText, restoreAttributes);
  language = name;
  document.documentElement.lang = name;
  for (const note of document.querySelectorAll(".language-note")) note.hidden = name === "en";
  const picker = element.querySelector("[data-do=language]");
  if (picker) picker.value = name;
  if (name !== "en") load(name);
  speakInSheets();
  if (name === "en") return;
  walk(room, translateText, translateAttributes);
  observer = new MutationObserver(changed);
  observer.observe(room, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: READ });
}
element.addEventListener("change", (event) => {
  if (!event.target.matches("[data-do=language]")) return;
  try { localStorage.setItem("cxr-language", event.target.value); } catch { /* it lasts for this visit */ }
  speak(event.target.value);
});
speak(preferred());
