// Whether the server is still there: asked when the browser or a silent answer gives reason to, else rarely.

const banner = find(".connection"), QUIET_MS = 30000, LOST_MS = 3000;
let lost = false, wasCut = false, serverId = null, asking = null;

function tell(words, kind) { banner.textContent = words; banner.dataset.kind = kind; banner.hidden = !words; }
async function ask() {
  clearTimeout(asking);
  let found = null;
  try { found = (await (await fetch("gradio_api/app_id", { cache: "no-store", signal: AbortSignal.timeout(5000) })).json()).app_id; } catch { /* found stays null */ }
  if (found === null) losing(); else back(found);
  asking = setTimeout(ask, lost ? LOST_MS : QUIET_MS);
}
function losing() {
  if (lost) return;
  lost = true;
  document.documentElement.dataset.offline = "true";
  document.dispatchEvent(new CustomEvent("cxr-offline"));
  tell("The connection to the server is lost. Your study stays on this page; trying again.", "lost");
}
function back(found) {
  const wasLost = lost;
  lost = false;
  delete document.documentElement.dataset.offline;
  if (serverId !== null && found !== serverId) { restarted(); return; }
  serverId = found;
  if (!wasLost) return;
  if (wasCut) trigger("settle", {});  // what was being written when it was cut off is closed, and can be retried
  wasCut = false;
  tell("The connection is back. An answer that was cut off can be asked for again.", "back");
  setTimeout(() => { if (!lost) tell("", ""); }, 6000);
}
function restarted() {
  tell("The server was started anew and has forgotten this study. ", "restarted");
  const again = document.createElement("button");
  again.type = "button"; again.textContent = "Begin anew"; again.onclick = () => location.reload();
  banner.append(again);
}
document.addEventListener("cxr-cut", () => { wasCut = true; losing(); ask(); });
addEventListener("offline", losing);
addEventListener("online", ask);
document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
ask();
