"""A headless Chromium that is driven through its pipe (the DevTools protocol), and a server of static files."""

import contextlib
import functools
import http.server
import json
import os
import shutil
import subprocess
import threading

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
COMPLETE = """new Promise(resolve => {
  const wait = () => document.readyState == "complete" && location.href != "about:blank" ? setTimeout(resolve, 300)
    : setTimeout(wait, 50);
  wait();
})"""
# elements that stick out of the window and cannot be scrolled, and images that were not loaded
LAYOUT = """(() => {
  const wide = [...document.querySelectorAll("body *")].filter(x => {
    const box = x.getBoundingClientRect();
    if (box.width === 0 || box.right <= innerWidth + 1) return false;
    for (let y = x.parentElement; y && y !== document.body; y = y.parentElement)
      if (["auto", "scroll", "hidden"].includes(getComputedStyle(y).overflowX)) return false;
    return true;
  }).map(x => x.tagName + "." + x.className);
  const broken = [...document.images].filter(x => x.complete && x.naturalWidth === 0).map(x => x.src);
  return {title: document.title, scroll: document.documentElement.scrollWidth, wide: wide.slice(0, 5), broken: broken};
})()"""


def find_chromium():
    """The path of a Chromium or Chrome; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        if self.path == "/favicon.ico":  # browsers request it for any page
            self.send_response(204)
            self.end_headers()
        else:
            super().do_GET()


@contextlib.contextmanager
def served(folder):
    """The address of a web server of ``folder``, on a free port of this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def opened(profile):
    """A :class:`Browser` that is closed at the end. ``profile``: an empty folder for the browser's own files."""
    browser = Browser(profile)
    try:
        yield browser
    finally:
        browser.close()


class Browser:
    """One tab. ``urls``: every address that the page requested. ``console``: its messages and uncaught errors."""

    def __init__(self, profile):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()

        def pipes():  # Chromium reads from 3 and writes to 4
            a, b = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(a, 3), os.dup2(b, 4)
            os.set_inheritable(3, True), os.set_inheritable(4, True)

        command = [
            find_chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
            "--no-first-run", "--disable-extensions", "--disable-dev-shm-usage", f"--user-data-dir={profile}",
            "about:blank",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command, preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in), os.close(theirs_out)
        self.reader, self.writer = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb")
        self.number, self.session, self.urls, self.console, self.rest = 0, None, [], [], b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.writer.write(json.dumps(message).encode() + b"\0")
        self.writer.flush()
        while True:
            answer = self._read()
            self._note(answer.get("method"), answer.get("params"))
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def _note(self, event, params):
        if event == "Network.requestWillBeSent":
            self.urls.append(params["request"]["url"])
        elif event == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(x.get("value", x.get("description"))) for x in params["args"]))
        elif event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Log.entryAdded":  # of the browser itself, such as files that were not found
            self.console.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def _read(self):
        while b"\0" not in self.rest:
            part = os.read(self.reader.fileno(), 1 << 20)
            assert part, "the browser has ended"
            self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def evaluate(self, expression):
        """The value of an expression; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, url, width=None):
        """Load a page, in a window of ``width`` pixels. Media queries see that width, too."""
        if width:
            self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        answer = self.call("Page.navigate", url=url)
        assert "errorText" not in answer, f"{url} was not loaded: {answer['errorText']}"
        self.evaluate(COMPLETE)

    def choose_file(self, selector, path):
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def close(self):
        self.process.kill()
        self.process.wait()
        self.reader.close(), self.writer.close()


def open_page(folder, page, width, profile):
    """Open ``folder/page`` in a window of ``width`` pixels.

    Args:
        profile (path): an empty folder for the browser's own files.

    Returns:
        dict: ``console`` (list of messages), ``title``, ``scroll`` (width of the content, pixels), ``wide`` (elements
            that stick out of the window and cannot be scrolled), ``broken`` (addresses of images that were not loaded).
    """
    with served(folder) as address, opened(profile) as browser:
        browser.open(f"{address}/{page}", width)
        found = browser.evaluate(LAYOUT)
        return {"console": browser.console, **found}
