// The toggle between light and dark. The choice stays in this browser; the system decides until there is one.

const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
const toggle = () => element.querySelector("[data-do=theme]");

function follow() {
  document.body.classList.toggle("dark", isDark()); // what Gradio draws by itself
  toggle()?.setAttribute("aria-pressed", String(isDark()));
}
element.addEventListener("click", (event) => {
  if (!event.target.closest("[data-do=theme]")) return;
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("cxr-theme", root.dataset.theme); } catch { /* it lasts for this visit */ }
  follow();
});
system.addEventListener("change", follow);
follow();
