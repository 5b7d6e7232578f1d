"""The report in a real browser: by keyboard, on a desktop and on a phone."""

import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from report_pages import HOSTILE, MEASURED, shown, summary

from miue_jax.workflows.folder import report

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

SIZES = {"desktop": (1280, 900), "phone": (390, 844), "small": (360, 640)}


@pytest.fixture(scope="module")
def chromium():
    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    for name, path in found.items():
        if path is None:
            pytest.skip(f"there is no {name}; Debian has it in chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found["chromium"]
    for argument in ("--headless=new", "--disable-dev-shm-usage", "--no-first-run"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        # Chromium has no sandbox for root.
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # Its path is given: nothing is looked for in the network.
    service = webdriver.ChromeService(found["chromedriver"])
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A page of 30 cards, with every hostile name and pictures of many shapes."""
    shapes = [(60, 90), (400, 900), (900, 300), (12, 700), (1, 1), (480, 640)]
    names = [*HOSTILE, *(f"sea/{k}.jpg" for k in range(30 - len(HOSTILE)))]
    pictures = [
        shown(name, *shapes[k % 6], notes=("a note of some words",) * (k % 3))
        for k, name in enumerate(names)
    ]
    path = tmp_path_factory.mktemp("page") / "report.html"
    files = [(name, f"because of {name}") for name in HOSTILE]
    given = summary(
        [(p.name, p.audit) for p in pictures],
        left_out=files * 3,
        measured=MEASURED,
        not_measured=None,
        settings={name: name for name in HOSTILE},
    )
    report.write(path, pictures, given)
    return path.as_uri()


@pytest.fixture(params=SIZES)
def page(request, chromium, url):
    opened(chromium, url, *SIZES[request.param])
    yield chromium
    assert chromium.get_log("browser") == []


def opened(driver, url, width, height):
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {
            "width": width,
            "height": height,
            "deviceScaleFactor": 1,
            "mobile": width < 500,
        },
    )
    # Where the page scrolls in time, clicks miss.
    still = {"name": "prefers-reduced-motion", "value": "reduce"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [still]})
    driver.get("about:blank")
    driver.get(url)


def press(driver, *keys):
    driver.switch_to.active_element.send_keys(*keys)


def tab_to(driver, key):
    """Moves the focus to an element as a person without a pointer does."""
    for _ in range(100):
        if driver.switch_to.active_element.get_attribute("id") == key:
            return
        webdriver.ActionChains(driver).send_keys(Keys.TAB).perform()
    raise AssertionError(f"{key} is not reached by the tabulator")


def style(driver, element, name, pseudo=None):
    script = "return getComputedStyle(arguments[0], arguments[1])[arguments[2]]"
    return driver.execute_script(script, element, pseudo, name)


def cards(driver):
    found = driver.find_elements(By.CSS_SELECTOR, ".card")
    return [k for k, card in enumerate(found) if card.is_displayed()]


def picture(element) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("L"))


def test_nothing_is_wider_than_the_screen(page):
    fold = "for (const x of document.querySelectorAll('details')) x.open = arguments[0]"
    for is_open in (False, True):
        page.execute_script(fold, is_open)
        wide, seen = page.execute_script(
            "const e = document.documentElement; return [e.scrollWidth, e.clientWidth]"
        )
        assert wide <= seen
        # Nor cut off where nothing scrolls.
        over = page.execute_script(
            "const wide = document.documentElement.clientWidth;"
            "return Array.from(document.querySelectorAll('body *')).filter(x =>"
            "  !x.closest('.scroll') && x.checkVisibility() &&"
            "  x.getBoundingClientRect().right > wide + 1).map(x => x.outerHTML)"
        )
        assert over == []


def test_names_do_nothing(page):
    assert page.execute_script("return document.scripts.length") == 2
    assert page.execute_script("return document.querySelectorAll('.card').length") == 30


def test_pages_turn_by_keyboard(page):
    status = page.find_element(By.ID, "page")
    assert status.get_attribute("aria-live") == "polite"
    assert status.text == "Page 1 of 3"
    assert cards(page) == list(range(12))
    tab_to(page, "next")
    button = page.switch_to.active_element
    assert style(page, button, "outlineStyle") == "solid"
    press(page, Keys.SPACE)
    assert status.text == "Page 2 of 3"
    assert cards(page) == list(range(12, 24))
    press(page, Keys.ENTER)
    assert status.text == "Page 3 of 3"
    assert cards(page) == list(range(24, 30))
    # The focus stays on the button that has no further page.
    assert button.get_attribute("aria-disabled") == "true"
    press(page, Keys.ENTER)
    assert status.text == "Page 3 of 3"
    webdriver.ActionChains(page).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(
        Keys.SHIFT
    ).perform()
    assert page.switch_to.active_element.get_attribute("id") == "previous"
    press(page, Keys.ENTER)
    assert status.text == "Page 2 of 3"


def test_a_new_page_is_seen_from_its_top(page):
    tab_to(page, "at-12")
    button = page.find_element(By.ID, "next")
    # It stays in sight.
    assert button.is_displayed()
    button.click()
    top = page.find_element(By.ID, "pictures").rect["y"]
    scrolled = page.execute_script("return window.scrollY")
    assert 0 <= top - scrolled < 200


def test_the_slider_moves_by_keyboard(page):
    tab_to(page, "at-1")
    slider = page.switch_to.active_element
    frame = slider.find_element(By.XPATH, "..")
    after = frame.find_element(By.CSS_SELECTOR, ".after")
    handle = frame.find_element(By.CSS_SELECTOR, ".handle")
    assert "rgb(29, 92, 128)" in style(page, handle, "boxShadow", "::after")
    half = picture(frame)
    assert style(page, after, "clipPath") == "inset(0px 0px 0px 50%)"
    assert slider.get_attribute("aria-valuetext") == "50 % original, 50 % protected"
    row, (height, width) = -8, half.shape
    assert height > 40
    np.testing.assert_allclose(half[row, : width // 2 - 10], 60, atol=4)
    np.testing.assert_allclose(half[row, width // 2 + 10 : -2], 200, atol=4)
    for _ in range(10):
        press(page, Keys.ARROW_RIGHT)
    assert style(page, after, "clipPath") == "inset(0px 0px 0px 60%)"
    assert slider.get_attribute("aria-valuetext") == "60 % original, 40 % protected"
    moved = picture(frame)
    np.testing.assert_allclose(moved[row, : int(0.6 * width) - 10], 60, atol=4)
    np.testing.assert_allclose(moved[row, int(0.6 * width) + 10 : -2], 200, atol=4)
    press(page, Keys.HOME)
    assert style(page, after, "clipPath") == "inset(0px 0px 0px 0%)"
    np.testing.assert_allclose(picture(frame)[row, 10:-2], 200, atol=4)
    press(page, Keys.END)
    assert style(page, after, "clipPath") == "inset(0px 0px 0px 100%)"
    np.testing.assert_allclose(picture(frame)[row, :-10], 60, atol=4)
    # The others stay where they are.
    other = page.find_element(By.ID, "at-2")
    assert other.get_attribute("value") == "50"


def test_the_slider_follows_the_pointer(page):
    slider = page.find_element(By.ID, "at-1")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    quarter = round(slider.rect["width"] / 4)
    actions = webdriver.ActionChains(page)
    actions.move_to_element_with_offset(slider, quarter, 0).click().perform()
    assert abs(int(slider.get_attribute("value")) - 75) <= 1
    actions.click_and_hold().move_by_offset(-2 * quarter, 0).release().perform()
    assert abs(int(slider.get_attribute("value")) - 25) <= 1


def test_the_slider_follows_a_finger(page):
    slider = page.find_element(By.ID, "at-1")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    finger = webdriver.common.action_chains.PointerInput("touch", "finger")
    actions = webdriver.ActionChains(page, devices=[finger])
    actions.move_to_element_with_offset(slider, -round(slider.rect["width"] / 4), 0)
    actions.click().perform()
    assert abs(int(slider.get_attribute("value")) - 25) <= 1


def test_names_of_controls_are_what_is_read_out(page):
    slider = page.find_element(By.ID, "at-14")
    page.find_element(By.ID, "next").click()
    assert slider.accessible_name == (
        "Line between the original and the protected version of sea/0.jpg"
    )
    assert slider.aria_role == "slider"
    card = page.find_elements(By.CSS_SELECTOR, ".card")[13]
    assert card.accessible_name == "sea/0.jpg"


def test_everything_is_there_without_scripts(page):
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.refresh()
        assert cards(page) == list(range(30))
        assert not page.find_element(By.CSS_SELECTOR, ".pager").is_displayed()
        assert not page.find_element(By.ID, "at-1").is_displayed()
        before, after = (
            page.find_element(By.CSS_SELECTOR, f".card .{name} img").rect
            for name in ("before", "after")
        )
        assert before["width"] > 100
        assert after["y"] > before["y"] + before["height"]
        assert style(
            page, page.find_element(By.CSS_SELECTOR, ".after"), "clipPath"
        ) == ("none")
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_page_is_dark_and_still_where_that_is_wished(page):
    def seen(**wishes):
        page.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": k, "value": v} for k, v in wishes.items()]},
        )
        body, root = (page.find_element(By.TAG_NAME, tag) for tag in ("body", "html"))
        colors = (style(page, body, name) for name in ("backgroundColor", "color"))
        sums = [sum(map(int, c[4:-1].split(","))) for c in colors]
        return *sums, style(page, root, "scrollBehavior")

    scheme, motion = "prefers-color-scheme", "prefers-reduced-motion"
    try:
        paper, ink, scroll = seen(**{scheme: "light", motion: "no-preference"})
        assert (paper > 700, ink < 100, scroll) == (True, True, "smooth")
        paper, ink, scroll = seen(**{scheme: "dark", motion: "reduce"})
        assert (paper < 100, ink > 600, scroll) == (True, True, "auto")
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("count", [0, 1, 12])
def test_few_pictures_have_no_pages(chromium, tmp_path, count):
    path = tmp_path / "report.html"
    pictures = [shown(f"{k}.jpg") for k in range(count)]
    given = summary([(p.name, p.audit) for p in pictures])
    report.write(path, pictures, given)
    opened(chromium, path.as_uri(), *SIZES["phone"])
    assert cards(chromium) == list(range(count))
    assert not chromium.find_element(By.CSS_SELECTOR, ".pager").is_displayed()
    assert chromium.get_log("browser") == []
