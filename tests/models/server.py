"""A real server on this machine that answers for a linear classifier, or misbehaves."""

import base64
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image


class Server:
    """Answers with the scores of a linear model of images (1, 4, 4).

    Args:
        answer: From scores (n, classes) to the response's JSON.
        script: What to do with the first requests instead of answering, one entry each:
            a status, (status, headers), "drop", "hang", "nonsense", or what to say in
            bytes; None: answer.

    Attributes:
        requests: The content of each request that was answered.
        times: When each request came, answered or not.
        inputs: The inputs of the requests answered, as arrays.
        paths: The path and query of each of them.
    """

    def __init__(self, answer=None, script=(), read=None, port=0):
        self.answer = answer or (lambda scores: {"scores": scores.tolist()})
        self.script, self.read = list(script), read or (lambda body: body["inputs"])
        self.requests, self.times, self.inputs, self.headers = [], [], [], []
        self.paths = []
        self.dead = False
        self.weights = np.random.default_rng(0).normal(size=(16, 3))
        self.weights -= self.weights.mean(axis=0)
        self.http = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.http.daemon_threads = True
        self.thread = threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.die()

    def die(self):
        """Answer nobody any more, over no connection."""
        self.dead = True
        self.http.shutdown()
        self.http.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.http.server_port}/predict"

    def scores(self, x):
        return (x.reshape(len(x), 16, 1) * self.weights).sum(axis=1)

    def _array(self, given):
        if isinstance(given, str):
            with Image.open(io.BytesIO(base64.b64decode(given))) as image:
                return np.array(image)[None] / 255
        return np.array(given)

    def _handler(server):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                server.times.append(time.monotonic())
                body = self.rfile.read(int(self.headers["Content-Length"]))
                act = server.script.pop(0) if server.script else None
                if act == "drop" or server.dead:
                    self.close_connection = True
                    return
                if act == "hang":
                    time.sleep(0.6)
                    self.close_connection = True
                    return
                status, headers = act if isinstance(act, tuple) else (act, {})
                content = b"out of order"
                if act is None:
                    status, body = 200, json.loads(body)
                    server.requests.append(body)
                    server.headers.append(dict(self.headers))
                    server.paths.append(self.path)
                    x = np.stack([server._array(one) for one in server.read(body)])
                    server.inputs.append(x)
                    content = json.dumps(server.answer(server.scores(x))).encode()
                if act == "nonsense":
                    status, content = 200, b"<html>welcome</html>"
                if isinstance(act, bytes):
                    status, content = 200, act
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        return Handler
