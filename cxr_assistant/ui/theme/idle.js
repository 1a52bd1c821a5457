// A stand's page starts anew when nobody has touched it for a while: the study is taken down on the server, what
// this browser remembers is forgotten, and the page is loaded again. Before that it counts down and can be kept.

const { seconds } = props.value, limit = seconds * 1000, warning = Math.min(20000, limit / 2);
const place = element.querySelector(".idle-place");
let touched = performance.now(), isUsed = false, isOver = false;

const isWriting = () => document.querySelector(".log[aria-busy=true]") !== null;
function touch() {
  touched = performance.now();
  isUsed = true;
  place.hidden = true;
}
function warn(left) {
  place.querySelector("b").textContent = String(Math.ceil(left / 1000));
  place.hidden = false;
}
function startAnew() {
  isOver = true;
  try { for (const name of ["cxr-theme", "cxr-language"]) localStorage.removeItem(name); } catch { /* nothing was kept */ }
  trigger("reset", {});
  setTimeout(() => location.replace(location.pathname), 700); // the films are taken down first
}
function look() {
  if (isOver || !isUsed) return; // a page that nobody used is as new
  if (isWriting()) touched = performance.now();
  const left = touched + limit - performance.now();
  if (left <= 0) startAnew();
  else if (left <= warning) warn(left);
}
if (limit > 0) {
  for (const kind of ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"]) {
    document.addEventListener(kind, (event) => { if (event.isTrusted) touch(); }, { capture: true, passive: true });
  }
  setInterval(look, 250);
}
