"""The interactive page in a real browser: Debian's Chromium, driven by Playwright."""

import itertools
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import fastsched as fs
from fastsched import explore, spec
from fastsched.explore import knobs, state
from fastsched.explore.state import State

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("no browser: apt-get install chromium", allow_module_level=True)

WAIT = 20_000  # milliseconds: a machine may be busy
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
# Where screenshots are left for somebody to look at.
PICTURES = os.environ.get("FASTSCHED_SCREENSHOTS")


@pytest.fixture(scope="module")
def serving():
    served = explore.show()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def window(serving):
    """A browser's only page, and what went wrong in it: errors, and requests to elsewhere."""
    wrong = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport=LAPTOP, permissions=["clipboard-read", "clipboard-write"])
        context.set_default_timeout(WAIT)
        playwright.expect.set_options(timeout=WAIT)
        tab = context.new_page()
        tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        own = (serving.url, "data:", "blob:")
        tab.on("request", lambda request: None if request.url.startswith(own) else wrong.append(request.url))
        tab.goto(serving.url)
        expect(tab, "#summary").not_to_be_empty()
        yield SimpleNamespace(tab=tab, wrong=wrong, count=itertools.count())
        browser.close()


@pytest.fixture
def opened(window):
    """Has the page show a state, as its link does, and afterwards holds it to having been quiet."""

    def follow_link(held=None, size=LAPTOP, scheme="light"):
        held, tab = held or State(), window.tab
        tab.set_viewport_size(size)
        tab.emulate_media(color_scheme=scheme)
        query = held.to_query()
        # What is no field is left out of a link; here it makes each link another one, which a browser follows.
        tab.evaluate(FOLLOW, f"/?{query}&visit={next(window.count)}")
        expect(tab, "#link").to_have_attribute("href", f"/?{query}" if query else "/")
        return tab

    window.wrong.clear()
    yield follow_link
    assert window.wrong == []


FOLLOW = """link => {
  history.pushState(null, '', link);
  dispatchEvent(new PopStateEvent('popstate'));
}"""


def look(tab, name):
    """Leaves a screenshot, if somebody wants to look."""
    if PICTURES:
        tab.wait_for_timeout(1500)  # pictures may be under way
        tab.screenshot(path=str(Path(PICTURES) / f"{name}.png"), full_page=True)


def expect(tab, selector):
    return playwright.expect(tab.locator(selector))


def pick(tab, menu, option):
    """Chooses from a menu; a long one has a field to search it."""
    tab.click(f"#{menu}")
    search = tab.locator(".dash-dropdown-search")
    if search.count():
        search.fill(option)
    tab.locator("[role=option]", has_text=re.compile(f"^{re.escape(option)}$")).click()


# ---- schedules ----

KINDS = [knobs.template(name) for name in spec.names() if name != "warmup"]


def sums():
    """All kinds and recipes, as few sums as the sliders of which a page shows."""
    made = [KINDS[0]]
    for text in KINDS[1:]:
        longer = f"{made[-1]} + {text}"
        made[len(made) - bool(knobs.knobs(longer)) :] = [longer if knobs.knobs(longer) else text]
    return made


def at_ends(text, end):
    """The text with all its sliders at one end: 0 is the left one."""
    for knob in reversed(knobs.knobs(text)):
        if not knob.words:
            value = knob.range()[end]
            text = text[: knob.start] + (str(int(value)) if knob.whole else f"{value:.6g}") + text[knob.end :]
    return text


@pytest.mark.parametrize("text", sums())
def test_every_slider_of_every_kind_reaches_both_ends_of_its_number(opened, text):
    tab = opened(State(first=text, tab="code"))
    sliders = sum(not knob.words for knob in knobs.knobs(text))
    playwright.expect(tab.get_by_role("slider")).to_have_count(sliders)
    for key, end in (("End", 1), ("Home", 0)):
        tab.evaluate(PRESS, key)
        turned = at_ends(text, end)
        expect(tab, "#first").to_have_value(turned)
        (read,) = state.read(State(first=turned))
        if read.message:
            expect(tab, "#texts-message").to_have_text(f"Schedule 1: {read.message}")
        else:
            expect(tab, "#summary").to_contain_text(f"1: {turned[:40]}")


PRESS = """key => {
  for (const slider of document.querySelectorAll('[role=slider]')) {
    slider.focus();
    slider.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
  }
}"""


def test_every_kind_and_recipe_is_drawn(opened):
    for begin in range(0, len(KINDS), 4):
        four = dict(zip(state.NAMES, KINDS[begin : begin + 4], strict=False))
        tab = opened(State(**four, tab="code"))
        for text in four.values():
            expect(tab, "#summary").to_contain_text(f": {text[:40]}")
        assert tab.locator("#curve .scatterlayer .trace").count() == len(four)
        assert tab.locator(".alert:not(:empty)").count() == 0


