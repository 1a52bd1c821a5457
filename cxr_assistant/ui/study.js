// Films come in by choosing, dropping or pasting; all three end in Gradio's own file input, which checks them.
// Names never leave the browser: a file called after a patient is sent as "film".

const inputs = () => document.querySelector("#room > input[type=file]");
const nameless = (file) => new File([file], "film", { type: "application/octet-stream" });
function rename(list) {
  const transfer = new DataTransfer();
  [...list].forEach((file) => transfer.items.add(nameless(file)));
  return transfer.files;
}
function offer(files) {
  const input = inputs();
  if (!input || !files.length) return;
  input.files = rename(files);
  input.dispatchEvent(new Event("change", { bubbles: true }));
}
const reading = (on) => { document.documentElement.dataset.reading = String(on); };

document.addEventListener("change", (event) => {
  if (event.target !== inputs()) return;
  if ([...event.target.files].some((file) => file.name !== "film")) event.target.files = rename(event.target.files);
  reading(event.target.files.length > 0);
}, true);
document.addEventListener("dragover", (event) => {
  if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
  event.preventDefault();
  document.documentElement.dataset.dragging = "true";
});
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) delete document.documentElement.dataset.dragging; });
document.addEventListener("drop", (event) => {
  delete document.documentElement.dataset.dragging;
  if (!event.dataTransfer?.files.length) return;
  event.preventDefault();
  event.stopPropagation();
  offer(event.dataTransfer.files);
}, true);
document.addEventListener("paste", (event) => { if (event.clipboardData?.files.length) { event.preventDefault(); offer(event.clipboardData.files); } });

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.do === "choose") inputs()?.click();
  if (button.dataset.do === "new") trigger("clear", {});
  if (button.dataset.show) trigger("pick", { digest: button.dataset.show });
  if (button.dataset.prior) trigger("prior", { digest: button.dataset.prior });
  if (button.dataset.current) trigger("current", {});
  if (button.dataset.remove) trigger("remove", { digest: button.dataset.remove });
});
