#!/usr/bin/env python3
"""Opens reports' index.html in Chromium, without a network, and uses it as a reader would.

    check_page.py REPORT... [--screenshots FOLDER]

A REPORT is a folder with index.html. Checked: no message on the console, no request but for the file itself, rows and their order by
a click on a heading and by the keyboard, the text filter and the filters of the axes, the comparison of two rows, the theme's button, that nothing
is wider than the window at 1280 and at 400 pixels. Needs only Python and Chromium, which it talks to
over the pipe of --remote-debugging-pipe; where there is none and apt-get cannot bring it, it says so and ends well.
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]


def browser():
    """The path of a Chromium, installed if need be; None where there is none to be had."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found or not shutil.which("apt-get") or os.geteuid() != 0:
        return found
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]):
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Page:
    """One tab, by the Chrome DevTools Protocol: JSON messages with a zero byte behind each."""

    def __init__(self, path, profile):
        (to_read, self.to), (self.back, to_write) = os.pipe(), os.pipe()

        def hand_over():
            # The browser reads commands from 3 and answers on 4.
            first, second = os.dup(to_read), os.dup(to_write)
            os.dup2(first, 3)
            os.dup2(second, 4)

        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
                   "--force-color-profile=srgb", "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND",
                   "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen([path, *options], preexec_fn=hand_over, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.rest, self.count, self.session, self.events = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def read(self):
        while b"\0" not in self.rest:
            more = os.read(self.back, 1 << 20)
            if not more:
                raise RuntimeError("the browser went away")
            self.rest += more
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **params):
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def run(self, script):
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']['exception'].get('description')}")
        return result["result"].get("value")

    def size(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.settle()

    def settle(self):
        """Waits until what was asked for is drawn."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 30))))")

    def open(self, url):
        self.call("Page.navigate", url=url)
        for _ in range(300):
            if self.run("document.readyState") == "complete" and self.run("location.href") != "about:blank":
                return self.settle()
            time.sleep(0.1)
        raise RuntimeError(f"{url} does not load")

    def key(self, key, code=None):
        text = "\r" if key == "Enter" else None
        virtual = {"Enter": 13, "Tab": 9, "ArrowDown": 40, "ArrowRight": 39, "ArrowLeft": 37, "ArrowUp": 38}[key]
        for kind in ("keyDown", "keyUp"):
            extra = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=code or key, windowsVirtualKeyCode=virtual, **extra)

    def click(self, selector):
        x, y = self.run(f"(() => {{ const n = document.querySelector({json.dumps(selector)}); n.scrollIntoView({{block: 'center', inline: 'center'}});"
                        " const b = n.getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2]; })()")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="none" if kind == "mouseMoved" else "left", clickCount=1)
        self.settle()

    def screenshot(self, path, whole=True):
        box = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"clip": {"x": 0, "y": 0, "width": box["width"], "height": min(box["height"], 12000), "scale": 1}} if whole else {}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def troubles(self):
        """Messages on the console, errors, and requests for anything but files and data of the page."""
        out = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                out.append(params["exceptionDetails"].get("exception", {}).get("description", "exception"))
            elif method == "Runtime.consoleAPICalled":
                out.append(f"console.{params['type']}: {params['args']}")
            elif method == "Log.entryAdded":
                out.append(f"{params['entry']['level']}: {params['entry']['text']}")
            elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("file:", "data:", "about:")):
                out.append(f"request: {params['request']['url']}")
        return out

    def close(self):
        try:
            self.call("Browser.close")
        except (RuntimeError, OSError):
            pass
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()


ROWS = "[...document.querySelectorAll('#table tbody tr')].filter((r) => r.querySelector('th[data-row]'))"
NAMES_OF_ROWS = f"{ROWS}.map((r) => Number(r.querySelector('th').dataset.row))"
DATA = "JSON.parse(document.getElementById('data').textContent)"


def check(condition, words):
    if not condition:
        raise AssertionError(words)


def use(page, folder, shots):
    """Reads and works one report."""
    def picture(name, whole=True):
        if shots:
            page.screenshot(shots / f"{folder.name}-{name}.png", whole)

    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    page.size(1280, 900)
    page.open((folder / "index.html").resolve().as_uri())
    data = page.run(DATA)
    side, rule = data["on"], data["rule"]
    column = next((i for i, c in enumerate(data["sides"][side]["columns"]) if c["rule"] == rule), None)
    if column is None:
        picture("light")
        check(page.run(f"{ROWS}.length") == len(data["variants"]) and page.troubles() == [], f"a page without scores: {page.troubles()}")
        return print(f"{folder / 'index.html'}: no scores, and no message")
    scores = data["sides"][side]["score"]

    # All final variants stand there, best by the rule first.
    shown = page.run(NAMES_OF_ROWS)
    finals = [i for i, v in enumerate(data["variants"]) if not v.get("onTheWay") or i == data["chosen"]]
    check(sorted(shown) == finals[:200] if len(finals) <= 200 else len(shown) == 200, f"rows {len(shown)} of {len(finals)}")
    of = lambda rows: [scores[i][column] if scores[i][column] is not None else float("-inf") for i in rows]
    check(of(shown) == sorted(of(shown), reverse=True), "rows are not ordered by the rule of the choice")
    check(page.run("document.querySelectorAll('th[aria-sort=descending]').length") == 1, "no heading says the order")
    picture("light")

    # A click turns the order, the keyboard sorts by name.
    heading = f'th[data-key="{side} {rule}"] button'
    page.click(heading)
    turned = page.run(NAMES_OF_ROWS)
    known = [v for v in of(turned) if v != float("-inf")]
    check(known == sorted(known), "a click on the heading does not turn the order")
    page.run("document.querySelector('th[data-key=\"name\"] button').focus()")
    page.key("Enter")
    page.settle()
    check(page.run("document.querySelector('th[data-key=\"name\"]').ariaSort") == "ascending", "Enter on a heading does not sort")
    by_name = page.run(f"{ROWS}.map((r) => r.querySelector('button').firstChild.textContent)")
    check(by_name == page.run(f"{json.dumps(by_name)}.sort((a, b) => {{ const [x, y] = [Number(a), Number(b)]; return Number.isFinite(x) && Number.isFinite(y) ? x - y : a.localeCompare(b); }})"), "not sorted by name")
    page.key("ArrowDown")
    page.key("ArrowRight")
    page.settle()
    check(page.run("document.activeElement.closest('tbody') !== null && !document.getElementById('tip').hidden"), "arrow keys do not walk into the table")
    page.click(heading)

    # Words filter, and so does every value of an axis.
    word = data["variants"][shown[-1]]["label"]
    type_in = "((t) => { const n = document.querySelector('#tools input[type=search]'); n.value = t; n.dispatchEvent(new Event('input')); })"
    page.run(f"{type_in}({json.dumps(word)})")
    found = page.run(NAMES_OF_ROWS)
    check(shown[-1] in found, f"the filter {word!r} lost its variant")
    page.run(f"{type_in}('no such variant')")
    check(page.run(NAMES_OF_ROWS) == [], "a filter that nothing passes")
    page.run(f"{type_in}('')")
    for axis, its in enumerate(data["axes"]):
        place = "[...document.querySelectorAll('#tools select')].slice(-%d)[%d]" % (len(data["axes"]), axis)
        choose = f"((v) => {{ const n = {place}; n.value = v; n.dispatchEvent(new Event('change')); }})"
        page.run(f"{choose}('0')")
        wanted = sorted(i for i in finals if data["variants"][i]["at"][axis] == 0)
        check(sorted(page.run(NAMES_OF_ROWS)) == wanted[:200] or len(wanted) > 200, f"the filter of {its['key']}")
        if axis == 0:
            page.settle()
            picture("filtered")
        page.run(f"{choose}('')")

    # Both sides, every task, differences.
    for text in [b for b in ("tasks", "against the base", "against the first", "dev") if page.run(f"[...document.querySelectorAll('#tools .choice button')].some((b) => b.textContent === {json.dumps(b)})")]:
        page.run(f"[...document.querySelectorAll('#tools .choice button')].find((b) => b.textContent === {json.dumps(text)}).click()")
    check(page.run(f"{ROWS}.length") == len(shown), "rows went missing with the columns")
    page.settle()
    picture("tasks")
    page.run("[...document.querySelectorAll('#tools fieldset')].forEach((f) => f.querySelector('button').click())")

    # Two rows against each other.
    if len(shown) > 1:
        page.click("#table tbody tr:nth-child(1) th button")
        page.click("#table tbody tr:nth-child(2) th button")
        check(page.run("document.querySelectorAll('#compare .grid .picture svg').length") > 0, "no comparison of two rows")
        check(page.run("document.querySelectorAll('#table .badge.pin').length") == 2, "two rows are not pinned")
        page.run("document.getElementById('scores').scrollIntoView()")
        page.settle()
        picture("compare")

    # Dark, and narrow.
    before = page.run("getComputedStyle(document.body).backgroundColor")
    page.run("scrollTo(0, 0)")
    page.click("#theme")
    check(page.run("document.documentElement.dataset.theme") == "dark", "the button does not change the theme")
    check(page.run("getComputedStyle(document.body).backgroundColor") != before, "dark is as light")
    picture("dark")
    for width in (1280, 400):
        page.size(width, 860)
        over = page.run("[document.documentElement.scrollWidth, innerWidth]")
        check(over[0] <= over[1], f"at {width} pixels the page is {over[0]} wide")
    picture("narrow-dark")
    page.click("#theme")
    picture("narrow")
    page.size(1280, 900)
    page.call("Emulation.setEmulatedMedia", media="print")
    page.settle()
    picture("print")
    page.call("Emulation.setEmulatedMedia", media="")

    # Words of a config are shown, never run.
    check(page.run("document.querySelectorAll('main b, main script, main iframe, main img').length") == 0, "markup that the page did not make")
    check(page.troubles() == [], f"messages and requests: {page.troubles()}")
    print(f"{folder / 'index.html'}: {len(finals)} variants, {len(data['sides'][side]['columns'])} columns, "
          f"{(folder / 'index.html').stat().st_size / 1e3:.0f} kB: sorted, filtered, compared, dark and narrow without a message")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--screenshots", type=Path)
    args = parser.parse_args()
    path = browser()
    if path is None:
        print("skipped: no Chromium here, and apt-get cannot bring one; install it to have the pages checked")
        return
    if args.screenshots:
        args.screenshots.mkdir(parents=True, exist_ok=True)
    for folder in args.reports:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            page = Page(path, profile)
            try:
                use(page, folder, args.screenshots)
            except AssertionError as fault:
                sys.exit(f"{folder / 'index.html'}: {fault}; messages: {page.troubles()}")
            finally:
                page.close()


if __name__ == "__main__":
    main()
