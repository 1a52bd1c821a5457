// Before the first paint: what a person chose with the toggle, kept in this browser and nowhere else.
try {
  const chosen = localStorage.getItem("cxr-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch { /* storage is blocked: the system decides */ }
