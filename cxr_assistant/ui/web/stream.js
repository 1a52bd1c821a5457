// Keeps Gradio's page from losing an answer, or itself. Two things go wrong in its stream of messages:
// The server ends the stream when nothing is pending; a question that is sent in that very moment is taken by the
// page to be told on the stream that is just ending, and nobody listens to its answer. So the reply to a question
// is handed on only when the running stream has spoken of it, or is over and Gradio knows so: then it opens the
// next one. This costs no time, since Gradio can do nothing with the reply before the first message.
// And where the stream is cut off, Gradio gives the page up and loads it anew, without its study. So it is told
// instead that what was pending has failed, and that the stream was closed; the page says that it is offline.
(() => {
  const PATIENCE_MS = 3000, RETRY_MS = 2000, KEPT = 256;
  const native = window.fetch.bind(window), bytes = new TextEncoder();
  const spokenOf = new Set(), open = new Set(), waiting = new Set();
  let stream = null;  // the newest one: { isOver }

  const isSettled = (id) => !stream || stream.isOver || spokenOf.has(id);
  const look = () => { for (const one of [...waiting]) if (isSettled(one.id)) one.go(); };
  function settled(id) {
    return new Promise((done) => {
      const one = { id, go: () => { waiting.delete(one); clearTimeout(timer); done(); } };
      const timer = setTimeout(one.go, PATIENCE_MS);
      waiting.add(one);
      look();
    });
  }
  function hear(text) {
    for (const [, kind, id] of text.matchAll(/"msg":"(\w+)","event_id":"(\w+)"/g)) {
      spokenOf.add(id);
      if (kind === "process_completed") open.delete(id); else open.add(id);
    }
    for (const id of spokenOf) { if (spokenOf.size <= KEPT) break; spokenOf.delete(id); }
    look();
  }
  function lastWords() {  // in the server's name; the page is told, too (workbench/connection.js)
    const failed = [...open].map((id) => ({ msg: "process_completed", event_id: id, success: false, output: { error: "cut off", visible: false } }));
    if (open.size) document.dispatchEvent(new CustomEvent("cxr-cut"));
    open.clear();
    return [...failed, { msg: "close_stream", event_id: null }].map((words) => bytes.encode("data: " + JSON.stringify(words) + "\n\n"));
  }
  async function pass(body, out, signal) {
    const reader = body.getReader(), decoder = new TextDecoder();
    let rest = "";
    try {
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        out.enqueue(part.value);
        rest = rest.slice(-100) + decoder.decode(part.value, { stream: true });
        hear(rest);
      }
    } catch { /* cut off, or ended by Gradio */ }
    if (signal.aborted) return;
    if (!rest.includes('"msg":"close_stream"')) lastWords().forEach((words) => out.enqueue(words));
    out.close();
  }
  async function opened(request) {
    const mine = stream = { isOver: false }, end = () => { mine.isOver = true; look(); };
    request.signal.addEventListener("abort", end);  // so Gradio closes its side, once it was told that this is the end
    try {
      const response = await native(request);
      if (!response.ok) { end(); return response; }
      return new Response(new ReadableStream({ start: (out) => { pass(response.body, out, request.signal).catch(() => {}).finally(() => setTimeout(end, 100)); } }), response);
    } catch {
      return new Response(new ReadableStream({ start: (out) => { lastWords().forEach((words) => out.enqueue(words)); out.close(); setTimeout(end, 100); } }));
    }
  }
  async function asked(input, options) {
    let response;
    try { response = await native(input, options); } catch { return Response.json({ detail: "offline" }, { status: 504 }); }
    const reply = await response.clone().json().catch(() => null);
    if (reply?.event_id) await settled(reply.event_id);
    return response;
  }
  // The page's sign of life, without which its study is forgotten: taken up again when it was cut off.
  function alive(request) {
    const start = async (out) => {
      while (!request.signal.aborted) {
        try {
          const response = await native(request.clone());
          if (!response.ok) break;
          const reader = response.body.getReader();
          for (let part = await reader.read(); !part.done; part = await reader.read()) out.enqueue(part.value);
        } catch { /* cut off */ }
        await new Promise((again) => setTimeout(again, RETRY_MS));
      }
    };
    return new Response(new ReadableStream({ start: (out) => { start(out).catch(() => {}); } }));
  }
  window.fetch = (input, options) => {
    const address = String(input?.url ?? input);
    if (address.includes("/queue/data?")) return opened(new Request(input, options));
    if (address.includes("/heartbeat/")) return Promise.resolve(alive(new Request(input, options)));
    return address.includes("/queue/join") ? asked(input, options) : native(input, options);
  };
})();
