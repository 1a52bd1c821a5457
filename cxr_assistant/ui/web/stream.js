// Keeps Gradio's page from losing an answer. The server ends its stream of messages when nothing is pending; a
// question that is sent in that very moment is taken by the page to be told on the stream that is just ending,
// and nobody listens to its answer. So the reply to a question is handed on only when the running stream has
// spoken of it, or is over and Gradio knows so: then it opens the next one. Costs no time, since Gradio can do
// nothing with the reply before the first message.
(() => {
  const PATIENCE_MS = 3000, KEPT = 256;
  const native = window.fetch.bind(window);
  const spokenOf = new Set(), waiting = new Set();
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
  async function listen(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = "", part = await reader.read(); !part.done; part = await reader.read()) {
      const text = rest + part.value;
      for (const [, id] of text.matchAll(/"event_id":"(\w+)"/g)) spokenOf.add(id);
      for (const id of spokenOf) { if (spokenOf.size <= KEPT) break; spokenOf.delete(id); }
      rest = text.slice(-80);
      look();
    }
  }
  async function opened(request) {
    const mine = stream = { isOver: false }, end = () => { mine.isOver = true; look(); };
    request.signal.addEventListener("abort", end);  // so Gradio closes its side, once it was told that this is the end
    try {
      const response = await native(request), [forGradio, forUs] = response.body.tee();
      listen(forUs).catch(() => {}).finally(() => setTimeout(end, 100));  // cut off: nobody was told
      return new Response(forGradio, response);
    } catch (error) { end(); throw error; }
  }
  window.fetch = async (input, options) => {
    const address = String(input?.url ?? input);
    if (address.includes("/queue/data?")) return opened(new Request(input, options));
    const response = await native(input, options);
    if (!address.includes("/queue/join")) return response;
    const reply = await response.clone().json().catch(() => null);
    if (reply?.event_id) await settled(reply.event_id);
    return response;
  };
})();
