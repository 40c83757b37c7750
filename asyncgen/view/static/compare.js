// The answers of an evaluation side by side, and votes on them.
"use strict";

{
  const { html, useEffect, useState } = vendor;
  const PAGE = 40;

  ag.CompareView = ({ source, run, parameters, told }) => {
    const path = `runs/${encodeURIComponent(run)}/evaluations`;
    const names = ag.useLoad(() => source.get(path), [run]);
    const listed = names.value?.names || [];
    const name = listed.includes(parameters.get("evaluation")) ? parameters.get("evaluation") : listed[0];
    const blind = parameters.get("blind") === "1" && source.canWrite;
    const loaded = ag.useLoad(
      () => (name ? source.get(`${path}/${encodeURIComponent(name)}`, blind ? { blind: 1 } : {}) : Promise.resolve(null)),
      [run, name, blind],
    );
    const [voted, setVoted] = useState(null);
    useEffect(() => setVoted(null), [loaded.value]);
    if (!names.value || (name && !loaded.value && !loaded.error)) {
      return names.error ? html`<${ag.Problem} ...${names} />` : html`<${ag.Loading} what="the evaluation" />`;
    }
    if (!name) {
      return html`<${ag.Empty} title="No evaluation yet">
        <p class="muted"><code>asyncgen evaluate ${ag.plain(run)}</code> sends the same prompts to several models or techniques. This page compares their answers.</p>
      <//>`;
    }
    if (loaded.error) return html`<${ag.Problem} ...${loaded} />`;
    const found = voted || loaded.value;
    const change = (edit) => {
      const next = new URLSearchParams(parameters);
      edit(next);
      ag.go(run, "compare", next, { replace: true });
    };
    const vote = async (row, choice) => {
      try {
        setVoted(await source.post(`${path}/${encodeURIComponent(name)}/votes`, { row, choice, blind }));
      } catch (error) {
        told.say(error.what, null, error.help);
      }
    };
    return html`
      <section class="panel" aria-labelledby="compare-title">
        <header>
          <h2 id="compare-title">${ag.plain(found.name)}</h2>
          <div class="controls">
            ${listed.length > 1
              ? html`<label>evaluation <select value=${name} onChange=${(event) => change((next) => next.set("evaluation", event.target.value))}>
                  ${listed.map((each) => html`<option value=${each} selected=${each === name}>${ag.plain(each)}</option>`)}
                </select></label>`
              : null}
            <label class="check"><input type="checkbox" checked=${parameters.get("differ") !== "0"}
              onChange=${(event) => change((next) => (event.target.checked ? next.delete("differ") : next.set("differ", "0")))} /> Only different answers</label>
            ${source.canWrite
              ? html`<label class="check"><input type="checkbox" checked=${blind}
                  onChange=${(event) => change((next) => (event.target.checked ? next.set("blind", "1") : next.delete("blind")))} /> Blind votes</label>`
              : null}
          </div>
        </header>
        ${found.summary.sentence ? html`<p>${ag.visible(found.summary.sentence)}</p>` : null}
        ${(found.summary.notes || []).map((note) => html`<p class="muted">${ag.visible(note)}</p>`)}
        <${Contestants} found=${found} blind=${blind} />
      </section>
      <${Rows} ...${{ found, blind, vote: source.canWrite ? vote : null, differ: parameters.get("differ") !== "0" }} />
    `;
  };

  const percent = (share) => (typeof share === "number" ? `${(share * 100).toFixed(0)} %` : "–");

  const Contestants = ({ found, blind }) => {
    const facts = new Map((found.summary.contestants || []).map((each) => [each.name, each]));
    const votes = Object.values(found.votes).reduce((sum, count) => sum + count, 0);
    return html`<div class="scrolls" tabindex="0" role="region" aria-label="Contestants"><table class="plain">
      <thead><tr><th>Contestant</th><th>Technique</th><th>Model</th><th class="number">Answers</th>
        <th class="number">Pass rate</th><th class="number">95 % interval</th><th class="number">Cost <span class="unit">USD/1,000</span></th><th class="number">Votes</th></tr></thead>
      <tbody>
        ${found.contestants.map((name) => {
          const fact = facts.get(name) || {};
          return html`<tr><th scope="row">${ag.plain(name)}</th><td>${ag.plain(fact.technique || "–")}</td><td>${ag.plain(fact.model || "–")}</td>
            <td class="number">${ag.count(fact.n ?? found.rows.filter((row) => row.answers.some((answer) => answer.name === name)).length)}</td>
            <td class="number">${percent(fact.pass_rate)}</td>
            <td class="number">${Array.isArray(fact.ci95) ? `${percent(fact.ci95[0])} to ${percent(fact.ci95[1])}` : "–"}</td>
            <td class="number">${ag.money(fact.cost_usd_per_1000)}</td>
            <td class="number">${blind && votes < 5 ? "…" : ag.count(found.votes[name] || 0)}</td></tr>`;
        })}
      </tbody>
    </table></div>
    <p class="muted small">${votes ? `${ag.count(votes)} votes, ${ag.count(found.votes.tie)} of them ties` : "No votes yet."}</p>`;
  };

  const Rows = ({ found, blind, vote, differ }) => {
    const [pages, setPages] = useState(1);
    const rows = differ ? found.rows.filter((row) => row.differs) : found.rows;
    if (!rows.length) {
      return html`<${ag.Empty} title=${found.rows.length ? "All answers are the same" : "No answers yet"}>
        <p class="muted">${found.rows.length ? "No prompt got two different answers." : "They appear here during the evaluation. Reload the page to see them."}</p>
      <//>`;
    }
    return html`
      <p class="muted" role="status">${ag.count(rows.length)} of ${ag.count(found.rows.length)} prompts${differ ? " have different answers" : ""}</p>
      ${rows.slice(0, pages * PAGE).map((row) => html`<${Pair} key=${row.row} ...${{ row, blind, vote }} />`)}
      ${rows.length > pages * PAGE ? html`<button onClick=${() => setPages(pages + 1)}>Show more</button>` : null}
    `;
  };

  const Pair = ({ row, blind, vote }) => html`<article class="panel comparison" aria-label=${ag.plain(row.prompt)}>
    <h3 dir="auto">${ag.visible(row.prompt)}</h3>
    <div class="answers">
      ${row.answers.map((answer) => {
        const choice = blind ? answer.letter : answer.name;
        const won = row.vote !== null && row.vote === answer.name;
        return html`<div class=${`answer-of ${won ? "won" : ""}`} role="group" aria-label=${answer.name ? ag.plain(answer.name) : `Answer ${answer.letter}`}>
          <div class="heading"><h4>${answer.name === null ? `Answer ${answer.letter}` : ag.plain(answer.name)}</h4>
            ${answer.passed === false && answer.name !== null ? html`<span class="marks">fails: ${answer.check_failures.map(ag.plain).join(", ") || "checks"}</span>` : null}
            ${won ? html`<span class="pill">your choice</span>` : null}</div>
          <${ag.Text} text=${answer.completion} />
          ${vote ? html`<button onClick=${() => vote(row.row, choice)} aria-pressed=${won}>${won ? "Chosen" : "This one is better"}</button>` : null}
        </div>`;
      })}
    </div>
    ${vote && row.answers.length > 1 ? html`<button class="quiet" aria-pressed=${row.vote === "tie"} onClick=${() => vote(row.row, "tie")}>${row.vote === "tie" ? "Tie (your vote)" : "A tie"}</button>` : null}
  </article>`;
}
