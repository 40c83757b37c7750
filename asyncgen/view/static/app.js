// The frame: the rail with the views, the header with the run's state, messages, and the list of shortcuts.
"use strict";

{
  const { html, render, useEffect, useMemo, useRef, useState } = vendor;

  const ICONS = {
    run: "M3 3h4v4H3zM9 3h4v4H9zM3 9h4v4H3zM9 9h4v4H9z",
    records: "M3 4h10M3 8h10M3 12h10",
    training: "M3 3c1 7 3 9 10 10M3 13V3",
    compare: "M3 3h4v10H3zM9 3h4v10H9z",
    playground: "M3 4h10v7H8l-3 2v-2H3z",
    runs: "M2 5l6-3 6 3-6 3zM2 8l6 3 6-3M2 11l6 3 6-3",
  };
  const VIEWS = ["run", "records", "training", "compare", "playground", "runs"];
  const TITLES = { run: "Run", records: "Records", training: "Training", compare: "Compare", playground: "Playground", runs: "Runs" };
  const KEYS = [
    ["1 to 6", "switch between the views"],
    ["j, k", "next and previous row"],
    ["↓, ↑, Page, Home, End", "next and previous row in the list"],
    ["Enter", "open the first row"],
    ["Esc", "close the row or leave a field"],
    ["/", "search"],
    ["x", "reject or restore the row"],
    ["s", "mark the row as seen"],
    ["u", "undo the last rejection or restoration"],
    ["o", "open the row in a new tab"],
    ["Ctrl+Enter", "send the prompt in the playground"],
    ["?", "show this list"],
  ];

  const source = ag.openSource();

  const App = () => {
    const route = ag.useRoute();
    const session = ag.useLoad(() => source.session(), []);
    const [counters, setCounters] = useState(null);
    const [trouble, setTrouble] = useState(null);
    const [lost, setLost] = useState(false);
    const [message, setMessage] = useState(null);
    const [help, setHelp] = useState(false);
    const run = route.run || session.value?.first || "";
    const view = VIEWS.includes(route.view) ? route.view : run ? "run" : "runs";

    useEffect(() => {
      if (!run || !session.value) return undefined;
      setCounters(null);
      setTrouble(null);
      let current = true;
      // The first answer comes by a plain request, which tells what is wrong; the stream goes on from there.
      source.get(`runs/${encodeURIComponent(run)}/counters`).then(
        (found) => current && setCounters((old) => old || found),
        (error) => current && setTrouble(error),
      );
      const end = source.watch(run, (found) => current && (setTrouble(null), setCounters(found)), (gone) => current && setLost(gone));
      return () => {
        current = false;
        end();
      };
    }, [run, session.value]);

    useEffect(() => {
      const state = counters ? ` · ${stateOf(counters).short}` : "";
      document.title = `${TITLES[view]} · ${run ? ag.plain(run) : "asyncgen"}${view === "run" ? state : ""}`;
    }, [view, run, counters]);

    const timer = useRef(null);
    const say = (text, act, more) => {
      clearTimeout(timer.current);
      setMessage({ text, act, more });
      timer.current = setTimeout(() => setMessage(null), act ? 12000 : 6000);
    };
    const undo = async () => {
      try {
        const answer = await source.post(`runs/${encodeURIComponent(run)}/undo`, {});
        setCounters(answer.counters);
        say("Undone");
      } catch (error) {
        say(error.what, null, error.help);
      }
    };
    const told = { say, undo, counters: setCounters };

    const go = (name) => () => ag.go(run, name);
    ag.useKeys({
      ...Object.fromEntries(VIEWS.map((name, number) => [String(number + 1), go(name)])),
      "?": () => setHelp(true),
      u: () => (source.canWrite && counters?.reviews[0] ? undo() : false),
    });

    const content = () => {
      if (session.error) return html`<${ag.Problem} ...${session} />`;
      if (!session.value) return html`<${ag.Loading} what="the page" />`;
      if (view === "runs") return html`<${RunsView} ...${{ source, run, counters }} />`;
      if (!run) return html`<${RunsView} ...${{ source, run, counters }} />`;
      if (trouble && !counters) return html`<${ag.Problem} error=${trouble} />`;
      if (!counters) return html`<${ag.Loading} what="the run" />`;
      const parts = { source, run, counters, parameters: route.parameters, told };
      return {
        run: () => html`<${ag.RunView} ...${parts} />`,
        records: () => html`<${ag.RecordsView} key=${run} ...${parts} />`,
        training: () => html`<${ag.TrainingView} ...${parts} />`,
        compare: () => html`<${ag.CompareView} ...${parts} />`,
        playground: () => html`<${ag.PlaygroundView} ...${parts} />`,
      }[view]();
    };

    return html`
      <a class="skip" href="#content" onClick=${(event) => (event.preventDefault(), document.getElementById("content").focus())}>Skip to the content</a>
      <nav class="rail" aria-label="Views">
        ${VIEWS.map(
          (name) => html`<a href=${ag.href(run, name)} aria-current=${view === name ? "page" : undefined}>
            <svg viewBox="0 0 16 16" aria-hidden="true"><path d=${ICONS[name]} /></svg><span>${TITLES[name]}</span></a>`,
        )}
        <button class="help" onClick=${() => setHelp(true)} aria-label="Shortcuts" title="Shortcuts (?)">?</button>
      </nav>
      <div class="frame">
        <${Header} ...${{ run, counters, lost, undo: source.canWrite && view === "records" ? undo : null, exported: !source.canWrite }} />
        <main id="content" class=${`view-${view}`} tabindex="-1">${content()}</main>
      </div>
      ${message
        ? html`<div class="message-bar" role="status"><span>${ag.plain(message.text)}${message.more ? html`<br /><span class="muted">${ag.plain(message.more)}</span>` : null}</span>
            ${message.act ? html`<button onClick=${() => (setMessage(null), message.act())}>Undo</button>` : null}</div>`
        : null}
      ${help ? html`<${Help} close=${() => setHelp(false)} />` : null}
    `;
  };

  // ---- the header ------------------------------------------------------------------------------------------------------------

  const stateOf = (counters) => {
    const { live, counts, left, requests } = counters;
    const now = Date.now() / 1000;
    const pause = live?.pauses.at(-1);
    if (counters.reading) return { name: "reading", short: "reading", words: "reading files", active: true };
    if (live && pause && pause.until > now) {
      return { name: "paused", short: "paused", words: `paused for ${ag.duration(pause.until - now)}: ${pause.reason}`, active: true };
    }
    if (live) {
      const eta = live.eta_s === null ? "waiting for answers" : `${ag.duration(live.eta_s)} left`;
      const waits = live.waits_for ? `, waiting for ${live.waits_for}` : "";
      return { name: "running", short: `${share(counters)} %`, words: `${ag.count(live.in_flight)} in flight${waits}, ${eta}`, active: true };
    }
    if (!requests && !counters.rows) return { name: "not started", short: "not started", words: "no requests yet" };
    if (left > 0) return { name: "stopped", short: "stopped", words: `${ag.rows(left)} left; repeat the command that started the run to continue` };
    const failed = counts.failed ? `, ${ag.count(counts.failed)} failed` : "";
    return { name: "finished", short: "finished", words: `${ag.rows(counts.done + counts.rejected)}${failed}` };
  };

  const share = (counters) => {
    const all = counters.requests || counters.rows || 1;
    return Math.floor(((counters.counts.done + counters.counts.rejected + counters.counts.failed + counters.twins) / all) * 100);
  };

  const Header = ({ run, counters, lost, undo, exported }) => {
    const [, draw] = useState(0);
    useEffect(() => {
      const timer = setInterval(() => draw((number) => number + 1), 5000);
      return () => clearInterval(timer);
    }, []);
    const state = counters ? stateOf(counters) : null;
    return html`<header class="top">
      <div class="line">
        <h1>${run ? ag.plain(run) : "asyncgen"}</h1>
        ${lost ? html`<span class="pill problem" role="alert">disconnected</span>` : state ? html`<span class=${`pill ${state.active ? "active" : ""}`}>${state.name}</span>` : null}
        ${counters?.simulated ? html`<span class="pill problem" title=${`${ag.count(counters.simulated)} of the answers are simulated`}>simulated</span>` : null}
        ${exported ? html`<span class="pill">export</span>` : null}
        <span class="waiting muted">${lost ? "asyncgen view was stopped; this page shows its last state" : state ? ag.plain(state.words) : ""}</span>
        ${undo && counters?.reviews[0] ? html`<button class="quiet" onClick=${undo} title="Undo the last rejection or restoration (u)">Undo</button>` : null}
      </div>
      ${counters ? html`<${Progress} counters=${counters} />` : null}
    </header>`;
  };

  const Progress = ({ counters }) => {
    const { counts } = counters;
    const all = Math.max(counters.requests, counts.done + counts.failed + counts.rejected, 1);
    const parts = [["done", counts.done + counters.twins], ["rejected", counts.rejected], ["failed", counts.failed]];
    const words = [...parts, ["left", counters.left], ["stale", counts.stale]].filter(([, number]) => number > 0)
      .map(([name, number]) => `${ag.count(number)} ${name}`).join(", ");
    return html`<div class="progress" role="progressbar" aria-label="Rows" aria-valuemin="0" aria-valuemax="100"
      aria-valuenow=${Math.min(share(counters), 100)} aria-valuetext=${words} title=${words}>
      ${parts.map(([name, number]) => (number ? html`<span class=${name} style=${{ width: `${(number / all) * 100}%` }}></span>` : null))}
    </div>`;
  };

  const Help = ({ close }) => {
    const place = useRef(null);
    useEffect(() => {
      place.current.showModal();
    }, []);
    return html`<dialog class="help-list" ref=${place} aria-labelledby="help-title" onClose=${close}>
      <header><h2 id="help-title">Shortcuts</h2><button class="icon" aria-label="Close" onClick=${() => place.current.close()}>✕</button></header>
      <dl class="pairs">${KEYS.map(([keys, words]) => html`<div><dt><kbd>${keys}</kbd></dt><dd>${words}</dd></div>`)}</dl>
    </dialog>`;
  };

  // ---- the list of runs --------------------------------------------------------------------------------------------------------

  const RunsView = ({ source, run, counters }) => {
    const calm = ag.useCalm(counters ? `${counters.version}${Boolean(counters.live)}` : "", 3000);
    const loaded = ag.useLoad(() => source.get("runs"), [calm]);
    if (!loaded.value) return loaded.error ? html`<${ag.Problem} ...${loaded} />` : html`<${ag.Loading} what="the runs" />`;
    const { runs } = loaded.value;
    if (!runs.length) {
      return html`<${ag.Empty} title="No runs here yet"><p class="muted"><code>asyncgen generate</code> creates one. Then reload this page.</p><//>`;
    }
    return html`<section class="panel" aria-labelledby="runs-title">
      <h2 id="runs-title">Runs</h2>
      <div class="scrolls" tabindex="0" role="region" aria-label="Table of runs"><table class="plain runs">
        <thead><tr><th>Run</th><th>Model</th><th class="number">Rows</th><th class="number">of</th><th class="number">Spend <span class="unit">USD</span></th>
          <th class="number">Samples</th><th>Tuned model</th><th>Changed</th></tr></thead>
        <tbody>
          ${runs.map(
            (each) => html`<tr key=${each.name} class=${each.name === run ? "current" : ""}>
              <th scope="row"><a href=${ag.href(each.name, "run")}>${ag.plain(each.name)}</a>${each.live ? html` <span class="pill active">running</span>` : null}</th>
              ${each.problem
                ? html`<td colspan="6" class="marks">${ag.plain(each.problem)}</td>`
                : html`<td>${ag.plain(each.model || "–")}</td><td class="number">${ag.count(each.records)}</td><td class="number">${ag.count(each.requests)}</td>
                    <td class="number">${ag.money(each.cost_usd)}</td><td class="number">${ag.count(each.dataset)}</td><td>${ag.plain(each.tuned_model || "–")}</td>`}
              <td class="nowrap"><${ag.When} unix=${each.changed} /></td>
            </tr>`,
          )}
        </tbody>
      </table></div>
    </section>`;
  };

  const page = document.getElementById("page");
  page.replaceChildren();
  render(html`<${App} />`, page);
}
