"""Every message, opened in a real browser with its network watched (E4, E5, P1.2, P9.4)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.rendered.messages import CASES, rendered
from tests.support.servers.browser import Browser, browser, chromium

#: Of the browser itself, which calls its maker whatever it is told.
ITS_MAKERS = (".google.com", ".googleapis.com", ".gvt1.com")
#: Texts whose contrast is below WCAG 2.1's AA (1.4.3) on the ground that is really painted below them; all texts seen;
#: and how wide the page is.
LOOK = """
(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const linear = [r, g, b].map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  let seen = 0;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility()) continue;
    seen += 1;
    const style = getComputedStyle(element);
    const [darker, lighter] = [luminance(parse(style.color)), luminance(ground(element))].sort((a, b) => a - b);
    const size = parseFloat(style.fontSize);
    if ((lighter + 0.05) / (darker + 0.05) < 4.5 || size < 13) faint.push(texts.currentNode.data.trim());
  }
  return {faint, seen, width: document.documentElement.scrollWidth};
})()
"""


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = chromium()
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("There is no chromium, and CI must have one: .ci/run installs it.")
        pytest.skip("no chromium on this machine")
    with browser(program, tmp_path_factory.mktemp("profile")) as started:
        yield started


def strangers(chrome: Browser) -> list[str]:
    """What reached the network and was not the browser's own."""
    return [
        line
        for line in chrome.reached
        if not line.split()[1].split("//")[-1].split("/")[0].split(":")[0].endswith(ITS_MAKERS)
    ]


def test_a_message_opens_without_one_request_and_is_readable(chrome: Browser) -> None:
    wrong: list[str] = []
    for case in CASES:
        context, language = case.values
        chrome.open(rendered(context, language).html)
        for width, dark in ((320, False), (600, True)):
            chrome.look(width=width, dark=dark)
            looks = chrome.evaluate(LOOK)
            if looks["faint"] or looks["seen"] < 10 or looks["width"] > width:
                wrong.append(f"{case.id} at {width}, {'dark' if dark else 'light'}: {looks}")
        if chrome.requested:
            wrong.append(f"{case.id} asked for {chrome.requested}")
    assert wrong == []
    assert strangers(chrome) == []


@pytest.mark.parametrize(
    "planted",
    [
        '<img src="http://tracker.example/p.gif">',
        '<p style="background-image: url(http://tracker.example/p)">x</p>',
        '<style>@import "http://tracker.example/p.css";</style>',
        "<style>@font-face { font-family: f; src: url(http://tracker.example/f) } p { font-family: f }</style><p>x</p>",
    ],
)
def test_what_would_count_readers_is_seen(planted: str, chrome: Browser) -> None:
    before = len(strangers(chrome))
    chrome.open(f"<!DOCTYPE html><body>{planted}</body>")
    chrome.look(width=600, dark=False)
    chrome.evaluate("new Promise((then) => requestAnimationFrame(() => setTimeout(then, 50)))")
    assert [address for address in chrome.requested if "tracker.example" in address]
    assert len(strangers(chrome)) > before


def test_what_is_faint_or_too_wide_is_seen(chrome: Browser) -> None:
    chrome.open('<!DOCTYPE html><body><p style="color: #999">faint</p><p style="width: 900px">wide</p></body>')
    chrome.look(width=320, dark=False)
    looks = chrome.evaluate(LOOK)
    assert looks["faint"] == ["faint"] and looks["width"] > 320
