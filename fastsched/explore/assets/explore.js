// What only a browser can do: its pace, its colours, its clipboard, its address.
window.dash_clientside = window.dash_clientside || {};
(function () {
  const TYPING = 250; // milliseconds without a key that end a text
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  const keep = () => window.dash_clientside.no_update;

  // The values of all controls, to be drawn, unless a request is under way or has them already.
  function ask(busy, dark) {
    const context = window.dash_clientside.callback_context;
    const values = Object.fromEntries(context.inputs_list.slice(2).map(({ id, value }) => [id, value]));
    const [asked, knobbed] = context.states_list.map(({ value }) => value);
    values.dark = dark;
    if (busy || (asked && same(asked.values, values))) return keep();
    const turning = knobbed ? knobbed.text : null;
    const typed = context.triggered.some(({ prop_id }) => prop_id === document.activeElement.id + ".value");
    const question = { values, turning };
    return typed ? new Promise((answer) => setTimeout(() => answer(question), TYPING)) : question;
  }

  // The part of what has been drawn that a tab depends on, under the same condition, for the open one.
  function follow(drawn, ...more) {
    const following = Object.entries(more.pop());
    const many = following.length;
    return following.map(([name, fields], i) => {
      const [busy, asked] = [more[i], more[many + i]];
      if (busy || !drawn || drawn.tab !== name) return keep();
      const values = Object.fromEntries([...fields, "dark"].map((field) => [field, drawn[field]]));
      return same(asked, values) ? keep() : values;
    });
  }

  // Writes the sliders that have been turned into their text, unless another one is there by now.
  function turn(turned, knobbed, chosen, ...texts) {
    const slot = ["first", "second", "third", "fourth"].indexOf(chosen);
    const kept = [...texts.map(keep), keep()];
    if (!knobbed || texts[slot] !== knobbed.text || turned.length !== knobbed.places.length) return kept;
    let text = "";
    let after = 0;
    const places = knobbed.places.map(({ start, end, whole, value }, i) => {
      const now = turned[i] === null ? value : turned[i];
      text += knobbed.text.slice(after, start);
      after = end;
      const begin = text.length;
      text += now === value ? knobbed.text.slice(start, end) : written(now, whole);
      return { start: begin, end: text.length, whole, value: now };
    });
    text += knobbed.text.slice(after);
    return text === knobbed.text ? kept : [...kept.with(slot, text).slice(0, 4), { text, places }];
  }

  function written(value, whole) {
    if (typeof value === "string") return value;
    return whole && Number.isInteger(value) ? value.toFixed(0) : String(+value.toPrecision(6));
  }

  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", () => window.dash_clientside.set_props("dark", { data: scheme.matches }));

  window.dash_clientside.explore = {
    ask,
    follow,
    turn,
    dark: () => scheme.matches,
    copy: function (python, json, code, text) {
      const which = window.dash_clientside.callback_context.triggered[0].prop_id;
      const chosen = which.startsWith("copy-json") ? text : code;
      return navigator.clipboard.writeText(chosen || "").then(
        () => "copied",
        () => "the browser does not let it: select the text and copy it"
      );
    },
    remember: function (href) {
      window.history.replaceState(null, "", href || "/");
      return "";
    },
  };
})();

// Dash's sliders and menus have no names of their own: they get those that stand beside them.
(function () {
  function name(control, label) {
    const ids = (control.getAttribute("aria-labelledby") || "").split(" ");
    if (!ids.includes(label.id)) {
      control.setAttribute("aria-labelledby", [label.id, ...ids].join(" ").trim());
    }
  }
  function nameAll() {
    for (const box of document.querySelectorAll(".knob, .menu")) {
      const label = box.querySelector(".knob-name, label");
      for (const control of box.querySelectorAll("[role=slider], input, button.dash-dropdown")) {
        name(control, label);
      }
    }
  }
  new MutationObserver(nameAll).observe(document.documentElement, { childList: true, subtree: true });
})();