def test_a_kind_is_picked_and_composed_with_menus(opened):
    tab = opened(State(first="rex(50)", tab="code"))
    pick(tab, "kind", "bert")
    pick(tab, "way", "after it")
    tab.click("#apply")
    expect(tab, "#first").to_have_value("rex(50) > bert(1000, warmup=100)")
    expect(tab, "#knobs .knob").to_have_count(3)


def test_a_word_of_a_schedule_is_picked_from_a_menu(opened):
    tab = opened(State(first="warmup(100, shape=linear) > rex(50)", tab="code"))
    tab.locator("#knobs button.dash-dropdown").click()
    tab.get_by_role("option", name="cosine").click()
    expect(tab, "#first").to_have_value("warmup(100, shape=cosine) > rex(50)")
    expect(tab, "#summary").to_contain_text("shape=cosine")


def test_a_slider_turned_by_keys_changes_text_curve_and_link(opened):
    tab = opened(State(first="cosine(1000, end=0.5)", tab="code"))
    tab.get_by_role("slider").nth(1).focus()
    tab.keyboard.press("ArrowRight")
    expect(tab, "#first").to_have_value("cosine(1000, end=0.505)")
    expect(tab, "#summary").to_contain_text("end=0.505")
    playwright.expect(tab).to_have_url(re.compile(r"end%3D0\.505"))


def test_texts_that_are_typed_fast_all_stay(opened):
    tab = opened(State(second="1", third="1", fourth="1", tab="code"))
    for round in range(1, 4):
        texts = {name: f"rex({round}{place}00)" for place, name in enumerate(state.NAMES)}
        for name, text in texts.items():
            tab.fill(f"#{name}", text)
        for name, text in texts.items():
            expect(tab, "#summary").to_contain_text(text)
            expect(tab, f"#{name}").to_have_value(text)


def test_what_is_typed_while_a_slider_is_answered_stays(opened):
    tab = opened(State(first="cosine(1000, end=0.5)", tab="code"))
    for turned, end in (("0.505", "0.1"), ("0.105", "0.2"), ("0.205", "0.3")):
        tab.get_by_role("slider").nth(1).press("ArrowRight")
        expect(tab, "#first").to_have_value(f"cosine(1000, end={turned})")  # at once; the picture is yet to come
        tab.fill("#first", f"cosine(1000, end={end})")
        expect(tab, "#summary").to_contain_text(f"end={end})")
        expect(tab, "#first").to_have_value(f"cosine(1000, end={end})")
        playwright.expect(tab.get_by_role("slider").nth(1)).to_have_attribute("aria-valuenow", end)


BAD = {
    "first": ("cosine(-1)", "#texts-message", "Schedule 1: spec: Cosine: steps must be >= 1, got -1"),
    "second": ("cosin(1)", "#texts-message", "did you mean cosine"),
    "lr": ("much", "#curve-message", "lr must be a number, got 'much'"),
    "groups": ("0", "#curve-message", "groups must be >= 1, got 0"),
    "decay": ("2", "#curve-message", "decay must be <= 1, got 2"),
    "steps": ("1e99", "#curve-message", "steps must be"),
    "conditioning": ("0", "#training-message", "conditioning must be >= 1"),
    "updates": ("1e9", "#training-message", "updates must be <= 1000"),
    "seed": ("-1", "#training-message", "seed must be >= 0"),
}


@pytest.mark.parametrize("field", BAD)
def test_a_bad_value_shows_the_engines_words_and_a_good_one_goes_on(opened, field):
    bad, where, message = BAD[field]
    tab = opened(State(first="rex(100)", second="rex(90)", updates="20", optimizers="sgd"))
    good = tab.input_value(f"#{field}")
    tab.fill(f"#{field}", bad)
    expect(tab, where).to_contain_text(message)
    tab.fill(f"#{field}", good)
    expect(tab, where).to_be_empty()
    expect(tab, "#summary").to_contain_text("rex(100)")


@pytest.mark.parametrize("steps", [10**9, 10**12, 10**15])
def test_a_very_long_horizon_is_drawn(opened, steps):
    tab = opened(State(first=f"cosine({steps})", second=f"warmup({steps // 1000}) > rex({steps // 10})", tab="code"))
    expect(tab, "#summary").to_contain_text(f"{steps:,} updates")
    assert tab.locator("#curve .scatterlayer .trace").count() == 2


def test_the_scale_is_chosen(opened):
    tab = opened(State(first="geometric(100, start=1, end=1e-6)", tab="code"))
    for scale, tick in (("linear", "^0$"), ("log", "^1e.4$")):
        tab.locator("#axis label", has_text=scale).click()
        playwright.expect(tab.locator("#curve .ytick", has_text=re.compile(tick))).to_have_count(1)


