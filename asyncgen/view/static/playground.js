// A prompt put to two models side by side. The address fills the form in; only a press sends it.
"use strict";

{
  const { html, useEffect, useRef, useState } = vendor;
  const SIDES = ["left", "right"];

  ag.PlaygroundView = ({ source, run, parameters }) => {
    const path = `runs/${encodeURIComponent(run)}/playground`;
    const loaded = ag.useLoad(() => (source.canWrite ? source.get(path) : Promise.resolve(null)), [run]);
    if (!source.canWrite) {
      return html`<${ag.Empty} title="The playground needs a server">
        <p class="muted">This is an export. <code>asyncgen view ${ag.plain(run)}</code> has it.</p><//>`;
    }
    if (!loaded.value) return loaded.error ? html`<${ag.Problem} ...${loaded} />` : html`<${ag.Loading} what="the models" />`;
    return html`<${Form} key=${run} ...${{ source, run, path, offer: loaded.value, parameters }} />`;
  };

  const rendered = (sample, values) =>
    sample.replace(/\{\{|\}\}|\{([A-Za-z_]\w*)\}/g, (whole, name) => (whole === "{{" ? "{" : whole === "}}" ? "}" : values[name] ?? whole));

  const Form = ({ source, run, path, offer, parameters }) => {
    const models = offer.models.map((model) => model.name);
    const get = (name, otherwise) => parameters.get(name) ?? otherwise;
    const fields = {
      prompt: get("prompt", ""),
      left: get("left", models[0] || ""),
      right: get("right", models[1] || ""),
      form: get("form", offer.form ? "dataset" : "chat"),
      temperature: get("temperature", ""),
      max_tokens: get("max_tokens", "256"),
    };
    const [asked, setAsked] = useState({});
    const stop = useRef(null);
    const values = Object.fromEntries(offer.axes.map((axis) => [axis.name, parameters.get(`axis.${axis.name}`) || ""]));
    const change = (edit) => {
      const next = new URLSearchParams(parameters);
      edit(next);
      ag.go(run, "playground", next, { replace: true });
    };
    const set = (name) => (event) => change((next) => next.set(name, event.target.value));
    const pick = (axis, value) => change((next) => {
      next.set(`axis.${axis}`, value);
      const picked = { ...values, [axis]: value };
      if (offer.sample && offer.axes.every(({ name }) => picked[name])) next.set("prompt", rendered(offer.sample, picked));
    });
    const sides = SIDES.filter((side) => fields[side].trim());
    const busy = Object.values(asked).some((answer) => answer.busy);

    const ask = async (side, turn) => {
      const show = (change_) => stop.current === turn && setAsked((old) => ({ ...old, [side]: { ...old[side], ...change_ } }));
      show({ busy: true, text: "", done: null, error: null, model: fields[side] });
      let text = "";
      try {
        const question = { model: fields[side].trim(), prompt: fields.prompt, form: fields.form, max_tokens: Number(fields.max_tokens) || 256 };
        if (fields.temperature !== "") question.temperature = Number(fields.temperature);
        for await (const piece of source.lines(path, question)) {
          if (piece.text) show({ text: (text += piece.text) });
          else show({ ...piece });
        }
      } catch (error) {
        show({ error: error.what ? error : { what: "The answer was cut off", cause: String(error.message || error) } });
      }
      show({ busy: false });
    };
    const send = (event) => {
      event?.preventDefault();
      if (!fields.prompt.trim() || !sides.length || busy) return;
      const turn = {};
      stop.current = turn;
      setAsked({});
      for (const side of sides) ask(side, turn);
    };
    useEffect(() => () => (stop.current = null), []);

    return html`<form class="playground" onSubmit=${send}>
      <section class="panel" aria-labelledby="ask-title">
        <h2 id="ask-title">Prompt</h2>
        ${offer.axes.length && offer.sample
          ? html`<div class="controls axes">
              ${offer.axes.map(
                (axis) => html`<label>${ag.plain(axis.name)}
                  <input list=${`values-${axis.name}`} value=${values[axis.name]} placeholder="pick" onChange=${(event) => pick(axis.name, event.target.value)} />
                  <datalist id=${`values-${axis.name}`}>${axis.values.map((value) => html`<option value=${value}></option>`)}</datalist>
                </label>`,
              )}
            </div>`
          : null}
        <label class="hidden" for="prompt">Prompt</label>
        <textarea id="prompt" rows="4" value=${fields.prompt} onInput=${set("prompt")} placeholder=${offer.sample ? `such as ${ag.plain(offer.sample)}` : "A short prompt"}
          onKeyDown=${(event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && send(event)}></textarea>
        <div class="controls">
          <label>as <select value=${fields.form} onChange=${set("form")}>
            ${offer.form ? html`<option value="dataset" selected=${fields.form === "dataset"}>in the dataset (${formWords(offer.form)})</option>` : null}
            <option value="chat" selected=${fields.form === "chat"}>a plain chat</option>
          </select></label>
          <label>temperature <input class="short" inputmode="decimal" value=${fields.temperature} placeholder="server's" onChange=${set("temperature")} /></label>
          <label>at most <input class="short" inputmode="numeric" value=${fields.max_tokens} onChange=${set("max_tokens")} /> tokens</label>
          <span class="grow"></span>
          <button class="primary" type="submit" disabled=${busy || !fields.prompt.trim() || !sides.length}>${busy ? "Answering …" : "Send"}</button>
        </div>
        ${models.length ? null : html`<p class="muted">This run has no known model; enter one below.</p>`}
      </section>
      <div class="columns">
        ${SIDES.map((side) => html`<${Side} key=${side} ...${{ side, value: fields[side], offer, set, answer: asked[side] }} />`)}
      </div>
    </form>`;
  };

  const formWords = (form) =>
    form.format === "completion"
      ? `completion, separator ${JSON.stringify(ag.plain(form.separator))}, stop ${JSON.stringify(ag.plain(form.ending))}`
      : form.system ? "chat with its system message" : "chat";

  const Side = ({ side, value, offer, set, answer }) => html`<section class="panel side" aria-label=${`${side} model`}>
    <label>model
      <input list="models" value=${value} placeholder=${side === "right" ? "a second model (optional)" : "a model's name"} onChange=${set(side)} />
    </label>
    <datalist id="models">${offer.models.map((model) => html`<option value=${model.name}>${ag.plain(model.why)}</option>`)}</datalist>
    <div class="said" aria-live="polite" aria-busy=${Boolean(answer?.busy)}>
      ${!answer ? html`<p class="muted">${value ? "Nothing is sent until you press Send." : ""}</p>` : null}
      ${answer?.text ? html`<${ag.Text} text=${answer.text} />` : answer?.busy ? html`<p class="muted">Waiting for the first words …</p>` : null}
      ${answer?.error ? html`<${ag.Problem} error=${answer.error} />` : null}
    </div>
    ${answer?.done ? html`<p class="muted small">${ending(answer.done)}</p>` : null}
  </section>`;

  const ending = (done) =>
    [
      done.completion_tokens === null ? "token counts not reported" : `${ag.count(done.prompt_tokens)} prompt and ${ag.count(done.completion_tokens)} completion tokens`,
      done.cost_usd === null ? "no known price" : `${ag.money(done.cost_usd)} USD`,
      `${ag.seconds(done.elapsed_s)} s`,
      done.finish_reason && done.finish_reason !== "stop" ? `ended by ${ag.plain(done.finish_reason)}` : null,
      `${ag.plain(done.model)} (${ag.plain(done.provider)})`,
    ].filter(Boolean).join(" · ");
}
