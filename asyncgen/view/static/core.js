// What every view uses: formats, text from models made visible, the address as state, and small components.
"use strict";

const ag = {};

{
  const { html, useEffect, useRef, useState } = vendor;

  // ---- numbers and times -------------------------------------------------------------------------------------------

  const integers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
  const decimals = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

  ag.count = (number) => (number === null || number === undefined ? "–" : integers.format(number));
  ag.decimal = (number) => (number === null || number === undefined ? "–" : decimals.format(number));

  ag.rows = (number) => `${ag.count(number)} ${number === 1 ? "row" : "rows"}`;

  ag.money = (usd) => {
    if (usd === null || usd === undefined) return "–";
    if (usd === 0) return "0.00";
    return usd < 0.01 ? usd.toPrecision(2) : usd.toFixed(usd < 1 ? 4 : 2);
  };

  ag.seconds = (seconds) => {
    if (seconds === null || seconds === undefined) return "–";
    if (seconds < 10) return seconds.toFixed(seconds < 1 ? 2 : 1);
    return integers.format(seconds);
  };

  ag.duration = (seconds) => {
    if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "unknown";
    if (seconds < 1) return "less than 1 s";
    if (seconds < 90) return `${Math.round(seconds)} s`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
    if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
    return `${Math.round(seconds / 86400)} days`;
  };

  ag.ago = (unix) => {
    const passed = Date.now() / 1000 - unix;
    return passed < 5 ? "just now" : `${ag.duration(passed)} ago`;
  };

  ag.When = ({ unix }) => {
    if (!unix) return "–";
    const date = new Date(unix * 1000);
    return html`<time dateTime=${date.toISOString()} title=${date.toLocaleString()}>${ag.ago(unix)}</time>`;
  };

  // ---- text from models ---------------------------------------------------------------------------------------------

  // Terminal escapes and other control characters, marks that change the direction of writing, invisible characters.
  const HIDDEN =
    /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\ufff9-\ufffb\ud800-\udfff]|[\u{e0000}-\u{e007f}]/gu;

  const symbol = (character) => {
    const code = character.codePointAt(0);
    if (code < 0x20) return String.fromCodePoint(0x2400 + code);
    if (code === 0x7f) return "␡";
    return `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
  };

  // The text in pieces, so that what is hidden in it stands out, and nothing of it is ever taken for markup.
  ag.visible = (text) => {
    const pieces = [];
    let end = 0;
    for (const match of String(text).matchAll(HIDDEN)) {
      if (match.index > end) pieces.push(text.slice(end, match.index));
      const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      pieces.push(html`<span class="hidden-character" title=${`hidden character U+${code}`}>${symbol(match[0])}</span>`);
      end = match.index + match[0].length;
    }
    if (end < text.length) pieces.push(text.slice(end));
    return pieces;
  };

  // The same as a plain string, for attributes and titles.
  ag.plain = (text) => String(text).replace(HIDDEN, symbol);

  ag.Text = ({ text, class: name = "" }) => html`<div class=${`text ${name}`} dir="auto">${ag.visible(text)}</div>`;

  ag.json = (value) => html`<pre class="json">${ag.visible(JSON.stringify(value, null, 2))}</pre>`;

  // ---- the address is the state ---------------------------------------------------------------------------------------

  // #/RUN/VIEW?name=value: nothing of it is sent anywhere, so that a link can fill a form in and never send it.
  ag.readRoute = () => {
    const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
    const [run = "", view = ""] = path.split("/").map((part) => {
      try {
        return decodeURIComponent(part);
      } catch {
        return "";
      }
    });
    return { run, view, parameters: new URLSearchParams(search) };
  };

  ag.href = (run, view, parameters) => {
    const search = new URLSearchParams(parameters || {}).toString();
    return `#/${encodeURIComponent(run)}/${view}${search ? `?${search}` : ""}`;
  };

  ag.go = (run, view, parameters, { replace = false } = {}) => {
    const target = ag.href(run, view, parameters);
    if (target === location.hash) return;
    if (replace) history.replaceState(null, "", target);
    else history.pushState(null, "", target);
    dispatchEvent(new HashChangeEvent("hashchange"));
  };

  ag.useRoute = () => {
    const [route, setRoute] = useState(ag.readRoute);
    useEffect(() => {
      const changed = () => setRoute(ag.readRoute());
      addEventListener("hashchange", changed);
      addEventListener("popstate", changed);
      return () => {
        removeEventListener("hashchange", changed);
        removeEventListener("popstate", changed);
      };
    }, []);
    return route;
  };

  // ---- loading --------------------------------------------------------------------------------------------------------

  // What `load` gives, again whenever one of `wanted` changes; the last answer stays until the next one is there.
  ag.useLoad = (load, wanted) => {
    const [state, setState] = useState({ value: null, error: null, loading: true });
    const turn = useRef(0);
    const again = () => {
      const mine = ++turn.current;
      setState((old) => ({ ...old, loading: true }));
      load().then(
        (value) => mine === turn.current && setState({ value, error: null, loading: false }),
        (error) => mine === turn.current && setState((old) => ({ value: old.value, error, loading: false })),
      );
    };
    useEffect(again, wanted);
    return { ...state, again };
  };

  ag.useKeys = (keys) => {
    const current = useRef(keys);
    current.current = keys;
    useEffect(() => {
      const pressed = (event) => {
        if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
        const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
        if (typing && event.key !== "Escape") return;
        if (document.querySelector("dialog[open]") && event.key !== "Escape") return;
        const act = current.current[event.key];
        if (act && act(event) !== false) event.preventDefault();
      };
      document.addEventListener("keydown", pressed);
      return () => document.removeEventListener("keydown", pressed);
    }, []);
  };

  ag.useWide = (query) => {
    const [matches, setMatches] = useState(() => matchMedia(query).matches);
    useEffect(() => {
      const list = matchMedia(query);
      const changed = () => setMatches(list.matches);
      list.addEventListener("change", changed);
      return () => list.removeEventListener("change", changed);
    }, [query]);
    return matches;
  };

  // ---- small components -------------------------------------------------------------------------------------------------

  ag.STATUSES = ["done", "failed", "rejected", "stale"];
  const GLYPHS = { done: "✓", failed: "✕", rejected: "⊘", stale: "◌", left: "·" };

  ag.Glyph = ({ status }) =>
    html`<span class=${`glyph ${status}`} role="img" aria-label=${status} title=${status}>${GLYPHS[status]}</span>`;

  ag.Status = ({ status }) =>
    html`<span class=${`status ${status}`}><span aria-hidden="true">${GLYPHS[status]}</span> ${status}</span>`;

  ag.Empty = ({ title, children }) => html`<div class="state"><h2>${title}</h2>${children}</div>`;

  ag.Loading = ({ what }) => html`<div class="state" role="status"><p class="muted">Reading ${what} …</p></div>`;

  ag.Problem = ({ error, again }) =>
    html`<div class="state problem" role="alert">
      <h2>${ag.plain(error.what || error.message || "Something went wrong")}</h2>
      ${error.cause ? html`<p>${ag.plain(error.cause)}</p>` : null}
      ${error.help ? html`<p><code>${ag.plain(error.help)}</code></p>` : null}
      ${again ? html`<button onClick=${again}>Try again</button>` : null}
    </div>`;

  ag.Figure = ({ label, value, unit, note, title }) =>
    html`<div class="figure" title=${title}>
      <dt>${label}${unit ? html`, <span class="unit">${unit}</span>` : null}</dt>
      <dd>${value}</dd>
      ${note ? html`<dd class="note">${note}</dd>` : null}
    </div>`;

  ag.variables = (variables) => Object.values(variables).map(ag.plain).join(" · ");
}