def test_lint_says_what_is_odd(opened):
    tab = opened(State(first="linear(0, 1, 4) > linear(0.5, 0, 4)", tab="code"))
    expect(tab, "#findings").to_contain_text("[jump]")


def test_two_hundred_layers_are_an_image_that_follows_a_slider(opened, record_property):
    tab = opened(State(first="cosine(1000, end=0.5)", groups="200", decay="0.97", tab="code"))
    expect(tab, "#layers image").to_have_count(1)
    tab.evaluate(LATENCY)
    times = []
    tab.get_by_role("slider").nth(1).focus()
    for _ in range(9):
        before = tab.locator("#layers image").get_attribute("href")
        tab.keyboard.press("ArrowRight")
        times.append(tab.evaluate("window.drawn"))
        playwright.expect(tab.locator("#layers image")).not_to_have_attribute("href", before)
        expect(tab, "#python").to_contain_text(tab.locator("#first").input_value().split("=")[1][:-1])
    times.sort()
    record_property("milliseconds", times[len(times) // 2])
    print(f"1,000 x 200: from a key to the picture, median {times[len(times) // 2]:.0f} ms of {len(times)}")
    expect(tab, "#first").to_have_value("cosine(1000, end=0.545)")
    look(tab, "layers")


# From a key to when plotly has drawn the layers again, in milliseconds: a promise for each key.
LATENCY = """() => {
  const plot = document.querySelector('#layers .js-plotly-plot');
  document.addEventListener('keydown', () => {
    const begun = performance.now();
    window.drawn = new Promise((drawn, failed) => {
      plot.once('plotly_afterplot', () => drawn(performance.now() - begun));
      setTimeout(() => failed(new Error('not drawn')), 20000);
    });
  }, true);
}"""


# ---- links, files ----


def test_a_link_restores_the_page(opened):
    held = State(
        first="rex(70)",
        second="bert(100)",
        chosen="second",
        lr="0.25",
        groups="3",
        decay="0.5",
        steps="90",
        axis="log",
        tab="frameworks",
        problem="valleys",
        optimizers="momentum",
        name="restarts",
        left="torch",
        right="keras",
    )
    tab = opened(held)
    tab.reload()
    for name in ("first", "second", "lr", "groups", "decay", "steps"):
        expect(tab, f"#{name}").to_have_value(getattr(held, name))
    for name in ("chosen", "axis", "tab"):
        assert tab.locator(f"#{name} input:checked").get_attribute("value") == getattr(held, name)
    expect(tab, "#comparison-words").to_contain_text("equal over all 1250 updates")
    expect(tab, "#link").to_have_attribute("href", f"/?{held.to_query()}")


def test_files_are_saved_from_the_page(opened):
    tab = opened(State(first="rex(10)", tab="code"))
    for form in ("csv", "json", "png", "py"):
        with tab.expect_download() as saved:
            tab.click(f"#save-{form}")
        data = Path(saved.value.path()).read_bytes()
        assert saved.value.suggested_filename == f"lr.{form}"
        assert data
        if form == "json":
            assert fs.from_json(data.decode()) == fs.Rex(steps=10)


def test_code_and_json_are_copied(opened):
    tab = opened(State(first="rex(11)", tab="code"))
    expect(tab, "#python").to_contain_text("Rex(1.0, 0.0, steps=11)")
    for form in ("python", "json"):
        tab.click(f"#copy-{form}")
        text = tab.locator(f"#{form}").text_content()
        tab.wait_for_function("async text => await navigator.clipboard.readText() === text", arg=text)
    expect(tab, "#copied").to_have_text("copied")
    look(tab, "code")


# ---- tabs ----


def test_trainings_are_seen_to_converge_and_to_diverge(opened):
    tab = opened(State(first="1", lr="0.05", optimizers="sgd", second="8"))
    expect(tab, "#verdicts").to_contain_text("1 SGD converges")
    expect(tab, "#verdicts").to_contain_text("2 SGD diverges")
    look(tab, "training")


@pytest.mark.parametrize("problem", state.PROBLEMS)
def test_every_problem_trains_with_every_optimizer(opened, problem):
    tab = opened(State(first="cosine(51)", second="", updates="51", seed="7", problem=problem))
    playwright.expect(tab.locator("#verdicts li")).to_have_count(3)
    expect(tab, "#losses .trace").to_have_count(3)
    expect(tab, "#paths .scatterlayer .trace").to_have_count(0 if problem == "digits" else 4)
    expect(tab, "#training-message").to_be_empty()


def test_what_is_measured_is_chosen(opened):
    tab = opened(State(updates="20"))
    for label, title in (("distance moved", "distance moved"), ("exploring or settling", "spread of the last")):
        tab.locator("#measure label", has_text=label).click()
        expect(tab, "#measures .ytitle").to_contain_text(title)


def test_the_range_tests_suggestion_becomes_the_base_lr(opened):
    tab = opened(State(tab="range", optimizers="momentum"))
    tab.click("#sweep-run")
    expect(tab, "#take").to_be_enabled()
    said = tab.inner_text("#sweep-words")
    suggestion = float(re.search(r"suggestion ([\d.e+-]+)", said)[1])
    look(tab, "range")
    tab.click("#take")
    expect(tab, "#lr").not_to_have_value("0.1")
    assert float(tab.input_value("#lr")) == pytest.approx(suggestion, rel=0.01)  # both are rounded to three digits
    tab.fill("#low", "11")
    tab.click("#sweep-run")
    expect(tab, "#range-message").to_contain_text("low must be below high, got 11.0 and 10.0")


def test_two_frameworks_are_compared(opened):
    tab = opened(State(tab="frameworks", name="cosine", left="torch", right="optax"))
    expect(tab, "#comparison-words").to_contain_text("torch.CosineAnnealingLR")
    expect(tab, "#comparison .trace").to_have_count(2)
    pick(tab, "name", "cosine with warmup")  # which torch does not have
    expect(tab, "#comparison-words").to_contain_text("timm.CosineLRScheduler")
    look(tab, "frameworks")


# ---- for everybody ----

NAMELESS = """() => [...document.querySelectorAll('input, button, [role=slider], [role=combobox], a')]
  .filter(e => e.offsetParent !== null && e.type !== 'hidden' && !e.closest('.js-plotly-plot'))
  .filter(e => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.labels?.length
                 || e.textContent.trim() || e.title))
  .map(e => e.outerHTML.slice(0, 200))"""


@pytest.mark.parametrize("shown", state.TABS)
def test_every_control_has_a_name_for_a_screen_reader(opened, shown):
    tab = opened(State(first=knobs.template("one_cycle"), tab=shown))
    expect(tab, "#knobs .knob").to_have_count(7)
    expect(tab, f"#{shown}-tab").to_be_visible()
    assert tab.evaluate(NAMELESS) == []


def test_a_screen_reader_finds_sliders_and_pictures_by_what_they_are(opened):
    tab = opened(State(first="cosine(1000, end=0.5)"))
    assert tab.get_by_role("slider", name="cosine end").get_attribute("aria-valuenow") == "0.5"
    for name in ("Learning rate", "Loss", "Path on the surface"):
        playwright.expect(tab.get_by_role("img", name=name, exact=True)).to_be_visible()
    for told in ("summary", "findings", "verdicts"):
        assert tab.get_attribute(f"#{told}", "aria-live") == "polite"


def test_the_keyboard_reaches_every_control_of_the_schedules(opened):
    tab = opened(State(first="cosine(1000, end=0.5)", tab="code"))
    expect(tab, "#knobs .knob").to_have_count(2)
    tab.focus("#first")
    met = set()
    for _ in range(30):
        tab.keyboard.press("Tab")
        met.add(tab.evaluate("document.activeElement.id || document.activeElement.getAttribute('role')"))
    assert {"kind", "way", "apply", "slider", "lr", "groups", "decay", "steps"} <= met


@pytest.mark.parametrize("shown", state.TABS)
def test_nothing_is_wider_than_a_phone(opened, shown):
    tab = opened(State(tab=shown, groups="40"), size=PHONE)
    expect(tab, f"#{shown}-tab").to_be_visible()
    tab.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=PHONE["width"])
    look(tab, f"phone-{shown}")


def test_a_dark_page_has_light_words(opened):
    tab = opened(State(second="bert(1000)"), scheme="dark")
    expect(tab, "#verdicts li").to_have_count(6)
    look(tab, "dark")
    paper, ink = (tab.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    assert max(map(int, re.findall(r"\d+", paper))) < 60 < 200 < min(map(int, re.findall(r"\d+", ink)))
    playwright.expect(tab.locator("#losses .xtitle").first).to_have_css("fill", "rgb(230, 230, 230)")


def test_a_laptop_sees_curve_and_controls_at_once(opened):
    tab = opened(State(second="bert(1000)"))
    playwright.expect(tab.locator("#losses .xtitle").first).to_have_css("fill", "rgb(34, 34, 34)")  # light again
    expect(tab, "#verdicts li").to_have_count(6)
    look(tab, "laptop")
    for selector in ("#curve", "#first", "#knobs"):
        box = tab.locator(selector).bounding_box()
        assert box["y"] < LAPTOP["height"]
    assert tab.evaluate("document.documentElement.scrollWidth") <= LAPTOP["width"]
